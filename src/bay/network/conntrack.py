"""Lists and deletes a sandbox's connections by mark. Formats: linux/netfilter/nfnetlink_conntrack.h."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address

from bay.linux.netlink import (
    MISSING,
    NETLINK_NETFILTER,
    Netlink,
    NetlinkRequest,
    attribute,
    attributes,
    nested,
)
from bay.network.reserved_ranges import Address
from bay.network.slots import MARK_MASK, NetworkSlot

_GET, _DELETE = 0x101, 0x102
_TUPLE_ORIG, _ID, _MARK, _ZONE, _MARK_MASK = 1, 12, 8, 18, 21
_TUPLE_IP, _TUPLE_PROTO, _TUPLE_ZONE = 1, 2, 3
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_DESTINATIONS = (2, 4)
"""CTA_IP_V4_DST and CTA_IP_V6_DST."""

_PROTOCOLS = {1: "icmp", 58: "icmp", 6: "tcp", 17: "udp"}


@dataclass(frozen=True, slots=True)
class TrackedConnection:
    """A connection as its sandbox began it. `deletion` names it to the kernel."""

    address: Address
    protocol: str
    port: int
    deletion: bytes


class Conntrack:
    """The table in the namespace of the thread that makes this. For one thread at a time. Raises OSError."""

    def __init__(self) -> None:
        self._netlink = Netlink(NETLINK_NETFILTER)

    def close(self) -> None:
        """Close the netlink socket."""
        self._netlink.close()

    def connections(self, slot: NetworkSlot) -> list[TrackedConnection]:
        """The connections that the sandbox began and may go on with."""
        bodies = self._netlink.dump(NetlinkRequest("list connections", _GET, 0, _header() + _marked(slot)))
        return [_read(body) for body in bodies]

    def cut(self, slot: NetworkSlot, may_live: Callable[[TrackedConnection], bool]) -> int:
        """End the connections that may not live; how many there were."""
        dead = [one for one in self.connections(slot) if not may_live(one)]
        # One at a time and not many in a write: the netfilter subsystem takes a single message from each.
        for one in dead:
            self._netlink.send([NetlinkRequest("end a connection", _DELETE, 0, one.deletion, MISSING)])
        return len(dead)

    def flush(self, slot: NetworkSlot) -> None:
        """End every connection of the sandbox."""
        body = _header() + _marked(slot)
        self._netlink.send([NetlinkRequest("end connections", _DELETE, 0, body, MISSING)])


def _header(family: int = 0) -> bytes:
    return struct.pack("=BBH", family, 0, 0)


def _marked(slot: NetworkSlot) -> bytes:
    mark, mask = struct.pack("!I", slot.mark), struct.pack("!I", MARK_MASK)
    return attribute(_MARK, mark) + attribute(_MARK_MASK, mask)


def _read(body: bytes) -> TrackedConnection:
    found = dict(attributes(body[4:]))
    orig = dict(attributes(found[_TUPLE_ORIG]))
    ip, proto = dict(attributes(orig[_TUPLE_IP])), dict(attributes(orig[_TUPLE_PROTO]))
    destination = next(ip[kind] for kind in _DESTINATIONS if kind in ip)
    port = struct.unpack("!H", proto[_PROTO_DST_PORT])[0] if _PROTO_DST_PORT in proto else 0
    number = proto[_PROTO_NUM][0]
    deletion = _header(body[0]) + nested(_TUPLE_ORIG, found[_TUPLE_ORIG])
    deletion += attribute(_ID, found[_ID]) + (attribute(_ZONE, found[_ZONE]) if _ZONE in found else b"")
    return TrackedConnection(ip_address(destination), _PROTOCOLS.get(number, str(number)), port, deletion)
