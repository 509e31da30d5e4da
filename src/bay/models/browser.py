"""Commands to the browser of a sandbox, and what came of them."""

from dataclasses import dataclass, field
from typing import Any

from bay.models.brief import Brief


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BrowserResult(Brief):
    """The answer of `browser/exec`. `exit_code` is -1 after a timeout, and `output` what came until then."""

    success: bool
    output: str
    error: str | None
    exit_code: int | None
    execution_id: str
    execution_time_ms: int
    trace_ref: str | None = None
    """The stored trace, where one was asked for and there was room for it."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BrowserStep(Brief):
    """One command of a batch; `step_index` counts from 0, and `exit_code` is as in BrowserResult."""

    cmd: str
    stdout: str
    stderr: str
    exit_code: int | None
    step_index: int
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BrowserBatch(Brief):
    """The answer of `browser/exec_batch`. `success`: every step ran and ended with 0."""

    results: tuple[BrowserStep, ...]
    """The steps that ran, `completed_steps` of `total_steps`."""
    total_steps: int
    completed_steps: int
    success: bool
    duration_ms: int
    execution_id: str
    execution_time_ms: int
    trace_ref: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class BrowserReplay(BrowserBatch):
    """The answer of `browser/skills/{skill_key}/run`: a batch, and the release that it came from."""

    skill_key: str
    release_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserTrace:
    """A stored trace: `steps`, and the `commands` by which a skill that is made of it is replayed."""

    trace_ref: str
    trace: dict[str, Any] = field(repr=False)
