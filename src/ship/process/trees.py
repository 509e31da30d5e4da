"""Finds and ends a whole tree of processes.

A tree is all descendants of an exec's first process. Parents die and children move to Ship, so it is known by
a group (see `groups`) that its members inherit and cannot give up. Where there is none (root can give it up;
outside a container no user is switched) three things are followed besides: the present children, the session
(setsid) of a member, and `SHIP_EXEC_ID`, which every program inherits unless it drops it. A process that
escapes all three between two looks is not found. Rejected: a subreaper per exec, since a first process that
does not reap would be left with zombies; a control group per exec, since a sandbox cannot make any.

Programs come and go while /proc is read. So each member is signalled the moment it is seen, and the tree
counts as empty only after a look in which no process died before it could be identified: it may have left a
child that is on no list.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable

from ship.process import table
from ship.process.identity import Identity
from ship.process.table import Process

MARKER = "SHIP_EXEC_ID"

_ENVIRON_BYTES = 256 * 1024
_FREEZE_LOOKS = 30
_SURE_LOOKS = 2
_MAX_LOOKS = 12
_KILL_BOUND_S = 10.0
_PAUSES_S = (0.002, 0.005, 0.01, 0.02, 0.05)


class Tree:
    """The processes that descend from `roots` (not yet reaped), bear a mark, or have a group; never Ship."""

    def __init__(
        self,
        roots: Callable[[], set[int]],
        exec_id: str | None,
        identities: Iterable[Identity],
        group: int | None = None,
    ) -> None:
        self.members: dict[int, Process] = {}
        self._roots = roots
        self._mark = None if exec_id is None else f"\0{MARKER}={exec_id}\0".encode()
        self._identities = tuple(identities)
        self._group = group
        self._sessions: set[int] = set()
        self._strangers: set[tuple[int, int]] = set()
        self._unknown: set[int] = set()
        """Processes that the last look could not identify: they had died, or hide it. Those of an older look
        say nothing, since programs that fork fast enough use all numbers again within seconds.
        """
        self._unsure = False

    async def end(
        self,
        deadline: Callable[[], float],
        polite: tuple[int, ...] = (signal.SIGTERM,),
        nudge: int | None = None,
    ) -> bool:
        """Send `polite` to all now, and KILL at `deadline`; True when none is left.
        `deadline` gives monotonic seconds and is called repeatedly; `nudge` is sent repeatedly until then.
        """
        await self._find()
        # A stopped program would not handle the first without the second.
        await self._signal_each((*polite, signal.SIGCONT))
        for pause in _pauses(deadline):
            if await self._is_gone():
                return True
            if nudge is not None:
                send(sorted(self.members.values()), nudge)
            await asyncio.sleep(pause)
        bound = time.monotonic() + _KILL_BOUND_S
        for pause in _pauses(lambda: bound):
            # Stopped first and killed then: programs that fork faster than they can be killed cannot fork
            # while stopped.
            await self._signal_each((signal.SIGSTOP,))
            send(self.members.values(), signal.SIGKILL)
            if await self._is_gone():
                return True
            await asyncio.sleep(pause)
        return await self._is_gone()

    async def _find(self) -> None:
        # Before any dies of a signal: its children become Ship's, and would then have no mark of the tree.
        for _ in range(_FREEZE_LOOKS):
            before = len(self.members)
            self._look(set(), ())
            if len(self.members) <= before:
                return
            await asyncio.sleep(0)

    async def _signal_each(self, numbers: tuple[int, ...]) -> None:
        done: set[tuple[int, int]] = set()
        for _ in range(_FREEZE_LOOKS):
            if not self._look(done, numbers) and not self._unsure:
                return
            await asyncio.sleep(0)  # others have their turn, and the dead are reaped

    async def _is_gone(self) -> bool:
        sure = 0
        for _ in range(_MAX_LOOKS):
            self._look(set(), ())
            if self.members:
                return False
            sure = 0 if self._unsure else sure + 1
            if sure == _SURE_LOOKS:
                return True
            await asyncio.sleep(0)
        return True  # a process that keeps appearing has never been one of ours

    def _look(self, done: set[tuple[int, int]], numbers: tuple[int, ...]) -> bool:
        """Find the members, sending `numbers` to each that is not in `done`; True when there was one."""
        before, last = len(done), self._unknown
        self._unknown = set()
        self.members = {pid: old for pid, old in self.members.items() if _is_still(old)}
        # The newest first: one that forks and exits within a millisecond is gone when its turn comes last.
        # But a signal that programs may handle comes to a parent before its children, whose end it may await.
        is_handled = bool(numbers) and signal.SIGSTOP not in numbers
        waiting = sorted((pid for pid in table.pids() if pid != os.getpid()), reverse=not is_handled)
        for identity in self._identities:
            # The kernel shows a program's environment to its own user only; root without CAP_SYS_PTRACE is
            # not exempt.
            with identity.using_files():
                waiting = [pid for pid in waiting if not self._place(pid, done, numbers)]
        self._unknown.update(waiting)
        self._unsure = not self._unknown <= last
        return len(done) > before

    def _place(self, pid: int, done: set[tuple[int, int]], numbers: Iterable[int]) -> bool:
        """Identify `pid`, and signal it if it is a member; whether that was possible."""
        process = table.read(pid)
        if process is None or process.leaving:
            self._unknown.add(pid)
            return True
        if not self._is_member(process):
            return (pid, process.started) in self._strangers
        self._note_member(process)
        if (pid, process.started) not in done:
            done.add((pid, process.started))
            for number in numbers:
                send((process,), number)
        return True

    def _note_member(self, process: Process) -> None:
        self.members[process.pid] = process
        if process.session > 0 and process.session != os.getsid(0):
            # Every exec leads a session of its own, so a session that a member is in was made in its tree.
            self._sessions.add(process.session)

    def _is_member(self, process: Process) -> bool:
        if process.ppid in self.members or process.session in self._sessions:
            return True
        roots = self._roots()
        return process.pid in roots or process.ppid in roots or self._is_marked(process)

    def _is_marked(self, process: Process) -> bool:
        key = (process.pid, process.started)
        if self._mark is None:
            self._strangers.add(key)
        if self._mark is None or key in self._strangers:
            return False
        if self._group is not None and self._group in (table.groups(process.pid) or ()):
            return True
        environ = _environ(process.pid)
        if self._mark in environ:
            return _is_ours(process)
        if environ != b"\0\0":
            self._strangers.add(key)
        return False


def send(targets: Iterable[Process], number: int) -> None:
    """Signal each that is there still; its number is another's only after 32,768 new processes."""
    for process in targets:
        try:
            os.kill(process.pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def all_below_ship(identities: Iterable[Identity]) -> Tree:
    """Everything that descends from Ship."""
    return Tree(lambda: {os.getpid()}, None, identities)


async def end_from_the_top(until: float) -> None:
    """TERM to the children of Ship, and to those that it is left with as their parents end, until there are
    none, or `until` (monotonic seconds) has come.
    """
    asked: set[tuple[int, int]] = set()
    for pause in _pauses(lambda: until):
        children = [process for process in map(table.read, table.pids()) if process and _is_child(process)]
        if not children:
            return
        for child in children:
            if (child.pid, child.started) not in asked:
                asked.add((child.pid, child.started))
                send((child,), signal.SIGTERM)
                send((child,), signal.SIGCONT)
        await asyncio.sleep(pause)


def _is_child(process: Process) -> bool:
    return process.ppid == os.getpid() and not process.leaving


class Owners:
    """Finds the exec to which a process belongs, among execs given as an id and the group of its tree."""

    def __init__(self, execs: Iterable[tuple[str, int | None]]) -> None:
        self._groups = dict(execs)
        self._by_group = {group: exec_id for exec_id, group in self._groups.items() if group is not None}

    def of(self, process: Process) -> str | None:
        """The exec's id, None when it is no exec's."""
        for group in table.groups(process.pid) or ():
            if group in self._by_group:
                return self._by_group[group]
        marked = _marked_with(process.pid)
        return marked if marked in self._groups else None


def _marked_with(pid: int) -> str | None:
    """The exec in a process's environment, as far as the calling thread may read it."""
    _, found, rest = _environ(pid).partition(f"\0{MARKER}=".encode())
    return os.fsdecode(rest.partition(b"\0")[0]) if found else None


def _environ(pid: int) -> bytes:
    return b"\0" + table.read_file(f"/proc/{pid}/environ", _ENVIRON_BYTES) + b"\0"


def _is_still(old: Process) -> bool:
    now = table.read(old.pid)
    return now is not None and now.started == old.started and not now.leaving


def _is_ours(process: Process) -> bool:
    # Outside a container another Ship may have an exec of the same name. A dead parent proves nothing.
    parent: Process | None = process
    while parent is not None and parent.ppid > 1:
        if parent.ppid == os.getpid():
            return True
        parent = table.read(parent.ppid)
    return parent is None or os.getpid() == 1


def _pauses(deadline: Callable[[], float]) -> Iterable[float]:
    steps = iter(_PAUSES_S)
    while (left := deadline() - time.monotonic()) > 0:
        yield min(left, next(steps, _PAUSES_S[-1]))
