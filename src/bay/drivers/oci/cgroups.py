"""The control groups of a session: runc makes them, this asks whether they are frozen and removes what is left.

Works on the file system alone, for version 2 and for every hierarchy of version 1, because after a
crash there may be no container that runc knows and still a group with processes in it.
"""

import contextlib
import os
import time
from pathlib import Path

from bay.drivers.processes import kill_and_wait

MOUNT = Path("/sys/fs/cgroup")
_REMOVE_S = 5.0


def directories(cgroup: str, mount: Path = MOUNT) -> list[Path]:
    """Where `cgroup` (a path like /bay/x/y) exists now: one directory on version 2, up to one a hierarchy on version 1."""
    relative = cgroup.lstrip("/")
    candidates = [mount / relative, *(hierarchy / relative for hierarchy in mount.iterdir())]
    return [path for path in candidates if path.is_dir()]


def is_frozen(cgroup: str, mount: Path = MOUNT) -> bool:
    """Whether the processes of `cgroup` are frozen by their own group (not by one above)."""
    for directory in directories(cgroup, mount):
        if (
            _read(directory / "freezer.state") in ("FROZEN", "FREEZING")
            or _read(directory / "cgroup.freeze") == "1"
        ):
            return True
    return False


def kill(cgroup: str, timeout_s: float = 10.0) -> bool:
    """Kill every process in `cgroup`, frozen or not, and wait; False when some would not end in time. Blocks."""
    deadline = time.monotonic() + timeout_s
    for directory in directories(cgroup):
        _thaw(directory)  # version 1 delivers no signal to a frozen process, not even this one
    for directory in directories(cgroup):
        # A fork may slip in between reading and killing; each round leaves fewer parents.
        while pids := _processes(directory):
            if not kill_and_wait(pids, deadline - time.monotonic()):
                return False
    return True


def remove(cgroup: str) -> None:
    """Remove `cgroup` with what is below it; it must be empty of processes. Blocks; raises OSError."""
    for directory in directories(cgroup):
        for parent, _, _ in os.walk(directory, topdown=False):
            _rmdir(parent)


def remove_if_empty(cgroup: str) -> None:
    """Remove `cgroup` where nothing is below it."""
    for directory in directories(cgroup):
        with contextlib.suppress(OSError):
            directory.rmdir()


def children(cgroup: str) -> set[str]:
    """The names of the groups directly below `cgroup`, in any hierarchy."""
    return {
        child.name for directory in directories(cgroup) for child in directory.iterdir() if child.is_dir()
    }


def _rmdir(directory: str) -> None:
    deadline = time.monotonic() + _REMOVE_S
    while True:
        try:
            return os.rmdir(directory)
        except FileNotFoundError:
            return None
        except OSError:
            # The kernel lets go of a dead process a moment after telling that it died, and tells nobody when.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)


def _processes(directory: Path) -> list[int]:
    found: list[int] = []
    for parent, _, _ in os.walk(directory):
        found += [int(pid) for pid in (_read(Path(parent, "cgroup.procs")) or "").split() if pid != "0"]
    return found


def _thaw(directory: Path) -> None:
    for name, value in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
        if (directory / name).exists():
            (directory / name).write_text(value)


def _read(file: Path) -> str | None:
    try:
        return file.read_text().strip()
    except OSError:
        return None
