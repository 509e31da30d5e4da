"""The relay between one client's WebSocket and one connection to a port.

Each direction is one loop that takes a piece when the last one is gone, so nothing piles up.
"""

import asyncio
import json
from dataclasses import dataclass, field
from typing import ClassVar

from starlette.websockets import WebSocket

from bay.errors import BadRequest
from bay.server.ports.tunnels import Tunnel
from bay.server.web.concurrency import first
from bay.server.web.open_connections import Reason
from bay.server.web.websocket_close import BY_REASON, Goodbye, goodbye_for, pump
from ship_protocol import CloseCode

_READ_BYTES = 64 * 1024
_MAX_TEXT = 1024
_LOOK_S = 30.0
_EOF = json.dumps({"type": "eof"}, separators=(",", ":"))
_DONE = Goodbye(CloseCode.NORMAL)
_FAREWELLS: dict[Reason, Goodbye] = {
    **BY_REASON,
    "leaving": Goodbye(CloseCode.SERVICE_RESTART, "Bay is shutting down"),
}


@dataclass(eq=False)
class TunnelRelay:
    """One tunnel between its client and the program. Binary messages are its bytes."""

    socket: WebSocket
    tunnel: Tunnel
    tells_eof: ClassVar[bool] = True
    """Whether a text ends one direction. Otherwise the end of either is the end of the WebSocket, and a text
    is bytes as well.
    """
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
        except ConnectionError:
            return goodbye_for(await self.tunnel.why_broken())
        if not self.tells_eof:
            return _DONE
        await self.socket.send_text(_EOF)
        self._given_all.set()
        await first(_until(self._sent_all), stream.wait_closed())
        return _DONE

    async def _up(self) -> Goodbye | None:
        try:
            while (message := await self.socket.receive())["type"] != "websocket.disconnect":
                await self._take(message.get("bytes"), message.get("text") or "")
            if not self.tells_eof:
                await self.tunnel.stream.write_eof()  # the program gets all that was sent before it
        except ConnectionError:
            # The other direction tells whether that was the end of it or a break; it may have more to give
            # first.
            await self._given_all.wait()
            return _DONE
        return None

    async def _take(self, data: bytes | None, text: str) -> None:
        if data is None and not self.tells_eof:
            data = text.encode("utf-8", "replace")
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
