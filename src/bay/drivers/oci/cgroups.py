"""The control groups of a session: runc makes them; Bay freezes, thaws, kills and removes them.

By the file system alone, for version 2 and every hierarchy of version 1: after a crash a group may have
processes and no container that runc knows, and starting runc takes twenty milliseconds, a write a tenth.
"""

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Generator
from pathlib import Path

from bay.linux.processes import kill_and_wait

MOUNT = Path("/sys/fs/cgroup")
FREEZE_S = 5.0
_REMOVE_S = 5.0
_LOOK_AGAIN_S = 0.001
_ROUNDS_BEFORE_A_THAW = 20
_FREEZERS = ("freezer.state", "cgroup.freeze")  # of version 1 first: a hybrid host has both
_THAWED = (("freezer.state", "THAWED"), ("cgroup.freeze", "0"))


def directories(cgroup: str, mount: Path = MOUNT) -> list[Path]:
    """The directories of `cgroup`, a path like /bay/x/y: one, or one a hierarchy on version 1."""
    relative = cgroup.lstrip("/")
    candidates = [mount / relative, *(hierarchy / relative for hierarchy in mount.iterdir())]
    return [path for path in candidates if path.is_dir()]


def huge_page_sizes(mount: Path = MOUNT, pages: Path = Path("/sys/kernel/mm/hugepages")) -> tuple[str, ...]:
    """The sizes of huge pages that a control group here can limit, as runc writes them (2MB, 1GB)."""
    unified = _read(mount / "cgroup.controllers")
    limits = "hugetlb" in unified.split() if unified is not None else (mount / "hugetlb").is_dir()
    if not (limits and pages.is_dir()):
        return ()
    sizes = (path.name.removeprefix("hugepages-").removesuffix("kB") for path in sorted(pages.iterdir()))
    return tuple(_in_units(int(size)) for size in sizes)


def _in_units(kib: int) -> str:
    for unit, size in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kib >= size:
            return f"{kib // size}{unit}"
    return f"{kib}KB"


def is_frozen(cgroup: str, mount: Path = MOUNT) -> bool:
    """Whether the processes of `cgroup` are frozen by their own group (not by one above)."""
    files = ("freezer.self_freezing", "cgroup.freeze")
    return any(_read(place / name) == "1" for place in directories(cgroup, mount) for name in files)


def freeze(cgroup: str, timeout_s: float = FREEZE_S, mount: Path = MOUNT) -> None:
    """Freeze every process of `cgroup` and return when all stand still; no group is fine. Blocks.
    Raises TimeoutError, with the group thawed again, when some process could not be frozen in time.
    """
    try:
        with _unless_gone():
            _freeze(cgroup, time.monotonic() + timeout_s, mount)
    except OSError:
        # Half frozen is the worst state: nothing answers, and the session does not read as paused.
        thaw(cgroup, mount)
        raise


def thaw(cgroup: str, mount: Path = MOUNT) -> None:
    """Undo `freeze`, here and in every group below. Takes effect at once, so there is nothing to wait for."""
    for directory in directories(cgroup, mount):
        for parent, _, files in os.walk(directory):
            for name, value in _THAWED:
                if name in files:
                    with _unless_gone():
                        Path(parent, name).write_text(value)


def kill(cgroup: str, timeout_s: float = 10.0) -> bool:
    """Kill every process in `cgroup`, frozen or not, and wait; False when some outlive the time. Blocks."""
    deadline = time.monotonic() + timeout_s
    thaw(cgroup)  # version 1 delivers no signal to a frozen process, not even this one
    for directory in directories(cgroup):
        # A fork may slip in between reading and killing; each round leaves fewer parents.
        while pids := processes_in(directory):
            if not kill_and_wait(pids, deadline - time.monotonic()):
                return False
    return True


def processes(cgroup: str) -> list[int]:
    """The processes in `cgroup`, in any hierarchy."""
    return sorted({pid for directory in directories(cgroup) for pid in processes_in(directory)})


def was_short_of_memory(cgroup: str, mount: Path = MOUNT) -> bool:
    """Whether the kernel has killed a process of `cgroup` because it may have no more memory."""
    files = ("memory.oom_control", "memory.events")  # of version 1 first
    texts = (_read(place / name) or "" for place in directories(cgroup, mount) for name in files)
    counts = (line.split()[1] for text in texts for line in text.splitlines() if line.startswith("oom_kill "))
    return any(count != "0" for count in counts)


def join(cgroup: str, pid: int, *, like: int) -> None:
    """Move the process `pid` into `cgroup`, in every hierarchy in which the process `like` is there.

    Raises OSError, also when they are not in the same groups afterwards.
    """
    for directory in directories(cgroup):
        (directory / "cgroup.procs").write_text(str(pid))
    if _groups_of(pid) != _groups_of(like):
        raise OSError(errno.ENOENT, "the first process cannot join its control groups")


