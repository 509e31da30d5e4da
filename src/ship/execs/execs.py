"""Execs: programs that outlive the connection that started them, with their output kept by byte offset."""

import asyncio
import base64
import errno
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from ship.errors import Conflict, Forbidden, InternalError, NotFound
from ship.execs.request import ExecRequest
from ship.execs.ring import Piece, Stream
from ship.execs.transcript import Transcript
from ship.files.sandbox_paths import Everywhere
from ship.process import table, trees
from ship.process.accounts import Accounts
from ship.process.identity import Identity, find_shell
from ship.process.init import Nursery, Program
from ship.process.pipes import Pipes
from ship.process.ptys import Pty
from ship.waiting import Bell, DisconnectTimer, Interruption, Timer
from ship.wire import printable, rfc3339

State = Literal["running", "exited", "killed"]

_MAX_RUNNING = 256
_MAX_ENDED = 200
_KEEP_ENDED_S = 600.0
_KEEP_ENDED_BYTES = 32 << 20
_SHOWN_CHARS = 64 << 10
_REAP_S = 5.0
_SWEEP_S = 60.0
_TIMEOUT_GRACE_S = 1.0
_TERM = "xterm-256color"
_SHELLS = ("bash", "sh")
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126  # as in shells: POSIX.1-2017, Shell & Utilities 2.8.2

# Errors for which the sandbox, not the program, is the reason.
_NO_ROOM = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE))


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """The context that all programs of a sandbox share."""

    nursery: Nursery
    space: Everywhere
    identities: tuple[Identity, ...]
    environment: Mapping[str, str]
    accounts: Accounts
    local: bool
    interruption: Interruption


