"""The packets that policies refused, of all sandboxes by reason: counters of the table that outlive them.

Each rule that refuses counts in its sandbox's counter and in one of these, so that a look reads five counters
with a thousand sandboxes, and the end of one takes nothing away. Rejected: the sum of the sandboxes'
counters, which costs as much as there are sandboxes, and loses those that ended since the last look.
"""

import errno
import struct

from bay.linux.netlink import NETLINK_NETFILTER, Netlink, NetlinkRequest, attribute, attributes

REASONS: tuple[str, ...] = ("rule", "default", "reserved", "flood", "protocol")
"""A rule of the policy, or the reason without one. The part of an opened private network that a policy leaves
shut counts as `rule` here: its addresses are in one map with those of rules."""

_GETOBJ = 10 << 8 | 19  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETOBJ
_INET, _COUNTER = 1, 1  # NFPROTO_INET, NFT_OBJECT_COUNTER
_TABLE, _NAME, _TYPE, _DATA = 1, 2, 3, 4
_PACKETS = 2


def refusal_counter(reason: str) -> str:
    """The name of the counter of one of REASONS."""
    return f"refused_{reason}"


class Refusals:
    """The counters of `table` in the namespace of the thread that makes this; they count from then on.
    For one thread at a time. Raises OSError.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._netlink = Netlink(NETLINK_NETFILTER)
        self._sums: dict[str, int] = dict.fromkeys(REASONS, 0)
        self._seen = self._read()

    def close(self) -> None:
        """Close the socket."""
        self._netlink.close()

    def sums(self) -> dict[str, int]:
        """Packets by reason. None falls when another program has deleted the table, and it was made again."""
        now = self._read()
        for reason, packets in now.items():
            before = self._seen[reason]
            self._sums[reason] += packets - before if packets >= before else packets
        self._seen = now
        return dict(self._sums)

    def _read(self) -> dict[str, int]:
        return {reason: self._packets(refusal_counter(reason)) for reason in REASONS}

    def _packets(self, name: str) -> int:
        kind = attribute(_TYPE, struct.pack(">I", _COUNTER))
        body = (
            struct.pack("=BBH", _INET, 0, 0) + attribute(_TABLE, self._table) + attribute(_NAME, name) + kind
        )
        try:
            told = self._netlink.ask(NetlinkRequest(f"read the counter {name}", _GETOBJ, 0, body))
        except OSError as error:
            if error.errno == errno.ENOENT:  # the table was deleted, and is made again in a moment
                return 0
            raise
        data = dict(attributes(dict(attributes(told[4:]))[_DATA]))
        return int.from_bytes(data[_PACKETS], "big")
