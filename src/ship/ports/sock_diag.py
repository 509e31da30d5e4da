"""Lists the kernel's listening TCP sockets in this network namespace.

Netlink (sock_diag(7)) looks at those alone. A seccomp filter forbids to open it, so a zygote opens it before.
Where there is none there is /proc/net/tcp, which goes through the table of all connections of the machine:
3 ms on a large one, and a thousand sandboxes take two cores with it. So it is read when the number
of sockets in /proc/net/sockstat has changed, and else now and then: as many may have closed as opened.
"""

import errno
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ship.process.table import read_file

_SOCK_DIAG = 4  # of linux/netlink.h
_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_LISTEN = 10  # of linux/tcp_states.h
_HEAD = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBBI48x")
_FOUND = struct.Struct("=BBBB2s2s16s16s12sIIIII")  # struct inet_diag_msg of linux/inet_diag.h
_ANSWER_S = 1.0
_READ_BYTES = 64 * 1024
_MAX_SOCKETS = 8192
_MAX_TABLE_BYTES = 4 << 20
_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_COUNTS = ("/proc/net/sockstat", "/proc/net/sockstat6")
_COUNTS_BYTES = 4096
_IN_USE = re.compile(rb"^TCP6?: inuse (\d+)", re.MULTILINE)
_BLIND_S = 5.0


class Listener(NamedTuple):
    """A listening socket. `inode` is the number in its links in /proc/PID/fd."""

    port: int
    address: str
    inode: int


class Netlink:
    """Queries the kernel's listening sockets. Raises OSError where that is forbidden."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG)
        self._socket.settimeout(_ANSWER_S)  # it answers while it is asked

    def look(self) -> list[Listener]:
        """Those there are now. Takes microseconds. Raises OSError."""
        return [*self._dump(socket.AF_INET), *self._dump(socket.AF_INET6)][:_MAX_SOCKETS]

    def close(self) -> None:
        self._socket.close()

    def _dump(self, family: int) -> Iterator[Listener]:
        wanted = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, 1 << _LISTEN)
        self._socket.send(_HEAD.pack(_HEAD.size + len(wanted), _BY_FAMILY, _DUMP, 0, 0) + wanted)
        while True:
            for kind, body in _messages(self._socket.recv(_READ_BYTES)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    number = -struct.unpack_from("=i", body)[0]
                    raise OSError(number, os.strerror(number))
                yield _found(family, body)


class Tables:
    """The same from /proc/net."""

    def __init__(self) -> None:
        self._counts: list[list[bytes]] = []
        self._read_at = 0.0
        self.last: list[Listener] = []
        """Those there were when it was read."""

    def is_old(self) -> bool:
        """Whether the table may have changed: quick, but blind for seconds when as many close as open."""
        counts = [_IN_USE.findall(read_file(path, _COUNTS_BYTES)) for path in _COUNTS]
        is_known = any(counts) and counts == self._counts
        self._counts = counts
        return not is_known or time.monotonic() - self._read_at >= _BLIND_S

    def read(self) -> None:
        """Look for those there are now. May take milliseconds."""
        self._read_at = time.monotonic()
        found = [each for path in _TABLES for each in _in_table(read_file(path, _MAX_TABLE_BYTES))]
        self.last = found[:_MAX_SOCKETS]


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEAD.size <= len(data):
        size, kind, _flags, _sequence, _peer = _HEAD.unpack_from(data, at)
        if size < _HEAD.size:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        yield kind, data[at + _HEAD.size : at + size]
        at += (size + 3) & ~3


def _found(family: int, body: bytes) -> Listener:
    fields = _FOUND.unpack_from(body)
    source, inode = fields[6], fields[13]
    return Listener(int.from_bytes(fields[4], "big"), _address(family, source), inode)


def _address(family: int, source: bytes) -> str:
    if family == socket.AF_INET:
        return socket.inet_ntop(family, source[:4])
    mapped = source[:12] == bytes(10) + b"\xff\xff"
    return socket.inet_ntop(socket.AF_INET, source[12:]) if mapped else socket.inet_ntop(family, source)


def _in_table(table: bytes) -> Iterator[Listener]:
    for line in table.split(b"\n")[1:]:
        fields = line.split()
        with suppress(ValueError, IndexError):  # a last line that was cut off
            if int(fields[3], 16) == _LISTEN:
                host, port = fields[1].split(b":")
                yield Listener(int(port, 16), _address_of_words(host), int(fields[9]))


def _address_of_words(text: bytes) -> str:
    # 32 bits at a time, each as a number of this machine's own byte order.
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return _address(family, struct.pack(f"={len(words)}I", *words))
