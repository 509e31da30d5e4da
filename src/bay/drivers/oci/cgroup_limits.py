"""The limits of a session's control groups, changed and read while it lives; runc sets the first ones.

By the file system alone, for version 2 and every hierarchy of version 1, frozen or not.
"""

import contextlib
import errno
from collections.abc import Generator
from pathlib import Path

from bay.drivers.base import MemoryInUse
from bay.drivers.oci.cgroups import MOUNT, directories
from bay.models import Resources
from bay.units import MIB

CPU_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1000  # the kernel takes no less


def cpu_quota(cpus: float) -> int:
    """Microseconds of processor time in each period."""
    return max(_LEAST_QUOTA_US, round(cpus * CPU_PERIOD_US))


def change(cgroup: str, resources: Resources, mount: Path = MOUNT) -> None:
    """Hold `cgroup` to `resources`; no group is fine. Blocks. Raises OSError, or MemoryInUse with all limits
    as they were: the memory is first, because nothing else is refused.
    """
    with _unless_gone():
        groups = directories(cgroup, mount)
        for group in _having(groups, "memory.limit_in_bytes"):
            _limit_memory_1(group, resources.memory)
        for group in _having(groups, "memory.max"):
            _limit_memory_2(group, resources.memory)
        quota = cpu_quota(resources.cpus)
        for group in _having(groups, "cpu.cfs_quota_us"):
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        for group in _having(groups, "cpu.max"):
            (group / "cpu.max").write_text(f"{quota} {CPU_PERIOD_US}")
        for group in _having(groups, "pids.max"):
            (group / "pids.max").write_text(str(resources.pids))


def read(cgroup: str, mount: Path = MOUNT) -> Resources | None:
    """The resources that `cgroup` is held to; None without it, or without some of the limits. Blocks."""
    found: dict[str, str] = {}
    for group in directories(cgroup, mount):
        for name in ("memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max", "pids.max"):
            with contextlib.suppress(OSError):
                found[name] = (group / name).read_text().split()[0]
    memory = found.get("memory.limit_in_bytes") or found.get("memory.max")
    quota, pids = found.get("cpu.cfs_quota_us") or found.get("cpu.max"), found.get("pids.max")
    if memory is None or quota is None or pids is None or "max" in (memory, quota, pids):
        return None
    return Resources(cpus=int(quota) / CPU_PERIOD_US, memory=int(memory), pids=int(pids))


def _limit_memory_1(group: Path, wanted: int) -> None:
    """The limit of memory and that of memory and swap together, which may never be below it."""
    limit, with_swap = group / "memory.limit_in_bytes", group / "memory.memsw.limit_in_bytes"
    before = int(limit.read_text())
    files = [file for file in (limit, with_swap) if file.exists()]
    written: list[Path] = []
    try:
        for file in files if wanted < before else reversed(files):
            file.write_text(str(wanted))  # the kernel frees what it can first
            written.append(file)
    except OSError as error:
        for file in reversed(written):
            file.write_text(str(before))
        if error.errno != errno.EBUSY:
            raise
        raise _in_use(group / "memory.usage_in_bytes", wanted) from error


def _limit_memory_2(group: Path, wanted: int) -> None:
    """By way of `memory.high`, which frees what it can: a lower `memory.max` kills instead of refusing."""
    high = group / "memory.high"
    high.write_text(str(wanted))
    try:
        if int((group / "memory.current").read_text()) > wanted:
            raise _in_use(group / "memory.current", wanted)
        (group / "memory.max").write_text(str(wanted))
    finally:
        high.write_text("max")


def _in_use(file: Path, wanted: int) -> MemoryInUse:
    used = int(file.read_text())
    return MemoryInUse(
        f"its processes and the files in /tmp hold {-(-used // MIB)} MiB of memory, which leaves no way to give it "
        f"{wanted // MIB} MiB; end some of them, or ask for more",
        details={"used_bytes": used},
    )


def _having(groups: list[Path], name: str) -> list[Path]:
    return [group for group in groups if (group / name).exists()]


@contextlib.contextmanager
def _unless_gone() -> Generator[None]:
    """A group that is removed meanwhile has nothing left to be limited."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
