"""The client of a Ship's port routes: the listeners, and connections to them.

Connections come in frames (docs/ship-protocol.md), so that an end differs from a break. A program's bytes are
hostile: the buffer is bounded, and a sandbox that sends faster than it is read has to wait.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from prometheus_client import Counter
from pydantic import BaseModel, Field

from bay.errors import BadRequest, ShipError
from bay.models import Port
from bay.server.ship.answers import Small, collect, parse
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from ship_protocol import END_OF_PIECES, PIECE_HEAD

PortNumber = Annotated[int, Field(ge=1, le=65_535)]

_PIECE_BYTES = 1 << 20
_MAX_RECEIVED = 256 * 1024
_MAX_PARTS = 64  # each costs more than a byte
_MAX_UNSENT = 256 * 1024
_ANSWER_BYTES = 1 << 20
_TURN = 64  # reads of what is here before others get a turn


class _Listening(BaseModel):
    port: PortNumber
    addresses: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=16, fail_fast=True)]
    pid: Small | None = None
    process: Annotated[str, Field(max_length=256)] | None = None

    def to_port(self) -> Port:
        return Port(port=self.port, addresses=tuple(self.addresses), pid=self.pid, process=self.process)


class _PortsAnswer(BaseModel):
    items: Annotated[list[_Listening], Field(max_length=1000, fail_fast=True)]

    def to_ports(self) -> tuple[Port, ...]:
        return tuple(item.to_port() for item in self.items)


class _PortsLine(_PortsAnswer):
    type: Literal["ports"]


def ports_of(line: bytes) -> tuple[Port, ...]:
    """The listening ports that a line of a session's feed names. Raises ShipError."""
    return parse(_PortsLine, line).to_ports()


class PortClient:
    """Calls to the ports behind `link`."""

    def __init__(self, ship: ShipClient) -> None:
        self._ship = ship

    async def listening(self, peer: Peer) -> tuple[Port, ...]:
        """Where something listens now, by number."""
        async with self._ship.open(peer, "GET", "/ports") as (wire, _):
            return parse(_PortsAnswer, await collect(wire.body(), _ANSWER_BYTES)).to_ports()

    @asynccontextmanager
    async def open(
        self, peer: Peer, port: int, kind: Literal["app", "tunnel"] = "app"
    ) -> AsyncGenerator["PortStream"]:
        """A connection to what listens there; leaving the block before both directions have ended resets it.
        Raises PortClosed when nothing listens there, ShipError and Timeout.
        """
        if not 1 <= port <= 65_535:
            raise BadRequest(f"{port} is not a port; give a number from 1 to 65535")
        meters = self._ship.meters
        async with self._ship.upgrade(peer, f"/tunnel?port={port}", "tcp") as wire:
            stream = PortStream(
                given=meters.port_bytes.labels(kind, "in"), taken=meters.port_bytes.labels(kind, "out")
            )
            stream.begin(*await wire.hand_over(stream))
            meters.port_connections_opened.labels(kind).inc()
            with meters.port_connections.labels(kind).track_inprogress():
                yield stream


