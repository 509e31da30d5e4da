"""The processes of the sandbox, as /proc tells them, and how a whole tree of them is ended.

A tree is what descends from an exec's first process. Parents die and children move to Ship, so three things are followed: who
is whose child now, which session (setsid) a member leads or is in, and `SHIP_EXEC_ID`, which every program inherits
unless it drops it. A program that does all of that at once (its own session, its parent gone, its
environment cleared) before the tree is looked at is not found; only a control group of its own would tell.
Rejected: a subreaper per exec, since a leader that does not reap would be left with zombies.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ship.clock import rfc3339
from ship.identity import Identity

MARKER = "SHIP_EXEC_ID"

_ENVIRON_BYTES = 256 * 1024
_COMMAND_BYTES = 4096
_MOST_LISTED = 10_000
_DEAD = frozenset("ZXx")
_FREEZE_PASSES = 20
_LOOKS = 5
_KILL_BOUND_S = 5.0
_LOOK_AGAIN_S = (0.002, 0.005, 0.01, 0.02, 0.05)

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """One line of /proc/PID/stat, the fields that are of use. Times are in clock ticks, `started` since boot."""

    pid: int
    name: str
    state: str
    ppid: int
    session: int
    cpu: int
    started: int
    rss_pages: int

    @property
    def alive(self) -> bool:
        """Not a zombie, which no signal reaches."""
        return self.state not in _DEAD


Table = dict[int, Process]


def table(root: int | None = None) -> Table:
    """The processes that descend from `root` (normally Ship itself), with `root`."""
    root = os.getpid() if root is None else root
    found = {int(name): stat for name in os.listdir("/proc") if name.isdigit() and (stat := _read_stat(name))}
    for process in [p for p in found.values() if p.ppid not in found and p.ppid]:
        # Its parent died while we were reading; by now it has the one that counts.
        found[process.pid] = _read_stat(str(process.pid)) or process
    below = _descendants(found, [root])
    return {pid: process for pid, process in found.items() if pid in below}


def members(exec_id: str, leader: int | None, identities: Iterable[Identity]) -> list[Process]:
    """The living processes of an exec. `leader` is its first process while that is not reaped, else None."""
    here = table()
    here.pop(os.getpid(), None)
    roots = {leader} if leader in here else set[int]()
    found = _descendants(here, roots)
    strangers = [pid for pid in here if pid not in found]
    found |= _descendants(here, _marked(strangers, exec_id, identities))
    found |= _same_sessions(here, found)
    return [here[pid] for pid in found if here[pid].alive]


def stopped_children() -> list[Process]:
    """Children of Ship that a signal has stopped."""
    return [process for process in table().values() if process.ppid == os.getpid() and process.state in "Tt"]


def send(processes: Iterable[Process], number: int) -> None:
    """Signal each; one that is gone is no error.

    Nothing is awaited between looking and this, and Ship reaps on the same thread, so that a number
    can only be another's where a parent inside reaped and 32,768 processes came since.
    """
    for process in processes:
        try:
            os.kill(process.pid, number)
        except (ProcessLookupError, PermissionError):
            continue


async def end(find: Callable[[], list[Process]], deadline: Callable[[], float]) -> bool:
    """TERM to all that `find` gives, KILL at `deadline` (monotonic seconds, asked again and again); True when none is left."""
    found = find()
    send(found, signal.SIGTERM)
    send(found, signal.SIGCONT)  # a stopped program would not hear the first
    for pause in _pauses(deadline):
        if _none_left(find):
            return True
        await asyncio.sleep(pause)
    bound = time.monotonic() + _KILL_BOUND_S
    for pause in _pauses(lambda: bound):
        if not _freeze_and_kill(find) and _none_left(find):
            return True
        await asyncio.sleep(pause)
    return _none_left(find)


def describe_all() -> list[dict[str, object]]:
    """What `GET /shell/processes` answers."""
    booted = _boot_time()
    processes = sorted(table().values())[:_MOST_LISTED]
    return [_describe(process, booted) for process in processes]


def _none_left(find: Callable[[], list[Process]]) -> bool:
    # One look is not enough: what forks and exits while /proc is read may be seen neither before nor after.
    return not any(find() for _ in range(_LOOKS))


def _freeze_and_kill(find: Callable[[], list[Process]]) -> bool:
    """One pass; False when there was nothing left to kill.

    Stopped first and killed then: what forks faster than it can be killed cannot fork while it is stopped.
    """
    stopped: set[int] = set()
    found: list[Process] = []
    for _ in range(_FREEZE_PASSES):
        found = find()
        fresh = [process for process in found if process.pid not in stopped]
        if not fresh:
            break
        send(fresh, signal.SIGSTOP)
        stopped.update(process.pid for process in fresh)
    send(found, signal.SIGKILL)
    return bool(stopped)


def _pauses(deadline: Callable[[], float]) -> Iterable[float]:
    steps = iter(_LOOK_AGAIN_S)
    while (left := deadline() - time.monotonic()) > 0:
        yield min(left, next(steps, _LOOK_AGAIN_S[-1]))


def _descendants(processes: Table, roots: Iterable[int]) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.ppid, []).append(process.pid)
    found: set[int] = set()
    waiting = [pid for pid in roots if pid in processes]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return found


def _same_sessions(processes: Table, found: set[int]) -> set[int]:
    # An exec leads a session of its own, so every session that a member is in was made in its tree.
    before = -1
    while len(found) != before:
        before = len(found)
        sessions = {processes[pid].session for pid in found} - {0}
        found = _descendants(processes, [p.pid for p in processes.values() if p.session in sessions])
    return found


def _marked(pids: list[int], exec_id: str, identities: Iterable[Identity]) -> set[int]:
    wanted = b"\0" + f"{MARKER}={exec_id}".encode() + b"\0"
    found: set[int] = set()
    for identity in identities:
        # The kernel shows a program's environment to its own user only; root without CAP_SYS_PTRACE is not exempt.
        with identity.using_files():
            found.update(pid for pid in pids if pid not in found and wanted in _environ(pid))
    return found


def _environ(pid: int) -> bytes:
    return b"\0" + _read(f"/proc/{pid}/environ", _ENVIRON_BYTES) + b"\0"


def _read_stat(name: str) -> Process | None:
    head, _, rest = _read(f"/proc/{name}/stat", 4096).rpartition(b") ")
    fields = rest.split()
    if len(fields) < 22:
        return None
    return Process(
        pid=int(name),
        name=head.partition(b"(")[2].decode("utf-8", "replace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        session=int(fields[3]),
        cpu=int(fields[11]) + int(fields[12]),
        started=int(fields[19]),
        rss_pages=int(fields[21]),
    )


def _describe(process: Process, booted: float) -> dict[str, object]:
    command = _read(f"/proc/{process.pid}/cmdline", _COMMAND_BYTES).rstrip(b"\0").replace(b"\0", b" ")
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "uid": _uid(process.pid),
        "state": process.state,
        "command": command.decode("utf-8", "replace") or f"[{process.name}]",
        "rss_bytes": process.rss_pages * _PAGE,
        "cpu_s": process.cpu / _TICKS,
        "started_at": rfc3339(booted + process.started / _TICKS),
    }


def _uid(pid: int) -> int | None:
    # The owner of /proc/PID is root for what cannot be debugged, so this line and not that.
    status = _read(f"/proc/{pid}/status", 4096)
    line = status.partition(b"\nUid:")[2].split(maxsplit=1)
    return int(line[0]) if line else None


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _read(path: str, limit: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return _read_all(descriptor, limit)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, limit: int) -> bytes:
    read = os.read(descriptor, limit)
    while 0 < len(read) < limit and (more := os.read(descriptor, limit - len(read))):
        read += more
    return read
