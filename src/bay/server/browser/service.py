"""The browser service: commands to the one browser of a sandbox, alone or as a batch, and replays of skills.

Commands of one sandbox run one after the other: they share a page, and one that is in the middle of a form
must not find the page of another.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from typing import Any

from bay.clock import Clock
from bay.errors import BayError
from bay.ids import new_id
from bay.models import (
    BrowserBatch,
    BrowserReplay,
    BrowserResult,
    BrowserStep,
    BrowserTrace,
    Exec,
    ShellResult,
)
from bay.server.browser.command import PROGRAM, argv_of
from bay.server.browser.replays import Replays
from bay.server.browser.traces import Room, Traces
from bay.server.browser.turns import Turns
from bay.server.execs.results import shell_result
from bay.server.execs.service import Execs, NewExec
from bay.server.sessions.waker import Awake, Waker
from bay.server.web.auth import Caller
from bay.server.web.bodies import normal_tags
from bay.store import execs, history
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import HistoryNote

_MOST_WAITING = 8
_MAX_CHARS = 4 << 20
"""Characters of output in the answer of a batch."""
_KILL_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BrowserOptions:
    """Options of commands, alone or in a batch. `timeout_s` is for all of them together."""

    timeout_s: float
    description: str | None = None
    tags: str | None = None
    learn: bool = False
    include_trace: bool = False

    @property
    def wants_trace(self) -> bool:
        """Whether a trace is stored."""
        return self.learn or self.include_trace

    def note(self, cmds: Sequence[str], *, batch: bool) -> HistoryNote:
        """The entry of the history as it begins."""
        return HistoryNote(
            exec_type="browser_batch" if batch else "browser",
            code="\n".join(cmds),
            description=self.description,
            tags=self.tags,
            learn_enabled=self.learn,
        )


@dataclass(slots=True)
class _Batch:
    """A batch under way."""

    awake: Awake
    row: Exec
    cmds: Sequence[str]
    steps: list[BrowserStep] = field(default_factory=list[BrowserStep])
    room: Room = field(default_factory=lambda: Room(_MAX_CHARS))

    @property
    def success(self) -> bool:
        """Whether every step ran and ended with 0."""
        return len(self.steps) == len(self.cmds) and all(step.exit_code == 0 for step in self.steps)


@dataclass(eq=False, kw_only=True)
class Browsers:
    """The service behind `…/browser`."""

    store: Store
    deferred: DeferredWrites
    waker: Waker
    execs: Execs
    traces: Traces
    replays: Replays
    clock: Clock
    turns: Turns = field(default_factory=lambda: Turns(_MOST_WAITING))

    async def exec(self, caller: Caller, ref: str, cmd: str, options: BrowserOptions) -> BrowserResult:
        """Run one command to its end, or to its timeout. When the call is cancelled the command is ended."""
        argv = argv_of(cmd, "cmd")
        if options.wants_trace:
            await self.traces.admit(caller.owner)
        async with self._turn(caller, ref, options.timeout_s) as awake:
            found = await self._run(awake, argv, options.timeout_s, options.note([cmd], batch=False))
            outcome = history.outcome_of(found)
            self.deferred.put(lambda db: history.finish(db, awake.peer.session_id, outcome))
            trace_ref = await self._traced(
                caller, awake, found.execution_id, [_step(cmd, 0, found)], options, batch=False
            )
        return BrowserResult(
            success=found.success,
            output=found.output,
            error=found.error,
            exit_code=found.exit_code,
            execution_id=found.execution_id,
            execution_time_ms=found.execution_time_ms,
            trace_ref=trace_ref,
        )

    async def batch(
        self, caller: Caller, ref: str, cmds: Sequence[str], options: BrowserOptions, *, stop_on_error: bool
    ) -> BrowserBatch:
        """Run commands one after the other until all are done, time is up, or with `stop_on_error` one
        failed. When the call is cancelled the command that runs is ended, and no other begins.
        """
        argvs = [argv_of(cmd, "commands") for cmd in cmds]
        if options.wants_trace:
            await self.traces.admit(caller.owner)
        async with self._turn(caller, ref, options.timeout_s) as awake:
            batch = _Batch(awake, await self._begun(awake, options.note(cmds, batch=True)), cmds)
            try:
                await self._steps(batch, argvs, options.timeout_s, stop_on_error=stop_on_error)
            except (asyncio.CancelledError, BayError) as error:
                self._end(
                    batch,
                    "the client disconnected" if isinstance(error, asyncio.CancelledError) else str(error),
                )
                raise
            found = self._end(batch, None)
            trace_ref = await self._traced(
                caller, awake, found.execution_id, batch.steps, options, batch=True
            )
        return _answer(batch, found, trace_ref)

    async def run_skill(
        self, caller: Caller, ref: str, skill_key: str, options: BrowserOptions, *, stop_on_error: bool
    ) -> BrowserReplay:
        """Run the commands of the skill's active release as a batch, and note that in the history."""
        await self.waker.find(caller, ref)
        replay = await self.replays.find(caller.owner, skill_key)
        tagged = replace(options, tags=normal_tags(replay.tags(options.tags)))
        done = await self.batch(caller, ref, replay.commands, tagged, stop_on_error=stop_on_error)
        values: dict[str, Any] = {each.name: getattr(done, each.name) for each in fields(done)}
        return BrowserReplay(**values, skill_key=skill_key, release_id=replay.release.id)

    async def trace(self, caller: Caller, ref: str, trace_ref: str) -> BrowserTrace:
        """A stored trace. Starts nothing."""
        await self.waker.find(caller, ref)
        return await self.traces.get(caller.owner, trace_ref)

    @asynccontextmanager
    async def _turn(self, caller: Caller, ref: str, within_s: float) -> AsyncGenerator[Awake]:
        """The caller's turn at the browser, with the sandbox awake."""
        sandbox = await self.waker.find(caller, ref)
        async with (
            self.turns.turn(sandbox.id, within_s),
            self.waker.awake(caller, sandbox.id, "browser") as awake,
        ):
            yield awake

    async def _run(
        self, awake: Awake, argv: tuple[str, ...], timeout_s: float, note: HistoryNote | None
    ) -> ShellResult:
        new = NewExec(argv=argv, timeout_s=timeout_s)
        return shell_result(await self.execs.run_in(awake, new, note, timeout_s + _KILL_GRACE_S))

    async def _steps(
        self, batch: _Batch, argvs: Sequence[tuple[str, ...]], timeout_s: float, *, stop_on_error: bool
    ) -> None:
        now = asyncio.get_running_loop().time
        deadline = now() + timeout_s
        for index, argv in enumerate(argvs):
            left = deadline - now()
            if left <= 0:
                return
            found = await self._run(batch.awake, argv, left, None)
            batch.steps.append(batch.room.cut(_step(batch.cmds[index], index, found)))
            if stop_on_error and found.exit_code != 0:
                return

    async def _begun(self, awake: Awake, note: HistoryNote) -> Exec:
        """The row of a batch, which is no process; those of its steps come one by one."""
        row = Exec(
            id=new_id("exec"), argv=(PROGRAM,), pid=None, tty=False, state="running", exit_code=None, signal=None,
            started_at=self.clock(), ended_at=None, output_bytes=0, first_offset=0,
        )  # fmt: skip
        async with self.store.write() as db:
            await execs.add(db, awake.sandbox.id, awake.peer.session_id, row, note)
        return row

    def _end(self, batch: _Batch, error: str | None) -> ShellResult:
        """Write soon what came of a batch, as of a process, and return that."""
        now = self.clock()
        failed = next((step for step in batch.steps if step.exit_code != 0), None)
        result = ShellResult(
            success=batch.success,
            output="\n".join(step.stdout for step in batch.steps),
            error=error or (failed.stderr or None if failed else None),
            exit_code=0 if batch.success else 1,
            execution_id=batch.row.id,
            execution_time_ms=round((now - batch.row.started_at).total_seconds() * 1000),
        )
        ended = replace(batch.row, state="exited", exit_code=result.exit_code, ended_at=now)
        outcome, session_id = history.outcome_of(result), batch.awake.peer.session_id
        self.deferred.put(lambda db: history.finish(db, session_id, outcome))
        self.deferred.put(lambda db: execs.save(db, session_id, ended))
        return result

    async def _traced(
        self,
        caller: Caller,
        awake: Awake,
        execution_id: str,
        steps: Sequence[BrowserStep],
        options: BrowserOptions,
        *,
        batch: bool,
    ) -> str | None:
        """The reference that the caller is told of a stored trace."""
        if not options.wants_trace:
            return None
        ref = await self.traces.keep(
            caller.owner, awake.sandbox.id, execution_id, steps, batch=batch, learn=options.learn
        )
        return ref if options.include_trace else None


def _step(cmd: str, index: int, found: ShellResult) -> BrowserStep:
    return BrowserStep(
        cmd=cmd,
        stdout=found.output,
        stderr=found.error or "",
        exit_code=found.exit_code,
        step_index=index,
        duration_ms=found.execution_time_ms,
    )


def _answer(batch: _Batch, found: ShellResult, trace_ref: str | None) -> BrowserBatch:
    return BrowserBatch(
        results=tuple(batch.steps),
        total_steps=len(batch.cmds),
        completed_steps=len(batch.steps),
        success=batch.success,
        duration_ms=found.execution_time_ms,
        execution_id=found.execution_id,
        execution_time_ms=found.execution_time_ms,
        trace_ref=trace_ref,
    )
