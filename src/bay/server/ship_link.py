"""Bay's calls to the Ship of a session: what is asked, how long it may take, how much may come back."""

import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlencode

from pydantic import AwareDatetime, Base64Bytes, BaseModel, Field, FiniteFloat, ValidationError

from bay.drivers.ship_socket import connect
from bay.errors import BY_CODE, BayError, ShipError, Timeout
from bay.models import Exec, ExecState, FileEntry, OutputChunk, Stream
from bay.server.ship_wire import Head, Peer, Wire

_IDLE_PER_SESSION = 8
_IDLE_S = 60.0  # well below the 10 minutes after which Ship closes, so that no call meets a closing door
_SMALL = 1 << 20
_EXEC_ANSWER = 48 << 20  # two rings of 16 MiB in base64
_LINE = 1 << 20
_DEADLINE_S = 15.0
_META_S = 2.0
_TRANSFER_DEADLINE_S = 3600.0

# Errors that Ship may raise in a caller's name; everything else it says is Ship's own failure.
_PASSED_ON = frozenset(
    ("validation_error", "invalid_path", "file_not_found", "not_found", "forbidden", "conflict", "output_gone",
     "payload_too_large", "storage_full")
)  # fmt: skip

Text = Annotated[str, Field(max_length=4096)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Small = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Moment = Annotated[
    AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))
]
M = TypeVar("M", bound=BaseModel)


class ShipExec(BaseModel):
    """An exec as Ship tells it, checked."""

    id: Annotated[str, Field(max_length=128)]
    argv: Annotated[list[str], Field(max_length=100_000)]
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
    stdout: Base64Bytes | None = None
    stderr: Base64Bytes | None = None
    truncated: bool = False

    def to_exec(self) -> Exec:
        """The same as the noun the rest of Bay uses; output that is not UTF-8 is shown with U+FFFD."""
        values = self.model_dump(exclude={"argv", "stdout", "stderr"})
        return Exec(argv=tuple(self.argv), stdout=_text(self.stdout), stderr=_text(self.stderr), **values)


class _ShipExecs(BaseModel):
    items: Annotated[list[ShipExec], Field(max_length=1000)]


class ShipMeta(BaseModel):
    """Ship's description of itself, checked."""

    version: Annotated[str, Field(max_length=64)]
    protocol: int
    capabilities: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64)]


class _Entry(BaseModel):
    name: Text
    path: Annotated[str, Field(max_length=65536)]
    is_file: bool
    is_dir: bool
    size: Count | None
    modified_time: FiniteFloat


class _Entries(BaseModel):
    entries: Annotated[list[_Entry], Field(max_length=10_000)]


class _Written(BaseModel):
    path: Annotated[str, Field(max_length=65536)]
    size: Count


class _Chunk(BaseModel):
    offset: Count
    stream: Stream
    data: Base64Bytes
    t: Moment


class OutputEnd(BaseModel):
    """The last line of an exec's output: how it ended."""

    exit_code: Small | None
    signal: Small | None
    state: Literal["exited", "killed", "lost"] = "exited"
    timed_out: bool = False


class _Fault(BaseModel):
    code: Annotated[str, Field(max_length=64)]
    message: str
    details: Annotated[dict[Text, Text | Count | None], Field(max_length=16)] | None = None


class _Refusal(BaseModel):
    error: _Fault


