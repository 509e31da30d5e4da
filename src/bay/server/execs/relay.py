"""Carries what an exec prints to a client, and what the client types to the exec, until one of the two is done.

Each direction is one loop that takes the next piece when the last one is out of its hands, so nothing piles up here: a client
that does not read is not read for, and one that types faster than the exec reads is not listened to.
The first to end decides how all of it ends: the exec, the client, the key, or Bay.
"""

import asyncio
import json
from dataclasses import dataclass

from starlette.websockets import WebSocket, WebSocketDisconnect

from bay.errors import (
    BayError,
    Conflict,
    Forbidden,
    InvalidArgument,
    NotFound,
    OutputGone,
    PayloadTooLarge,
    QuotaExceeded,
    SandboxExpired,
    ShipError,
    Timeout,
)
from bay.models import to_wire
from bay.server.execs.attach_frames import check_input, parse_control
from bay.server.execs.attachments import Attached
from bay.server.ship.client import OutputEnd
from bay.server.web.concurrency import first
from bay.server.web.edge import SUBPROTOCOL
from bay.server.web.open_connections import Reason
from bay.token_bucket import TokenBucket
from ship_protocol import CONTROLS_PER_S, REPAINT, CloseCode, first_offset_reason

_GOODBYE_S = 5.0
_VERDICT_S = 5.0
_REPAINT_BYTES = 256 << 10  # a message; clients need take no large ones
_REASON = 120
"""Bytes; RFC 6455, section 5.5.1, has room for 123."""

CODES: dict[type[BayError], CloseCode] = {
    PayloadTooLarge: CloseCode.TOO_LARGE,
    InvalidArgument: CloseCode.BAD_MESSAGE,
    Forbidden: CloseCode.FORBIDDEN,
    NotFound: CloseCode.NOT_FOUND,
    SandboxExpired: CloseCode.NOT_FOUND,
    Conflict: CloseCode.CONFLICT,
    OutputGone: CloseCode.OUTPUT_GONE,
    QuotaExceeded: CloseCode.TOO_MANY,
}
"""The close code of an error, or of the nearest above it; all others are UNREACHABLE, after which a client may come back."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Bay's last word: a close code, why, and how the exec ended if it did."""

    code: int
    reason: str = ""
    end: OutputEnd | None = None


BY_REASON: dict[Reason, Goodbye] = {
    "leaving": Goodbye(CloseCode.SERVICE_RESTART, "Bay is shutting down; reconnect and continue by offset"),
    "revoked": Goodbye(CloseCode.FORBIDDEN, "the key was revoked or has expired"),
}


async def accepted(socket: WebSocket) -> bool:
    """Accept it; False when its client has left meanwhile, as while its sandbox woke."""
    offered: list[str] = socket.scope.get("subprotocols", [])
    try:
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    except OSError:
        return False
    return True


async def relay(socket: WebSocket, attached: Attached) -> None:
    """Serve an accepted WebSocket to its end. The exec lives on in all cases."""
    goodbye = await first(_down(socket, attached), _stay(attached), _up(socket, attached))
    if goodbye is not None:
        await leave(socket, goodbye)


async def _down(socket: WebSocket, attached: Attached) -> Goodbye | None:
    """Output to the client. None when that has left."""
    try:
        await _send_json(
            socket, {"type": "attached", "exec": to_wire(attached.exec), "next_offset": attached.next_offset}
        )
        if attached.repaint is not None:
            for start in range(0, len(attached.repaint), _REPAINT_BYTES):
                await socket.send_bytes(REPAINT + attached.repaint[start : start + _REPAINT_BYTES])
        async for frame in attached.frames():
            if isinstance(frame, OutputEnd):
                return Goodbye(CloseCode.NORMAL, end=frame)
            await socket.send_bytes(frame)
        return Goodbye(CloseCode.UNREACHABLE, "the sandbox's runtime stopped sending output")
    except WebSocketDisconnect:
        return None
    except BayError as error:
        return goodbye_for(error)


async def _up(socket: WebSocket, attached: Attached) -> Goodbye | None:
    """Input to the exec. None when the client has left."""
    controls = TokenBucket(CONTROLS_PER_S, CONTROLS_PER_S)
    try:
        while (message := await socket.receive())["type"] != "websocket.disconnect":
            if (data := message.get("bytes")) is not None:
                check_input(data)
                await attached.send(data)
            else:
                _check_pace(controls)
                await attached.send(parse_control(message["text"]))
    except (ShipError, Timeout) as error:
        await asyncio.sleep(
            _VERDICT_S
        )  # the other direction knows why, and decides if it says so within this
        return goodbye_for(error)
    except BayError as error:
        return goodbye_for(error)
    return None


def _check_pace(controls: TokenBucket) -> None:
    # Each is a call into the sandbox.
    if not controls.take():
        raise QuotaExceeded(f"more than {CONTROLS_PER_S} control messages in a second")


async def _stay(attached: Attached) -> Goodbye:
    return BY_REASON[await attached.must_leave()]


async def leave(socket: WebSocket, goodbye: Goodbye) -> None:
    """Say it, unless the client is gone or takes nothing."""
    try:
        async with asyncio.timeout(_GOODBYE_S):
            if goodbye.end is not None:
                await _send_json(socket, {"type": "exit", **goodbye.end.model_dump()})
            await socket.close(goodbye.code, goodbye.reason.encode()[:_REASON].decode(errors="ignore"))
    except (WebSocketDisconnect, TimeoutError):
        return


async def _send_json(socket: WebSocket, message: object) -> None:
    await socket.send_text(json.dumps(message, separators=(",", ":")))


def goodbye_for(error: BayError) -> Goodbye:
    """Bay's last word when a connection ends with `error`."""
    code = next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), CloseCode.UNREACHABLE)
    gone = error.details.get("first_offset") if isinstance(error, OutputGone) else None
    return Goodbye(code, error.message if gone is None else first_offset_reason(gone))
