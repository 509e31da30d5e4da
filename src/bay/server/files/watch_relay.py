"""Bay relays the events of watched files to a client, until one of the two is done."""

from starlette.websockets import WebSocket

from bay.models import to_wire
from bay.server.files.trees import Watch
from bay.server.web.websocket_close import Goodbye, pump, send_json
from ship_protocol import CloseCode


async def relay(socket: WebSocket, watch: Watch) -> None:
    """Serve an accepted WebSocket to its end."""
    await pump(socket, _down(socket, watch), _up(socket), watch.must_leave())


async def _down(socket: WebSocket, watch: Watch) -> Goodbye:
    """Events to the client."""
    await send_json(socket, {"type": "watching", "path": watch.path})
    async for event in watch.events():
        told = to_wire(event)
        await send_json(socket, {name: value for name, value in told.items() if value is not None})
    return Goodbye(CloseCode.NORMAL, "the watched path was deleted")


async def _up(socket: WebSocket) -> Goodbye | None:
    """None when the client has left; a watch takes no messages."""
    if (await socket.receive())["type"] == "websocket.disconnect":
        return None
    return Goodbye(CloseCode.BAD_MESSAGE, "a watch accepts no messages")
