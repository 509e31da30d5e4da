"""What one Bay holds on this host, seen from outside: processes, control groups, mounts, id ranges and
directories.

Processes are found by their control group, whose path names the Bay and the session. `examples.host_view`
starts from one process and knows no names; here hundreds of sessions are looked at every few seconds, so
their names are used.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from examples import host_view

KIB_PER_MIB = 1024
CGROUPS = Path("/sys/fs/cgroup")
IDS = Path("/run/bay/ids")
_CPUCLOCK_SCHED = 2
_SESSION = re.compile(r"sess-[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class View:
    """The Bay whose files are in `folder`, as `examples.own_server` lays them out."""

    folder: Path

    @property
    def instance(self) -> str:
        """The mark in the names of everything that this Bay makes; empty before it has made anything."""
        return next((path.name for path in _children(self.folder / "run")), "")

    def sessions(self) -> set[str]:
        """Sessions that have a directory, on disk or in the run directory."""
        places = [self.folder / "data/oci/sessions", self.folder / "run" / self.instance / "sessions"]
        return {path.name for place in places for path in _children(place)}

    def cargos(self) -> list[Path]:
        """Workspaces on disk, and what else Bay keeps of them beside them, in hidden directories."""
        found = _children(self.folder / "data/cargo")
        hidden = [path for path in found if path.name.startswith(".")]
        return [path for path in found if path not in hidden] + [p for h in hidden for p in _children(h)]

    def parent_groups(self) -> list[Path]:
        """The control groups of all its sessions together, in every hierarchy that is mounted: they count
        what sessions used that are gone, too.
        """
        places = [CGROUPS, *_children(CGROUPS)] if self.instance else []
        return [place / "bay" / self.instance for place in places]

    def cgroups(self) -> list[Path]:
        """The control groups of its sessions, in every hierarchy that is mounted."""
        groups = [group for parent in self.parent_groups() for group in _children(parent)]
        return [group for group in groups if _SESSION.fullmatch(group.name)]

    def processes(self) -> dict[int, str]:
        """The processes in its sessions, each with the session's id."""
        found: dict[int, str] = {}
        for group in self.cgroups():
            for parent, _, _ in os.walk(group):
                found |= {int(pid): group.name for pid in _lines(Path(parent, "cgroup.procs"))}
        return found

    def mounts(self) -> list[str]:
        """What is mounted in its directories."""
        return host_view.mounts_below(self.folder)

    def id_ranges(self) -> list[Path]:
        """The claims on ranges of host ids that it holds."""
        return [path for path in _children(IDS) if path.name.isdecimal() and str(self.folder) in _text(path)]


def mount_count() -> int:
    """How many mounts this mount namespace has."""
    return len(_lines(Path("/proc/self/mountinfo")))


def pss_mib(pids: list[int]) -> float:
    """Proportional set size of these processes together, in MiB (proc(5), smaps_rollup); one that ended
    counts nothing.
    """
    return sum(_field_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids) / KIB_PER_MIB


def rss_mib(pid: int) -> float:
    """Resident set size of a process, in MiB."""
    return _field_kib(Path(f"/proc/{pid}/status"), "VmRSS:") / KIB_PER_MIB


def available_mib() -> float:
    """Memory that this host could still give, in MiB (proc(5), MemAvailable)."""
    return _field_kib(Path("/proc/meminfo"), "MemAvailable:") / KIB_PER_MIB


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, user and system, in seconds; none of one that is gone."""
    after_name = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")


def exact_cpu_s(pid: int) -> float:
    """The same, but exact, by the clock that the kernel has for each process (clock_getcpuclockid(3))."""
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def children_cpu_s(pid: int) -> float:
    """Processor time of its children that have ended and were waited for, in seconds, by hundredths."""
    after_name = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
    return sum(map(int, after_name[13:15])) / os.sysconf("SC_CLK_TCK")


def group_cpu_s(group: Path) -> float:
    """Processor time of all that ever ran in a control group, in seconds; none where it is not counted."""
    if usage := _text(group / "cpuacct.usage"):
        return int(usage) / 1e9
    stat = dict(line.split() for line in _lines(group / "cpu.stat"))
    return int(stat.get("usage_usec", 0)) / 1e6


def parents() -> dict[int, int]:
    """Each process of this host with its parent."""
    pids = [int(path.name) for path in _children(Path("/proc")) if path.name.isdecimal()]
    stats = {pid: _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() for pid in pids}
    return {pid: int(stat[1]) for pid, stat in stats.items() if stat}


def mapped_mib(pid: int, ending: str) -> tuple[float, float]:
    """The pages that a process has of the mapped files whose paths end so, in MiB, and its proportional share
    of them (proc(5), smaps).
    """
    resident = share = 0
    is_meant = False
    for line in _lines(Path(f"/proc/{pid}/smaps")):
        words = line.split()
        if not words[0].endswith(":"):
            is_meant = len(words) > 5 and words[-1].endswith(ending)
        elif is_meant and words[0] == "Rss:":
            resident += int(words[1])
        elif is_meant and words[0] == "Pss:":
            share += int(words[1])
    return resident / KIB_PER_MIB, share / KIB_PER_MIB


def cached_mib() -> float:
    """The page cache of this host, in MiB."""
    return _field_kib(Path("/proc/meminfo"), "Cached:") / KIB_PER_MIB


def takes_signals(pid: int) -> bool:
    """Whether a kill would end it now: frozen by version 1 of the control groups (state D), it dies when it
    is thawed.
    """
    return _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()[:1] not in ([], ["D"])


def descriptors(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(_children(Path(f"/proc/{pid}/fd")))


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(_children(Path(f"/proc/{pid}/task")))


def children(pid: int) -> int:
    """How many child processes a process has, ended ones that nobody waited for included."""
    tasks = _children(Path(f"/proc/{pid}/task"))
    return sum(len(_text(task / "children").split()) for task in tasks)


def _field_kib(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in _lines(path) if line.startswith(name)), 0)


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError, OSError):  # it went meanwhile
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()