def _groups_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def freezer(cgroup: str, mount: Path = MOUNT) -> Path:
    """The directory by which `freeze` freezes `cgroup`. Raises OSError where there is none."""
    groups = directories(cgroup, mount)
    for name in _FREEZERS:
        for group in groups:
            if (group / name).exists():
                return group
    raise OSError(errno.ENOTSUP, f"the control group {cgroup} has no freezer")


def freeze_for_tracer(cgroup: str, timeout_s: float = FREEZE_S, mount: Path = MOUNT) -> Path:
    """Have the frozen `cgroup` be frozen so that a tracer can attach to each process, and return by which
    directory. A process that was stopped by a signal and is then frozen by version 1 lets none attach, so
    version 2 takes over where the host has it. Blocks; raises OSError.
    """
    for group in directories(cgroup, mount):
        if (group / "cgroup.freeze").exists() and processes_in(group):
            (group / "cgroup.freeze").write_text("1")
            for file in (one / "freezer.state" for one in directories(cgroup, mount)):
                if file.exists():
                    file.write_text("THAWED")  # no process comes further than to the other freezer
            _freeze_2(group, time.monotonic() + timeout_s)
            return group
    return freezer(cgroup, mount)


def kill_frozen(cgroup: str) -> bool:
    """As `kill`, with no instruction of a frozen process run before its end."""
    for directory in directories(cgroup):
        for pid in processes_in(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # delivered with the thaw
    return kill(cgroup)


def remove(cgroup: str, mount: Path = MOUNT) -> None:
    """Remove `cgroup` and the groups below it, all empty of processes. Blocks; raises OSError."""
    for directory in directories(cgroup, mount):
        for parent, _, _ in os.walk(directory, topdown=False):
            _rmdir(parent)


def remove_if_empty(cgroup: str) -> None:
    """Remove `cgroup` where nothing is below it."""
    for directory in directories(cgroup):
        with contextlib.suppress(OSError):
            directory.rmdir()


def children(cgroup: str) -> set[str]:
    """The names of the groups directly below `cgroup`, in any hierarchy."""
    groups = (child for directory in directories(cgroup) for child in directory.iterdir())
    return {group.name for group in groups if group.is_dir()}


def _rmdir(directory: str) -> None:
    deadline = time.monotonic() + _REMOVE_S
    while True:
        try:
            return os.rmdir(directory)
        except FileNotFoundError:
            return None
        except OSError:
            # The kernel removes a dead process from its group a moment after its death, without an event.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def processes_in(directory: Path) -> list[int]:
    """The processes in the control group at `directory`, and in those below it."""
    found: list[int] = []
    for parent, _, _ in os.walk(directory):
        found += [int(pid) for pid in (_read(Path(parent, "cgroup.procs")) or "").split() if pid != "0"]
    return found


def _freeze(cgroup: str, deadline: float, mount: Path) -> None:
    if not directories(cgroup, mount):
        return
    group = freezer(cgroup, mount)
    (_freeze_1 if (group / "freezer.state").exists() else _freeze_2)(group, deadline)


def _freeze_1(directory: Path, deadline: float) -> None:
    # A fork that slips in leaves the group at FREEZING for good, without an event. Writing again helps with
    # some, a short thaw with the others (runc does the same, libcontainer/cgroups/fs/freezer.go).
    state = directory / "freezer.state"
    rounds = 0
    while True:
        state.write_text("FROZEN")
        if state.read_text().strip() == "FROZEN":
            return
        _check_time(directory, deadline)
        time.sleep(_LOOK_AGAIN_S)
        rounds += 1
        if rounds % _ROUNDS_BEFORE_A_THAW == 0:
            state.write_text("THAWED")


def _freeze_2(directory: Path, deadline: float) -> None:
    with (directory / "cgroup.events").open("rb", buffering=0) as events:
        changed = select.poll()
        changed.register(events, select.POLLPRI)  # the event of kernfs for changed contents
        (directory / "cgroup.freeze").write_text("1")
        while b"frozen 1" not in os.pread(events.fileno(), 4096, 0):
            _check_time(directory, deadline)
            # Not by the event alone: the kernel holds it back for up to 10 ms after the last one.
            changed.poll(_LOOK_AGAIN_S * 1000)


def _check_time(directory: Path, deadline: float) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{directory} does not come to a halt")


@contextlib.contextmanager
def _unless_gone() -> Generator[None]:
    """A group that is removed meanwhile has no process left, so the work on it is done."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
