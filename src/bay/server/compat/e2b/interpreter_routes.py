"""The routes of the interpreter of code: parse, one call of the service, format."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Annotated

from fastapi import Path, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, PlainTextResponse, Response

from bay.models import CellEvent
from bay.server.compat.e2b.connect import beating
from bay.server.compat.e2b.interpreter import PYTHON, Execution, Interpreter, InterpreterRefusal
from bay.server.compat.e2b.interpreter_lines import KEEPALIVE, encoded, lines_of
from bay.server.compat.e2b.planes import INTERPRETER
from bay.server.compat.routers import format_router
from bay.server.web.concurrency import entered_while_connected
from bay.server.web.dependencies import Env, Reader, Writer, service
from bay.server.web.replies import HeldResponse

router = format_router(INTERPRETER)

InterpreterDep = Annotated[Interpreter, service(Interpreter)]

Language = Annotated[str | None, Field(max_length=128, pattern=r"^[A-Za-z0-9._-]+$")]
ContextId = Annotated[str, Path(max_length=64)]

_BEAT_S = 5.0
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


class ExecuteBody(BaseModel):
    """Code, where it runs, and its variables; clients of Python send null for what is not given."""

    code: str
    context_id: Annotated[str | None, Field(max_length=64)] = None
    language: Language = None
    env_vars: Env | None = None


class ContextBody(BaseModel):
    """The language and the directory of a new context."""

    language: Language = None
    cwd: Annotated[str | None, Field(max_length=4096)] = None


@router.post("/execute")
async def execute(
    request: Request, caller: Writer, interpreter: InterpreterDep, sandbox_id: str, body: ExecuteBody
) -> Response:
    """Run code; lines of JSON of what it does. It is interrupted when the client disconnects."""
    if body.context_id and body.language:
        return PlainTextResponse("Only one of context_id or language can be provided", 400)
    wanted = Execution(
        code=body.code,
        context_id=body.context_id or None,
        language=body.language or PYTHON,
        env=body.env_vars or {},
    )
    opened = interpreter.execute(caller, sandbox_id, wanted)
    try:
        stack, events = await entered_while_connected(request, opened)
    except InterpreterRefusal as error:
        return _refused(error)
    return HeldResponse(stack, _lines(events), media_type="application/x-ndjson", headers=_UNBUFFERED)


@router.post("/contexts")
async def create_context(
    caller: Writer, interpreter: InterpreterDep, sandbox_id: str, body: ContextBody
) -> Response:
    """A new context."""
    try:
        made = await interpreter.create(caller, sandbox_id, body.language or PYTHON, body.cwd)
    except InterpreterRefusal as error:
        return _refused(error)
    return JSONResponse(asdict(made))


@router.get("/contexts")
async def list_contexts(caller: Reader, interpreter: InterpreterDep, sandbox_id: str) -> Response:
    """The contexts, those by default too."""
    return JSONResponse([asdict(each) for each in await interpreter.contexts(caller, sandbox_id)])


@router.post("/contexts/{context_id}/restart")
async def restart_context(
    caller: Writer, interpreter: InterpreterDep, sandbox_id: str, context_id: ContextId
) -> Response:
    """Forget the variables of a context."""
    try:
        await interpreter.restart(caller, sandbox_id, context_id)
    except InterpreterRefusal as error:
        return _refused(error)
    return PlainTextResponse("")


@router.delete("/contexts/{context_id}")
async def delete_context(
    caller: Writer, interpreter: InterpreterDep, sandbox_id: str, context_id: ContextId
) -> Response:
    """End a context."""
    try:
        await interpreter.delete(caller, sandbox_id, context_id)
    except InterpreterRefusal as error:
        return _refused(error)
    return PlainTextResponse("")


def _refused(error: InterpreterRefusal) -> Response:
    return PlainTextResponse(error.message, error.status)


async def _lines(events: AsyncIterator[CellEvent]) -> AsyncGenerator[bytes]:
    async for line in beating(lines_of(events), _BEAT_S, KEEPALIVE):
        yield encoded(line)
