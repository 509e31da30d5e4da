"""Carries what happens to watched files to a client, until one of the two is done. Nothing piles up here: see `relay`."""

import json

from starlette.websockets import WebSocket, WebSocketDisconnect

from bay.errors import BayError
from bay.models import to_wire
from bay.server.execs.relay import BY_REASON, Goodbye, goodbye_for, leave
from bay.server.files.trees import Watch
from bay.server.web.concurrency import first
from ship_protocol import CloseCode


async def relay(socket: WebSocket, watch: Watch) -> None:
    """Serve an accepted WebSocket to its end."""
    goodbye = await first(_down(socket, watch), _stay(watch), _up(socket))
    if goodbye is not None:
        await leave(socket, goodbye)


async def _down(socket: WebSocket, watch: Watch) -> Goodbye | None:
    """Events to the client. None when that has left."""
    try:
        await _send(socket, {"type": "watching", "path": watch.path})
        async for event in watch.events():
            told = to_wire(event)
            await _send(socket, {name: value for name, value in told.items() if value is not None})
    except WebSocketDisconnect:
        return None
    except BayError as error:
        return goodbye_for(error)
    return Goodbye(CloseCode.NORMAL, "the watched path was deleted")


async def _up(socket: WebSocket) -> Goodbye | None:
    """None when the client has left; there is nothing for it to say."""
    if (await socket.receive())["type"] == "websocket.disconnect":
        return None
    return Goodbye(CloseCode.BAD_MESSAGE, "a watch accepts no messages")


async def _stay(watch: Watch) -> Goodbye:
    return BY_REASON[await watch.must_leave()]


async def _send(socket: WebSocket, message: object) -> None:
    await socket.send_text(json.dumps(message, separators=(",", ":")))
