"""The HTTP routes of Ship's contract: parse, one call, answer."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

from ship import __version__, about
from ship.errors import InvalidArgument, NotFound
from ship.execs import attach, output
from ship.execs import request as exec_request
from ship.execs.execs import Exec, Execs
from ship.feed import SessionFeed
from ship.files.routes import FileRoutes
from ship.files.tree_routes import TreeRoutes
from ship.http.conversation import Answer, ProtocolSwitch, Request, WebSocketUpgrade, json_answer
from ship.kernels.routes import KernelRoutes
from ship.ports.routes import PortRoutes
from ship.process import table
from ship.process.owners import Owners
from ship.services.routes import ServiceRoutes
from ship.settings import Settings

_EXEC_BODY_BYTES = 64 << 20
_SMALL_BODY_BYTES = 1 << 20
_DEFAULT_GRACE_S = 2.0

Handler = Callable[[Request], Awaitable[Answer]]


class Routes:
    """The host's requests."""

    def __init__(
        self,
        settings: Settings,
        execs: Execs,
        kernels: KernelRoutes,
        file_routes: FileRoutes,
        tree_routes: TreeRoutes,
        port_routes: PortRoutes,
        services: ServiceRoutes,
        feed: SessionFeed,
    ) -> None:
        self._settings = settings
        self._execs = execs
        self._kernels = kernels
        self._file_routes = file_routes
        self._tree_routes = tree_routes
        self._port_routes = port_routes
        self._services = services
        self._feed = feed
        self._fixed: dict[tuple[str, tuple[str, ...]], Handler] = {
            ("GET", ("healthz",)): self._health,
            ("GET", ("meta",)): self._meta,
            ("GET", ("feed",)): self._follow,
            ("GET", ("shell", "processes")): self._processes,
            ("POST", ("execs",)): self._create_exec,
            ("GET", ("execs",)): self._list_execs,
        }

    async def answer(self, request: Request) -> Answer | ProtocolSwitch | WebSocketUpgrade:
        """The answer to `request`. Raises ShipError."""
        handler = self._fixed.get((request.method, request.segments))
        if handler is not None:
            return await handler(request)
        match request.method, request.segments:
            case "GET", ("execs", exec_id):
                return await self._get_exec(request, self._execs.get(exec_id))
            case "DELETE", ("execs", exec_id):
                return await self._end_exec(request, self._execs.get(exec_id))
            case "GET", ("execs", exec_id, "output"):
                return self._output(request, self._execs.get(exec_id))
            case "GET", ("execs", exec_id, "attach"):
                return _attach(request, self._execs.get(exec_id))
            case "POST", ("execs", exec_id, "stdin"):
                return await _write_stdin(request, self._execs.get(exec_id))
            case "POST", ("execs", exec_id, "signal"):
                return await _signal_exec(request, self._execs.get(exec_id))
            case "POST", ("execs", exec_id, "resize"):
                return await _resize_exec(request, self._execs.get(exec_id))
            case "POST", ("shell", "processes", pid, "signal"):
                return await self._signal_process(request, pid)
            case _, ("kernels" | "kernelspecs" | "cells", *_):
                return await self._kernels.answer(request)
            case _, ("ports" | "tunnel", *_):
                return await self._port_routes.answer(request)
            case _, ("services", *_):
                return await self._services.answer(request)
            case _, ("fs", "search" | "watch" | "archive"):
                return await self._tree_routes.answer(request)
            case _, ("fs", *_):
                return await self._file_routes.answer(request)
            case _:
                raise NotFound("there is no such route")

    async def _health(self, _request: Request) -> Answer:
        return json_answer(200, {"status": "ok"})

    async def _meta(self, _request: Request) -> Answer:
        return json_answer(200, about.describe(self._settings))

    async def _follow(self, request: Request) -> Answer:
        return Answer(200, self._feed.lines(request.talk.wire.gone), "application/x-ndjson")

    async def _processes(self, _request: Request) -> Answer:
        owners = Owners((found.id, found.group) for found in self._execs.list())
        loop = asyncio.get_running_loop()
        described = await loop.run_in_executor(None, table.describe_all, owners.of)
        return json_answer(200, {"processes": described})

    async def _signal_process(self, request: Request, pid: str) -> Answer:
        number = await _signal(request)
        if not pid.isascii() or not pid.isdigit() or len(pid) > 10:
            raise NotFound(f"there is no process {pid[:20]!a}; give a number")
        await asyncio.get_running_loop().run_in_executor(None, table.signal_one, int(pid), number)
        return json_answer(200, {"status": "ok"})

    async def _create_exec(self, request: Request) -> Answer:
        wait_s = _wait(request)
        body = await request.read_json(_EXEC_BODY_BYTES)
        wanted = exec_request.read(body, self._settings.accounts)
        del body  # its stdin may be large
        created = await self._execs.create(wanted)
        if wait_s is None:
            return json_answer(201, created.to_wire())
        await created.wait_end(request.talk.wire.gone, wait_s, or_stuck=True)
        return _with_output(request, created)

    async def _list_execs(self, _request: Request) -> Answer:
        return json_answer(200, {"items": [item.to_wire() for item in self._execs.list()]})

    async def _get_exec(self, request: Request, found: Exec) -> Answer:
        wait_s = _wait(request)
        if wait_s is None:
            return json_answer(200, found.to_wire())
        await found.wait_end(request.talk.wire.gone, wait_s)
        return _with_output(request, found)

    async def _end_exec(self, request: Request, found: Exec) -> Answer:
        await found.end(_seconds(request, "grace_s", _DEFAULT_GRACE_S))
        return json_answer(200, found.to_wire())

    def _output(self, request: Request, found: Exec) -> Answer:
        since = output.offset(request)
        output.check_offset(found.transcript, since)
        stream = _stream_output(request, found, since)
        return Answer(200, stream, "application/x-ndjson")


