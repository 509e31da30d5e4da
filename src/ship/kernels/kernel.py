"""A kernel: its queue of cells, the one that runs, and its successive processes.

When its process dies, the cell that ran is lost with the reason, and the next process goes on with the queue.
A cell that must stop is interrupted first; a process that ignores that is killed, and the answer says that
the variables are lost.
"""

import asyncio
import os
import signal
import time
from collections import deque
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ship.errors import Conflict, InvalidArgument, ShipError
from ship.execs.execs import ProcessContext
from ship.kernels import messages
from ship.kernels.cells import Cell, CellRequest, Status
from ship.kernels.messages import Fields
from ship.kernels.process import JAVASCRIPT, PYTHON, KernelCommand, KernelProcess, ProcessListener, Stream
from ship.process import trees
from ship.process.identity import Identity
from ship.waiting import Timer
from ship.wire import printable, rfc3339

State = Literal["starting", "idle", "busy", "dead"]

_READY_S = 60.0
_STOP_S = 2.0
_MAX_EARLY_EVENTS = 16
_STATUSES: dict[str, Status] = {"ok": "ok", "error": "error", "interrupted": "interrupted"}
_VARIABLES_GONE = "its variables are gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRequest:
    """The request for a kernel. `environment` is its own, `shared` that of all programs of the sandbox."""

    id: str
    spec: str
    cwd: str | None
    environment: Mapping[str, str]
    shared: Mapping[str, str]
    identity: Identity


