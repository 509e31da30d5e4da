"""Collects garbage at an operator's word, as Bay does anyway: idle compute, expired sandboxes, orphans."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic

from bay.errors import BayError
from bay.models import GarbageRun, GarbageState, GarbageTask, GarbageTaskResult, from_wire, to_wire
from bay.server.reconciler.orphans import Orphans
from bay.server.reconciler.sweep import PERIOD_S, Sweep, cool
from bay.server.replicas.bus import Bus
from bay.server.sessions.core import Core
from bay.server.sessions.waker import Waker
from bay.store import events, metadata, sandboxes
from bay.store.records import SandboxRecord

TASKS: tuple[GarbageTask, ...] = ("idle_session", "expired_sandbox", "orphan_cargo", "orphan_container")
_SETTLE_S = 60.0
_FACT, _RUNNING = "garbage", "garbage.running"
_NEVER = GarbageRun(results=(), total_cleaned=0, total_errors=0, duration_ms=0)


@dataclass(kw_only=True, eq=False)
class Garbage:
    """The service behind `/v1/admin/gc`. One run at a time; a second waits for the first. Of replicas each
    may have one; each thing is removed once.
    """

    core: Core
    waker: Waker
    sweep: Sweep
    orphans: Orphans
    bus: Bus
    _running: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)  # nothing else is held with it

    def __post_init__(self) -> None:
        self.bus.answer(_RUNNING, self._is_running_here)

    async def state(self) -> GarbageState:
        """Whether a run is under way, and what the last one found, at whichever replica."""
        async with self.core.store.read() as db:
            fact = await metadata.get(db, _FACT)
        last = from_wire(GarbageRun, json.loads(fact["run"])) if fact else _NEVER
        return GarbageState(
            enabled=True, is_running=await self.bus.any(_RUNNING, ""), interval_seconds=PERIOD_S, tasks=TASKS,
            ran_at=datetime.fromisoformat(fact["ran_at"]) if fact else None, results=last.results,
            total_cleaned=last.total_cleaned, total_errors=last.total_errors, duration_ms=last.duration_ms,
        )  # fmt: skip

    async def run(self, tasks: tuple[GarbageTask, ...]) -> GarbageRun:
        """Do those tasks in the order of `TASKS`, of every owner, and answer when what they began is done."""
        async with self._running:
            begun = monotonic()
            results = [await self._do(task) for task in TASKS if task in tasks]
            done = GarbageRun(
                results=tuple(results),
                total_cleaned=sum(result.cleaned_count for result in results),
                total_errors=sum(len(result.errors) for result in results),
                duration_ms=round(1000 * (monotonic() - begun)),
            )
            fact = {"run": json.dumps(to_wire(done)), "ran_at": self.core.clock().isoformat()}
            async with self.core.store.write() as db:
                await metadata.set(db, _FACT, fact)
            return done

    async def _is_running_here(self, _item: str) -> bool:
        return self._running.locked()

    async def _do(self, task: GarbageTask) -> GarbageTaskResult:
        try:
            match task:
                case "idle_session":
                    return await self._idle_sessions()
                case "expired_sandbox":
                    return await self._expired_sandboxes()
                case "orphan_cargo":
                    return _result(task, await self.orphans.remove_cargos())
                case "orphan_container":
                    return await self._orphan_containers()
        except (BayError, OSError) as error:
            return _result(task, 0, errors=[str(error)])

    async def _idle_sessions(self) -> GarbageTaskResult:
        async with self.core.store.read() as db:
            found = await sandboxes.idle(db, self.core.clock())
        taken = await asyncio.gather(*map(self._cool, found))
        ended = await self._all_settled([s for s, cold in zip(found, taken, strict=True) if cold], _is_cold)
        return _result("idle_session", *_counted(ended), skipped=taken.count(False))

    async def _cool(self, sandbox: SandboxRecord) -> bool:
        """Want it cold, unless it is at work as the sweep counts it; whether it is wanted so."""
        frozen = sandbox.target == "paused"
        if sandbox.session is None or (not frozen and await self.sweep.is_active(sandbox, sandbox.session)):
            return False
        if frozen:
            return await cool(self.core, sandbox, "an operator asked")
        now = self.core.clock()
        async with self.core.store.write() as db:
            if not await sandboxes.idle_out(db, sandbox.id, now, "stopped"):
                return False
            await events.add(db, sandbox, "sandbox.idle", now)
            return True

    async def _expired_sandboxes(self) -> GarbageTaskResult:
        now = self.core.clock()
        async with self.core.store.read() as db:
            due = await sandboxes.due(db, now, self.sweep.retention)
        expired = [sandbox for sandbox in due if sandbox.is_expired(now)]
        ended = await self._all_settled(expired, lambda s: s.session is None and not self._is_left(s, now))
        return _result("expired_sandbox", *_counted(ended))

    def _is_left(self, sandbox: SandboxRecord, now: datetime) -> bool:
        """Whether it is hidden and still there."""
        goes = sandbox.expires_at is not None and sandbox.expires_at + self.sweep.retention <= now
        return goes and sandbox.deleted_at is None

    async def _orphan_containers(self) -> GarbageTaskResult:
        removed = await self.orphans.remove_sessions()
        errors = [f"session {session_id} cannot be removed now" for session_id in self.orphans.left()]
        return _result("orphan_container", removed, errors=errors)

    async def _all_settled(
        self, found: list[SandboxRecord], done: Callable[[SandboxRecord], bool]
    ) -> list[str | None]:
        """Poke the reconciler for each, and wait: None for one of which `done` holds, else the problem."""

        async def settle(sandbox: SandboxRecord) -> str | None:
            self.waker.poke(sandbox.id)
            if await self.waker.wait_until(sandbox.id, done, _SETTLE_S) is not None:
                return None
            return f"sandbox {sandbox.id} takes longer than {_SETTLE_S:g} s; it goes on by itself"

        return list(await asyncio.gather(*map(settle, found)))


def _is_cold(sandbox: SandboxRecord) -> bool:
    if sandbox.session is None or sandbox.phase == "hibernated":
        return True
    return sandbox.target not in ("stopped", "hibernated")


def _counted(outcomes: list[str | None]) -> tuple[int, list[str]]:
    return outcomes.count(None), [error for error in outcomes if error is not None]


def _result(
    task: GarbageTask, cleaned: int, errors: list[str] | None = None, skipped: int = 0
) -> GarbageTaskResult:
    return GarbageTaskResult(
        task_name=task, cleaned_count=cleaned, skipped_count=skipped, errors=tuple(errors or ())
    )