class InsideRoutes:
    """The requests of programs in the sandbox, on the loopback device."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def answer(self, request: Request) -> Answer:
        """The answer to `request`. Raises NotFound."""
        match request.method, request.segments:
            case "GET", ("health",):
                return json_answer(200, {"status": "ok", "version": __version__})
            case "GET", ("meta",):
                return json_answer(200, about.describe(self._settings))
            case _:
                raise NotFound("only GET /meta and GET /health are served here")


def _attach(request: Request, found: Exec) -> WebSocketUpgrade:
    since = output.offset(request) if "since" in request.query else None
    if request.websocket_key is None:
        raise InvalidArgument("attaching needs a WebSocket upgrade (RFC 6455)")
    if since is not None:
        output.check_offset(found.transcript, since)
    claims = output.claims(request)
    return WebSocketUpgrade(lambda socket: attach.Attachment(socket, found, since, claims=claims).run())


async def _write_stdin(request: Request, found: Exec) -> Answer:
    gone = request.talk.wire.gone
    written = 0
    async for data in request.talk.body():
        await found.write_input(data, gone)
        written += len(data)
    if request.query.get("eof", "false") in ("true", "1"):
        await found.close_input(gone)
    elif written == 0:
        await found.write_input(b"")  # so that it is refused where input would be
    return json_answer(200, {"written": written})


async def _signal_exec(request: Request, found: Exec) -> Answer:
    found.send_signal(await _signal(request))
    return json_answer(200, found.to_wire())


async def _signal(request: Request) -> int:
    return exec_request.signal_number((await _read_object(request)).get("signal"))


async def _resize_exec(request: Request, found: Exec) -> Answer:
    given = await _read_object(request)
    found.resize(*exec_request.size(given.get("rows"), given.get("cols")))
    return json_answer(200, found.to_wire())


async def _read_object(request: Request) -> dict[str, object]:
    body = await request.read_json(_SMALL_BODY_BYTES)
    if not isinstance(body, dict):
        raise InvalidArgument("the body must be a JSON object")
    return cast("dict[str, object]", body)


def _with_output(request: Request, found: Exec) -> Answer:
    chunked = request.query.get("chunks", "false") in ("true", "1")
    return json_answer(
        200, {**found.to_wire(), **(found.chunks_to_wire() if chunked else found.output_to_wire())}
    )


async def _stream_output(request: Request, found: Exec, since: int) -> AsyncGenerator[bytes]:
    follow, claims = output.follows(request), output.claims(request)
    with found.watched(), output.reading(found.transcript, since, claims=claims) as reader:
        async with aclosing(output.lines(request, found, since, reader, follow=follow)) as lines:
            async for line in lines:
                yield line


def _wait(request: Request) -> float | None:
    return _seconds(request, "wait", 0.0) if "wait" in request.query else None


def _seconds(request: Request, name: str, default: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidArgument(f"{name} must be a number of seconds", field=name) from error
    return exec_request.seconds(value, name)
