"""The bytes of one connection, with back-pressure both ways, and detection of a disconnected peer.

asyncio's streams hide the disconnect until something is read or written; a call that waits for an exec, or
follows a silent one, needs to know it.
"""

import asyncio
import os
import select
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

from ship.waiting import Timer, wake

_MAX_RECEIVED = 256 * 1024
_MAX_UNSENT = 256 * 1024
_LOOK_S = 1.0


class PeerGone(Exception):
    """The connection is closed; no answer can be sent."""


class Connection(asyncio.Protocol):
    """A connection and its serving task. `gone` is done once the peer has closed, or stopped sending, and
    `lost` once our own end is closed.
    """

    def __init__(self, serve: Callable[["Connection"], Coroutine[Any, Any, None]]) -> None:
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._received = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._ended = False
        """Nothing more comes. `gone` may be known before, while what the peer has sent is still unread."""
        self._look = Timer()
        self._leave: asyncio.Future[None] | None = None
        self.is_trusted = False
        """Whether a request with the right token has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_MAX_UNSENT)
        self._task = self._loop.create_task(self._serve(self))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) >= _MAX_RECEIVED:
            self.transport.pause_reading()
            self._look_later()
        wake(self._arrival)

    def eof_received(self) -> bool:
        """The peer may still be reading, so our side stays open."""
        self._ended = True
        wake(self.gone)
        wake(self._arrival)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._look.cancel()
        for future in (self.lost, self.gone, self._arrival, self._room):
            wake(future)

    def pause_writing(self) -> None:
        self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        wake(self._room)
        self._room = None

    @property
    def transport(self) -> asyncio.Transport:
        """Raises PeerGone before the connection is made."""
        if self._transport is None:
            raise PeerGone
        return self._transport

    async def receive(self, timeout_s: float | None) -> bytes:
        """All received bytes, or the next; empty at the end. TimeoutError after `timeout_s` of silence."""
        if not self._received and not self._ended:
            await self._wait_arrival(timeout_s)
        received = bytes(self._received)
        self._received.clear()
        self._look.cancel()
        if not self.lost.done():
            self.transport.resume_reading()
        return received

    @property
    def room(self) -> asyncio.Future[None] | None:
        """Done once little enough is unsent; None when that is so now."""
        return self._room

    def write(self, data: bytes) -> None:
        """Send, for a caller that checks `room`. Raises PeerGone."""
        self._check_not_lost()
        if self.transport.is_closing():
            raise PeerGone  # it broke in this turn of the loop; `connection_lost` is called in the next
        self.transport.write(data)

    async def send(self, data: bytes) -> None:
        """Send; returns once little enough is unsent. Raises PeerGone."""
        self.write(data)
        if self._room is not None:
            # Several may wait for it; one that is cancelled leaves it to the others.
            await asyncio.wait({self._room})
            self._check_not_lost()

    def asked_to_leave(self) -> asyncio.Future[None]:
        """Done once Ship asks for the end of the connection, which its server and its peer agree on then."""
        if self._leave is None:
            self._leave = self._loop.create_future()
        return self._leave

    def ask_to_leave(self) -> bool:
        """Ask for that; False when its server does not look."""
        wake(self._leave)
        return self._leave is not None

    def close(self) -> None:
        """Send the unsent bytes, then close."""
        self.transport.close()

    def abort(self) -> None:
        """Close at once, and drop what is unsent."""
        if not self.lost.done():  # asyncio's own fails for one that was closed and has sent all since
            self.transport.abort()

    @property
    def descriptor(self) -> int:
        """The number of its open file; valid until it is `lost`. Raises PeerGone before it is made."""
        peer: socket.socket = self.transport.get_extra_info("socket")
        return peer.fileno()

    def borrow(self) -> socket.socket:
        """Read no more here, and return a duplicate, for messages with descriptors in them: a plain read
        drops those. The caller closes it. Raises PeerGone or OSError.
        """
        self._check_not_lost()
        self.transport.pause_reading()
        borrowed = socket.socket(fileno=os.dup(self.descriptor))
        borrowed.setblocking(False)
        return borrowed

    async def wait_closed(self) -> None:
        """Return when the serving task is over."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _look_later(self) -> None:
        # Without a read the peer's disconnect is not seen.
        self._look.set(_LOOK_S, self._look_for_peer)

    def _look_for_peer(self) -> None:
        asked = select.poll()
        asked.register(self.descriptor, select.POLLRDHUP)
        if asked.poll(0):
            wake(self.gone)
        else:
            self._look_later()

    async def _wait_arrival(self, timeout_s: float | None) -> None:
        self._arrival = self._loop.create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._arrival
        finally:
            self._arrival = None

    def _check_not_lost(self) -> None:
        if self.lost.done():
            raise PeerGone
