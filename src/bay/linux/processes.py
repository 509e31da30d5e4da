"""Processes by pid and start time, so that a reused pid is never mistaken for the first process."""

import contextlib
import os
import select
import signal
from collections.abc import Generator
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_START_TIME = 19  # of the fields behind the command's name in /proc/PID/stat
_STATE, _PARENT, _THREADS, _RESIDENT = 0, 1, 17, 21
_TICKS = slice(11, 15)  # of the process in user and kernel mode, and of the children that it has reaped


def boot_id() -> str:
    """The id of this boot of the host; start times count from it."""
    return _BOOT_ID.read_text().strip()


def bare_environment() -> dict[str, str]:
    """The environment of a host's program that runs beside sandboxes: Bay's own has its key and passwords."""
    return {"PATH": os.environ.get("PATH", os.defpath)}


def start_time(pid: int) -> int | None:
    """When `pid` started, in clock ticks since boot; None for a reaped process or a zombie."""
    fields = _stat(pid)
    return int(fields[_START_TIME]) if fields and fields[_STATE] not in ("Z", "X") else None


def open_process(pid: int, started: int) -> int | None:
    """A pidfd of the process `pid` that started at `started`, or None when it has ended."""
    with contextlib.suppress(ProcessLookupError), contextlib.ExitStack() as closed:
        pidfd = os.pidfd_open(pid)
        closed.callback(os.close, pidfd)
        if start_time(pid) == started:
            closed.pop_all()
            return pidfd
    return None


def has_ended(child: int, timeout_s: float) -> bool:
    """Wait for a child's end without reaping it; False after `timeout_s`. Blocks. `Popen.wait` with a timeout
    looks again after 0.5, 1, 2, … ms: half of the time was spent waiting.
    """
    with closing_fd(os.pidfd_open(child)) as pidfd:
        return ends_within(pidfd, timeout_s)


def kill_and_wait(pids: list[int], timeout_s: float) -> bool:
    """Kill `pids` and wait until all have ended; False when some had not after `timeout_s`. Blocks."""
    pidfds = [pidfd for pid in pids if (pidfd := _killed(pid)) is not None]
    try:
        return all(ends_within(pidfd, timeout_s) for pidfd in pidfds)
    finally:
        for pidfd in pidfds:
            os.close(pidfd)


def kill_tree(pid: int, timeout_s: float) -> bool:
    """Kill `pid` with all that descends from it, and wait; False when some outlive `timeout_s`. Blocks.
    First all are stopped and looked for again, so that none is forked and re-parented in between.
    """
    found: list[int] = []
    while (everyone := [pid, *descendants(pid)]) != found:
        found = everyone
        for one in everyone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGSTOP)
    return kill_and_wait(found, timeout_s)


def holders(file: Path) -> list[int]:
    """The other processes that have `file` open. Blocks for some milliseconds: it reads all descriptors."""
    found = (int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid())
    return [pid for pid in found if _has_open(pid, str(file))]


def _has_open(pid: int, file: str) -> bool:
    descriptors = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):  # it ended, or it is none of ours
        return any(_link(f"{descriptors}/{fd}") == file for fd in os.listdir(descriptors))
    return False


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:
        return ""


def owned_by(users: range) -> list[int]:
    """The processes that run as one of `users`. Blocks for some milliseconds: it looks at all."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return [pid for pid in pids if _user_of(pid) in users]


def _user_of(pid: int) -> int:
    """The real user id; the owner of the directory in /proc is root's for a process that hides."""
    with contextlib.suppress(OSError, ValueError):
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        return int(status.partition("\nUid:")[2].split(maxsplit=1)[0])
    return -1


def is_stopped(pid: int) -> bool:
    """Whether `pid` is stopped by a signal."""
    fields = _stat(pid)
    return fields is not None and fields[_STATE] == "T"


def resident_bytes(pid: int) -> int:
    """The memory that `pid` holds now, with what it shares; 0 when it has ended."""
    fields = _stat(pid)
    return int(fields[_RESIDENT]) * os.sysconf("SC_PAGE_SIZE") if fields else 0


def cpu_usec(pid: int) -> int:
    """The processor time of `pid` and of the children that it has reaped; 0 when it has ended."""
    ticks = sum(map(int, (_stat(pid) or [])[_TICKS]))
    return ticks * 1_000_000 // os.sysconf("SC_CLK_TCK")


def thread_count(pid: int) -> int:
    """The threads of `pid`; 0 when it has ended."""
    fields = _stat(pid)
    return int(fields[_THREADS]) if fields else 0


def descendants(pid: int) -> list[int]:
    """The children of `pid`, theirs, and so on, as far as they have not been re-parented."""
    children: dict[int, list[int]] = {}
    for other in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        if fields := _stat(other):
            children.setdefault(int(fields[_PARENT]), []).append(other)
    found = [pid]
    for parent in found:  # grows while it is walked
        found += children.get(parent, [])
    return found[1:]


def _killed(pid: int) -> int | None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:  # gone, or a thread of a process that is on the list itself
        return None
    send_signal(pidfd, signal.SIGKILL)
    return pidfd


def send_signal(pidfd: int, number: signal.Signals) -> None:
    """Send a signal to the process behind `pidfd`; one that has ended is fine."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def ends_within(pidfd: int, timeout_s: float) -> bool:
    """Wait until the process behind `pidfd` has ended; False after `timeout_s`. Blocks."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


@contextlib.contextmanager
def closing_fd(fd: int) -> Generator[int]:
    """`fd`, closed at the end."""
    try:
        yield fd
    finally:
        os.close(fd)
