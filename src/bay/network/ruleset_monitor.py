"""Watches netlink for deleted nftables tables: a flush of the ruleset takes those of Bay with it."""

import socket
from collections.abc import Collection, Iterator

from bay.linux.netlink import NETLINK_NETFILTER, attributes, messages

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_NFTABLES = 7  # NFNLGRP_NFTABLES
_DELETED_TABLE = 10 << 8 | 2  # NFNL_SUBSYS_NFTABLES, NFT_MSG_DELTABLE
_TABLE_NAME = 1
_BUFFER_BYTES = 1 << 20
_READ_BYTES = 64 << 10


class RulesetMonitor:
    """Watches the tables `names` in the namespace of the thread that makes this. Raises OSError."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(name.encode() for name in names)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _NFTABLES)

    def fileno(self) -> int:
        """Readable when there are messages."""
        return self._socket.fileno()

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()

    def hear(self) -> bool:
        """Whether a table was deleted since the last call, or messages were lost. Does not block."""
        gone = False
        while True:
            try:
                data = self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                return gone
            except OSError:  # messages were lost
                gone = True
            else:
                gone = gone or not self._names.isdisjoint(_deleted(data))


def _deleted(data: bytes) -> Iterator[bytes]:
    for kind, _, body in messages(data):
        if kind == _DELETED_TABLE:
            yield dict(attributes(body[4:])).get(_TABLE_NAME, b"").rstrip(b"\0")
