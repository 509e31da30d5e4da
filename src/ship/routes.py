"""The HTTP routes of Ship's contract: parse, one call, answer."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from ship import __version__, about
from ship.errors import Forbidden, InvalidArgument, NotFound
from ship.execs import attach, output
from ship.execs import request as exec_request
from ship.execs.execs import Exec, Execs
from ship.feed import SessionFeed
from ship.http.conversation import Answer, Handler, Reply, Request, WebSocketUpgrade, json_answer
from ship.process import table
from ship.process.trees import Owners
from ship.settings import Settings
from ship.tasks import Tasks
from ship_protocol import usage

_EXEC_BODY_BYTES = 64 << 20
_DEFAULT_GRACE_S = 2.0


class Routes:
    """The host's requests."""

    def __init__(
        self, settings: Settings, execs: Execs, feed: SessionFeed, others: Mapping[str, Handler]
    ) -> None:
        """`others` answer the requests whose paths begin with another noun."""
        self._settings = settings
        self._execs = execs
        self._feed = feed
        self._others = others

    async def answer(self, request: Request) -> Reply:
        """Raises ShipError."""
        match request.method, request.segments:
            case "GET", ("healthz",):
                return json_answer(200, {"status": "ok"})
            case "GET", ("meta",):
                return json_answer(200, about.describe(self._settings))
            case "GET", ("feed",):
                return Answer(200, self._feed.lines(request.gone), "application/x-ndjson")
            case "GET", ("usage",):
                return await _usage()
            case "GET", ("shell", "processes"):
                return await self._processes()
            case "POST", ("execs",):
                return await self._create_exec(request)
            case "GET", ("execs",):
                return json_answer(200, {"items": [item.to_wire() for item in self._execs.list()]})
            case "GET", ("execs", exec_id):
                return await self._get_exec(request, self._execs.get(exec_id))
            case "DELETE", ("execs", exec_id):
                return await self._end_exec(request, self._execs.get(exec_id))
            case "GET", ("execs", exec_id, "output"):
                return self._output(request, self._execs.get(exec_id))
            case "GET", ("execs", exec_id, "attach"):
                return _attach(request, await self._execs.begun(exec_id))
            case "POST", ("execs", exec_id, "stdin"):
                return await _write_stdin(request, await self._execs.begun(exec_id))
            case "POST", ("execs", exec_id, "signal"):
                return await _signal_exec(request, await self._execs.begun(exec_id))
            case "POST", ("execs", exec_id, "resize"):
                return await _resize_exec(request, await self._execs.begun(exec_id))
            case "POST", ("shell", "processes", pid, "signal"):
                return await self._signal_process(request, pid)
            case _, (noun, *_) if noun in self._others:
                return await self._others[noun](request)
            case _:
                raise NotFound("there is no such route")

    async def _processes(self) -> Answer:
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
        wanted = exec_request.read(body, self._settings.accounts, local=self._settings.local)
        del body  # its stdin may be large
        created = await self._execs.create(wanted)
        if wait_s is None:
            return json_answer(201, created.to_wire())
        await created.wait_end(request.gone, wait_s, or_stuck=True)
        return _with_output(request, created)

    async def _get_exec(self, request: Request, found: Exec) -> Answer:
        wait_s = _wait(request)
        if wait_s is None:
            return json_answer(200, found.to_wire())
        await found.wait_end(request.gone, wait_s)
        return _with_output(request, found)

    async def _end_exec(self, request: Request, found: Exec) -> Answer:
        await found.end(_seconds(request, "grace_s", _DEFAULT_GRACE_S))
        return json_answer(200, found.to_wire())

    def _output(self, request: Request, found: Exec) -> Answer:
        since = output.offset(request)
        output.check_offset(found.transcript, since)
        stream = _stream_output(request, found, since)
        return Answer(200, stream, "application/x-ndjson")


async def answer_inside(settings: Settings, tasks: Tasks, request: Request) -> Answer:
    """Answer a program in the sandbox, on the loopback device. Raises ShipError."""
    match request.method, request.segments:
        case "GET", ("health",):
            return json_answer(200, {"status": "ok", "version": __version__})
        case "GET", ("meta",):
            return json_answer(200, about.describe(settings))
        case _, ("v1", "tasks", *_):
            if request.is_of_page:  # its author is a stranger
                raise Forbidden("tasks are for programs of the sandbox, and not for pages in its browser")
            return await tasks.answer(request)
        case _:
            raise NotFound("only GET /meta, GET /health and /v1/tasks are served here")


async def _usage() -> Answer:
    found = await asyncio.get_running_loop().run_in_executor(None, lambda: usage.read(usage.own_groups()))
    return json_answer(200, found._asdict())


def _attach(request: Request, found: Exec) -> WebSocketUpgrade:
    since = output.offset(request) if "since" in request.query else None
    if request.websocket_key is None:
        raise InvalidArgument("attaching needs a WebSocket upgrade (RFC 6455)")
    if since is not None:
        output.check_offset(found.transcript, since)
    claims = output.claims(request)
    return WebSocketUpgrade(lambda socket: attach.Attachment(socket, found, since, claims=claims).run())


async def _write_stdin(request: Request, found: Exec) -> Answer:
    written = 0
    async for data in request.talk.body():
        await found.write_input(data, request.gone)
        written += len(data)
    if request.flag("eof"):
        await found.close_input(request.gone)
    elif written == 0:
        await found.write_input(b"")  # so that it is refused where input would be
    return json_answer(200, {"written": written})


async def _signal_exec(request: Request, found: Exec) -> Answer:
    found.send_signal(await _signal(request))
    return json_answer(200, found.to_wire())


async def _signal(request: Request) -> int:
    return exec_request.signal_number((await request.read_object()).get("signal"))


async def _resize_exec(request: Request, found: Exec) -> Answer:
    given = await request.read_object()
    found.resize(*exec_request.size(given.get("rows"), given.get("cols")))
    return json_answer(200, found.to_wire())


def _with_output(request: Request, found: Exec) -> Answer:
    printed = found.chunks_to_wire() if request.flag("chunks") else found.output_to_wire()
    return json_answer(200, {**found.to_wire(), **printed})


async def _stream_output(request: Request, found: Exec, since: int) -> AsyncGenerator[bytes]:
    with found.watched(), output.reading(found.transcript, since, claims=output.claims(request)) as reader:
        async with aclosing(output.lines(request, found, since, reader)) as lines:
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
