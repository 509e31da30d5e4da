"""The client of a Ship's kernel routes: a cell's events come as lines, each checked and bounded here."""

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, Field, FiniteFloat, JsonValue, TypeAdapter, ValidationError

from bay.errors import ShipError
from bay.meters import Meters
from bay.models import CellEvent, CellStatus, Kernel, KernelSpec, KernelState
from bay.server.ship.answers import Count, Moment, Small, Text, collect
from bay.server.ship.client import ShipClient, lines
from bay.server.ship.connection import Peer
from ship_protocol import CELL_BYTES, ERROR_BYTES, Feature

_START_S = 60.0
"""For what waits for a kernel's process; its first start in a cold image reads many files."""
_LINE = max(CELL_BYTES, ERROR_BYTES + (1 << 20)) + 4096
_SMALL = 1 << 20
_MAX_CELL_BYTES = 48 << 20
"""Most that is read of one cell which is wanted as a whole: three times as much as Ship keeps of one."""
_AT_ONCE = 64 << 10
"""Bytes of the longest line that is parsed where it comes; longer ones are in a thread, beside all else."""
_MAX_PARTS = 1 << 18
"""Commas and opening brackets in a line, or strings: a few megabytes of `[]` cost seconds and a gigabyte."""
_ERROR_LINE = re.compile(rb'^\{"error"')
_SHOWN = re.compile(rb'^\{"seq": ?(\d{1,18}), ?"type": ?"(display|result)"')
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

_NOTE = "[not shown: it is nested too deeply, has too many parts, or numbers that JSON has not]"

Action = Literal["interrupt", "restart"]
Name = Annotated[str, Field(max_length=256)]
Words = Annotated[str, Field(max_length=_LINE)]
"""A program's output, as long as a line may be."""


def _finite(value: JsonValue) -> JsonValue:
    """JSON has no NaN, which some parsers of it take; those of clients need not."""
    match value:
        case float() if not math.isfinite(value):
            raise ValueError("is not a finite number")
        case list():
            for item in value:
                _finite(item)
        case dict():
            for item in value.values():
                _finite(item)
        case _:
            pass
    return value


Finite = Annotated[JsonValue, AfterValidator(_finite)]
Bundle = Annotated[dict[Name, Finite], Field(max_length=64)]


class _KernelAnswer(BaseModel):
    id: Annotated[str, Field(max_length=128)]
    spec: Name
    language: Name | None = None
    state: KernelState
    pid: Small | None = None
    version: Name | None = None
    execution_count: Count | None = None
    queued: Count = 0
    started_at: Moment | None = None
    last_active_at: Moment | None = None
    message: Text | None = None
    cwd: Text | None = None

    def to_kernel(self) -> Kernel:
        return Kernel(**self.model_dump())


class _KernelsAnswer(BaseModel):
    items: Annotated[list[_KernelAnswer], Field(max_length=1000, fail_fast=True)]


class _Spec(BaseModel):
    name: Name
    display_name: Name
    language: Name | None = None


class _Specs(BaseModel):
    items: Annotated[list[_Spec], Field(max_length=1000, fail_fast=True)]


class ShipCell(BaseModel):
    """How far a cell has come, as Ship tells it."""

    id: Annotated[str, Field(max_length=128)]
    kernel: Annotated[str, Field(max_length=128)]
    state: Literal["queued", "running", "ended"]
    status: CellStatus | None = None
    started_at: Moment | None = None
    ended_at: Moment | None = None


class _Numbered(BaseModel):
    seq: Count


class _Start(_Numbered):
    type: Literal["start"]
    execution_count: Count | None = None


class _CellText(_Numbered):
    type: Literal["stdout", "stderr"]
    text: Words


class _Bundles(_Numbered):
    data: Bundle
    metadata: Bundle = Field(default_factory=dict[Name, Finite])


class _Display(_Bundles):
    type: Literal["display"]
    display_id: Name | None = None
    update: bool = False


class _Clear(_Numbered):
    type: Literal["clear"]
    wait: bool = False


class _Result(_Bundles):
    type: Literal["result"]
    execution_count: Count | None = None


class _Error(_Numbered):
    type: Literal["error"]
    ename: Words
    evalue: Words
    traceback: Annotated[list[Words], Field(max_length=100_000, fail_fast=True)]


class _CellEnd(_Numbered):
    type: Literal["end"]
    status: CellStatus
    execution_count: Count | None = None
    restarted: bool = False
    message: Text | None = None
    duration_ms: Annotated[FiniteFloat, Field(ge=0)] = 0.0
    truncated: bool = False


class _Unshowable(_Numbered):
    type: Literal["display", "result"]
    data: dict[str, Any]


