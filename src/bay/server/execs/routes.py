"""The routes `…/execs` and `…/shell/exec`: run commands and read their output."""

import os
from typing import Annotated, Any

from fastapi import Query, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from bay.errors import BadRequest
from bay.models import Exec, ShellResult
from bay.server.execs.attachments import Rows
from bay.server.execs.output import LastEventId, Since, WaitForReader, output_reply
from bay.server.execs.service import Execs, NewExec
from bay.server.web.bodies import DURATION, Body, Description, Labels, Most, SignalName, Tags, raw_body
from bay.server.web.dependencies import (
    Accept,
    Cwd,
    IdempotencyKey,
    Limit,
    Paging,
    Reader,
    User,
    Wait,
    Word,
    Writer,
    noun_router,
    service,
)
from bay.server.web.replies import PageOf, WireResponse
from bay.store.records import HistoryNote
from ship_protocol import TERMINAL_EXTENT

router = noun_router("execs", "/v1/sandboxes/{sandbox_id}")

ExecsDep = Annotated[Execs, service(Execs)]

Command = Annotated[str, StringConstraints(min_length=1, max_length=128 * 1024, pattern=r"^[^\x00]*$")]
Chunks = Annotated[
    bool, Query(description="With `wait`: the output in order as `output`, instead of the two texts")
]
_MAX_WORD, _MAX_ARGV = 128 * 1024, 2 * 1024 * 1024
"""Bytes: Linux's limits on a program's arguments, one of them and all together (execve(2))."""


_ONE_OF_EACH: dict[str, Any] = {
    "oneOf": [
        {"required": ["command"], "properties": {"command": {"type": "string"}}},
        {"required": ["argv"], "properties": {"argv": {"type": "array"}}},
    ],
    "allOf": [
        {
            "not": {
                "required": ["stdin", "stdin_base64"],
                "properties": {"stdin": {"type": "string"}, "stdin_base64": {"type": "string"}},
            }
        },
        {
            "anyOf": [
                {"required": ["tty"], "properties": {"tty": {"const": True}}},
                {"properties": {"rows": {"type": "null"}, "cols": {"type": "null"}}},
            ]
        },
    ],
}
"""The rule of `_one_of_each`, for the OpenAPI document: generated calls could never be valid without it."""


class CreateExec(Body):
    """A command to start: `command` in a shell, or `argv` without one."""

    model_config = ConfigDict(json_schema_extra=_ONE_OF_EACH)

    command: Command | None = None
    argv: Annotated[list[Word], Field(min_length=1), Most(65_536)] | None = None
    cwd: Cwd = None
    env: Annotated[dict[Word, Annotated[str, Field(max_length=32768)]], Most(256)] = Field(
        default_factory=dict[str, str]
    )
    user: User = None
    stdin: Annotated[
        str | None, Field(max_length=1 << 30, description="Text for its stdin, then end of file")
    ] = None
    stdin_base64: Annotated[
        str | None, Field(pattern=r"^[A-Za-z0-9+/]*={0,2}$", description="Bytes for its stdin, in base64")
    ] = None
    timeout_s: Annotated[float | None, Field(gt=0, le=7 * 86400), DURATION] = None
    keep_alive: Annotated[bool, Field(description="Whether it counts as activity of the sandbox")] = True
    labels: Annotated[Labels, Field(description="Labels that it keeps")] = Field(
        default_factory=dict[str, str]
    )
    tty: Annotated[bool, Field(description="Run it on a terminal; its output is then one stream")] = False
    rows: Annotated[int | None, Field(ge=1, le=TERMINAL_EXTENT, description="Rows of the terminal (24)")] = (
        None
    )
    cols: Annotated[
        int | None, Field(ge=1, le=TERMINAL_EXTENT, description="Columns of the terminal (80)")
    ] = None
    stdin_open: Annotated[
        bool, Field(description="Leave stdin open for later input; implied by a terminal")
    ] = False
    max_run_after_disconnect_s: Annotated[
        float | None,
        Field(gt=0, le=7 * 86400, description="End it after this time without an attachment or a follower"),
        DURATION,
    ] = None
    wait_for_reader: Annotated[
        bool, Field(description="Drop no output: at a full buffer the command waits for its reader")
    ] = False
    id: Annotated[str | None, Field(pattern=r"^exec-[0-9a-f]{24}$", description="Chosen by the client")] = (
        None
    )

    @model_validator(mode="after")
    def _one_of_each(self) -> "CreateExec":
        if (self.command is None) == (self.argv is None):
            raise ValueError("give either command or argv")
        _check_size(self.command, self.argv or [])
        if self.stdin is not None and self.stdin_base64 is not None:
            raise ValueError("give stdin or stdin_base64, not both")
        if not self.tty and (self.rows is not None or self.cols is not None):
            raise ValueError("rows and cols set the size of a terminal; give them with tty")
        return self


def _check_size(command: str | None, argv: list[str]) -> None:
    sizes = [len(os.fsencode(word)) + 1 for word in argv]
    if len((command or "").encode()) >= _MAX_WORD:
        raise ValueError(f"command has more than {_MAX_WORD - 1} bytes; send data by stdin or a file")
    if max(sizes, default=0) > _MAX_WORD:
        raise ValueError(
            f"an argument in argv has more than {_MAX_WORD - 1} bytes; send data by stdin or a file"
        )
    if sum(sizes) > _MAX_ARGV:
        raise ValueError(f"argv has more than {_MAX_ARGV} bytes; send data by stdin or a file")