class ShipLink:
    """Connections to the Ships of all sessions, kept open between calls.

    `deadline_s` bounds a call beyond the time it is asked to wait, `transfer_s` the bytes of one file.
    """

    def __init__(self, *, deadline_s: float = _DEADLINE_S, transfer_s: float = _TRANSFER_DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._transfer_s = transfer_s
        self._idle: dict[str, list[tuple[float, Wire]]] = {}
        self._busy: dict[str, list[float]] = {}
        """When each call that is under way began (monotonic), by session."""

    def busy(self, session_id: str, for_s: float = 0.0) -> bool:
        """Whether a call to that session is under way, for `for_s` seconds or longer."""
        began = self._busy.get(session_id)
        return bool(began) and time.monotonic() - began[0] >= for_s

    def long_busy(self, for_s: float) -> list[str]:
        """The sessions a call to which has been under way for `for_s` seconds or longer."""
        return [session_id for session_id in self._busy if self.busy(session_id, for_s)]

    def forget(self, session_id: str) -> None:
        """Drop the idle connections to a session that is over."""
        for _since, wire in self._idle.pop(session_id, []):
            wire.close()

    def close(self) -> None:
        """Drop every idle connection."""
        for session_id in list(self._idle):
            self.forget(session_id)

    async def meta(self, peer: Peer) -> ShipMeta:
        """Ship's description of itself. Asked when somebody looks at a sandbox, so it must not keep them."""
        return await self._call(peer, ShipMeta, "GET", "/meta", deadline_s=min(_META_S, self._deadline_s))

    def can_connect(self, peer: Peer) -> bool:
        """Whether somebody listens at the Ship's socket, who is who it should be. Nothing is said or asked."""
        try:
            connect(peer.endpoint).close()
        except (ConnectionRefusedError, FileNotFoundError, ShipError):
            return False
        except OSError:
            return (
                True  # more callers wait than it can take, or Bay has no descriptor left: no fault of its own
            )
        return True

    async def run(self, peer: Peer, exec_id: str, body: Mapping[str, Any], wait_s: float | None) -> Exec:
        """Start an exec; with `wait_s` return when it ended or the seconds are over, with its output."""
        return await self._call_exec(peer, exec_id, "POST", "/execs", body, wait_s)

    async def get_exec(self, peer: Peer, exec_id: str, wait_s: float | None) -> Exec:
        """The exec as it stands; with `wait_s` as in `run`."""
        return await self._call_exec(peer, exec_id, "GET", f"/execs/{exec_id}", None, wait_s)

    async def list_execs(self, peer: Peer) -> list[Exec]:
        """Every exec that Ship still knows of."""
        found = await self._call(peer, _ShipExecs, "GET", "/execs", cap=32 << 20)
        return [item.to_exec() for item in found.items]

    async def kill_exec(self, peer: Peer, exec_id: str) -> Exec:
        """End an exec's whole tree and return it."""
        return await self._call_exec(peer, exec_id, "DELETE", f"/execs/{exec_id}", None, None)

    @asynccontextmanager
    async def output(
        self, peer: Peer, exec_id: str, since: int, follow: bool
    ) -> AsyncGenerator[AsyncIterator[OutputChunk | OutputEnd], None]:
        """An exec's output from byte `since` on; the last item is an OutputEnd once the exec has ended."""
        query = {"since": since, "follow": "true" if follow else "false"}
        path = f"/execs/{exec_id}/output"
        async with self._open(peer, "GET", path, query, deadline_s=self._deadline_s) as (wire, _):
            if follow:
                wire.set_deadline(None)  # a command may be silent for days
            yield _parse_output(wire.body())

    async def list_files(self, peer: Peer, path: str) -> list[FileEntry]:
        """What a directory holds, directories first."""
        found = await self._call(peer, _Entries, "GET", "/files/list", {"path": path}, cap=32 << 20)
        return [FileEntry(**entry.model_dump()) for entry in found.entries]

    async def delete_file(self, peer: Peer, path: str) -> None:
        """Remove a file, or a directory with all in it."""
        async with self._open(peer, "DELETE", "/files", {"path": path}, deadline_s=120) as (wire, _):
            await _collect(wire.body(), _SMALL)

    @asynccontextmanager
    async def download(
        self, peer: Peer, path: str
    ) -> AsyncGenerator[tuple[AsyncIterator[bytes], int | None], None]:
        """A file's bytes as they come, and how many there will be."""
        query = {"path": path}
        async with self._open(peer, "GET", "/files/content", query, deadline_s=self._transfer_s) as (
            wire,
            head,
        ):
            yield wire.body(), head.content_length

    async def write_file(self, peer: Peer, path: str, body: bytes | AsyncIterator[bytes]) -> tuple[str, int]:
        """Replace a file with `body`, atomically; returns its absolute path and size."""
        async with self._open(
            peer, "PUT", "/files/content", {"path": path}, body, "application/octet-stream",
            deadline_s=self._transfer_s,
        ) as (wire, _):  # fmt: skip
            written = _parse(_Written, await _collect(wire.body(), _SMALL))
        return written.path, written.size

    async def _call(
        self,
        peer: Peer,
        model: type[M],
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, Any] | None = None,
        deadline_s: float | None = None,
        cap: int = _SMALL,
    ) -> M:
        data = None if body is None else json.dumps(body).encode()
        deadline = self._deadline_s if deadline_s is None else deadline_s
        async with self._open(peer, method, path, query, data, deadline_s=deadline) as (wire, _):
            return _parse(model, await _collect(wire.body(), cap))

    async def _call_exec(
        self,
        peer: Peer,
        exec_id: str,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        wait_s: float | None,
    ) -> Exec:
        query = {} if wait_s is None else {"wait": wait_s}
        deadline = self._deadline_s + (wait_s or 0)
        found = await self._call(peer, ShipExec, method, path, query, body, deadline, _EXEC_ANSWER)
        if found.id != exec_id:
            raise ShipError("the sandbox's runtime answered for another exec")
        return found.to_exec()

    @asynccontextmanager
    async def _open(
        self,
        peer: Peer,
        method: str,
        path: str,
        query: Mapping[str, object] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        content_type: str = "application/json",
        *,
        deadline_s: float,
    ) -> AsyncGenerator[tuple[Wire, Head], None]:
        """One call: send, check the status, hand out the body, and keep or drop the connection.

        The deadline is the connection's own and not an `asyncio.timeout` around this block, since a
        streaming answer is read in another task than the one that opened it.
        """
        began = time.monotonic()
        self._busy.setdefault(peer.session_id, []).append(began)
        target = f"{path}?{urlencode(query)}" if query else path
        wire: Wire | None = None
        try:
            wire = self._take_idle(peer.session_id) or await Wire.open(peer)
            wire.set_deadline(deadline_s)
            head = await wire.send(method, target, body, content_type)
            if head.status not in (200, 201):
                raise _refusal(head.status, await _collect(wire.body(), _SMALL))
            yield wire, head
        except TimeoutError as error:
            raise Timeout(
                f"the sandbox's runtime did not finish {method} {path} in {deadline_s:g} s"
            ) from error
        except OSError as error:
            raise ShipError("the connection to the sandbox's runtime broke") from error
        finally:
            self._release(peer.session_id, began, wire)

    def _take_idle(self, session_id: str) -> Wire | None:
        idle = self._idle.get(session_id, [])
        while idle:
            since, wire = idle.pop()
            if time.monotonic() - since < _IDLE_S and wire.is_open():
                return wire
            wire.close()
        return None

    def _release(self, session_id: str, began: float, wire: Wire | None) -> None:
        self._busy[session_id].remove(began)
        if not self._busy[session_id]:
            del self._busy[session_id]
        if wire is None:
            return
        idle = self._idle.setdefault(session_id, [])
        if wire.recycle() and len(idle) < _IDLE_PER_SESSION:
            idle.append((time.monotonic(), wire))
        else:
            wire.close()


