"""Netlink for links, routes, rules and conntrack: many messages go in one write, and errors come back.

Rejected: pyroute2, a third of a second to import, an event loop a socket and a round trip a message.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12

REQUEST, ACK = 0x1, 0x4
DUMP = 0x300
CREATE, EXCLUSIVE, REPLACE = 0x400, 0x200, 0x100
EXISTS = (errno.EEXIST,)
MISSING = (errno.ENODEV, errno.ENOENT, errno.ESRCH, errno.EAFNOSUPPORT)

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR, _DONE = 2, 3
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_CAP_ACK = 270, 11, 10
_BUFFER_BYTES = 4 << 20
_READ_BYTES = 256 << 10
_ANSWER_S = 10.0


@dataclass(frozen=True, slots=True)
class NetlinkRequest:
    """One message. `what` is its name in an error; errors of the numbers in `fine` are ignored."""

    what: str
    kind: int
    flags: int
    body: bytes
    fine: tuple[int, ...] = ()


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """An attribute: an int takes 32 bits in the machine's order, a string ends with a zero."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    padding = b"\0" * (-len(value) % 4)
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + padding


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(attributes))


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes in `data`, each with its number and value."""
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind & _TYPE_MASK, data[at + 4 : at + length]
        at += max(4, length + (-length % 4))


class Netlink:
    """A netlink socket in the namespace of the thread that made it. For one thread at a time."""

    def __init__(self, family: int = NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        self._socket.settimeout(_ANSWER_S)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            self._socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.bind((0, 0))
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def send(self, requests: Iterable[NetlinkRequest]) -> None:
        """Make all of `requests` true, in order. Raises OSError naming the first that the kernel refused.
        Those after it have been tried as well: a batch is fast, not atomic.
        """
        batch = list(requests)
        if not batch:
            return
        waiting = {self._sequence + 1 + at: one for at, one in enumerate(batch)}
        data = b"".join(_message(one, ACK, number) for number, one in waiting.items())
        self._sequence += len(batch)
        self._socket.send(data)
        _raise_first(self._answers(waiting))

    def _answers(self, waiting: dict[int, NetlinkRequest]) -> list[tuple[NetlinkRequest, int]]:
        refused: list[tuple[NetlinkRequest, int]] = []
        while waiting:
            for kind, number, body in self._receive():
                request = waiting.pop(number, None) if kind == _ERROR else None
                if request and (code := _code(body)) and code not in request.fine:
                    refused.append((request, code))
        return refused

    def dump(self, request: NetlinkRequest) -> list[bytes]:
        """The bodies of all messages that answer `request`."""
        answers = self._answers_to(request, DUMP)
        return [body for _, body in takewhile(lambda answer: answer[0] != _DONE, answers)]

    def ask(self, request: NetlinkRequest) -> bytes:
        """The body of the one message that answers `request`."""
        return next(self._answers_to(request, 0))[1]

    def _answers_to(self, request: NetlinkRequest, flags: int) -> Iterator[tuple[int, bytes]]:
        self._sequence += 1
        self._socket.send(_message(request, flags, self._sequence))
        while True:
            for kind, number, body in self._receive():
                if number == self._sequence:
                    if kind == _ERROR:
                        _raise_first([(request, _code(body))])
                    yield kind, body

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        return messages(self._socket.recv(_READ_BYTES))


def messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The messages in `data`: of each its kind, its number and its body."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, number, _ = _HEADER.unpack_from(data, at)
        yield kind, number, data[at + _HEADER.size : at + length]
        at += max(_HEADER.size, length + (-length % 4))


def _message(request: NetlinkRequest, flags: int, number: int) -> bytes:
    length = _HEADER.size + len(request.body)
    header = _HEADER.pack(length, request.kind, REQUEST | flags | request.flags, number, 0)
    return header + request.body + b"\0" * (-length % 4)


def _code(body: bytes) -> int:
    return -struct.unpack_from("=i", body)[0]


def _raise_first(refused: Sequence[tuple[NetlinkRequest, int]]) -> None:
    if refused:
        request, code = refused[0]
        raise OSError(code, f"{request.what}: {os.strerror(code)}")
