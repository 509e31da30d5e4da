"""Models of a Ship's answers, with bounds, and the errors that its refusals stand for."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AwareDatetime, Base64Bytes, BaseModel, Field, FiniteFloat, ValidationError

from bay.errors import BY_CODE, BayError, ShipError
from bay.models import Exec, ExecState, OutputChunk, Stream
from bay.server.web.large_bodies import has_more_pieces
from ship_protocol import TERMINAL_EXTENT

# Errors that Ship may raise in a caller's name; everything else it says is Ship's own failure.
_PASSED_ON = frozenset(
    ("validation_error", "invalid_path", "file_not_found", "not_found", "forbidden", "conflict", "output_gone",
     "payload_too_large", "range_not_satisfiable", "storage_full", "port_closed")
)  # fmt: skip

# Of one that keeps two rings of 16 MiB and 256 bytes a piece.
_MAX_CHUNKS = 140_000

Text = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Small = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Moment = Annotated[
    AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))
]
M = TypeVar("M", bound=BaseModel)

_COUNTED = 256 << 10
"""Bytes from which on an answer is counted before it is parsed."""
MAX_PIECES = 20_000


Numbers = Annotated[list[Count], Field(max_length=1000, fail_fast=True)]


class Chunk(BaseModel):
    """A line of an exec's output, checked."""

    offset: Count
    stream: Stream
    data: Base64Bytes
    t: Moment

    def to_chunk(self) -> OutputChunk:
        """The same as the noun the rest of Bay uses."""
        return OutputChunk(offset=self.offset, stream=self.stream, data=self.data, t=self.t)


class ShipExec(BaseModel):
    """An exec as Ship tells it, checked."""

    id: Annotated[str, Field(max_length=128)]
    argv: Annotated[list[str], Field(max_length=100_000, fail_fast=True)]
    pid: Small | None
    tty: bool
    state: ExecState
    exit_code: Small | None
    signal: Small | None
    started_at: Moment
    ended_at: Moment | None
    output_bytes: Count
    first_offset: Count
    timed_out: bool
    rows: Annotated[int, Field(ge=1, le=TERMINAL_EXTENT)] | None = None
    cols: Annotated[int, Field(ge=1, le=TERMINAL_EXTENT)] | None = None
    wait_for_reader: bool = False
    stdout: Base64Bytes | None = None
    stderr: Base64Bytes | None = None
    output: Annotated[list[Chunk], Field(max_length=_MAX_CHUNKS, fail_fast=True)] | None = None
    truncated: bool = False

    def to_exec(self) -> Exec:
        """The same as the noun the rest of Bay uses; output that is not UTF-8 is shown with U+FFFD."""
        values = self.model_dump(exclude={"argv", "stdout", "stderr", "output"})
        output = None if self.output is None else tuple(chunk.to_chunk() for chunk in self.output)
        return Exec(
            argv=tuple(self.argv),
            stdout=_text(self.stdout),
            stderr=_text(self.stderr),
            output=output,
            **values,
        )


class ShipExecs(BaseModel):
    """Every exec that Ship knows of, checked."""

    items: Annotated[list[ShipExec], Field(max_length=1000, fail_fast=True)]


class ShipMeta(BaseModel):
    """Ship's description of itself, checked."""

    version: Annotated[str, Field(max_length=64)]
    protocol: int
    capabilities: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64, fail_fast=True)]
    features: Annotated[
        list[Annotated[str, Field(max_length=64)]], Field(max_length=256, fail_fast=True)
    ] = []
    """None in Ships of Bays that knew no features."""


class FeedLine(BaseModel):
    """The kind of a line of the session feed, checked."""

    type: Literal["ports", "services"]


class ShipTasks(BaseModel):
    """The tasks that programs of a sandbox hold it awake by, checked."""

    tasks: Annotated[list[Any], Field(max_length=1000)]


class TakenInput(BaseModel):
    """How much stdin an exec has taken, checked."""

    written: Count


class ShipProcess(BaseModel):
    """A process of the sandbox as Ship tells it, checked."""

    pid: Small
    ppid: Small
    uid: Annotated[int, Field(ge=0, lt=2**32)] | None
    state: Annotated[str, Field(max_length=8)]
    command: Annotated[str, Field(max_length=16384)]
    rss_bytes: Count
    cpu_s: Annotated[FiniteFloat, Field(ge=0)]
    started_at: Moment
    exec_id: Annotated[str, Field(max_length=128)] | None = None


class ShipProcesses(BaseModel):
    """The processes of the sandbox, checked."""

    processes: Annotated[list[ShipProcess], Field(max_length=10_000, fail_fast=True)]


class AttachReply(BaseModel):
    """The first message of an attachment, checked. `next_offset` is that of the first byte that follows."""

    type: Literal["attached"]
    exec: ShipExec
    next_offset: Count


class Exit(BaseModel):
    """The last message of an attachment, checked."""

    type: Literal["exit"]
    exit_code: Small | None
    signal: Small | None
    state: Literal["exited", "killed", "lost"]
    timed_out: bool

    def to_end(self) -> "OutputEnd":
        """The same as the last line of an exec's output."""
        return OutputEnd(**self.model_dump(exclude={"type"}))


class OutputEnd(BaseModel):
    """The last line of an exec's output: how it ended."""

    exit_code: Small | None
    signal: Small | None
    state: Literal["exited", "killed", "lost"] = "exited"
    timed_out: bool = False


class _Fault(BaseModel):
    code: Annotated[str, Field(max_length=64)]
    message: str
    details: Annotated[dict[Text, Text | Count | Numbers | None], Field(max_length=16)] | None = None


class _Refusal(BaseModel):
    error: _Fault


async def collect(chunks: AsyncIterator[bytes], cap: int) -> bytes:
    """A whole body. Raises ShipError when it has more than `cap` bytes."""
    collected = bytearray()
    async for chunk in chunks:
        collected += chunk
        if len(collected) > cap:
            raise ShipError(f"the sandbox's runtime answered with more than {cap} bytes")
    return bytes(collected)


def parse(model: type[M], data: bytes, pieces: int = MAX_PIECES) -> M:
    """`data` as a `model`. Raises ShipError when it does not fit, or has more `pieces` than agreed."""
    if len(data) > _COUNTED and has_more_pieces(data, pieces):
        raise ShipError(f"the sandbox's runtime answered with more than {pieces} values")
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise ShipError("the sandbox's runtime sent an unexpected answer") from error


def refusal(status: int, data: bytes) -> BayError:
    """The error of Ship's refusal: the caller's own where Ship may say so, else Ship's failure."""
    try:
        error = _Refusal.model_validate_json(data).error
    except ValidationError:
        return ShipError(f"the sandbox's runtime answered HTTP {status} without a reason")
    message = error.message[:1000]
    if error.code not in _PASSED_ON:
        return ShipError(f"the sandbox's runtime failed: {message}")
    passed_on = BY_CODE[error.code](message, details=error.details)
    if error.code == "validation_error":
        passed_on.status = 400
    return passed_on


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")
