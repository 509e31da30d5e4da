"""What a sandbox looks like from the host: its processes, namespaces, cgroups, mounts, containers and
directories.

It knows nothing of how Bay lays things out. One process of the sandbox is found by its command line, and the
kernel says the rest about it; so this sees also what Bay forgot.
"""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SESSION_ID = re.compile(r"sess-[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class Traces:
    """What the host holds for one live session.

    `ids` are the names that its directories and mounts may carry, `seen_s` is when it was looked at, in
    seconds since the host was booted.
    """

    namespaces: frozenset[str]
    cgroups: frozenset[Path]
    ids: frozenset[str]
    seen_s: float


def pids_of(argv: list[str]) -> list[int]:
    """Every process on the host with exactly this command line."""
    wanted = b"".join(word.encode() + b"\0" for word in argv)
    return [pid for pid in _pids() if _read(Path(f"/proc/{pid}/cmdline")) == wanted]


def traces_of(pid: int, server_pid: int, ids: set[str]) -> Traces:
    """What `pid`, a process of a sandbox, has that the server has not."""
    seen_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    cgroups = _cgroups(pid) - _cgroups(server_pid)
    names = {found for path in cgroups for found in _SESSION_ID.findall(str(path))}
    return Traces(
        frozenset(_namespaces(pid) - _namespaces(server_pid)),
        frozenset(cgroups),
        frozenset(ids | names),
        seen_s,
    )


def leftovers(traces: Traces, folder: Path, server_pid: int) -> list[str]:
    """What of `traces` is still on the host, each in words; `folder` is where the server keeps its files."""
    return sorted(
        [
            *(
                f"namespace {name}"
                for name in traces.namespaces & _held_namespaces(traces, folder, server_pid)
            ),
            *(f"cgroup {path}" for path in traces.cgroups if path.exists()),
            *(f"mount {point}" for point in _mount_points() if _names(point, traces.ids)),
            *(f"directory {path}" for path in _tree(folder) if _names(path.name, traces.ids)),
            *(f"container {path.parent.name}" for path in _container_states(folder)),
        ]
    )


def mounts_below(folder: Path) -> list[str]:
    """Mount points of this mount namespace in `folder`, the deepest last."""
    return [point for point in _mount_points() if point.startswith(f"{folder}/")]


def unmount_below(folder: Path) -> list[str]:
    """Detach every mount in `folder`; what there was, in words."""
    points = mounts_below(folder)
    for point in reversed(points):
        subprocess.run(["umount", "--lazy", point], check=False, timeout=20)
    return [f"mount {point}" for point in points]


def remove_containers(folder: Path) -> list[str]:
    """Kill and remove every runc container whose state is in `folder`; what there was, in words."""
    states = list(_container_states(folder))
    for state in states:
        container = state.parent
        command = ["runc", "--root", str(container.parent), "delete", "--force", container.name]
        subprocess.run(command, check=False, timeout=20)
    return [f"container {state.parent.name}" for state in states]


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return b""


def _links(folder: Path) -> set[str]:
    """Where the links in a folder of /proc point to."""
    try:
        return {os.readlink(entry) for entry in folder.iterdir()}
    except (FileNotFoundError, ProcessLookupError):
        return set()
    except (
        PermissionError
    ):  # in a container, processes of its host; no sandbox of ours is more than root may see
        return set()


def _namespaces(pid: int) -> set[str]:
    return _links(Path(f"/proc/{pid}/ns"))


def _held_namespaces(traces: Traces, folder: Path, server_pid: int) -> set[str]:
    """Every namespace that a process of that time is in, a mount in `folder` holds or the server has open.

    The kernel gives the number of a namespace that has ended to the next one, which may be another program's.
    So a process that began after the session was looked at says nothing of it, nor does another's mount.
    """
    used = {name for pid in _pids() if _began_s(pid) <= traces.seen_s for name in _namespaces(pid)}
    mounts = [line.split() for line in _mountinfo() if " - nsfs " in line]
    held = {fields[3].lstrip("/") for fields in mounts if fields[4].startswith(f"{folder}/")}
    return used | held | _links(Path(f"/proc/{server_pid}/fd"))


def _began_s(pid: int) -> float:
    """When a process began, in seconds since the host was booted, rounded down; never, if it has ended."""
    fields = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK") if fields else float("inf")


def _cgroups(pid: int) -> set[Path]:
    """The cgroup directories of `pid`, in every hierarchy that is mounted."""
    lines = _read(Path(f"/proc/{pid}/cgroup")).decode().splitlines()
    names = {line.split(":", 2)[2].lstrip("/") for line in lines} - {""}
    roots = [line.split()[4] for line in _mountinfo() if re.search(r" - cgroup2? ", line)]
    return {path for root in roots for name in names if (path := Path(root, name)).is_dir()}


def _mountinfo() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _mount_points() -> list[str]:
    return [line.split()[4] for line in _mountinfo()]


def _names(text: str, ids: frozenset[str]) -> bool:
    return any(word in text for word in ids)


def _tree(folder: Path) -> Iterator[Path]:
    """Everything below `folder` on its own file system: nothing is entered that is mounted there."""
    device = folder.stat().st_dev
    for parent, directories, files in os.walk(folder):
        here = Path(parent)
        yield from (here / name for name in directories + files)
        directories[:] = [name for name in directories if _device(here / name) == device]


def _device(path: Path) -> int:
    try:
        return path.lstat().st_dev
    except FileNotFoundError:
        return -1


def _container_states(folder: Path) -> Iterator[Path]:
    """Where runc keeps what it knows of its containers.

    Root's own files: a tenant may call a file state.json too.
    """
    return (path for path in _tree(folder) if path.name == "state.json" and path.lstat().st_uid == 0)