class PortStream(asyncio.Protocol):
    """One connection's bytes, one reader and one writer at a time. Errors are OSErrors, as of any socket.
    `given` and `taken` count the bytes that go into the sandbox and come out of it.
    """

    def __init__(self, *, given: Counter, taken: Counter) -> None:
        self._given_bytes, self._taken_bytes = given, taken
        loop = asyncio.get_running_loop()
        self._received: deque[memoryview] = deque()
        """As it came, since to put it together would copy it."""
        self._waiting = 0
        """Bytes of it."""
        self._reads = 0
        self._left = 0
        """Bytes of a piece that are still to come, or are in `_received`."""
        self._ended = False
        self._said_end = False
        self._lost = False
        self._arrival = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed: asyncio.Future[None] = loop.create_future()
        self._transport: asyncio.Transport | None = None

    def begin(self, transport: asyncio.Transport, received: bytes) -> None:
        """Called once, with what carries it and what has come already."""
        self._transport = transport
        transport.set_write_buffer_limits(high=_MAX_UNSENT)
        self.data_received(received)

    async def read(self, size: int) -> bytes:
        """The next 1 to `size` bytes, empty at the end; ConnectionResetError after a break. Cancellable."""
        while not self._ended:
            if not self._left and self._waiting >= PIECE_HEAD.size:
                self._begin_piece()
            elif self._left and self._waiting:
                self._reads += 1
                if self._reads % _TURN == 0:
                    await asyncio.sleep(0)
                return self._take_of_piece(size)
            elif self._lost:
                raise ConnectionResetError("the program aborted the connection")
            else:
                self._arrival.clear()
                self._may_read()
                await self._arrival.wait()
        return b""

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`, as fast as the program takes it. Raises ConnectionError when it stops reading.
        To cancel it is to have sent all, or of more than a mebibyte a part.
        """
        view = memoryview(data).cast("B")
        self._given_bytes.inc(len(view))
        for start in range(0, len(view), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            self._send(PIECE_HEAD.pack(len(piece)) + piece)
            await self.drain()

    async def drain(self) -> None:
        """Return once there is room for more. Raises ConnectionError when nothing more is taken."""
        await self._room.wait()
        if self._lost:
            raise ConnectionResetError("the program closed the connection")

    async def write_eof(self) -> None:
        """End this direction; the other can still be read. Idempotent."""
        if not self._said_end:
            self._send(END_OF_PIECES)
            self._said_end = True
            await self.drain()

    @property
    def is_quiet(self) -> bool:
        """Whether it is open and nothing has come that was not read."""
        return not (self._waiting or self._left or self._ended or self._lost)

    async def wait_closed(self) -> None:
        """Return once the program's connection is over: after the end of its output it takes nothing."""
        await asyncio.wait((self._closed,))

    def abort(self) -> None:
        """Break the connection off at once, for the program too. Again is no error."""
        self._lost = True
        self._carrier.abort()
        self._wake()

    async def aclose(self) -> None:
        """Close it: after `write_eof` unsent bytes may still go out, else the connection is reset."""
        if not self._said_end:
            self.abort()
            return
        self._carrier.close()
        self._lost = True
        self._wake()

    @property
    def _carrier(self) -> asyncio.Transport:
        if self._transport is None:
            raise ShipError("the connection is not open yet")
        return self._transport

    def _begin_piece(self) -> None:
        head = self._take(PIECE_HEAD.size)
        while len(head) < PIECE_HEAD.size:
            head += self._take(PIECE_HEAD.size - len(head))
        (self._left,) = PIECE_HEAD.unpack(head)
        self._ended = not self._left

    def _take_of_piece(self, size: int) -> bytes:
        taken = self._take(min(size, self._left))
        self._taken_bytes.inc(len(taken))
        self._left -= len(taken)
        self._may_read()
        return taken

    def _take(self, size: int) -> bytes:
        """The next 1 to `size` bytes of those that wait."""
        part = self._received.popleft()
        if len(part) > size:
            self._received.appendleft(part[size:])
            part = part[:size]
        self._waiting -= len(part)
        whole = part.obj
        return whole if isinstance(whole, bytes) and len(whole) == len(part) else bytes(part)

    @property
    def _is_full(self) -> bool:
        return self._waiting >= _MAX_RECEIVED or len(self._received) >= _MAX_PARTS

    def _may_read(self) -> None:
        if not self._lost and not self._carrier.is_closing() and not self._is_full:
            self._carrier.resume_reading()

    def _send(self, data: bytes) -> None:
        if self._lost or self._carrier.is_closing():
            raise ConnectionResetError("the program closed the connection")
        if self._said_end:
            raise BrokenPipeError("the sending side is already closed")
        self._carrier.write(data)

    def _wake(self) -> None:
        self._arrival.set()
        self._room.set()
        if not self._closed.done():
            self._closed.set_result(None)

    # Callbacks of asyncio.

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        if not data:
            return
        self._received.append(memoryview(data))
        self._waiting += len(data)
        if self._is_full:
            self._carrier.pause_reading()
        self._arrival.set()

    def eof_received(self) -> bool:
        """Called by asyncio. Nothing more comes and nothing more is taken, of what is unsent neither."""
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._lost = True
        self._wake()

    def pause_writing(self) -> None:
        """Called by asyncio."""
        if not self._lost:
            self._room.clear()

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._room.set()
