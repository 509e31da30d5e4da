"""The init process: starts programs, and reaps the dead ones and every orphan of the sandbox."""

import asyncio
import os
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures.thread import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

from ship.process import table, trees
from ship.process.groups import Groups
from ship.process.identity import Identity
from ship.process.signals import Signals
from ship.process.spawn import Ids, Spawner, block_signals
from ship.process.standstill import Standstill

_STUCK_S = 5.0
_CHILD_OOM_SCORE = 500
_ABOVE_OWN = 2
_MAX_OOM_SCORE = 1000  # proc_pid_oom_score_adj(5)
_REAPED_AT_ONCE = 1000

Ended = Callable[[int], None]
"""Called on the loop with a wait status."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program to start. `directory` and the three of stdio are descriptors that stay the caller's; no
    `stdin` is an empty one.

    `group` marks its tree (see `Nursery.groups`); with `tty`, stdin is a terminal and becomes the session's
    controlling terminal.
    """

    argv: Sequence[str]
    environment: Mapping[str, str]
    identity: Identity
    directory: int
    stdin: int | None
    stdout: int
    stderr: int
    group: int | None = None
    tty: bool = False


class OomScore:
    """Makes programs more likely to be killed than Ship when memory runs out, where the kernel lets us."""

    def __init__(self, file: int | None = None) -> None:
        self._file = _opened_score() if file is None else file
        self._own = b"0" if self._file is None else os.pread(self._file, 16, 0).strip()
        above = min(int(self._own) + _ABOVE_OWN, _MAX_OOM_SCORE)  # where the host's score leaves little room
        self._child = str(max(_CHILD_OOM_SCORE, above)).encode()

    @contextmanager
    def raised(self) -> Generator[None]:
        """Within, children inherit a higher score. Going back down to where we were takes no capability."""
        self._set(self._child)
        try:
            yield
        finally:
            self._set(self._own)

    def _set(self, score: bytes) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.pwrite(self._file, score, 0)


def _opened_score() -> int | None:
    # Once and early: a process that hides from debuggers may not own its files in /proc.
    try:
        return os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None


class Nursery:
    """Starts one program at a time, in a thread, and reaps on the loop.
    `oom_score` is an open /proc/self/oom_score_adj, for a Ship that may not open it.

    In a thread since a start waits until the child has become its program, and another program of the same
    user may stop it just before. One at a time so that no child is reaped before its number is known.
    """

    def __init__(self, oom_score: int | None = None) -> None:
        self.groups = Groups()
        self.standstill = Standstill()
        self._ended: dict[int, Ended] = {}
        self._starting = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, initializer=block_signals)
        self._spawner = Spawner()
        self._empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._oom = OomScore(oom_score)

    def open(self, signals: Signals) -> None:
        signals.on(signal.SIGCHLD, self._reap)

    async def start(self, program: Program, ended: Ended, *, still: bool = False) -> int:
        """The pid of `program`; `ended` is called when it is dead. `still`: within a standstill, of which it
        is no part. Raises OSError when it cannot start.
        """
        async with nullcontext() if still else self.standstill.acting(), self._starting:
            try:
                pid = await self._start_unstuck(program, still=still)
                self._ended[pid] = ended
            finally:
                asyncio.get_running_loop().call_soon(self._reap)
        return pid

    async def _start_unstuck(self, program: Program, *, still: bool) -> int:
        attempt = asyncio.get_running_loop().run_in_executor(self._thread, self._spawn, program)
        while not (await asyncio.wait({attempt}, timeout=_STUCK_S))[0]:
            if still:  # all children are stopped, and nobody is there to stop the new one
                continue
            children = table.stopped_children()
            trees.send((child for child in children if child.pid not in self._ended), signal.SIGKILL)
        return attempt.result()

    def _spawn(self, program: Program) -> int:
        argv = [os.fsencode(word) for word in program.argv]
        variables = {os.fsencode(name): os.fsencode(value) for name, value in program.environment.items()}
        stdin = self._empty if program.stdin is None else program.stdin
        stdio, ids = (stdin, program.stdout, program.stderr), _ids(program)
        with self._oom.raised():
            return self._spawner.start(argv, variables, program.directory, stdio, ids, tty=program.tty)

    def _reap(self) -> None:
        for _ in range(_REAPED_AT_ONCE):
            if self._starting.locked():
                return  # `start` comes back here when it has noted its child
            pid, status = _next_dead()
            if pid == 0:
                return
            ended = self._ended.pop(pid, None)
            if ended is not None:
                ended(status)
        asyncio.get_running_loop().call_soon(self._reap)


def _next_dead() -> tuple[int, int]:
    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return 0, 0


def _ids(program: Program) -> Ids | None:
    identity = program.identity
    if not identity.switch:
        return None
    groups = identity.groups if program.group is None else (*identity.groups, program.group)
    return Ids(identity.uid, identity.gid, groups)
