"""Stops all programs of a pid namespace by SIGSTOP, and continues them, without a freezer of the kernel.

A parent is stopped before its children and continued after them. One that runs while a child is stopped would
hear of it by waitpid(2), and a shell would say that its job was stopped. So the programs are stopped level by
level, and each level stands still before the next is asked.

Programs fork meanwhile. A fork that is under way when its process is stopped is given up, or has made the
child before: the kernel looks for signals under the lock of the process list. So another look finds the
child, and looks are repeated until two find the same processes, none of which runs: one that ended during a
look may have left a child that is on no list. Programs that fork faster than they are stopped one by one meet
`kill(-1)`, which reaches every process but ours in one step of the kernel.

A thread that sleeps uninterruptibly stops before it runs a program's code again, and a process in the hands
of a debugger stands still as long as the debugger does: both count as stopped.
"""

import os
import signal
import time
from collections.abc import Callable, Collection, Iterable

from ship.process import table
from ship.process.table import Process

_ORDERED_LOOKS = 6
_LOOKS = 40
_STAND_S = 10.0
_PAUSES_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01)
_BY_SIGNAL = "Tt"
_STANDING = "TtZXxD"

Key = tuple[int, int]
"""The pid of a process and when it began, which are used together once."""


class NeverStill(Exception):
    """Some program could not be stopped in time; all are as they were."""


def stop_all(limit_s: float = _STAND_S) -> Collection[Key]:
    """Stop every process of this pid namespace but this one, its first, and return when all stand still:
    those that were stopped before, for `continue_all`. It blocks. Raises NeverStill after `limit_s` seconds.
    """
    stopping = _Stopping(time.monotonic() + limit_s)
    try:
        stopping.run()
    except BaseException:
        continue_all(stopping.before)
        raise
    return stopping.before


def continue_all(but: Collection[Key]) -> None:
    """Continue every process but these, and this one; children before their parents."""
    everybody = _others()
    chosen = [one for one in everybody if _key(one) not in but]
    for level in reversed(_levels(chosen, everybody)):
        for one in level:
            _send(one.pid, signal.SIGCONT)


class _Stopping:
    def __init__(self, until: float) -> None:
        self.before: set[Key] = set()
        """Those that were stopped when we came."""
        self._until = until
        self._asked: set[Key] = set()

    def run(self) -> None:
        everybody = _others()
        self.before = {_key(one) for one in everybody if one.state in _BY_SIGNAL}
        last: set[Key] | None = None
        for look in range(_LOOKS):
            running = [one for one in everybody if self._may_run(one)]
            seen = set(map(_key, everybody))
            if not running and seen == last:
                return
            last = seen
            if look < _ORDERED_LOOKS:
                for level in _levels(running, everybody):
                    self._stop(level)
            else:
                _send(-1, signal.SIGSTOP)
                self._wait_until_still(running)
            everybody = _others()
        raise NeverStill

    def _may_run(self, process: Process) -> bool:
        """Whether it is not stopped, nor about to be."""
        key = _key(process)
        if process.state in _BY_SIGNAL:
            return False
        if not process.alive:  # its first thread has ended, and others may go on
            return not _stands_still(process)
        self.before.discard(key)  # another program has continued it
        return process.state not in _STANDING or key not in self._asked

    def _stop(self, level: Iterable[Process]) -> None:
        chosen = list(level)
        for one in chosen:
            _send(one.pid, signal.SIGSTOP)
        self._wait_until_still(chosen)

    def _wait_until_still(self, processes: Iterable[Process]) -> None:
        waiting, pauses = list(processes), iter(_PAUSES_S)
        self._asked.update(map(_key, waiting))
        while waiting := [one for one in waiting if not _stands_still(one)]:
            if time.monotonic() > self._until:
                raise NeverStill
            time.sleep(next(pauses, _PAUSES_S[-1]))


def _others() -> list[Process]:
    own = os.getpid()
    found = (table.read(pid) for pid in table.pids() if pid != own)
    return [one for one in found if one is not None]


def _key(process: Process) -> Key:
    return process.pid, process.started


def _stands_still(process: Process) -> bool:
    """Whether no thread of it runs a program's code; one that has ended does not."""
    now = table.read(process.pid)
    if now is None or now.started != process.started:
        return True
    return now.state in _STANDING and all(state in _STANDING for state in _threads(process.pid))


def _threads(pid: int) -> list[str]:
    """The states of a process's threads."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
    lines = (table.read_file(f"/proc/{pid}/task/{thread}/stat", 4096) for thread in threads)
    return [state.decode() for line in lines if (state := line.rpartition(b") ")[2][:1])]


def _levels(chosen: Iterable[Process], everybody: Iterable[Process]) -> list[list[Process]]:
    """The chosen ones by their distance from the top of the tree, the nearest first."""
    parents = {one.pid: one.ppid for one in everybody}
    by_depth: dict[int, list[Process]] = {}
    for one in chosen:
        by_depth.setdefault(_depth(one.pid, parents.get), []).append(one)
    return [by_depth[depth] for depth in sorted(by_depth)]


def _depth(pid: int, parent_of: Callable[[int], int | None]) -> int:
    # The list was read while processes came and went, so it may have a loop.
    seen: set[int] = set()
    while pid not in seen and (parent := parent_of(pid)) is not None:
        seen.add(pid)
        pid = parent
    return len(seen)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return
