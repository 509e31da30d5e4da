"""The usage of a session, from the files of its control groups: version 2, or each hierarchy of version 1."""

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path

from bay.drivers.base import SessionUsage
from bay.drivers.oci import cgroup_limits
from bay.drivers.oci.cgroups import MOUNT, directories

_MEMORY = ("memory.usage_in_bytes", "memory.current")
_CACHED = (("total_cache", "total_shmem"), ("file", "shmem"))
"""The keys of `memory.stat` for files in memory, and those of them that are of a tmpfs."""


def read(cgroup: str, mount: Path = MOUNT) -> SessionUsage | None:
    """The usage of `cgroup`, frozen or not; None without it. A file that is missing is no error. Blocks."""
    if not (groups := directories(cgroup, mount)):
        return None
    taken_s = time.monotonic()
    return SessionUsage(
        taken_s=taken_s,
        cpu_usec=_cpu_usec(groups),
        memory_bytes=_number(groups, *_MEMORY),
        memory_cache_bytes=_cache(groups),
        pids=_number(groups, "pids.current"),
        limits=cgroup_limits.read(cgroup, mount),
    )


def _cpu_usec(groups: Iterable[Path]) -> int | None:
    """By `cpuacct` of version 1, in nanoseconds, or by `cpu.stat`, which has the time on version 2 alone."""
    nanoseconds = _number(groups, "cpuacct.usage")
    return _keyed(groups, "cpu.stat").get("usage_usec") if nanoseconds is None else nanoseconds // 1000


def _cache(groups: Iterable[Path]) -> int | None:
    found = _keyed(groups, "memory.stat")
    caches = (found[cached] - found[shared] for cached, shared in _CACHED if {cached, shared} <= found.keys())
    return next((max(0, size) for size in caches), None)


def _number(groups: Iterable[Path], *names: str) -> int | None:
    """The number in the first of the files that is there."""
    for text in _texts(groups, *names):
        return int(text)
    return None


def _keyed(groups: Iterable[Path], name: str) -> dict[str, int]:
    """The lines `key number` of the files of that name."""
    found: dict[str, int] = {}
    for text in _texts(groups, name):
        found |= {key: int(value) for key, value in (line.split() for line in text.splitlines())}
    return found


def _texts(groups: Iterable[Path], *names: str) -> Iterable[str]:
    for group in groups:
        for name in names:
            with contextlib.suppress(OSError):  # of another hierarchy, or the group is being removed
                yield (group / name).read_text()
