"""The use of resources by a sandbox over time."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsPoint:
    """The use of resources in one step, of which `at` is the beginning.

    Bytes and `cpus_used` are of `seconds`: a rate is bytes / seconds. A figure is null where it is not known,
    such as bytes on a host that does not count them.
    """

    at: datetime
    seconds: float
    """How much of the step was measured. 0 where only the memory, the disk and the execs were seen."""
    cpus_used: float | None
    """Cores in use, the mean over `seconds`."""
    cpus_max: float | None
    """The highest mean of the ten seconds between two samples."""
    memory_bytes: float | None
    """Memory of its processes, of the files that it has in memory, and of its page cache; the mean."""
    memory_max_bytes: float | None
    memory_cache_bytes: float | None
    """The page cache in that, the mean."""
    disk_bytes: float | None
    """Its cargo's files as last measured."""
    read_bytes: float | None
    """Bytes that block devices read for it."""
    written_bytes: float | None
    """Bytes that block devices wrote for it."""
    received_bytes: float | None
    """Bytes that its network brought."""
    sent_bytes: float | None
    execs: float | None
    """Execs that ran, the mean."""
    execs_max: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxMetrics:
    """The points of a range of time, oldest first. A step in which it did not run has none."""

    step: int
    """Seconds from one point to the next: 10, 60 or 900."""
    points: tuple[MetricsPoint, ...]
