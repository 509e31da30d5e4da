"""The facts as they are stored. What a user sees of them is computed in `bay.server.lifecycle`."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from bay.models import Compute, Failure, Status

T = TypeVar("T")

Target = Literal["running", "stopped", "deleted"]
"""What the owner wants; the reconciler makes it so."""

Phase = Literal["starting", "running", "paused", "ending", "ended"]
"""How far a session has come. From `ending` there is no way back: a sandbox that is wanted again gets a new one."""

Scope = Literal["admin", "write", "read"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """One incarnation of compute. `generation` grows with each session of a sandbox and fences off older ones."""

    id: str
    sandbox_id: str
    generation: int
    driver: str
    phase: Phase
    token: str = field(repr=False)
    handle: dict[str, Any] | None
    """What the driver last yielded, as JSON."""
    end_reason: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRecord:
    """A sandbox's row with its live session, if any."""

    seq: int
    id: str
    owner: str
    name: str | None
    profile: str
    image: str
    isolation: str
    cargo_id: str
    env: dict[str, str] = field(repr=False)
    labels: dict[str, str]
    target: Target
    generation: int
    error: Failure | None
    idle_timeout: int | None
    idle_expires_at: datetime | None
    expires_at: datetime | None
    created_at: datetime
    deleted_at: datetime | None
    session: SessionRecord | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CargoRecord:
    """A cargo's row."""

    id: str
    owner: str
    managed_by_sandbox_id: str | None
    backend: str
    size_limit_mb: int | None
    created_at: datetime
    last_accessed_at: datetime
    deleted_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """Who calls. Only the SHA-256 of the secret is stored: it has 256 random bits, so no slow hash is needed."""

    id: str
    owner: str
    name: str
    hash: str = field(repr=False)
    scope: Scope
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An idempotency key that was used: for which request, and what it made and answered."""

    owner: str
    key: str
    request_hash: str
    resource_id: str
    answer: dict[str, Any] | None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What a list is narrowed to; None and empty mean all."""

    status: Status | None = None
    compute: Compute | None = None
    profile: str | None = None
    name_prefix: str | None = None
    labels: tuple[tuple[str, str], ...] = ()
    """Pairs that must all hold; the same key twice with two values holds for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Part of a list. `next_cursor` is the `seq` to go on after, None at the end."""

    items: tuple[T, ...]
    next_cursor: int | None
