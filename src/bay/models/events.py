"""Events and webhooks."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened. `id` is the place in the stream to go on from, for its owner alone."""

    id: str
    type: str
    sandbox_id: str | None
    at: datetime
    data: dict[str, Any] = field(default_factory=dict[str, Any])


GAP = "events.gap"
"""The type of an event that is not stored: it stands where older ones are no longer kept."""

EVENT_TYPES: tuple[str, ...] = (
    "sandbox.created",
    "sandbox.updated",
    "sandbox.starting",
    "sandbox.ready",
    "sandbox.failed",
    "sandbox.idle",
    "sandbox.rested",
    "sandbox.paused",
    "sandbox.resumed",
    "sandbox.cooled",
    "sandbox.hibernated",
    "sandbox.not_hibernated",
    "sandbox.memory_lost",
    "sandbox.exited",
    "sandbox.unreachable",
    "sandbox.stopped",
    "sandbox.checkpointed",
    "sandbox.checkpoint_failed",
    "sandbox.checkpoint_deleted",
    "sandbox.restored",
    "sandbox.restore_failed",
    "sandbox.deleted",
    "network.changed",
    "port.opened",
    "port.closed",
    "service.failed",
    "service.unhealthy",
    "image.pulling",
    "image.progress",
    "image.ready",
    "image.failed",
    "image.deleted",
    "template.building",
    "template.ready",
    "template.failed",
    "template.deleted",
)
"""The types of stored events, which a webhook may get; docs/events.md says when each happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """Where events are sent. No `types` means all; `secret` signs, and only the create answers it."""

    id: str
    url: str
    types: tuple[str, ...]
    created_at: datetime
    attempts: int = 0
    """Failed attempts in a row, 0 while all is well."""
    next_attempt_at: datetime | None = None
    last_error: str | None = None
    secret: str | None = field(default=None, repr=False)
