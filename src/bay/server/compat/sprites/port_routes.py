"""The WebSocket that tells which ports of a sprite are open, and of each that opens or closes."""

from typing import Annotated

from fastapi import WebSocket

from bay.server.compat.routers import format_router
from bay.server.compat.sprites.port_messages import port_messages
from bay.server.compat.sprites.wire import PREFIX
from bay.server.ports.watching import PortWatch, PortWatches
from bay.server.web.dependencies import SocketReader, service
from bay.server.web.websocket_close import Goodbye, accepted, pump, send_json
from ship_protocol import CloseCode

router = format_router(PREFIX + "/{name}/ports")

PortWatchesDep = Annotated[PortWatches, service(PortWatches)]


@router.websocket("/watch")
async def watch_ports(socket: WebSocket, caller: SocketReader, watches: PortWatchesDep, name: str) -> None:
    """The open ports, then each change."""
    async with watches.watch(caller, name) as watch:
        if await accepted(socket):
            await pump(socket, _down(socket, watch), _up(socket), watch.must_leave())


async def _down(socket: WebSocket, watch: PortWatch) -> Goodbye | None:
    async for message in port_messages(watch):
        await send_json(socket, message)
    return None


async def _up(socket: WebSocket) -> Goodbye | None:
    """None when the client has left; a watch takes no messages."""
    if (await socket.receive())["type"] == "websocket.disconnect":
        return None
    return Goodbye(CloseCode.BAD_MESSAGE, "a watch accepts no messages")
