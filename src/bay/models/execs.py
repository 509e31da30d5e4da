"""Execs, processes, their output, and the history of executions."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from bay.models.brief import Brief

ExecState = Literal["running", "exited", "killed", "lost"]
"""`killed` ended by a signal, `lost` when its session ended first."""

Stream = Literal["stdout", "stderr", "tty"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Exec(Brief):
    """A process started through Bay. Offsets count bytes of output from its start, both streams together."""

    id: str
    argv: tuple[str, ...]
    pid: int | None
    tty: bool
    state: ExecState
    exit_code: int | None
    signal: int | None
    started_at: datetime
    ended_at: datetime | None
    output_bytes: int
    first_offset: int
    keep_alive: bool = True
    """Whether the sandbox counts as active while this runs."""
    labels: dict[str, str] = field(default_factory=dict[str, str])
    """The labels that its caller gave it."""
    timed_out: bool = False
    rows: int | None = None
    cols: int | None = None
    """The size of its terminal now; null without one."""
    reason: str | None = None
    """Why the session of a `lost` exec ended: `stopped`, `restored`, `exited` and so on."""
    wait_for_reader: bool = False
    """Whether it was started to wait for the reader of its output."""
    stdout: str | None = None
    stderr: str | None = None
    output: "tuple[OutputChunk, ...] | None" = None
    """Both streams in their order, in place of the two texts, where that was asked for."""
    truncated: bool = False
    """Whether the output above is not all that there was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the sandbox. `cpu_s` counts seconds on a processor, `rss_bytes` memory held now.

    `exec_id` is the exec whose tree it belongs to; null for Ship itself and for what no exec started.
    """

    pid: int
    ppid: int
    uid: int | None
    state: str
    command: str
    rss_bytes: int
    cpu_s: float
    started_at: datetime
    exec_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ShellResult(Brief):
    """The answer of `shell/exec`. `exit_code` is -1 after a timeout; `output` is what came until then."""

    success: bool
    output: str
    error: str | None
    exit_code: int | None
    execution_id: str
    execution_time_ms: int
    command: str | None = None
    truncated: bool = False


ExecType = Literal["python", "shell", "browser", "browser_batch"]
"""The calls that make entries of the history."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class HistoryEntry(Brief):
    """A call of `shell`, `python` or `browser` that is over, as the history of its sandbox keeps it.

    Long output lacks its middle and says so there; `output` is None when it is not known. `tags` are sorted
    and separated by commas. `payload_ref` names the trace of a browser's call, where one was stored.
    `learn_enabled` says that the call asked for its trace to be learned from; `learn_status` is `pending`
    once that is stored, and `failed` when there was no room for it.
    """

    id: str
    session_id: str
    exec_type: ExecType
    code: str
    success: bool
    execution_time_ms: int
    output: str | None
    error: str | None
    payload_ref: str | None = None
    description: str | None
    tags: str | None
    notes: str | None
    learn_enabled: bool = False
    learn_status: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class OutputChunk(Brief):
    """Bytes of one stream of an exec; `offset` is the absolute byte offset of the first of them."""

    offset: int
    stream: Stream
    data: bytes
    t: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """The screen of a terminal.

    Lines come without the blanks at their ends; rows and columns of the cursor count from 0. `scrollback` are
    the lines that have left at the top, oldest first, `alternate` whether a program draws on the second
    screen, as editors do, and `offset` the byte offset of the output that is not in it yet.
    """

    rows: int
    cols: int
    lines: tuple[str, ...]
    scrollback: tuple[str, ...]
    cursor_row: int
    cursor_col: int
    cursor_visible: bool
    alternate: bool
    title: str
    offset: int
