"""Relays an attached exec's output and input, until the first of exec, client, key and Bay ends it."""

import asyncio

from starlette.websockets import WebSocket

from bay.errors import QuotaExceeded, ShipError, Timeout
from bay.models import to_wire
from bay.server.execs.attachments import Attached, check_input, parse_control
from bay.server.ship.client import OutputEnd
from bay.server.web.websocket_close import Goodbye, pump, send_json
from bay.token_bucket import TokenBucket
from ship_protocol import CONTROLS_PER_S, REPAINT, CloseCode

_VERDICT_S = 5.0
_REPAINT_BYTES = 256 << 10  # a message; clients need take no large ones


async def relay(socket: WebSocket, attached: Attached) -> None:
    """Serve an accepted WebSocket to its end. The exec lives on in all cases."""
    await pump(socket, _down(socket, attached), _up(socket, attached), attached.must_leave())


async def _down(socket: WebSocket, attached: Attached) -> Goodbye:
    """Output to the client."""
    await send_json(
        socket, {"type": "attached", "exec": to_wire(attached.exec), "next_offset": attached.next_offset}
    )
    if attached.repaint is not None:
        for start in range(0, len(attached.repaint), _REPAINT_BYTES):
            await socket.send_bytes(REPAINT + attached.repaint[start : start + _REPAINT_BYTES])
    async for frame in attached.frames():
        if isinstance(frame, OutputEnd):
            return Goodbye(CloseCode.NORMAL, message={"type": "exit", **frame.model_dump()})
        await socket.send_bytes(frame)
    return Goodbye(CloseCode.UNREACHABLE, "the sandbox's runtime stopped sending output")


async def _up(socket: WebSocket, attached: Attached) -> Goodbye | None:
    """Input to the exec."""
    controls = TokenBucket(CONTROLS_PER_S, CONTROLS_PER_S)
    try:
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            if (data := message.get("bytes")) is not None:
                check_input(data)
                await attached.send(data)
            else:
                _check_pace(controls)
                await attached.send(parse_control(message["text"]))
    except (ShipError, Timeout):
        # The other direction knows why, and decides if it says so within this time.
        await asyncio.sleep(_VERDICT_S)
        raise
    return None


def _check_pace(controls: TokenBucket) -> None:
    # Each is a call into the sandbox.
    if not controls.take():
        raise QuotaExceeded(f"more than {CONTROLS_PER_S} control messages in a second")
