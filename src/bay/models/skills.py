"""Skills: what was seen to work, as payloads, candidates, their evaluations, and releases."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from bay.models.brief import Brief

SkillType = Literal["code", "browser"]
SkillStage = Literal["canary", "stable"]
CandidateStatus = Literal[
    "draft", "evaluating", "promoted", "promoted_canary", "promoted_stable", "rejected", "rolled_back"
]
"""`promoted` is a word of the API that no candidate gets here: the stage is always named."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SkillPayload(Brief):
    """A stored JSON value. `payload_ref` is `blob:` and its id, and `kind` a word of who stored it."""

    payload_ref: str
    kind: str
    payload: dict[str, Any] | list[Any] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SkillCandidate(Brief):
    """A skill that executions suggest, before it is released. A payload of another store is only named."""

    id: str
    skill_key: str
    scenario_key: str | None = None
    payload_ref: str | None = None
    skill_type: SkillType
    auto_release_eligible: bool = False
    auto_release_reason: str | None = None
    """Both are for clients that read them: Bay releases nothing by itself."""
    summary: str | None = None
    usage_notes: str | None = None
    preconditions: dict[str, Any] | None = None
    postconditions: dict[str, Any] | None = None
    source_execution_ids: tuple[str, ...]
    status: CandidateStatus
    latest_score: float | None = None
    latest_pass: bool | None = None
    last_evaluated_at: datetime | None = None
    promotion_release_id: str | None = None
    created_by: str | None = None
    created_at: datetime
    updated_at: datetime
    is_deleted: bool = False
    deleted_at: datetime | None = None
    deleted_by: str | None = None
    delete_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SkillEvaluation(Brief):
    """A verdict on a candidate."""

    id: str
    candidate_id: str
    benchmark_id: str | None
    score: float | None
    passed: bool
    report: str | None
    evaluated_by: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SkillRelease(Brief):
    """A version of a skill. At most one of a key is active."""

    id: str
    skill_key: str
    candidate_id: str
    version: int
    stage: SkillStage
    is_active: bool
    release_mode: Literal["manual", "auto"] = "manual"
    promoted_by: str | None = None
    promoted_at: datetime
    rollback_of: str | None = None
    auto_promoted_from: str | None = None
    health_window_end_at: datetime | None = None
    upgrade_of_release_id: str | None = None
    upgrade_reason: str | None = None
    change_summary: str | None = None
    is_deleted: bool = False
    deleted_at: datetime | None = None
    deleted_by: str | None = None
    delete_reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillHealth:
    """How the runs of a release went, beside those of the version before it. Rates are from 0 to 1."""

    release_id: str
    skill_key: str
    stage: SkillStage
    window_start_at: datetime
    window_end_at: datetime
    window_complete: bool
    samples: int
    success_rate: float
    error_rate: float
    p95_duration: int
    """Milliseconds."""
    baseline_success_rate: float
    baseline_error_rate: float
    baseline_samples: int
    success_drop: float
    error_rate_multiplier: float
    healthy: bool
    should_rollback: bool
    rollback_reasons: tuple[str, ...]
    thresholds: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillDeletion:
    """The answer to a delete of a candidate or release."""

    id: str
    deleted_at: datetime
    deleted_by: str | None
    delete_reason: str | None
