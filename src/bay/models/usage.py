"""The use of resources by a sandbox at one moment."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxUsage:
    """The resources that a sandbox uses and may use, in bytes, cores and processes, at the time `at`.

    `cpu_usec`, `memory_bytes`, `memory_cache_bytes` and `pids` are of its live session, running or frozen;
    null without one, and where the host does not tell. A limit is null only where there is none, or where
    its profile is no longer there.
    """

    at: datetime
    cpus: float | None
    """Cores that it may use."""
    cpus_used: float | None
    """Cores that it used, as a mean over the time that was asked for; null when none was."""
    cpu_usec: int | None
    """Processor time since its session began, microseconds."""
    memory_bytes: int | None
    """Memory of its processes, of the files that it has in memory (`/tmp`), and of its page cache."""
    memory_cache_bytes: int | None
    """The page cache in that: copies of files on disk, which are freed when memory is wanted."""
    memory_limit_bytes: int | None
    pids: int | None
    """Processes and threads."""
    pids_limit: int | None
    disk_bytes: int | None
    """Its cargo's files, which without compute are counted too; null before the first measurement."""
    disk_limit_bytes: int | None
    """The limit of its cargo; null = no limit. Hosts without quotas do not enforce it."""
    disk_measured_at: datetime | None
    """When `disk_bytes` was measured: now where quotas count, else up to some minutes ago."""
