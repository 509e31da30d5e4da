"""Sessions of sprites: commands over WebSocket and HTTP, attachments, lists and kills."""

import asyncio
import json
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Query, Request, WebSocket
from fastapi.requests import HTTPConnection
from pydantic import BaseModel
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse, Response, StreamingResponse

from bay import __version__
from bay.clock import utc_now
from bay.errors import BadRequest, BayError
from bay.models import Exec
from bay.server.compat.routers import format_router
from bay.server.compat.sprites.exec_relay import relay
from bay.server.compat.sprites.exec_service import FAILED, Output, SpriteExecs, exit_code
from bay.server.compat.sprites.wire import PREFIX, seconds_of, time_of
from bay.server.execs.service import NewExec
from bay.server.ship.client import OutputEnd
from bay.server.web.bodies import SignalName
from bay.server.web.dependencies import Reader, SocketWriter, Writer, service
from bay.server.web.replies import AnswerBeside
from bay.server.web.websocket_close import accepted
from ship_protocol import TERMINAL_EXTENT

router = format_router(f"{PREFIX}/{{name}}")

SessionsDep = Annotated[SpriteExecs, service(SpriteExecs)]

_VERSION = {"Sprite-Version": __version__}
_WORKDIR, _LABEL_CHARS = "workdir", 256
"""The label of an exec that has where it began."""
_MOST_S = 7 * 86400
_AFTER_DISCONNECT_S = 10.0
"""How long a command without a terminal may run on without a client, unless the client says otherwise."""
_TRUE = frozenset(("true", "1", "yes", "on"))
_NDJSON = "application/x-ndjson"
_OUT, _ERR, _EXIT = b"\1", b"\2", b"\3"
_CHUNK_BYTES = (16 << 10) - 1
_APART_S = 0.02
"""Between frames of HTTP of different types: a reader knows them by what arrives together. A busy one
reads two at once that are 5 ms apart."""


class KillSession(BaseModel):
    """How to end a session; null is as good as left out."""

    signal: SignalName | None = None
    timeout: str | int | float | None = None


async def _order(connection: HTTPConnection) -> NewExec:
    """The command of a query; one that attaches has none."""
    query = connection.query_params
    argv, tty = _argv(query), _flag(query, "tty")
    return NewExec(
        argv=argv,
        cwd=(directory := _directory(query.get("dir"))),
        labels={_WORKDIR: directory} if len(directory) <= _LABEL_CHARS else {},
        env=_environment(query.getlist("env")),
        tty=tty,
        stdin_open=_flag(query, "stdin"),
        max_run_after_disconnect_s=_after_disconnect(query, tty=tty),
        wait_for_reader=True,
        rows=_extent(query, "rows") if tty else None,
        cols=_extent(query, "cols") if tty else None,
    )


Order = Annotated[NewExec, Depends(_order)]


@router.websocket("/exec")
async def open_exec(
    socket: WebSocket,
    caller: SocketWriter,
    sessions: SessionsDep,
    name: str,
    order: Order,
    attach_to: Annotated[str | None, Query(alias="id", max_length=64)] = None,
) -> None:
    """Run a command, or with `id` attach to one. The client is accepted before anything wakes."""
    if attach_to is not None:
        opening = sessions.attach(caller, name, attach_to)
    else:
        _require_command(order)
        opening = sessions.start(caller, name, order)
    async with opening as session:
        if await accepted(socket):
            await relay(socket, session)


@router.websocket("/exec/{session_id}")
async def attach_exec(
    socket: WebSocket, caller: SocketWriter, sessions: SessionsDep, name: str, session_id: str
) -> None:
    """Attach to a session: which it is, what it has said as far as that is kept, and then live."""
    async with sessions.attach(caller, name, session_id) as session:
        if await accepted(socket):
            await relay(socket, session)


@router.post("/exec")
async def run_exec(
    caller: Writer, sessions: SessionsDep, name: str, order: Order, request: Request
) -> Response:
    """Run a command with the body as its input; its output in frames, and at last how it ended."""
    if order.tty:
        raise BadRequest("a terminal needs a WebSocket; leave tty out")
    _require_command(order)
    stack = AsyncExitStack()
    session = await stack.enter_async_context(sessions.run(caller, name, order, request.stream()))
    frames = _apart(_frames(session.output))
    return AnswerBeside(session.fed, stack, frames, media_type="application/octet-stream", headers=_VERSION)


@router.head("/exec")
async def exec_version(caller: Reader, sessions: SessionsDep, name: str) -> Response:
    """The version of the sprite's runtime, as a header."""
    await sessions.all(caller, name)
    return Response(headers=_VERSION)


