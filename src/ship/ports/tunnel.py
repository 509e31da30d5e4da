"""Tunnels one TCP connection to a port of the sandbox over an upgraded connection.

Each direction is a sequence of pieces: a length of four bytes (big-endian), and the bytes; an empty piece is
the end of that direction. A connection that closes before is one that was reset. The end is in the stream and
not a shutdown(2), since a Unix socket whose own direction has ended does not tell an end of the other from a
peer that broke off.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import suppress

from ship.http.connection import Connection, PeerGone
from ship.waiting import first_of
from ship_protocol import END_OF_PIECES, PIECE_HEAD

_READ_BYTES = 256 * 1024
_COPIED_BYTES = 16 * 1024  # below, to put two together costs less than to send them apart
_TURN = 16  # pieces that are carried before others get a turn
_CONNECT_S = 5.0
_LAST_S = 60.0
_LINGER_S = 1.0
_AT_ONCE = struct.pack("ii", 1, 0)


class _Cut(Exception):
    """One of the two sides broke off; so must the other."""


async def connect(port: int) -> socket.socket | None:
    """A connection to the listener of that port of the loopback device; None when none accepts it."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with suppress(OSError):
            return await _connect(family, host, port)
    return None


async def _connect(family: int, host: str, port: int) -> socket.socket:
    connected = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().sock_connect(connected, (host, port))
        if connected.getsockname() == connected.getpeername():
            # No listener: the kernel chose this very port for our end, and TCP lets a socket connect to
            # itself.
            raise ConnectionRefusedError
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connected.close()
        raise
    return connected


class Tunnel:
    """A connection to a program. Only bytes under way are buffered."""

    def __init__(self, app: socket.socket, ending: asyncio.Future[None]) -> None:
        self._app = app
        self._ending = ending
        self._is_reset = False
        """Whether to send to the program has failed because it has reset the connection."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        self._app.close()

    async def serve(self, wire: Connection, received: bytes) -> None:
        """Carry bytes until both directions have ended, or one side broke off; then reset the other too."""
        try:
            async with asyncio.TaskGroup() as tasks:
                guard = tasks.create_task(self._guard(wire))
                down = tasks.create_task(self._carry_down(wire))
                is_taken = await self._carry_up(wire, received)
                await first_of((down, wire.gone), None)
                if not is_taken:
                    await self._part(wire)
                guard.cancel()
                down.cancel()
        except* _Cut:
            with suppress(OSError):
                self._app.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            self._app.close()
            await self._part(wire)

    async def _part(self, wire: Connection) -> None:
        """Have the peer leave: closing in mid-message would drop bytes that it has not read yet."""
        wire.transport.write_eof()
        await first_of((wire.gone, self._ending), _LINGER_S)

    async def _carry_down(self, wire: Connection) -> None:
        """From the program, to its end."""
        count = 0
        with suppress(PeerGone):  # its messages tell whether it may have left
            while data := await self._receive():
                await _send(wire, data)
                count += 1
                if count % _TURN == 0:
                    await asyncio.sleep(0)
            if self._is_reset:
                raise _Cut
            await wire.send(END_OF_PIECES)

    async def _receive(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._app, _READ_BYTES)
        except OSError as error:
            raise _Cut from error

    async def _carry_up(self, wire: Connection, received: bytes) -> bool:
        """To the program; whether it took all."""
        try:
            async for data in _pieces(wire, received):
                await self._loop.sock_sendall(self._app, data)
        except BrokenPipeError:  # it had ended its own direction in good order before, and then closed
            return False
        except OSError:
            # A program that answers and closes before it has read all resets the connection; the answer can
            # still be read.
            self._is_reset = True
            return False
        with suppress(OSError):  # it has reset the connection, which the reading side reports
            self._app.shutdown(socket.SHUT_WR)
        return True

    async def _guard(self, wire: Connection) -> None:
        await first_of((wire.gone, self._ending), None)
        # The peer may leave after its end of stream; the program has a while to take the earlier bytes.
        await first_of((self._ending,), _LAST_S)
        raise _Cut


async def _pieces(wire: Connection, received: bytes) -> AsyncGenerator[bytes]:
    """The peer's pieces, as they come, to the end of its direction."""
    waiting = bytearray(received)
    while True:
        while len(waiting) < PIECE_HEAD.size:
            waiting += await _next(wire)
        (left,) = PIECE_HEAD.unpack_from(waiting)
        del waiting[: PIECE_HEAD.size]
        if not left:
            return
        while left:
            with memoryview(waiting) as view:
                piece = bytes(view[:left])
            del waiting[:left]
            left -= len(piece)
            if piece:
                yield piece
            if left:
                waiting += await _next(wire)


async def _send(wire: Connection, data: bytes) -> None:
    head = PIECE_HEAD.pack(len(data))
    if len(data) > _COPIED_BYTES:
        wire.write(head)
        await wire.send(data)
    else:
        await wire.send(head + data)


async def _next(wire: Connection) -> bytes:
    data = await wire.receive(None)
    if not data:
        raise _Cut
    return data