_Line = Annotated[
    _Start | _CellText | _Display | _Clear | _Result | _Error | _CellEnd, Field(discriminator="type")
]
_LINE_OF: TypeAdapter[_Line] = TypeAdapter(_Line)


class KernelClient:
    """Calls to the kernels behind `ship`."""

    def __init__(self, ship: ShipClient) -> None:
        self._ship = ship

    async def create(self, peer: Peer, kernel_id: str, body: Mapping[str, Any]) -> Kernel:
        """Start a kernel. Raises Conflict when there is one of that id, or as many as there may be."""
        return await self._kernel(peer, kernel_id, "POST", "/kernels", {"id": kernel_id, **body})

    async def every(self, peer: Peer) -> list[Kernel]:
        """All kernels, dead ones too."""
        found = await self._ship.call(peer, _KernelsAnswer, "GET", "/kernels")
        return [item.to_kernel() for item in found.items]

    async def get(self, peer: Peer, kernel_id: str) -> Kernel:
        """One kernel."""
        return await self._kernel(peer, kernel_id, "GET", f"/kernels/{kernel_id}")

    async def delete(self, peer: Peer, kernel_id: str) -> None:
        """End a kernel and everything it started."""
        opened = self._ship.open(peer, "DELETE", f"/kernels/{kernel_id}", deadline_s=_START_S)
        async with opened as (wire, _):
            await collect(wire.body(), _SMALL)

    async def act(self, peer: Peer, kernel_id: str, action: Action) -> Kernel:
        """Interrupt the cell that runs, or begin anew, without variables."""
        return await self._kernel(peer, kernel_id, "POST", f"/kernels/{kernel_id}/{action}", {})

    async def specs(self, peer: Peer) -> list[KernelSpec]:
        """The kernel specs of the image."""
        found = await self._ship.call(peer, _Specs, "GET", "/kernelspecs", deadline_s=_START_S)
        return [KernelSpec(**item.model_dump()) for item in found.items]

    async def cell(self, peer: Peer, cell_id: str) -> ShipCell:
        """How far a cell has come."""
        found = await self._ship.call(peer, ShipCell, "GET", f"/cells/{cell_id}")
        if found.id != cell_id:
            raise ShipError("the sandbox's runtime answered for another cell")
        return found

    @asynccontextmanager
    async def run(
        self, peer: Peer, kernel_id: str, body: Mapping[str, Any], *, attached: bool = False
    ) -> AsyncGenerator[AsyncIterator[CellEvent], None]:
        """Run a cell, or find it running, and follow what it does until its end. An attached one is
        interrupted when this is left before.
        """
        await self._ship.require(peer, *_needed(body, attached=attached))
        path, data = f"/kernels/{kernel_id}/cells", json.dumps(body).encode()
        query = {"follow": "true", "attached": "true" if attached else "false"}
        opened = self._ship.open(peer, "POST", path, query, data, deadline_s=_START_S)
        async with opened as (wire, _):
            wire.set_deadline(None)  # it may be silent for days
            yield _CountedCell(events_of(wire.body()), self._ship.meters)

    @asynccontextmanager
    async def events(
        self, peer: Peer, kernel_id: str, cell_id: str, since: int, *, follow: bool
    ) -> AsyncGenerator[AsyncIterator[CellEvent], None]:
        """The events of a cell, from `since` on; with `follow` until its end."""
        path = f"/kernels/{kernel_id}/cells/{cell_id}/events"
        query = {"since": since, "follow": "true" if follow else "false"}
        async with self._ship.open(peer, "GET", path, query, deadline_s=_START_S) as (wire, _):
            if follow:
                wire.set_deadline(None)
            yield events_of(wire.body())

    async def _kernel(
        self, peer: Peer, kernel_id: str, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Kernel:
        found = await self._ship.call(peer, _KernelAnswer, method, path, body=body, deadline_s=_START_S)
        if found.id != kernel_id:
            raise ShipError("the sandbox's runtime answered for another kernel")
        return found.to_kernel()


class _CountedCell(AsyncIterator[CellEvent]):
    """The same events, the last of which counts the cell."""

    def __init__(self, events: AsyncIterator[CellEvent], meters: Meters) -> None:
        self._events = events
        self._meters = meters

    async def __anext__(self) -> CellEvent:
        event = await anext(self._events)
        if event.type == "end" and event.status is not None:
            self._meters.cells.labels(event.status).inc()
        return event


def _needed(body: Mapping[str, Any], *, attached: bool) -> list[Feature]:
    wanted = {
        Feature.ATTACHED_CELLS: attached,
        Feature.CELL_ENV: body.get("own_env"),
        Feature.CELL_CWD: body.get("cwd"),
        Feature.DESCRIBED_RESULTS: body.get("describe"),
    }
    return [feature for feature, is_wanted in wanted.items() if is_wanted]


async def events_of(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[CellEvent, None]:
    """The events in order; an event that comes twice or after the end breaks the protocol."""
    last, ended = -1, False
    async for line in lines(chunks, _LINE):
        event = parse_event(line) if len(line) <= _AT_ONCE else await asyncio.to_thread(parse_event, line)
        if ended or event.seq <= last:
            raise ShipError("the sandbox's runtime sent the events of a cell out of order")
        last, ended = event.seq, event.type == "end"
        yield event


def parse_event(line: bytes) -> CellEvent:
    """The event on one line. Raises ShipError when it is none."""
    if _ERROR_LINE.match(line):
        raise ShipError("the sandbox's runtime lost the state of a cell")
    found = _parsed(line) if _parts(line) <= _MAX_PARTS else _in_place_of_many(line)
    values: dict[str, Any] = found.model_dump()
    if "traceback" in values:
        values["traceback"] = tuple(cast("list[str]", values["traceback"]))
    return CellEvent(**values)


def _parsed(line: bytes) -> _Line:
    try:
        return _LINE_OF.validate_json(_without_surrogates(line))
    except ValidationError:
        return _in_its_place(line)


def _parts(line: bytes) -> int:
    """Estimates the number of values in it without parsing. Content of strings does not count."""
    if _marks(line) + line.count(b'"') <= _MAX_PARTS:
        return 0
    bare = line.replace(b"\\\\", b"").replace(b'\\"', b"")
    strings = bare.count(b'"') // 2
    return strings if strings > _MAX_PARTS else max(strings, _marks(b"".join(bare.split(b'"')[::2])))


def _marks(line: bytes) -> int:
    return line.count(b",") + line.count(b"[") + line.count(b"{")


def _in_place_of_many(line: bytes) -> _Display | _Result:
    """The same as `_in_its_place` for a line that is not parsed at all; its number and type come first."""
    found = _SHOWN.match(line)
    if found is None:
        raise ShipError("the sandbox's runtime sent an invalid cell event")
    return _note(int(found[1]), "display" if found[2] == b"display" else "result")


def _in_its_place(line: bytes) -> _Display | _Result:
    """A note for a display or a result of a form that is not passed on, such as JSON a thousand levels deep:
    a program in the sandbox chose it, and it must not cost anybody the rest of the cell.
    """
    try:
        shown = _Unshowable.model_validate(json.loads(line))
    except (ValueError, RecursionError) as error:  # pydantic's ValidationError is a ValueError
        raise ShipError("the sandbox's runtime sent an invalid cell event") from error
    return _note(shown.seq, shown.type)


def _note(seq: int, kind: Literal["display", "result"]) -> _Display | _Result:
    data: dict[str, JsonValue] = {"text/plain": _NOTE}
    if kind == "display":
        return _Display(seq=seq, type="display", data=data)
    return _Result(seq=seq, type="result", data=data)


def _without_surrogates(line: bytes) -> bytes:
    """Half of a surrogate pair, which a program can print in Python, becomes `?`: no UTF-8 can carry it."""
    if _SURROGATE.search(line) is None:
        return line
    try:
        return json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError) as error:
        raise ShipError("the sandbox's runtime sent a line that is not JSON") from error


async def read_all(events: AsyncIterator[CellEvent], most_bytes: int = _MAX_CELL_BYTES) -> list[CellEvent]:
    """Every event of a cell, a note in place of those beyond one line's. ShipError beyond `most_bytes`."""
    found: list[CellEvent] = []
    size = parts = 0
    async for event in events:
        more, own = _weight(event)
        if own and parts + own > _MAX_PARTS:
            event = replace(event, data={"text/plain": _NOTE}, metadata={})
        else:
            parts += own
        found.append(event)
        size += more
        if size > most_bytes:
            raise ShipError(f"the sandbox's runtime sent more than {most_bytes} bytes for one cell")
    return found


def _weight(event: CellEvent) -> tuple[int, int]:
    """Estimates its bytes of memory without the parts of its JSON, and their number; small ones count too."""
    shown = (*(event.data or {}).values(), *(event.metadata or {}).values())
    texts = [value for value in shown if isinstance(value, str)]
    others = [json.dumps(value).encode() for value in shown if not isinstance(value, str)]
    words = (event.text or "", event.ename or "", event.evalue or "")
    traceback = sum(60 + len(line) for line in event.traceback or ())
    return 200 + sum(map(len, (*texts, *others, *words))) + traceback, sum(map(_marks, others))
