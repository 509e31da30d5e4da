"""Kernels, cells, and the results of code."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from bay.models.brief import Brief


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PythonOutput(Brief):
    """The output of code: text, results as text, and the images it showed, each ``{"image/png": base64}``."""

    text: str
    images: tuple[dict[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonData:
    """The structured half of the answer of `python/exec`."""

    execution_count: int | None
    output: PythonOutput


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PythonResult(Brief):
    """The answer of `python/exec`. `error` is the traceback, or why the code did not come to its end."""

    success: bool
    output: str
    error: str | None
    data: PythonData
    execution_id: str
    execution_time_ms: int
    code: str | None = None
    truncated: bool = False


KernelState = Literal["starting", "idle", "busy", "dead"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """A process that runs code cell by cell and remembers its variables. It ends with the session it is in.

    `queued` cells wait for the one that runs. `message` says why a dead one is dead. `cwd` is the directory
    in which its process began.
    """

    id: str
    spec: str
    language: str | None
    state: KernelState
    pid: int | None
    version: str | None
    execution_count: int | None
    queued: int
    started_at: datetime | None
    last_active_at: datetime | None
    message: str | None = None
    cwd: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpec:
    """A kind of kernel that the image has."""

    name: str
    display_name: str
    language: str | None


CellEventType = Literal["start", "stdout", "stderr", "display", "clear", "result", "error", "end"]

CellStatus = Literal["ok", "error", "timeout", "interrupted", "lost"]
"""How a cell ended: `error` by an exception, `lost` with its kernel, whose variables are gone."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CellEvent(Brief):
    """Something that a cell did. `seq` counts its events; which other fields are set follows from `type`.

    `data` is a MIME bundle: content types, each with its text, or base64 where the type is binary. A
    `display` with `update` replaces what was shown under its `display_id`; `clear` takes away what was shown,
    with `wait` when the next output comes. `end` is always the last.
    """

    seq: int
    type: CellEventType
    text: str | None = None
    data: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    display_id: str | None = None
    update: bool | None = None
    wait: bool | None = None
    execution_count: int | None = None
    ename: str | None = None
    evalue: str | None = None
    traceback: tuple[str, ...] | None = None
    status: CellStatus | None = None
    restarted: bool | None = None
    """Whether there is a new kernel process in the place of the one that ran the cell."""
    message: str | None = None
    duration_ms: float | None = None
    truncated: bool | None = None
    """Whether output was dropped because there was too much of it."""


CELL_EVENT_FIELDS: dict[CellEventType, tuple[str, ...]] = {
    "start": ("execution_count",),
    "stdout": ("text",),
    "stderr": ("text",),
    "display": ("data", "metadata", "display_id", "update"),
    "clear": ("wait",),
    "result": ("data", "metadata", "execution_count"),
    "error": ("ename", "evalue", "traceback"),
    "end": ("status", "execution_count", "restarted", "message", "duration_ms", "truncated"),
}
"""The fields of each type of event beside `seq` and `type`."""
