"""Bay accepts a WebSocket, relays both directions, and closes it with the code that its end stands for."""

import asyncio
import json
from collections.abc import Awaitable, Coroutine
from dataclasses import dataclass
from typing import Any

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
)
from bay.server.web.concurrency import first
from bay.server.web.edge import SUBPROTOCOL
from bay.server.web.open_connections import Reason
from ship_protocol import CloseCode, first_offset_reason

_GOODBYE_S = 5.0
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
"""The close code of an error, or of its nearest base class; else UNREACHABLE, which invites a retry."""


@dataclass(frozen=True, slots=True)
class Goodbye:
    """Bay's last word: a close code, the reason, and a message that goes before it."""

    code: int
    reason: str = ""
    message: object = None


BY_REASON: dict[Reason, Goodbye] = {
    "leaving": Goodbye(CloseCode.SERVICE_RESTART, "Bay is shutting down; reconnect and continue by offset"),
    "revoked": Goodbye(CloseCode.FORBIDDEN, "the key was revoked or has expired"),
}

Direction = Coroutine[Any, Any, Goodbye | None]
"""One loop, which takes the next piece when the last one is out of its hands, so that nothing piles up. It
returns None when the client has left, and may raise WebSocketDisconnect or BayError.
"""


async def accepted(socket: WebSocket) -> bool:
    """Accept it; False when its client has left meanwhile, as while its sandbox woke."""
    offered: list[str] = socket.scope.get("subprotocols", [])
    try:
        await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    except OSError:
        return False
    return True


async def pump(
    socket: WebSocket,
    down: Direction,
    up: Direction,
    must_leave: Awaitable[Reason],
    farewells: dict[Reason, Goodbye] = BY_REASON,
) -> None:
    """Serve an accepted WebSocket until a direction or Bay ends it, and close it accordingly."""

    async def stay() -> Goodbye:
        return farewells[await must_leave]

    goodbye = await first(_ended(down), stay(), _ended(up))
    if goodbye is not None:
        await leave(socket, goodbye)


async def send_json(socket: WebSocket, message: object) -> None:
    """Send a text message."""
    await socket.send_text(json.dumps(message, separators=(",", ":")))


def goodbye_for(error: BayError) -> Goodbye:
    """Bay's last word when a connection ends with `error`."""
    code = next((CODES[cls] for cls in type(error).__mro__ if cls in CODES), CloseCode.UNREACHABLE)
    gone = error.details.get("first_offset") if isinstance(error, OutputGone) else None
    return Goodbye(code, error.message if gone is None else first_offset_reason(gone))


async def _ended(direction: Direction) -> Goodbye | None:
    try:
        return await direction
    except WebSocketDisconnect:
        return None
    except BayError as error:
        return goodbye_for(error)


async def leave(socket: WebSocket, goodbye: Goodbye) -> None:
    """Send it, unless the client has left or takes nothing."""
    try:
        async with asyncio.timeout(_GOODBYE_S):
            if goodbye.message is not None:
                await send_json(socket, goodbye.message)
            await socket.close(goodbye.code, goodbye.reason.encode()[:_REASON].decode(errors="ignore"))
    except (WebSocketDisconnect, TimeoutError):
        return
