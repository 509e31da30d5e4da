"""The routes of envd's `process.Process`: parse, one call of the service, format."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Annotated, Any

from fastapi import Request
from starlette.responses import Response

from bay.models import Exec
from bay.server.compat.e2b.connect import RpcError, answered, gathered, streamed, timeout_s
from bay.server.compat.e2b.envd_requests import ENVD, user_of
from bay.server.compat.e2b.messages import Malformed, Message
from bay.server.compat.e2b.process_service import KEEPALIVE, TAG, EnvdCommand, EnvdProcesses, ProcessSelector
from bay.server.compat.routers import format_router
from bay.server.web.dependencies import Reader, Writer, service
from ship_protocol import TERMINAL_EXTENT

router = format_router(f"{ENVD}/process.Process")

ProcessesDep = Annotated[EnvdProcesses, service(EnvdProcesses)]

_SIGNALS = {"SIGNAL_SIGTERM": 15, "SIGNAL_SIGKILL": 9}
_NAMES = {15: "TERM", 9: "KILL"}
_ROWS, _COLS = 24, 80
_LONGEST_TAG = 256


@router.post("/List")
async def list_processes(
    caller: Reader, processes: ProcessesDep, sandbox_id: str, request: Request
) -> Response:
    """The processes that run."""

    async def call(_asked: Message) -> Mapping[str, Any]:
        return {"processes": [_process(item) for item in await processes.list(caller, sandbox_id)]}

    return await answered(request, call)


@router.post("/Start")
async def start_process(
    caller: Writer, processes: ProcessesDep, sandbox_id: str, request: Request
) -> Response:
    """Start a process; the stream of its events."""
    return await streamed(
        request,
        lambda asked: processes.start(
            caller, sandbox_id, _command(asked), user_of(request), timeout_s(request)
        ),
        KEEPALIVE,
    )


@router.post("/Connect")
async def connect_process(
    caller: Writer, processes: ProcessesDep, sandbox_id: str, request: Request
) -> Response:
    """The stream of a running process's events."""
    return await streamed(
        request, lambda asked: processes.connect(caller, sandbox_id, _selector(asked)), KEEPALIVE
    )


@router.post("/Update")
async def update_process(
    caller: Writer, processes: ProcessesDep, sandbox_id: str, request: Request
) -> Response:
    """Another size for its terminal."""

    async def call(asked: Message) -> Mapping[str, Any]:
        rows, cols = _size(asked) or (_ROWS, _COLS)
        await processes.resize(caller, sandbox_id, _selector(asked), rows, cols)
        return {}

    return await answered(request, call)


@router.post("/SendInput")
async def send_input(caller: Writer, processes: ProcessesDep, sandbox_id: str, request: Request) -> Response:
    """Input for a process, in one message."""

    async def call(asked: Message) -> Mapping[str, Any]:
        await processes.send(caller, sandbox_id, _selector(asked), _once(_input(asked)))
        return {}

    return await answered(request, call)


@router.post("/StreamInput")
async def stream_input(
    caller: Writer, processes: ProcessesDep, sandbox_id: str, request: Request
) -> Response:
    """Input for a process, as a stream of messages of which the first names it."""

    async def call(given: AsyncIterator[Message]) -> Mapping[str, Any]:
        first = await anext(given, None)
        if first is None or (start := first.message("start")) is None:
            raise RpcError("invalid_argument", "the first message must be a start that names the process")
        await processes.send(caller, sandbox_id, _selector(start), _inputs(given))
        return {}

    return await gathered(request, call)


@router.post("/SendSignal")
async def send_signal(caller: Writer, processes: ProcessesDep, sandbox_id: str, request: Request) -> Response:
    """KILL or TERM for a process."""

    async def call(asked: Message) -> Mapping[str, Any]:
        name = _NAMES.get(number := asked.enum("signal", _SIGNALS))
        if name is None:
            raise RpcError(
                "invalid_argument", f"signal {number} is not served; send SIGNAL_SIGTERM or SIGNAL_SIGKILL"
            )
        await processes.signal(caller, sandbox_id, _selector(asked), name)
        return {}

    return await answered(request, call)


@router.post("/CloseStdin")
async def close_stdin(caller: Writer, processes: ProcessesDep, sandbox_id: str, request: Request) -> Response:
    """The end of a process's input."""

    async def call(asked: Message) -> Mapping[str, Any]:
        await processes.close_stdin(caller, sandbox_id, _selector(asked))
        return {}

    return await answered(request, call)


def _command(asked: Message) -> EnvdCommand:
    config = asked.message("process") or Message({})
    if len(asked.text("tag")) > _LONGEST_TAG:
        raise Malformed(f"a tag has at most {_LONGEST_TAG} characters")
    if not config.text("cmd"):
        raise Malformed("process.cmd is empty; name a program")
    return EnvdCommand(
        argv=(config.text("cmd"), *config.texts("args")),
        env=config.pairs("envs"),
        cwd=config.text("cwd") or "~",
        tag=asked.text("tag") or None,
        stdin=asked.flag("stdin", default=True),
        size=_size(asked),
    )


def _size(asked: Message) -> tuple[int, int] | None:
    """Rows and columns of the terminal; None without one."""
    pty = asked.message("pty")
    if pty is None:
        return None
    size = pty.message("size") or Message({})
    rows, cols = size.number("rows") or _ROWS, size.number("cols") or _COLS
    if not (1 <= rows <= TERMINAL_EXTENT and 1 <= cols <= TERMINAL_EXTENT):
        raise Malformed(f"a terminal has 1 to {TERMINAL_EXTENT} rows and columns")
    return rows, cols


def _selector(asked: Message) -> ProcessSelector:
    given = asked.message("process") or Message({})
    if given.has("tag"):
        return ProcessSelector(None, given.text("tag"))
    pid = given.number("pid")
    if not 0 < pid < 1 << 31:
        raise Malformed("process names no process; give its pid")
    return ProcessSelector(pid, "")


def _input(asked: Message) -> bytes:
    given = asked.message("input") or Message({})
    return given.data("pty") if given.has("pty") else given.data("stdin")


async def _once(data: bytes) -> AsyncGenerator[bytes]:
    yield data


async def _inputs(given: AsyncIterator[Message]) -> AsyncGenerator[bytes]:
    async for message in given:
        if (data := message.message("data")) is not None:
            yield _input(data)


def _process(item: Exec) -> Mapping[str, Any]:
    config = {"cmd": item.argv[0], "args": item.argv[1:]}
    tag = {"tag": item.labels[TAG]} if TAG in item.labels else {}
    return {"config": config, "pid": item.pid or 0, **tag}