@router.get("/exec")
async def list_exec(caller: Reader, sessions: SessionsDep, name: str) -> Response:
    """The sessions that run."""
    found = [_session(item) for item in await sessions.all(caller, name)]
    return JSONResponse({"count": len(found), "sessions": found}, headers=_VERSION)


@router.get("/exec/{session_id}")
async def get_exec_session(caller: Reader, sessions: SessionsDep, name: str, session_id: str) -> Response:
    """One session that runs; a WebSocket attaches to it."""
    return JSONResponse(_session(await sessions.get(caller, name, session_id)))


@router.post("/exec/{session_id}/kill")
async def kill_exec(
    caller: Writer,
    sessions: SessionsDep,
    name: str,
    session_id: str,
    body: KillSession | None = None,
    signal: SignalName | None = None,
    timeout: Annotated[str | None, Query(max_length=32)] = None,
) -> Response:
    """Signal a session and tell what becomes of it; one that runs on after the time is ended."""
    given = body or KillSession()
    wanted = signal or given.signal or "TERM"
    within_s = seconds_of(str(timeout or (10 if given.timeout is None else given.timeout)), "timeout")
    if within_s > 600:
        raise BadRequest("timeout may be 600 s at most")
    steps = await sessions.kill(caller, name, session_id, wanted, within_s)
    return StreamingResponse(_lines(steps), media_type=_NDJSON)


async def _lines(steps: AsyncIterator[Mapping[str, Any]]) -> AsyncGenerator[bytes]:
    async for step in steps:
        yield json.dumps(step).encode() + b"\n"


async def _frames(output: Output) -> AsyncGenerator[bytes]:
    """Each frame alone: its type, and bytes."""
    try:
        async for item in output:
            if isinstance(item, OutputEnd):
                yield _EXIT + bytes((exit_code(item.exit_code, item.signal),))
                return
            mark = _ERR if item.stream == "stderr" else _OUT
            for start in range(0, len(item.data), _CHUNK_BYTES):
                yield mark + item.data[start : start + _CHUNK_BYTES]
        why = "Bay is shutting down, or the key was revoked"
    except BayError as error:
        why = error.message
    yield _ERR + f"{why}\n".encode()
    yield _EXIT + bytes((FAILED,))


async def _apart(frames: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    before = b""
    async for frame in frames:
        if before and frame[:1] != before:
            await asyncio.sleep(_APART_S)
        before = frame[:1]
        yield frame


def _session(item: Exec) -> dict[str, Any]:
    return {
        "id": item.id,
        "created": time_of(item.started_at),
        "command": shlex.join(item.argv),
        "workdir": item.labels.get(_WORKDIR, ""),
        "tty": item.tty,
        "bytes_per_second": _rate(item, utc_now()),
        "is_active": True,
        "last_activity": None,
    }


def _rate(item: Exec, now: datetime) -> float:
    age_s = max(1.0, (now - item.started_at).total_seconds())
    return round(item.output_bytes / age_s, 1)


def _argv(query: QueryParams) -> tuple[str, ...] | None:
    """The words of the command, the first of which is the program's path."""
    words, path = query.getlist("cmd"), query.get("path")
    argv = (path, *words[1:]) if path else tuple(words)
    if any("\0" in word for word in argv):
        raise BadRequest("cmd has a NUL in it")
    return argv or None


def _require_command(order: NewExec) -> None:
    if not order.argv or not order.argv[0]:
        raise BadRequest("cmd is required: the program and its arguments, one parameter each")


def _environment(pairs: list[str]) -> dict[str, str]:
    if any("=" not in pair for pair in pairs):
        raise BadRequest("env must be NAME=value")
    return dict(pair.split("=", 1) for pair in pairs)


def _directory(given: str | None) -> str:
    """Where it begins: relative to the user's home."""
    return given if given and given.startswith(("/", "~")) else f"~/{given}" if given else "~"


def _flag(query: QueryParams, name: str) -> bool:
    return (query.get(name) or "").lower() in _TRUE


def _extent(query: QueryParams, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    if not (is_number and 1 <= int(text) <= TERMINAL_EXTENT):
        raise BadRequest(f"{name} must be a number from 1 to {TERMINAL_EXTENT}")
    return int(text)


def _after_disconnect(query: QueryParams, *, tty: bool) -> float | None:
    """How long it may run on without a client; None is for ever."""
    text = query.get("max_run_after_disconnect")
    if text is None:
        return None if tty or _flag(query, "detachable") else _AFTER_DISCONNECT_S
    seconds = seconds_of(text, "max_run_after_disconnect")
    if seconds > _MOST_S:
        raise BadRequest(f"max_run_after_disconnect may be {_MOST_S} s at most; 0 is for ever")
    return seconds or None
