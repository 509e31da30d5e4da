"""The figures of control groups: read by a driver on its host, and by Ship in a pod (`GET /usage`)."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_MEMORY = ("memory.usage_in_bytes", "memory.current")
_CACHED = (("total_cache", "total_shmem"), ("file", "shmem"))
"""The keys of `memory.stat` for files in memory, and those of them that are of a tmpfs."""


class GroupUsage(NamedTuple):
    """The usage that control groups count; None for a figure that they do not have."""

    cpu_usec: int | None = None
    """Processor time since the group was made."""
    memory_bytes: int | None = None
    """Memory that counts against the limit, with the page cache."""
    memory_cache_bytes: int | None = None
    """The page cache without the files of a tmpfs."""
    pids: int | None = None
    """Processes and threads."""


def read(groups: Iterable[Path]) -> GroupUsage:
    """The usage by the files of `groups`: one directory, or one a hierarchy on version 1. A file that is
    missing is no error. Blocks.
    """
    groups = tuple(groups)
    return GroupUsage(
        _cpu_usec(groups), _number(groups, *_MEMORY), _cache(groups), _number(groups, "pids.current")
    )


def own_groups(mount: Path = Path("/sys/fs/cgroup")) -> list[Path]:
    """The groups of this process, where a container sees its own at `mount`, as runtimes have it."""
    if (mount / "cgroup.controllers").exists():
        # The root of the host has no such file: its figures would be those of the host.
        return [mount] if (mount / "cgroup.events").exists() else []
    return [path for name in ("cpuacct", "memory", "pids") if (path := mount / name).is_dir()]


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
