"""Placeholders for connections whose files another process holds for a while.

A placeholder has the number of the file that it stands for, so that asyncio's transport notices nothing. It
takes no byte, and none comes: what is sent meanwhile waits in the transport, whose flow control works on.
"""

import os
import select
import socket
from collections.abc import Sequence
from contextlib import suppress
from selectors import BaseSelector
from typing import NamedTuple

from ship.http.connection import Connection


class _Place(NamedTuple):
    """`inode` is the connection's. `far` is the other end of its placeholder."""

    inode: int
    far: socket.socket


class Parking:
    """Keeps the places of connections. `selector` is the one of the event loop that serves them."""

    def __init__(self, selector: BaseSelector) -> None:
        self._selector = selector
        self._places: dict[Connection, _Place] = {}

    def __contains__(self, wire: Connection) -> bool:
        return wire in self._places

    def park(self, wires: Sequence[Connection]) -> list[int]:
        """Put a placeholder in the place of each open connection; their files in the same order, which the
        caller closes. Raises OSError when there is no room, and then has changed nothing.
        """
        files: list[int] = []
        pairs: list[tuple[socket.socket, socket.socket]] = []
        try:
            for wire in wires:
                files.append(os.dup(wire.descriptor))
                pairs.append(_filled_pair())
        except OSError:
            close_all(files)
            for end in (end for pair in pairs for end in pair):
                end.close()
            raise
        for wire, file, (near, far) in zip(wires, files, pairs, strict=True):
            self._places[wire] = _Place(os.fstat(file).st_ino, far)
            with near:
                self._exchange(wire.descriptor, near.fileno())
        return files

    def fits(self, files: Sequence[int]) -> bool:
        """Whether these are the files of all parked connections, in the order of `park`."""
        return [os.fstat(file).st_ino for file in files] == [place.inode for place in self._places.values()]

    def put_back(self, files: Sequence[int]) -> None:
        """Have each connection go on with its file, for `files` that fit. They are closed here."""
        for file, (wire, place) in zip(files, self._places.items(), strict=True):
            with socket.socket(fileno=file) as real, place.far:
                if wire.lost.done():
                    continue  # its number may be another file's by now
                if _is_ended(place.far):
                    with suppress(OSError):  # the peer is gone
                        real.shutdown(socket.SHUT_WR)
                self._exchange(wire.descriptor, real.fileno())
        self._places.clear()

    def abort(self) -> list[Connection]:
        """Abort all parked connections, and return them."""
        wires = list(self._places)
        for wire, place in self._places.items():
            wire.abort()
            place.far.close()
        self._places.clear()
        return wires

    def _exchange(self, number: int, file: int) -> None:
        """Have `number` be the open file of `file`."""
        # By the number alone, since the kernel keeps a registration for as long as anybody holds the file.
        key = self._selector.get_map().get(number)
        if key is not None:
            self._selector.unregister(key.fileobj)
        os.dup2(file, number, inheritable=False)
        if key is not None:
            self._selector.register(key.fileobj, key.events, key.data)


def close_all(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def _filled_pair() -> tuple[socket.socket, socket.socket]:
    """The near end has no room for another byte: to send gives EAGAIN, and poll(2) does not offer it."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    near.setblocking(False)
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel takes its least instead
    with suppress(BlockingIOError):
        while True:
            near.send(b"\0")
    return near, far


def _is_ended(far: socket.socket) -> bool:
    """Whether the near end's direction was ended by shutdown(2)."""
    asked = select.poll()
    asked.register(far, select.POLLRDHUP)
    return bool(asked.poll(0))
