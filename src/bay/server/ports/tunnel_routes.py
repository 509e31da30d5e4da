"""The routes `…/tunnel`: the bytes of a TCP connection to a port of a sandbox, by WebSocket.

Each direction is one loop that takes a piece when the last one is gone, so nothing piles up. The socket
closes with 1000 once both have ended, and with another code when the connection broke.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Query, WebSocket

from bay.errors import BadRequest
from bay.server.ports.tunnels import Tunnel, Tunnels
from bay.server.web.concurrency import first
from bay.server.web.dependencies import SocketWriter, noun_router, service
from bay.server.web.open_connections import Reason
from bay.server.web.websocket_close import BY_REASON, Goodbye, accepted, goodbye_for, pump
from ship_protocol import CloseCode

router = noun_router("ports", "/v1/sandboxes/{sandbox_id}")

TunnelsDep = Annotated[Tunnels, service(Tunnels)]

Port = Annotated[int, Query(ge=1, le=65_535, description="On which a program in the sandbox listens")]

_READ_BYTES = 64 * 1024
_MAX_TEXT = 1024
_LOOK_S = 30.0
_EOF = json.dumps({"type": "eof"}, separators=(",", ":"))
_DONE = Goodbye(CloseCode.NORMAL)
_FAREWELLS: dict[Reason, Goodbye] = {
    **BY_REASON,
    "leaving": Goodbye(CloseCode.SERVICE_RESTART, "Bay is shutting down"),
}


@router.websocket("/tunnel")
async def tunnel(
    socket: WebSocket, caller: SocketWriter, tunnels: TunnelsDep, sandbox_id: str, port: Port
) -> None:
    """A connection to the port.

    Binary messages are its bytes, the text `{"type": "eof"}` is the end of one direction.
    """
    async with tunnels.open(caller, sandbox_id, port) as opened:
        if await accepted(socket):
            await _Relay(socket, opened).run()


@dataclass(eq=False)
class _Relay:
    """One tunnel between its client and the program."""

    socket: WebSocket
    tunnel: Tunnel
    _sent_all: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """The client has ended its direction."""
    _given_all: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """The program has."""

    async def run(self) -> None:
        """Serve the tunnel until both directions have ended, one side broke off, or Bay has to."""
        await pump(self.socket, self._down(), self._up(), self.tunnel.must_leave(), _FAREWELLS)

    async def _down(self) -> Goodbye:
        stream = self.tunnel.stream
        try:
            while data := await stream.read(_READ_BYTES):
                await self.socket.send_bytes(data)
            await self.socket.send_text(_EOF)
        except ConnectionError:
            return goodbye_for(await self.tunnel.why_broken())
        self._given_all.set()
        await first(_until(self._sent_all), stream.wait_closed())
        return _DONE

    async def _up(self) -> Goodbye | None:
        try:
            while (message := await self.socket.receive())["type"] != "websocket.disconnect":
                await self._take(message.get("bytes"), message.get("text") or "")
        except ConnectionError:
            # The other direction tells whether that was the end of it or a break; it may have more to give
            # first.
            await self._given_all.wait()
            return _DONE
        return None

    async def _take(self, data: bytes | None, text: str) -> None:
        if data is None:
            _check_eof(text)
            await self.tunnel.stream.write_eof()
            self._sent_all.set()
        elif self._sent_all.is_set():
            raise BadRequest("no bytes may follow eof")
        elif data:
            await self._give(data)

    async def _give(self, data: bytes) -> None:
        """To the program, however long that takes; it checks now and then that the client is still there."""
        await self.tunnel.thaw()
        try:
            async with asyncio.timeout(_LOOK_S):
                await self.tunnel.stream.write(data)  # one piece: it is cancelled only once it is on its way
        except TimeoutError:
            await self._wait_taken()

    async def _wait_taken(self) -> None:
        while True:
            await self.socket.send_bytes(b"")
            try:
                async with asyncio.timeout(_LOOK_S):
                    return await self.tunnel.stream.drain()
            except TimeoutError:
                continue


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _check_eof(text: str) -> None:
    try:
        kind = json.loads(text)["type"] if len(text) <= _MAX_TEXT else None
    except (ValueError, TypeError, KeyError, RecursionError):
        kind = None
    if kind != "eof":
        raise BadRequest('a text message must be {"type": "eof"}; send bytes in binary messages')