async def _collect(chunks: AsyncIterator[bytes], cap: int) -> bytes:
    collected = bytearray()
    async for chunk in chunks:
        collected += chunk
        if len(collected) > cap:
            raise ShipError(f"the sandbox's runtime answered with more than {cap} bytes")
    return bytes(collected)


def _parse(model: type[M], data: bytes) -> M:
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise ShipError("the sandbox's runtime answered with something else than asked") from error


def _refusal(status: int, data: bytes) -> BayError:
    """The error that Ship's refusal stands for: the caller's own where Ship may say so, else Ship's failure."""
    try:
        error = _Refusal.model_validate_json(data).error
    except ValidationError:
        return ShipError(f"the sandbox's runtime answered HTTP {status} without saying why")
    message = error.message[:1000]
    if error.code not in _PASSED_ON:
        return ShipError(f"the sandbox's runtime failed: {message}")
    refusal = BY_CODE[error.code](message, details=error.details)
    if error.code == "validation_error":
        refusal.status = 400
    return refusal


async def _parse_output(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[OutputChunk | OutputEnd, None]:
    async for line in _lines(chunks):
        yield _parse_line(line)


def _parse_line(line: bytes) -> OutputChunk | OutputEnd:
    if b'"error"' in line[:16]:
        raise _refusal(410, line)
    if b'"offset"' not in line[:16]:
        return _parse(OutputEnd, line)
    chunk = _parse(_Chunk, line)
    return OutputChunk(offset=chunk.offset, stream=chunk.stream, data=chunk.data, t=chunk.t)


async def _lines(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async for chunk in chunks:
        # Only what is new is searched: a long line in tiny pieces would cost its square otherwise.
        head, newline, tail = chunk.partition(b"\n")
        rest += head
        while newline:
            yield bytes(rest)
            head, newline, tail = tail.partition(b"\n")
            rest = bytearray(head)
        if len(rest) > _LINE:
            raise ShipError(f"the sandbox's runtime sent a line of more than {_LINE} bytes")


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def encode_stdin(stdin: str | None, stdin_base64: str | None) -> str | None:
    """The `stdin` field of Ship's exec call, from the two spellings of the API."""
    return stdin_base64 if stdin is None else base64.b64encode(stdin.encode()).decode("ascii")
