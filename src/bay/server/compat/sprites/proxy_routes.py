"""Connections to ports of a sprite: the first message of a WebSocket names the port, the rest are bytes."""

import asyncio
from dataclasses import replace
from typing import Annotated, Literal

from fastapi import WebSocket
from pydantic import BaseModel, Field, ValidationError

from bay.errors import BadRequest, BayError, RequestTimeout
from bay.server.compat.routers import format_router
from bay.server.compat.sprites.wire import PREFIX
from bay.server.ports.tunnel_relay import TunnelRelay
from bay.server.ports.tunnels import ExpectedTunnel, Tunnels
from bay.server.web.concurrency import first
from bay.server.web.dependencies import SocketWriter, service
from bay.server.web.websocket_close import BY_REASON, Goodbye, accepted, goodbye_for, leave, send_json

router = format_router(PREFIX + "/{name}")

TunnelsDep = Annotated[Tunnels, service(Tunnels)]

_FIRST_MESSAGE_S = 30.0
_MAX_MESSAGE = 4096


class ProxyTarget(BaseModel):
    """The port, and the sprite itself under one of its names: no other host is reached this way."""

    host: Literal["localhost", "127.0.0.1", "::1", "0.0.0.0", ""] = "localhost"  # noqa: S104
    port: Annotated[int, Field(ge=1, le=65_535)]


class ProxyRelay(TunnelRelay):
    """A relay whose client knows bytes alone."""

    tells_eof = False


@router.websocket("/proxy")
async def proxy(socket: WebSocket, caller: SocketWriter, tunnels: TunnelsDep, name: str) -> None:
    """A connection to the port that the first message names."""
    async with tunnels.expect(caller, name) as expected:
        if await accepted(socket):
            try:
                await _serve(socket, expected)
            except BayError as error:
                told = {"status": "error", "error": error.message}
                await leave(socket, replace(goodbye_for(error), message=told))


async def _serve(socket: WebSocket, expected: ExpectedTunnel) -> None:
    """Raises BayError for what the client can still be told of."""
    target = await first(_target(socket), _told_to_leave(expected))
    if isinstance(target, Goodbye):
        await leave(socket, target)
    elif target is not None:
        async with expected.open(target.port) as tunnel:
            where = f"{target.host or 'localhost'}:{target.port}"
            await send_json(socket, {"status": "connected", "target": where})
            await ProxyRelay(socket, tunnel).run()


async def _told_to_leave(expected: ExpectedTunnel) -> ProxyTarget | Goodbye | None:
    return BY_REASON[await expected.must_leave()]


async def _target(socket: WebSocket) -> ProxyTarget | Goodbye | None:
    """The port that the first message names; None when the client has left. Raises BadRequest when none."""
    try:
        async with asyncio.timeout(_FIRST_MESSAGE_S):
            message = await socket.receive()
    except TimeoutError as error:
        raise RequestTimeout(f"no message came within {_FIRST_MESSAGE_S:g} s; send the port first") from error
    if message["type"] == "websocket.disconnect":
        return None
    text = message.get("text") or ""
    try:
        if len(text) <= _MAX_MESSAGE:
            return ProxyTarget.model_validate_json(text)
    except ValidationError as error:
        raise BadRequest(_WANTED) from error
    raise BadRequest(_WANTED)


_WANTED = 'the first message must be {"host": "localhost", "port": N}; a sprite is no way to other hosts'