class Kernel:
    def __init__(self, order: KernelRequest, context: ProcessContext) -> None:
        self.id = order.id
        self.language: str | None = None
        self.version: str | None = None
        self.message: str | None = None
        self.cwd: str | None = None
        self.execution_count = 0
        self.started_at: float | None = None
        self.last_active_at = time.time()
        self._order = order
        self._context = context
        self._queue: deque[Cell] = deque()
        self._current: Cell | None = None
        self._stopping: Status | None = None  # why the current cell has been interrupted
        self._lost_before: str | None = None  # for the next cell, when the process died between cells
        self._process: KernelProcess | None = None
        self._ready = False
        self._closed = False
        self._shared = order.shared
        self._launched_with: Mapping[str, str] = {}
        self._unused = True  # the process has run no cell
        self._early: list[
            tuple[Stream, str]
        ] = []  # printed by the current cell before its start was reported
        self._incarnation = object()  # changes with the process, so that an old one's events are ignored
        self._timer = self._new_timer()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()  # held while a process starts or ends; no cell is touched under it

    @property
    def state(self) -> State:
        if self._current is not None:
            return "busy"
        if self._process is None:
            return "starting" if self._changing.locked() else "dead"
        return "idle" if self._ready else "starting"

    @property
    def waiting(self) -> Sequence[Cell]:
        return self._queue

    def to_wire(self) -> dict[str, object]:
        return {
            "id": self.id,
            "spec": self._order.spec,
            "language": self.language,
            "state": self.state,
            "pid": None if self._process is None else self._process.pid,
            "version": self.version,
            "execution_count": self.execution_count,
            "queued": len(self._queue),
            "started_at": None if self.started_at is None else rfc3339(self.started_at),
            "last_active_at": rfc3339(self.last_active_at),
            "message": self.message,
            "cwd": self.cwd,
        }

    def check_open(self) -> None:
        """Raises Conflict when the kernel is closed."""
        if self._closed:
            raise Conflict(f"kernel {self.id} is shutting down; try again when it has ended", id=self.id)

    def check_takes(self, order: CellRequest) -> None:
        """Raises Conflict when the kernel is closed, InvalidArgument for variables that would not be set."""
        self.check_open()
        if order.own_environment and self._order.spec not in (PYTHON, JAVASCRIPT):
            problem = "a cell of a Jupyter kernel takes no variables of its own; give them to the kernel"
            raise InvalidArgument(problem, field="own_env")

    async def start(self) -> None:
        """Start its process, when there is none. Raises ShipError."""
        async with self._changing:
            if self._process is None and not self._closed:
                with self._or_lose_all():
                    await self._launch()

    def run(self, cell: Cell) -> None:
        """Put `cell` at the end of the queue. Its environment is the newest that the sandbox has."""
        self._shared = cell.environment
        self._queue.append(cell)
        self._pump()

    def interrupt(self) -> None:
        """Interrupt the running cell, or one that waits for the start; nothing happens without one."""
        if self._current is None and self._queue:
            self._queue.popleft().end("interrupted", "it was interrupted before it began")
        self._stop("interrupted")

    def abandon(self, cell: Cell) -> None:
        """Interrupt `cell`, or take it out of the queue; one that has ended stays as it is."""
        if cell is self._current:
            self._stop("interrupted")
        elif cell in self._queue:
            self._queue.remove(cell)
            cell.end("interrupted", "its reader went away before it began")

    async def restart(self) -> None:
        """Start a new process; the running and the queued cells are lost. Raises ShipError."""
        async with self._changing:
            self.check_open()
            with self._or_lose_all():
                await self._end("the kernel was restarted")
                self._lost_before = None
                await self._launch()

    async def close(self) -> None:
        """End it for good, with everything that it started."""
        self._closed = True
        async with self._changing:
            await self._end("the kernel was deleted")
        if self._tasks:  # a task may still have to end a dead process's children
            await asyncio.wait(self._tasks)

    def start_soon(self) -> None:
        """Start its process without anyone waiting for it."""
        self._spawn(self._revive())

    def stop(self) -> None:
        """Start no process from now on: the sandbox ends."""
        self._closed = True

    def _new_timer(self) -> Timer:
        """One by which no kernel is killed for what it could not do while it was stopped."""
        standstill = self._context.nursery.standstill
        return Timer(lambda: standstill.over)

    async def _launch(self) -> None:
        process = self._process = KernelProcess(self._command(), self._context.identities, self._listener())
        self._ready, self._unused = False, True
        try:
            with self._context.space.directory(self._order.cwd, self._order.identity) as directory:
                self.cwd = printable(os.readlink(f"/proc/self/fd/{directory}"))
                await process.start(self._context.nursery, directory)
        except BaseException:
            self._process = None
            raise
        self.message = None
        self.execution_count = 0
        self.started_at = time.time()
        self._timer.set(
            _READY_S, lambda: process.kill(f"was not ready within {_READY_S:g} s, and was killed")
        )

    @contextmanager
    def _or_lose_all(self) -> Generator[None]:
        """Without a process at the end, all queued cells are lost."""
        problem = "the kernel was not started"
        try:
            yield
        except ShipError as error:
            problem = self.message = error.message
            raise
        finally:
            if self._process is None:
                self._lose_all(problem)

    async def _end(self, message: str) -> None:
        process, self._process = self._process, None
        self._timer.cancel()
        self._lose_all(message)
        if process is not None:
            await process.end_tree()

    def _command(self) -> KernelCommand:
        mark = f"kernel:{self.id}"  # no exec's id has a colon
        own = self._order.identity.environment(self._context.environment)
        self._launched_with = {**self._shared, **self._order.environment}
        environment = {trees.MARKER: "", **own, **self._launched_with, trees.MARKER: mark}
        return KernelCommand(mark, self._order.spec, environment, self._order.identity, self._context.local)

    def _listener(self) -> ProcessListener:
        incarnation = self._incarnation = object()

        def current() -> bool:
            return self._incarnation is incarnation

        return ProcessListener(
            message=lambda message: self._hear(message) if current() else None,
            printed=lambda stream, text: self._printed(stream, text) if current() else None,
            died=lambda status: self._died(status) if current() else None,
        )

    def _pump(self) -> None:
        if self._current is not None or not self._queue or self._closed:
            return
        if self._process is None:
            if not self._changing.locked():
                self.start_soon()
        elif self._ready and self._is_outdated():
            self._spawn(self._renew())
        elif self._ready:
            self._give(self._process, self._queue.popleft())

    def _is_outdated(self) -> bool:
        """Whether the process began without present variables, some of which count only at a start."""
        return self._unused and self._launched_with != {**self._shared, **self._order.environment}

    async def _renew(self) -> None:
        """A new process in the place of one that has run nothing."""
        async with self._changing:
            process = self._process
            if process is not None and self._current is None and self._is_outdated() and not self._closed:
                self._process, self._incarnation = None, object()
                self._timer.cancel()
                with suppress(ShipError), self._or_lose_all():
                    await process.end_tree()
                    await self._launch()
        self._pump()

    def _give(self, process: KernelProcess, cell: Cell) -> None:
        process.drain()  # output in the pipes now belongs to no cell
        self._current, self._stopping, self._early = cell, None, []
        self._unused = False
        self.last_active_at = time.time()
        message: Fields = {"type": "run", "cell": cell.id, "code": cell.code, "env": self._changed_for(cell)}
        message["describe"] = cell.describe
        cell.begin()
        process.send(message)
        if cell.timeout_s is not None:
            self._timer.set(cell.timeout_s, lambda: self._stop("timeout"))

    def _changed_for(self, cell: Cell) -> dict[str, str]:
        """The cell's own, over those changed since the process began; a kernel's own are not the sandbox's to
        change.
        """
        own, begun = self._order.environment, self._launched_with
        pairs = {**cell.environment, **cell.trace}.items()
        changed = {name: value for name, value in pairs if name not in own and begun.get(name) != value}
        return {**changed, **cell.own_environment}

    def _hear(self, message: Fields) -> None:
        kind = message.get("type")
        cell = self._current
        if kind == "ready":
            self._become_ready(message)
        elif kind == "sync":
            self._answer_sync(message.get("number"))
        elif cell is None or message.get("cell") != cell.id:
            return  # output of a thread of an ended cell
        elif kind == "start":
            self._cell_started(cell, message)
        elif kind == "end":
            self._cell_ended(cell, message)
        elif (event := messages.event(message)) is not None:
            cell.add(*event)

    def _answer_sync(self, number: object) -> None:
        if self._process is not None and self._process.reads and isinstance(number, int):
            self._process.send({"type": "sync", "number": number})

    def _become_ready(self, message: Fields) -> None:
        if self._ready:
            return
        self._timer.cancel()
        self._ready = True
        self.language = _short(message.get("language"))
        self.version = _short(message.get("python") or message.get("version"))
        self._pump()

    def _cell_started(self, cell: Cell, message: Fields) -> None:
        if cell.next_seq:
            return
        cell.execution_count = messages.count(message)
        self.execution_count = cell.execution_count or 0
        cell.add("start", {"execution_count": cell.execution_count})
        for stream, text in self._early:
            cell.add(stream, {"text": text})
        self._early = []
        if self._stopping is not None and self._process is not None:
            self._process.interrupt()  # the first may have come before there was anything to interrupt

    def _cell_ended(self, cell: Cell, message: Fields) -> None:
        status = _STATUSES.get(str(message.get("status")), "error")
        text: str | None = None
        if self._stopping == "timeout":
            status = "timeout"
            text = f"{_ran_too_long(cell)} and was interrupted; the kernel's variables are kept"
        self._finish(cell, status, text)
        self._pump()

    def _finish(self, cell: Cell, status: Status, message: str | None, *, restarted: bool = False) -> None:
        if self._lost_before is not None:
            message = "; ".join(filter(None, (self._lost_before, message)))
            restarted, self._lost_before = True, None
        self._timer.cancel()
        if self._current is cell:
            self._current = None
        self.last_active_at = time.time()
        cell.end(status, message, restarted=restarted)

    def _printed(self, stream: Stream, text: str) -> None:
        if self._current is None:
            return
        if self._current.next_seq:
            self._current.add(stream, {"text": text})
        elif len(self._early) < _MAX_EARLY_EVENTS:
            self._early.append((stream, text))

    def _stop(self, why: Status) -> None:
        if self._current is None or self._process is None:
            return
        if self._stopping is None:
            self._stopping = why
            self._timer.set(_STOP_S, partial(self._process.kill, "did not stop, and was killed"))
        self._process.interrupt()

    def _died(self, status: int) -> None:
        process, self._process = self._process, None
        was_ready, self._ready = self._ready, False
        self._timer.cancel()
        if process is None:
            return
        how = process.why_killed or _how_it_died(status, process.last_words if not was_ready else "")
        self.message = f"the kernel {how}"
        self._spawn(self._replace(process, was_ready))

    async def _replace(self, process: KernelProcess, was_ready: bool) -> None:
        message = self.message or ""
        async with self._changing:
            await process.end_tree()
            cell = self._current
            if cell is not None:
                await self._replace_under(cell, message)
            elif was_ready:
                self._lost_before = f"{message} before this cell; {_VARIABLES_GONE}"
            else:
                self._lose_all(message)
        self._pump()

    async def _replace_under(self, cell: Cell, message: str) -> None:
        status: Status = self._stopping or "lost"
        if self._stopping is not None:
            what = _ran_too_long(cell) if status == "timeout" else "the cell was interrupted"
            message = f"{what} and did not stop within {_STOP_S:g} s, so the kernel was killed"
        try:
            if not self._closed:
                await self._launch()
        except ShipError as error:
            self.message = f"{message}; it could not be started again: {error.message}"
            self._finish(cell, status, f"{self.message}; {_VARIABLES_GONE}")
            self._lose_all(self.message)
        else:
            # The new process has its own time to become ready.
            timer, self._timer = self._timer, self._new_timer()
            self._finish(cell, status, f"{message}; {_VARIABLES_GONE}", restarted=not self._closed)
            self._timer = timer

    async def _revive(self) -> None:
        with suppress(ShipError):  # which its cells have as their error
            await self.start()
        self._pump()

    def _lose_all(self, message: str) -> None:
        lost = [*([] if self._current is None else [self._current]), *self._queue]
        self._current = None
        self._queue.clear()
        for cell in lost:
            cell.end("lost", message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _how_it_died(status: int, last_words: str) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        how = f"ended by itself with exit code {code}"
    elif -code == signal.SIGKILL:
        how = "was killed (signal 9), most likely out of memory"
    else:
        how = f"was ended by signal {-code}"
    return f"{how}: {last_words}" if last_words else how


def _ran_too_long(cell: Cell) -> str:
    return f"the cell ran longer than {cell.timeout_s:g} s"


def _short(value: object) -> str | None:
    return value[:64] if isinstance(value, str) else None
