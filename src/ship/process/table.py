"""The process table of the sandbox, read from /proc."""

import os
import stat
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ship.errors import Forbidden, NotFound
from ship.wire import rfc3339

_COMMAND_BYTES = 4096
_MAX_LISTED = 10_000
_STATUS_BYTES = 4096
_DEAD = frozenset("ZXx")
_NAMED_S, _LOOK_AGAIN_S = 0.1, 0.001

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """The useful fields of /proc/PID/stat. Times are in clock ticks, `started` since boot."""

    pid: int
    name: str
    state: str
    ppid: int
    session: int
    cpu: int
    started: int
    memory: int
    rss_pages: int

    @property
    def alive(self) -> bool:
        """Not a zombie, which no signal reaches."""
        return self.state not in _DEAD

    @property
    def leaving(self) -> bool:
        """Dead or on the way, its memory and so its environment given back already."""
        return not self.alive or self.memory == 0


Table = dict[int, Process]


def table(root: int | None = None) -> Table:
    """The processes that descend from `root` (normally Ship itself), with `root`."""
    root = os.getpid() if root is None else root
    found = {pid: process for pid in pids() if (process := read(pid))}
    for process in [p for p in found.values() if p.ppid not in found and p.ppid]:
        # Its parent died while we were reading; by now it has the one that counts.
        found[process.pid] = read(process.pid) or process
    below = _descendants(found, [root])
    return {pid: process for pid, process in found.items() if pid in below}


def pids() -> list[int]:
    """Every process there is at this instant."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def in_session(leader: int) -> list[Process]:
    """The processes of the session that `leader` has begun."""
    return [process for pid in pids() if (process := read(pid)) and process.session == leader]


def stopped_children() -> list[Process]:
    """Children of Ship that a signal has stopped."""
    return [process for process in table().values() if process.ppid == os.getpid() and process.state in "Tt"]


def describe_all(owner: Callable[[Process], str | None]) -> list[dict[str, object]]:
    """The answer to `GET /shell/processes`. `owner` names the exec to which a process belongs."""
    booted = _boot_time()
    processes = sorted(table().values())[:_MAX_LISTED]
    until = time.monotonic() + _NAMED_S
    return [{**_describe(process, booted, until), "exec_id": owner(process)} for process in processes]


def signal_one(pid: int, number: int) -> None:
    """Raises Forbidden for Ship itself, NotFound for a process that does not descend from it."""
    if pid == os.getpid():
        raise Forbidden(f"process {pid} is Ship, which runs the sandbox; stop the sandbox instead")
    if pid not in table():
        raise NotFound(f"there is no process {pid} in this sandbox")
    try:
        os.kill(pid, number)
    except ProcessLookupError as error:
        raise NotFound(f"process {pid} has just ended") from error
    except PermissionError as error:
        raise Forbidden(f"the kernel does not let Ship signal process {pid}") from error


def read(pid: int) -> Process | None:
    """The process of that number, None when there is none."""
    head, _, rest = read_file(f"/proc/{pid}/stat", 4096).rpartition(b") ")
    fields = rest.split()
    if len(fields) < 22:
        return None
    return Process(
        pid=pid,
        name=head.partition(b"(")[2].decode("utf-8", "replace"),
        state=fields[0].decode(),
        ppid=int(fields[1]),
        session=int(fields[3]),
        cpu=int(fields[11]) + int(fields[12]),
        started=int(fields[19]),
        memory=int(fields[20]),
        rss_pages=int(fields[21]),
    )


def groups(pid: int) -> frozenset[int] | None:
    """A process's supplementary groups, None after its end. Every user may read this of every process."""
    status = read_file(f"/proc/{pid}/status", _STATUS_BYTES)
    if not status:
        return None
    line = status.partition(b"\nGroups:")[2].partition(b"\n")[0]
    return frozenset(int(word) for word in line.split())


def read_file(path: str, limit: int) -> bytes:
    """The first `limit` bytes of a regular file, also in /proc; else empty. It never waits, as for a fifo."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return _read_all(descriptor, limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    except OSError:
        return b""
    finally:
        os.close(descriptor)


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


def _describe(process: Process, booted: float, until: float) -> dict[str, object]:
    command = _arguments(process, until)
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


def _arguments(process: Process, until: float) -> bytes:
    """Joined by spaces; none for a process that has erased or never had them."""
    while not (command := read_file(f"/proc/{process.pid}/cmdline", _COMMAND_BYTES).rstrip(b"\0")):
        # One that is becoming another program, as a command that has just started, has none for an instant.
        now = read(process.pid)
        if now is None or now.leaving or time.monotonic() > until:
            break
        time.sleep(_LOOK_AGAIN_S)
    return command.replace(b"\0", b" ")


def _uid(pid: int) -> int | None:
    # The owner of /proc/PID is root for processes that cannot be debugged, so this line and not that.
    status = read_file(f"/proc/{pid}/status", _STATUS_BYTES)
    line = status.partition(b"\nUid:")[2].split(maxsplit=1)
    return int(line[0]) if line else None


def _boot_time() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)


def _read_all(descriptor: int, limit: int) -> bytes:
    read = os.read(descriptor, limit)
    while 0 < len(read) < limit and (more := os.read(descriptor, limit - len(read))):
        read += more
    return read