class SendSignal(Body):
    """The signal to send."""

    signal: SignalName


class ResizeTerminal(Body):
    """The terminal's new size in characters."""

    rows: Rows
    cols: Rows


class Written(BaseModel):
    """The number of bytes that the command read."""

    written: int


class RunShell(Body):
    """A command for the sandbox's shell."""

    command: Command
    timeout: Annotated[int, Field(ge=1, le=300, description="Seconds"), DURATION] = 30
    cwd: Cwd = None
    include_code: Annotated[bool, Field(description="Echo the command in the answer")] = False
    description: Description = None
    tags: Tags = None


class ExecList(PageOf[Exec]):
    """A page of execs, oldest first."""


@router.post("/shell/exec", response_model=ShellResult)
async def shell_exec(caller: Writer, execs: ExecsDep, sandbox_id: str, body: RunShell) -> WireResponse:
    """Run a command to its end and return its output. A timeout returns the output so far."""
    note = HistoryNote(exec_type="shell", code=body.command, description=body.description, tags=body.tags)
    result = await execs.shell(
        caller, sandbox_id, note, body.timeout, body.cwd, include_code=body.include_code
    )
    return WireResponse(result)


@router.post("/execs", status_code=201, response_model=Exec)
async def create_exec(
    caller: Writer,
    execs: ExecsDep,
    sandbox_id: str,
    body: CreateExec,
    wait: Wait = None,
    chunks: Chunks = False,
    idempotency_key: IdempotencyKey = None,
) -> WireResponse:
    """Start a command that outlives this connection; with `wait` also return its output once it has ended.

    With `wait` and `wait_for_reader` it answers, too, once the command waits for its reader.
    """
    values: dict[str, Any] = body.model_dump(exclude={"argv"})
    new = NewExec(argv=None if body.argv is None else tuple(body.argv), **values)
    created = await execs.create(caller, sandbox_id, new, idempotency_key, wait, chunks=chunks)
    return WireResponse(created, 201)


@router.get("/execs", response_model=ExecList)
async def list_execs(
    caller: Reader, execs: ExecsDep, sandbox_id: str, paging: Paging, limit: Limit = 50
) -> WireResponse:
    """The sandbox's execs, oldest first; as last seen while it is frozen or does not answer."""
    return WireResponse(paging.reply(await execs.page(caller, sandbox_id, after=paging.after, limit=limit)))


@router.get("/execs/{exec_id}", response_model=Exec)
async def get_exec(
    caller: Reader, execs: ExecsDep, sandbox_id: str, exec_id: str, wait: Wait = None, chunks: Chunks = False
) -> WireResponse:
    """One exec as it stands; with `wait` when it has ended, with its output."""
    return WireResponse(await execs.get(caller, sandbox_id, exec_id, wait, chunks=chunks))


@router.delete("/execs/{exec_id}", response_model=Exec)
async def delete_exec(caller: Writer, execs: ExecsDep, sandbox_id: str, exec_id: str) -> WireResponse:
    """End the command and its process tree: TERM, then KILL."""
    return WireResponse(await execs.delete(caller, sandbox_id, exec_id))


@router.post("/execs/{exec_id}/signal", response_model=Exec)
async def signal_exec(
    caller: Writer, execs: ExecsDep, sandbox_id: str, exec_id: str, body: SendSignal
) -> WireResponse:
    """Send a signal to the command's process group; on a terminal to the foreground group."""
    return WireResponse(await execs.signal(caller, sandbox_id, exec_id, body.signal))


@router.post("/execs/{exec_id}/resize", response_model=Exec)
async def resize_exec(
    caller: Writer, execs: ExecsDep, sandbox_id: str, exec_id: str, body: ResizeTerminal
) -> WireResponse:
    """Change the size of the command's terminal."""
    return WireResponse(await execs.resize(caller, sandbox_id, exec_id, body.rows, body.cols))


@router.post(
    "/execs/{exec_id}/stdin",
    response_model=Written,
    openapi_extra=raw_body("application/octet-stream", "Bytes for its stdin"),
)
async def write_stdin(
    caller: Writer,
    execs: ExecsDep,
    sandbox_id: str,
    exec_id: str,
    request: Request,
    eof: Annotated[bool, Query(description="End of file after the body")] = False,
) -> WireResponse:
    """Write the body to the command's stdin as it reads; answers once all is read."""
    body = request.stream()
    try:
        written = await execs.write_stdin(caller, sandbox_id, exec_id, body, eof=eof)
    except ClientDisconnect as error:
        raise BadRequest(
            "the request body ended early; the part that arrived was written to stdin"
        ) from error
    return WireResponse({"written": written})


@router.get("/execs/{exec_id}/output", response_class=StreamingResponse)
async def exec_output(
    caller: Reader,
    execs: ExecsDep,
    sandbox_id: str,
    exec_id: str,
    since: Since = 0,
    follow: Annotated[bool, Query(description="Follow until the exec has ended")] = False,
    wait_for_reader: WaitForReader = False,
    last_event_id: LastEventId = None,
    accept: Accept = "",
) -> StreamingResponse:
    """The exec's output as lines of JSON with byte offsets; 410 when an offset is no longer buffered.

    With `Accept: text/event-stream` the same as server-sent events, whose ids are the offsets to go on from.
    """
    since = since if last_event_id is None else last_event_id
    opened = execs.output(caller, sandbox_id, exec_id, since, follow=follow, claims=wait_for_reader)
    return await output_reply(opened, accept)
