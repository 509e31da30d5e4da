"""An operator's nouns: warm pools, garbage collections, and the Bays of one database."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from bay.models.sandboxes import Compute


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


MemoryFate = Literal["kept", "refused", "left"]
"""Whether the memory of a sandbox outlives a restart of the host: it does; it does not, though its profile
hibernates; its profile or the host does not save memory.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedSandbox:
    """A sandbox with compute as a planned restart of the host would find it.

    `memory_bytes` is what its memory takes on disk, and `reason` why its memory is not `kept`.
    """

    sandbox_id: str
    name: str | None
    owner: str
    compute: Compute
    memory: MemoryFate
    memory_bytes: int | None
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPreparation:
    """Every sandbox with compute, of all owners, after all that could hibernate did, and how many there are
    of each fate.
    """

    items: tuple[PreparedSandbox, ...]
    kept: int
    refused: int
    left: int
    duration_ms: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class HostMemory:
    """The memory of a host, in bytes. `available_bytes` is what programs can have without swapping; below
    `reserve_bytes` of that Bay stops frozen sandboxes.
    """

    total_bytes: int
    available_bytes: int
    reserve_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStorage:
    """The file system that has the files of all sandboxes, in bytes, and the backend that keeps them there.
    It is as large as statvfs(2) says: a pool in a file may grow, as far as the disk below has room.
    """

    backend: str
    total_bytes: int
    used_bytes: int
    free_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSandboxes:
    """How many sandboxes all owners have, by each status and each compute that one of them has.

    `pooled` wait in pools and belong to no owner. `sessions` are those of both that have compute: containers
    or pods that exist, or begin to.
    """

    total: int
    by_status: dict[str, int]
    by_compute: dict[str, int]
    pooled: int
    sessions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartBucket:
    """How many starts took at most `le_s` seconds and longer than the bucket before; None is no bound."""

    le_s: float | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTimes:
    """The times of the starts since Bay began, in seconds, as a histogram. A create that a pool served had
    no start of its own: the start of its sandbox was before.
    """

    count: int
    sum_s: float
    buckets: tuple[StartBucket, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostOverview:
    """The Bay that answers, and the host that it runs on. `replica` is its id where several share a database:
    the sandboxes are then those of all of them, and the rest is its own. `load` are the averages of one, five
    and fifteen minutes. `storage` is None where the files are not on the host.
    """

    version: str
    driver: str
    replica: str | None
    started_at: datetime
    uptime_s: float
    processors: int
    load: tuple[float, ...]
    memory: HostMemory
    storage: HostStorage | None
    sandboxes: HostSandboxes
    starts: StartTimes
    pool_hits: int
    pool_misses: int


SettingOrigin = Literal["option", "variable", "file", "default"]
"""An option of the command line, an environment variable, the configuration file, or none of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingInForce:
    """One setting, by its name in the configuration file with dots for tables, such as
    ``profiles.python-default.cpus``.

    `value` is None for one without a value, and for a secret: `is_set` says whether there is one. Variables
    of a profile are shown by their names alone. `origin` is None when it is not known.
    """

    name: str
    value: Any
    is_secret: bool
    is_set: bool
    origin: SettingOrigin | None
    description: str
