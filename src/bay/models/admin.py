"""An operator's nouns: warm pools, garbage collections, and the Bays of one database."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """How full one pool is: a profile's, or that of the template `template_id`, which has that profile. The
    counts of hits, misses and failures are since Bay started.

    `refill_at` is set after failed starts: nothing is started before.
    """

    profile: str
    template_id: str | None = None
    size: int
    ready: int
    starting: int
    oldest_at: datetime | None
    hits: int
    misses: int
    failures: int
    last_error: str | None
    refill_at: datetime | None


GarbageTask = Literal["idle_session", "expired_sandbox", "orphan_cargo", "orphan_container"]
"""The tasks of a collection: idle or frozen compute, expired sandboxes, and orphaned files and containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageTaskResult:
    """The result of one task of a collection. An idle sandbox that is at work counts as skipped."""

    task_name: GarbageTask
    cleaned_count: int
    skipped_count: int
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageRun:
    """The results of a collection, task by task and in all."""

    results: tuple[GarbageTaskResult, ...]
    total_cleaned: int
    total_errors: int
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GarbageState(GarbageRun):
    """Whether a collection is under way, and what the last one that was asked for did at `ran_at`.

    `interval_seconds`: how often Bay looks by itself for what is idle and what has expired.
    """

    enabled: bool
    is_running: bool
    interval_seconds: float
    tasks: tuple[GarbageTask, ...]
    ran_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A Bay that lives, and the parts of the work that it does: shards of sandboxes by number, and jobs.

    `url` is where its own host reaches it. `beat_at`: when it last said that it lives. `is_self`: it is the
    one that answered.
    """

    id: str
    url: str
    version: str
    started_at: datetime
    beat_at: datetime
    is_self: bool
    shards: tuple[int, ...]
    jobs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaState:
    """The Bays of one database that live, in the order in which they joined, and the shards and jobs that
    none of them does just now, such as ``shard:03`` and ``pool``.
    """

    items: tuple[Replica, ...]
    unheld: tuple[str, ...]
