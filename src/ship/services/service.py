"""A service: a program that is restarted when it ends, with one transcript for all its runs.

A life is a task that waits for the service's needs, runs the program, ends its left-over processes, and waits
before it begins again, until the service is removed or has ended for good. It is never cancelled, since a
program must not be lost in the middle of its start: it is asked to leave, and comes to its end.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Literal

from ship.errors import Conflict, InternalError, ShipError
from ship.execs.execs import Exec, ProcessContext
from ship.execs.request import DEFAULT_RING_BYTES, ExecRequest
from ship.execs.transcript import Transcript
from ship.services.health import probe, watch
from ship.services.specs import Health, RunEnd, ServiceSpec, after_end
from ship.waiting import Bell, first_of
from ship.wire import rfc3339

State = Literal["stopped", "waiting", "running", "backoff", "failed", "exited"]

GRACE_S = 5.0
_HEALTH_RING_BYTES = 4096


class Service:
    """A service. `changed` is set at each change of `to_wire`; `is_ready` tells of a service by name."""

    def __init__(
        self, order: ServiceSpec, context: ProcessContext, changed: Bell, is_ready: Callable[[str], bool]
    ) -> None:
        self.order = order
        self.transcript = Transcript(DEFAULT_RING_BYTES)
        self._context = context
        self._changed = changed
        self._is_ready = is_ready
        self._state: State = "stopped"
        self._healthy: bool | None = None
        self._message: str | None = None
        self._restarts = 0
        self._quick_ends = 0
        self._ended: RunEnd | None = None
        self._started_at: float | None = None
        self._next_start_at: float | None = None
        self._run: Exec | None = None
        self._life: asyncio.Task[None] | None = None
        self._leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._grace_s = GRACE_S

    @property
    def running(self) -> bool:
        """Whether it may print more."""
        return self._life is not None

    @property
    def fresh(self) -> bool:
        """Whether it has not been begun since it was made or stopped."""
        return self._life is None and self._state == "stopped"

    @property
    def ready(self) -> bool:
        """Whether its dependents may start."""
        if self._state == "exited":
            return self._ended is not None and not self._ended.failed
        return self._state == "running" and (self.order.health is None or self._healthy is True)

    def to_wire(self) -> dict[str, object]:
        ring = self.transcript.ring
        return {**self.state_to_wire(), "output_bytes": ring.next_offset, "first_offset": ring.first_offset}

    def state_to_wire(self) -> dict[str, object]:
        """The same without how much it has printed: `changed` rings when this is another."""
        return {
            "name": self.order.name,
            "state": self._state,
            "pid": None if self._run is None or self._state != "running" else self._run.pid,
            "restarts": self._restarts,
            "exit_code": None if self._ended is None else self._ended.exit_code,
            "signal": None if self._ended is None else self._ended.signal,
            "healthy": self._healthy,
            "message": self._message,
            "started_at": None if self._started_at is None else rfc3339(self._started_at),
            "next_start_at": None if self._next_start_at is None else rfc3339(self._next_start_at),
        }

    def end_to_wire(self) -> dict[str, object]:
        """The last line of its output."""
        ended = self._ended
        return {
            "exit_code": None if ended is None else ended.exit_code,
            "signal": None if ended is None else ended.signal,
            "state": "exited" if ended is None or ended.signal is None else "killed",
            "timed_out": False,
        }

    def begin(self) -> None:
        """Have it run. It must have been stopped."""
        self._leaving = asyncio.get_running_loop().create_future()
        self._quick_ends = 0
        self._life = asyncio.get_running_loop().create_task(self._live(self._leaving))

    def begin_again(self) -> None:
        """The same, counted as a restart."""
        self._restarts += 1
        self.begin()

    async def stop(self, grace_s: float = GRACE_S) -> None:
        """End it and all that it started: TERM, KILL after `grace_s`. Returns when nothing is left."""
        life = self._life
        if life is not None:
            self._grace_s = grace_s
            if not self._leaving.done():
                self._leaving.set_result(None)
            await asyncio.shield(life)
        self._say("stopped")

    def send_signal(self, number: int) -> None:
        """To the process group of its run. Raises Conflict when it does not run."""
        if self._run is None or self._state != "running":
            raise Conflict(f"service {self.order.name} does not run; start it first")
        self._run.send_signal(number)

    async def wait_settled(self, until: float) -> None:
        """Return when it runs, or is known not to for the time being, or at that time of the steady clock."""
        while self._life is not None and self._is_starting() and (left_s := until - time.monotonic()) > 0:
            await self._changed.wait(self._leaving, left_s)

    def _is_starting(self) -> bool:
        """Whether it is about to run: it waits for nothing but its turn."""
        return self._state == "stopped" or (self._state == "waiting" and not self._lacking())

    def _lacking(self) -> list[str]:
        return [name for name in self.order.needs if not self._is_ready(name)]

    async def _live(self, leaving: asyncio.Future[None]) -> None:
        try:
            while await self._wait_for_needs(leaving):
                ended = await self._run_once(leaving)
                self._ended = ended
                if leaving.done() or not await self._wait_to_restart(ended, leaving):
                    return
                self._restarts += 1
        finally:
            self._life = None
            self.transcript.news.ring()
            self._changed.ring()

    async def _wait_for_needs(self, leaving: asyncio.Future[None]) -> bool:
        """True when all its needs are ready, False when it is removed."""
        while not leaving.done():
            lacking = self._lacking()
            if not lacking:
                return True
            self._say("waiting", f"waits for {', '.join(lacking)}")
            await self._changed.wait(leaving)
        return False

    async def _run_once(self, leaving: asyncio.Future[None]) -> RunEnd:
        began = time.monotonic()
        run: Exec | None = None
        try:
            order = self._exec_order()
            run = Exec(order, self._context, self.transcript)
            with self._context.space.directory(order.cwd, order.identity) as directory:
                await run.start(order, self._context, directory)
            self._run, self._started_at = run, run.started_at
            if run.pid is not None:  # one that cannot be started has ended already, with its exit code
                self._say("running")
            await self._wait_end(run, leaving)
            lasted_s = time.monotonic() - began
            # Its left-over processes would be in the way of the next: they may hold the port.
            with suppress(InternalError):  # a process that does not die ends with the sandbox
                await run.end(self._grace_s)
            return RunEnd(run.exit_code, run.signal, lasted_s)
        except (ShipError, OSError) as error:
            problem = error.message if isinstance(error, ShipError) else error.strerror
            return RunEnd(None, None, time.monotonic() - began, problem)
        finally:
            self._run = None
            if run is not None:
                self._context.nursery.groups.give_back(run.group)

    async def _wait_end(self, run: Exec, leaving: asyncio.Future[None]) -> None:
        """Return when the first process has ended, or the service is removed."""
        health = self.order.health
        watching = asyncio.get_running_loop().create_task(self._watch(health)) if health else None
        try:
            while run.running and not leaving.done():
                await run.ended.wait(leaving)
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait((watching,))

    async def _watch(self, health: Health) -> None:
        await watch(health, lambda: self._check(health), self._hear)

    async def _check(self, health: Health) -> str | None:
        """The problem that a check finds during which nothing stood still; None when there is none."""
        standstill, port = self._context.nursery.standstill, health.port
        while True:
            await standstill.wait_over()
            number = standstill.number
            problem = await (self._command(health) if port is None else probe(port, health))
            if standstill.number == number:
                return problem

    async def _command(self, health: Health) -> str | None:
        """The problem that a command finds, which runs as the service does; None when it exits with 0."""
        try:
            order = replace(self._exec_order(), id=f"health:{self.order.name}", argv=health.argv)
            with self._context.space.directory(order.cwd, order.identity) as directory:
                return await self._problem_of(order, directory, health.timeout_s)
        except (ShipError, OSError) as error:
            return str(error.message if isinstance(error, ShipError) else error.strerror)

    async def _problem_of(self, order: ExecRequest, directory: int, timeout_s: float) -> str | None:
        run = Exec(order, self._context, Transcript(_HEALTH_RING_BYTES))
        ended = asyncio.get_running_loop().create_future()  # nothing else ends the wait for it
        try:
            await run.start(order, self._context, directory)
            async with asyncio.timeout(timeout_s):
                while run.running:
                    await run.ended.wait(ended)
        except TimeoutError:
            return f"{order.argv[0]} did not end within {timeout_s:g} s"
        finally:
            with suppress(InternalError):  # a process that does not die ends with the sandbox
                await run.end(0.0)
            self._context.nursery.groups.give_back(run.group)
        return None if run.exit_code == 0 else f"{order.argv[0]} ended with {_end_of(run)}"

    async def _wait_to_restart(self, ended: RunEnd, leaving: asyncio.Future[None]) -> bool:
        """True when it is to be restarted now, False when it has ended for good or is removed."""
        self._quick_ends = self._quick_ends + 1 if ended.was_quick else 1
        next_step = after_end(self.order.restart, ended, self._quick_ends)
        if next_step == "exited":
            self._say("exited", ended.describe() if ended.failed else None)
            return False
        if next_step == "failed":
            often = f"ended {self._quick_ends} times soon after its start"
            self._say("failed", f"{often}; the last time it {ended.describe()}")
            return False
        self._next_start_at = time.time() + next_step
        self._say("backoff", ended.describe())
        await first_of((leaving,), next_step)
        self._next_start_at = None
        return not leaving.done()

    def _hear(self, healthy: bool | None, problem: str | None) -> None:
        if self._state == "running":
            is_sick = healthy is False and problem
            self._say("running", f"is not healthy: {problem}" if is_sick else None, healthy)

    def _say(self, state: State, message: str | None = None, healthy: bool | None = None) -> None:
        before = (self._state, self._message, self._healthy)
        self._state, self._message, self._healthy = state, message, healthy
        if before != (state, message, healthy):
            self._changed.ring()

    def _exec_order(self) -> ExecRequest:
        order = self.order
        return ExecRequest(
            id=f"service:{order.name}",  # no exec's id has a colon
            argv=order.argv,
            cwd=order.cwd,
            environment=dict(order.environment),
            identity=self._context.accounts.find(order.user),
        )


def _end_of(run: Exec) -> str:
    return f"exit code {run.exit_code}" if run.signal is None else f"signal {run.signal}"


def is_same_program(one: ServiceSpec, other: ServiceSpec) -> bool:
    """Whether a service that is `one` need not be ended to be `other`."""
    return replace(one, enabled=True) == replace(other, enabled=True)
