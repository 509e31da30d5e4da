"""The sweep enforces time limits: once a second it pokes the rows whose time has come."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from bay.errors import BayError
from bay.server.kernels.ship_client import KernelClient
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sessions.core import Core
from bay.server.sessions.memory import can_hibernate
from bay.server.sessions.rows import peer_of
from bay.server.sessions.waker import Holds
from bay.server.sessions.work_queue import WorkQueue
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.store import events, execs, sandboxes
from bay.store.fences import LeaseLost
from bay.store.records import SandboxRecord, SessionRecord, Target

log = structlog.get_logger("bay.sweep")

PERIOD_S = 1.0
_ASK_S = 2.0
_AT_ONCE = 16


@dataclass(kw_only=True, eq=False)
class Sweep:
    """Expires sandboxes, freezes idle ones, and gives back the memory of those that stay frozen.
    Where the driver cannot freeze, idle ones are stopped. Each round begins with the other `chores`.
    """

    core: Core
    queue: WorkQueue
    ship: ShipClient
    kernels: KernelClient
    holds: Holds
    leases: ReplicaLeases
    retention: timedelta
    chores: list[Callable[[], Awaitable[None]]]
    # How many Ships are asked at once; nothing else is held with it.
    _asking: asyncio.Semaphore = field(init=False, default_factory=lambda: asyncio.Semaphore(_AT_ONCE))

    async def run(self) -> None:
        """Sweep until cancelled."""
        meters = self.core.meters
        while True:
            began = time.perf_counter()
            try:
                await self.sweep()
            except Exception:
                meters.sweep_failures.inc()
                log.exception("sweep.failed")
            meters.sweep_seconds.observe(time.perf_counter() - began)
            await asyncio.sleep(PERIOD_S)

    async def sweep(self) -> None:
        """Look once."""
        for chore in self.chores:
            try:
                await chore()
            except Exception:
                self.core.meters.sweep_failures.inc()
                log.exception("sweep.chore_failed")  # it must not keep time limits from being kept
        await self.core.deferred.flush()
        now = self.core.clock()
        async with self.core.store.read() as db:
            due = await sandboxes.due(db, now, self.retention)
        async with asyncio.TaskGroup() as group:
            for sandbox in due:
                if not self.leases.owns(sandbox.id):
                    continue
                if sandbox.is_expired(now):
                    self.queue.put(sandbox.id)
                else:
                    group.create_task(self._end_limit(sandbox, now))

    async def _end_limit(self, sandbox: SandboxRecord, now: datetime) -> None:
        try:
            with self.leases.working_on(sandbox.id):
                await (self._rest if sandbox.is_over(now) else self._cool)(sandbox, now)
        except LeaseLost:
            log.info("sandbox.left_to_another", sandbox=sandbox.id)

    async def _rest(self, sandbox: SandboxRecord, now: datetime) -> None:
        """Pause one whose lifetime has ended, once no call that cannot wait is under way."""
        if await self.holds.any(sandbox.id, followers=False):
            return
        await rest(self.core, sandbox, now, self._at_rest(sandbox))
        self.queue.put(sandbox.id)

    def _at_rest(self, sandbox: SandboxRecord) -> Target:
        """Frozen, or stopped where that cannot be, or where there is nothing to freeze."""
        can_freeze = self.core.driver.capabilities.pause and sandbox.warm_timeout != 0
        return "paused" if can_freeze and sandbox.phase in ("starting", "running") else "stopped"

    async def _cool(self, sandbox: SandboxRecord, now: datetime) -> None:
        if sandbox.target == "paused":
            await cool(self.core, sandbox, "warm_timeout")
        else:
            await self._idle_out(sandbox, now)
        self.queue.put(sandbox.id)

    async def _idle_out(self, sandbox: SandboxRecord, now: datetime) -> None:
        """Freeze an idle sandbox, unless a call or an exec is under way: then its idle clock starts again."""
        session = sandbox.session  # without one, a call may wait for a start that has not begun
        if await self.is_active(sandbox, session) if session else await self.holds.any(sandbox.id):
            async with self.core.store.write() as db:
                later = now + timedelta(seconds=sandbox.idle_timeout or 0)
                await sandboxes.change(db, sandbox.id, idle_expires_at=later)
            return
        can_freeze = self.core.driver.capabilities.pause
        frozen = can_freeze and sandbox.warm_timeout != 0 and sandbox.phase == "running"
        new: Target = "paused" if frozen else "stopped"
        await self.core.deferred.flush()  # a call that came and went meanwhile may have pushed the clock
        async with self.core.store.write() as db:
            if await sandboxes.idle_out(db, sandbox.id, now, new):
                # Calls may have ended since `now`, while they were asked for.
                await events.add(db, sandbox, "sandbox.idle", self.core.clock())

    async def is_active(self, sandbox: SandboxRecord, session: SessionRecord) -> bool:
        """Whether a call is under way, an exec still runs, a kernel is busy or a task is held."""
        if await self.holds.any(sandbox.id):
            return True
        peer = peer_of(session)
        if peer is None:
            return session.phase == "starting"
        try:
            async with self._asking, asyncio.timeout(_ASK_S):
                busy = await self._any_exec(peer) or await self._any_cell(peer)
                return busy or await self.ship.has_tasks(peer)
        except (BayError, TimeoutError) as error:
            # Unknown is not idle: a build must not end with one bad answer.
            log.info("session.silent", id=session.id, error=str(error))
            return True

    async def _any_exec(self, peer: Peer) -> bool:
        """Whether an exec that counts still runs; the rows are brought up to date on the way."""
        async with self.core.store.read() as db:
            if not await execs.any_active(db, peer.session_id):
                return False
        known = await self.ship.list_execs(peer)
        async with self.core.store.write() as db:
            for item in known:
                await execs.save(db, peer.session_id, item)
            return await execs.any_active(db, peer.session_id)

    async def _any_cell(self, peer: Peer) -> bool:
        """Whether a cell runs or waits for its turn. Cells have no rows, so this is always asked."""
        return any(item.queued or item.state == "busy" for item in await self.kernels.every(peer))


async def cool(core: Core, sandbox: SandboxRecord, reason: str) -> bool:
    """Have a frozen sandbox give its memory back to the host, and keep it on disk where its profile says so
    and that has not failed; False when it is wanted otherwise by now.
    """
    session = sandbox.session
    kept = session is not None and session.memory_refused is None and can_hibernate(core, sandbox)
    new: Target = "hibernated" if kept else "stopped"
    async with core.store.write() as db:
        if not await sandboxes.change_target(db, sandbox.id, old=("paused",), new=new):
            return False
        await events.add(db, sandbox, "sandbox.cooled", core.clock(), reason=reason)
        return True


async def rest(core: Core, sandbox: SandboxRecord, now: datetime, new: Target) -> None:
    """Put a sandbox to rest whose lifetime has ended; one that runs is frozen or stopped, as `new` says."""
    async with core.store.write() as db:
        if await sandboxes.rest(db, sandbox.id, now, new):
            await events.add(db, sandbox, "sandbox.rested", now)
        present = await sandboxes.get(db, sandbox.id)  # its session may have ended since the look
        if present is not None and present.phase in (None, "paused", "hibernated"):
            await sandboxes.end_lifetime(db, sandbox.id, now)