class Exec:
    """One exec, which prints to a `transcript` of its own unless there is one to go on with.
    `news` rings at output and at the end, `ended` at the end and when it begins to wait for its reader.
    """

    def __init__(
        self, order: ExecRequest, context: ProcessContext, transcript: Transcript | None = None
    ) -> None:
        self.id = order.id
        self.argv = _shown(order.argv)
        self.pid: int | None = None
        self.state: State = "running"
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.started_at = time.time()
        self.ended_at: float | None = None
        self.ended_monotonic = 0.0
        self.timed_out = False
        self.transcript = transcript or Transcript(order.ring_bytes)
        self.transcript.is_from(self._hold)
        self.ring = self.transcript.ring
        self.news = self.transcript.news
        self.ended = Bell()
        self._waits_for_reader = order.wait_for_reader_s is not None
        if order.wait_for_reader_s is not None:
            self.transcript.claim.expect(order.wait_for_reader_s)
        self.group: int | None = None
        self._size = (order.rows, order.cols)
        self.tty = order.tty
        self._watch = DisconnectTimer(order.max_run_after_disconnect_s, self._end_soon, context.interruption)
        self._identities = tuple(dict.fromkeys((*context.identities, order.identity)))
        self._started = asyncio.Event()
        self._dead = asyncio.Event()
        self._leader_status: int | None = None
        self._ending: asyncio.Task[bool] | None = None
        self._kill_at = float("inf")
        self._timer = Timer()
        self._stdio: Pipes | Pty | None = None
        self._standstill = context.nursery.standstill

    @property
    def running(self) -> bool:
        return self.state == "running"

    def to_wire(self) -> dict[str, object]:
        return {
            "id": self.id,
            "argv": [printable(word) for word in self.argv],
            "pid": self.pid,
            "tty": self.tty,
            "rows": self._size[0] if self.tty else None,
            "cols": self._size[1] if self.tty else None,
            "state": self.state,
            "exit_code": self.exit_code,
            "signal": self.signal,
            "started_at": rfc3339(self.started_at),
            "ended_at": None if self.ended_at is None else rfc3339(self.ended_at),
            "output_bytes": self.ring.next_offset,
            "first_offset": self.ring.first_offset,
            "timed_out": self.timed_out,
            "wait_for_reader": self._waits_for_reader,
        }

    def output_to_wire(self) -> dict[str, object]:
        """The output in the ring, by stream; that of a terminal counts as stdout."""
        stdout = self.ring.collect("tty" if self.tty else "stdout")
        return {
            "stdout": base64.b64encode(stdout).decode("ascii"),
            "stderr": base64.b64encode(self.ring.collect("stderr")).decode("ascii"),
            "truncated": self.ring.first_offset > 0,
        }

    def chunks_to_wire(self) -> dict[str, object]:
        """The output in the ring as it came, with the order of the streams or a terminal's own bytes."""
        chunks = [_chunk_to_wire(piece) for piece in self.ring.runs()]
        return {"output": chunks, "truncated": self.ring.first_offset > 0}

    def end_to_wire(self) -> dict[str, object]:
        """The last line of the output."""
        return {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "state": self.state,
            "timed_out": self.timed_out,
        }

    async def start(self, order: ExecRequest, context: ProcessContext, directory: int) -> None:
        """Start it; one that cannot be run ends the exec with 126 or 127. Conflict when there is no room."""
        try:
            await self._start(order, context, directory)
        except OSError as error:
            self._cannot_start(order, error)
        finally:
            self._started.set()

    async def wait_started(self) -> None:
        """Return once it has its process, or has none to wait for."""
        await self._started.wait()

    async def wait_end(self, gone: asyncio.Future[None], timeout_s: float, *, or_stuck: bool = False) -> None:
        """Return at its end, when `gone`, or after `timeout_s`; `or_stuck`: when it awaits its reader too."""
        until = time.monotonic() + timeout_s
        with self.watched():
            while self.running and not gone.done() and (left := until - time.monotonic()) > 0:
                if or_stuck and self.transcript.claim.is_stuck:
                    return
                await self.ended.wait(gone, left)

    async def write_input(self, data: bytes, gone: asyncio.Future[None] | None = None) -> None:
        """Return when the program's pipe or terminal has all of `data`, writers in the order of their calls.
        The rest is dropped when the caller is cancelled or `gone` is done. Raises Conflict when stdin is not
        open, its reader has left, or the exec has ended.
        """
        await self._living_stdio().write(data, gone)

    async def close_input(self, gone: asyncio.Future[None] | None = None) -> None:
        """The end of input, after all written; for a terminal ctrl-D. Raises Conflict as `write_input`."""
        await self._living_stdio().end(gone)

    def send_signal(self, number: int) -> None:
        """To the first process's group, with a terminal to that in front. Raises Conflict after the end."""
        front = self._living_stdio().foreground()
        try:
            os.killpg(front or self._leader(), number)
        except ProcessLookupError as error:
            raise Conflict(f"exec {self.id} is ending") from error
        except PermissionError as error:
            raise Forbidden(f"the kernel does not let Ship signal exec {self.id}") from error

    def resize(self, rows: int, cols: int) -> None:
        """Give its terminal another size. Raises Conflict when it has none, or has ended."""
        stdio = self._living_stdio()
        stdio.resize(rows, cols)
        self._size = (rows, cols)
        if not stdio.foreground():
            # gVisor does not say which group is in front, and sends no SIGWINCH to it.
            trees.send(table.in_session(self._leader()), signal.SIGWINCH)

    def watched(self) -> AbstractContextManager[None]:
        """Within, someone is attached, follows or waits, so that the exec is not ended for want of that."""
        return self._watch.watching()

    async def end(self, grace_s: float) -> None:
        """TERM to the whole tree now, KILL after `grace_s`, and return when the tree is empty.
        It ends an ended exec's background processes too, and goes on when the caller is cancelled. Raises
        InternalError when the kernel does not end a process.
        """
        await self.wait_started()
        if not await asyncio.shield(self._end_within(grace_s)):
            raise InternalError(f"processes of {self.id} survive SIGKILL; stop the sandbox")

    async def _start(self, order: ExecRequest, context: ProcessContext, directory: int) -> None:
        self.group = context.nursery.groups.take(order.identity)
        stdio = _open_stdio(order, self.transcript.take)
        try:
            program = self._program(order, stdio, directory, context.environment)
            self.pid = await context.nursery.start(program, self._leader_ended)
        except BaseException:
            stdio.abandon()
            raise
        stdio.start()
        self._stdio = stdio
        if order.timeout_s is not None and self.running:
            self._timer.set(order.timeout_s, self._time_out)
        self._watch.arm()

    def _program(
        self, order: ExecRequest, stdio: Pipes | Pty, directory: int, base: Mapping[str, str]
    ) -> Program:
        own = {} if order.is_tool else order.identity.environment(base)
        if order.tty:
            own["TERM"] = _TERM
        # The marker leads, so that it is found however much follows.
        given = {} if order.is_tool else order.environment
        variables = {trees.MARKER: "", **own, **given, trees.MARKER: self.id}
        group, tty = self.group, stdio.tty
        return Program(order.argv, variables, order.identity, directory, *stdio.descriptors, group, tty)

    def _living_stdio(self) -> Pipes | Pty:
        if not self.running or self._stdio is None:
            raise Conflict(f"exec {self.id} has ended")
        return self._stdio

    def _leader(self) -> int:
        if self.pid is None or self._leader_status is not None:
            raise Conflict(f"exec {self.id} is ending")
        return self.pid

    def _cannot_start(self, order: ExecRequest, error: OSError) -> None:
        if error.errno in _NO_ROOM:
            raise Conflict(f"the sandbox has no room for another process ({error.strerror})") from error
        missing = isinstance(error, FileNotFoundError)
        reason = _missing(order.argv[0]) if missing else error.strerror
        stream, line_end = ("tty", "\r\n") if order.tty else ("stderr", "\n")
        self.transcript.take(stream, f"ship: {printable(order.argv[0])}: {reason}{line_end}".encode())
        self._leader_ended((_NOT_FOUND if missing else _NOT_EXECUTABLE) << 8)

    def _hold(self, held: bool) -> None:
        if self._stdio is None or not self.running:
            return
        if held:
            self._stdio.pause()
            self.ended.ring()
        else:
            self._stdio.resume()

    def _time_out(self) -> None:
        self.timed_out = self.timed_out or self._leader_status is None
        self._end_soon()

    def _end_soon(self) -> None:
        if self._leader_status is None:
            self._end_within(_TIMEOUT_GRACE_S)

    def _end_within(self, grace_s: float) -> asyncio.Task[bool]:
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end_tree())
        return self._ending

    async def _end_tree(self) -> bool:
        tree = trees.Tree(self._roots, self.id, self._identities, self.group)
        try:
            async with self._standstill.acting() as waited_s:
                self._kill_at += waited_s
                return await self._end_members(tree) and await self._leader_reaped()
        finally:
            self._ending = None
            self._kill_at = float("inf")
            self._finish_if_dead()

    async def _end_members(self, tree: trees.Tree) -> bool:
        if not self.tty:
            return await tree.end(lambda: self._kill_at)
        # A shell at a terminal does not heed TERM, but HUP. One that comes just when bash has prompted it
        # notices only when something else interrupts its waiting.
        polite = (signal.SIGHUP, signal.SIGTERM)
        return await tree.end(lambda: self._kill_at, polite, nudge=signal.SIGWINCH)

    async def _leader_reaped(self) -> bool:
        # Dead is known from /proc, how it died a moment later from the reaper.
        try:
            async with asyncio.timeout(_REAP_S if self.pid is not None else 0):
                await self._dead.wait()
        except TimeoutError:
            return False
        return True

    def _roots(self) -> set[int]:
        return set() if self.pid is None or self._leader_status is not None else {self.pid}

    def _leader_ended(self, status: int) -> None:
        self._leader_status = status
        self._dead.set()
        self.ended_at = time.time()
        self._timer.cancel()
        self._watch.stop()
        if self._ending is None:  # else the tree is being ended, and the exec ends with it
            self._finish_if_dead()

    def _finish_if_dead(self) -> None:
        if self._leader_status is None or not self.running:
            return
        if self._stdio is not None:
            self._stdio.finish()
        self.transcript.claim.over()
        self._settle(self._leader_status)

    def _settle(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.exit_code, self.signal = (code, None) if code >= 0 else (None, -code)
        self.state = "exited" if code >= 0 else "killed"
        self.ended_monotonic = time.monotonic()
        self.news.ring()
        self.ended.ring()


class Execs:
    """The execs of this sandbox: all that run, and the last that ended."""

    def __init__(self, context: ProcessContext) -> None:
        self._context = context
        self._all: dict[str, Exec] = {}
        self._sweep = Timer()

    async def create(self, order: ExecRequest) -> Exec:
        """Start its program. Raises Conflict for a known id or at the limit, and the errors of a bad cwd."""
        self._sweep_later()
        if order.id in self._all:
            raise Conflict(f"exec {order.id} exists already", id=order.id)
        if sum(item.running for item in self._all.values()) >= _MAX_RUNNING:
            raise Conflict(f"{_MAX_RUNNING} execs are running; end one first", limit=_MAX_RUNNING)
        with self._context.space.directory(order.cwd, order.identity) as directory:
            found = self._all[order.id] = Exec(order, self._context)
            try:
                await found.start(order, self._context, directory)
            except BaseException:
                self._forget(order.id)
                raise
        return found

    def get(self, exec_id: str) -> Exec:
        """Raises NotFound."""
        self._forget_old()
        found = self._all.get(exec_id)
        if found is None:
            raise NotFound(f"there is no exec {printable(exec_id)}, or it ended long ago")
        return found

    async def begun(self, exec_id: str) -> Exec:
        """One that has its process: what is asked of an exec that is starting waits for that. Raises
        NotFound, also for one that could not be started.
        """
        await self.get(exec_id).wait_started()
        return self.get(exec_id)

    def list(self) -> list[Exec]:
        """All, oldest first."""
        self._forget_old()
        return list(self._all.values())

    async def end_all(self, grace_s: float) -> None:
        """TERM from the top of each tree downwards, to everything after half of `grace_s`, KILL after that.

        A program may need those it started while it ends, as a browser the process that writes its cookies.
        """
        kill_at = time.monotonic() + grace_s
        await trees.end_from_the_top(kill_at - grace_s / 2)
        await trees.all_below_ship(self._context.identities).end(lambda: kill_at)

    def _sweep_later(self) -> None:
        # A timer only while there is something to forget: an idle sandbox stays asleep.
        self._forget_old()
        self._sweep.set(_SWEEP_S, self._swept)

    def _swept(self) -> None:
        if self._all:
            self._sweep_later()

    def _forget(self, exec_id: str) -> None:
        self._context.nursery.groups.give_back(self._all.pop(exec_id).group)

    def _forget_old(self) -> None:
        ended = sorted((e for e in self._all.values() if not e.running), key=lambda e: -e.ended_monotonic)
        oldest = time.monotonic() - _KEEP_ENDED_S
        room = _KEEP_ENDED_BYTES
        for index, item in enumerate(ended):
            if index >= _MAX_ENDED or item.ended_monotonic < oldest:
                self._forget(item.id)
            elif (room := room - item.ring.kept_bytes) < 0:
                item.ring.forget()


def _missing(program: str) -> str:
    is_shell = os.path.basename(program) in _SHELLS
    return "this image has no shell; use argv" if is_shell and find_shell() is None else "command not found"


def _chunk_to_wire(piece: Piece) -> dict[str, object]:
    data = base64.b64encode(piece.data).decode("ascii")
    return {"offset": piece.offset, "stream": piece.stream, "data": data, "t": rfc3339(piece.t)}


def _open_stdio(order: ExecRequest, take: Callable[[Stream, bytes], None]) -> Pipes | Pty:
    if order.tty:
        return Pty(take, order.stdin, order.identity, (order.rows, order.cols))
    return Pipes(take, order.stdin, stays_open=order.stdin_open)


def _shown(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The first words of the command line: two megabytes of each of hundreds would be too much to keep."""
    room = _SHOWN_CHARS
    kept: list[str] = []
    for count, word in enumerate(argv):
        if len(word) >= room:
            return (*kept, f"{word[:room]}… ({len(argv) - count - 1} more words)")
        room -= len(word) + 1
        kept.append(word)
    return argv
