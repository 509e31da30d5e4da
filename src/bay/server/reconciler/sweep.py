"""The sweep enforces time limits: once a second it pokes the rows whose time has come."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import structlog

from bay.clock import Clock
from bay.errors import BayError
from bay.server.kernels.ship_client import KernelClient
from bay.server.sessions.rows import peer_of
from bay.server.sessions.waker import Holds
from bay.server.sessions.work_queue import WorkQueue
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from bay.store import events, execs, sandboxes
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import SandboxRecord, SessionRecord, Target

log = structlog.get_logger("bay.sweep")

PERIOD_S = 1.0
_ASK_S = 2.0
_AT_ONCE = 16


class Sweep:
    """Expires sandboxes, freezes idle ones, and gives back the memory of those that stay frozen.

    `can_freeze` says whether the driver can; else idle sandboxes are stopped. Each round begins with
    `chores`, other work of once a second.
    """

    def __init__(
        self,
        *,
        store: Store,
        deferred: DeferredWrites,
        queue: WorkQueue,
        ship: ShipClient,
        kernels: KernelClient,
        holds: Holds,
        clock: Clock,
        can_freeze: bool,
        retention: timedelta,
        chores: list[Callable[[], Awaitable[None]]],
    ) -> None:
        self._store = store
        self._deferred = deferred
        self._queue = queue
        self._ship = ship
        self._kernels = kernels
        self._holds = holds
        self._clock = clock
        self._can_freeze = can_freeze
        self._retention = retention
        self._chores = chores
        # How many Ships are asked at once; nothing else is held with it.
        self._asking = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("sweep.failed")
            await asyncio.sleep(PERIOD_S)

    async def sweep(self) -> None:
        """Look once."""
        for chore in self._chores:
            try:
                await chore()
            except Exception:
                log.exception("sweep.chore_failed")  # it must not keep time limits from being kept
        await self._deferred.flush()
        now = self._clock()
        async with self._store.read() as db:
            due = await sandboxes.due(db, now, self._retention)
        waiting = [s for s in due if not s.is_expired(now)]
        for sandbox in due:
            if sandbox.is_expired(now):
                self._queue.put(sandbox.id)
        async with asyncio.TaskGroup() as group:
            for sandbox in waiting:
                group.create_task(self._cool(sandbox, now))

    async def _cool(self, sandbox: SandboxRecord, now: datetime) -> None:
        if sandbox.target == "paused":
            await self._thaw_out(sandbox, now)
        else:
            await self._idle_out(sandbox, now)
        self._queue.put(sandbox.id)

    async def _thaw_out(self, sandbox: SandboxRecord, now: datetime) -> None:
        """Frozen for long enough: its memory goes back to the host."""
        async with self._store.write() as db:
            if await sandboxes.change_target(db, sandbox.id, old=("paused",), new="stopped"):
                await events.add(db, sandbox, "sandbox.cooled", now, reason="warm_timeout")

    async def _idle_out(self, sandbox: SandboxRecord, now: datetime) -> None:
        """Freeze an idle sandbox, unless a call or an exec is under way: then its idle clock starts again."""
        if sandbox.session and await self.is_active(sandbox, sandbox.session):
            async with self._store.write() as db:
                later = now + timedelta(seconds=sandbox.idle_timeout or 0)
                await sandboxes.change(db, sandbox.id, idle_expires_at=later)
            return
        frozen = self._can_freeze and sandbox.warm_timeout != 0 and sandbox.phase == "running"
        new: Target = "paused" if frozen else "stopped"
        await self._deferred.flush()  # a call that came and went meanwhile may have pushed the clock
        async with self._store.write() as db:
            if await sandboxes.idle_out(db, sandbox.id, now, new):
                await events.add(db, sandbox, "sandbox.idle", now)

    async def is_active(self, sandbox: SandboxRecord, session: SessionRecord) -> bool:
        """Whether a call is under way, an exec still runs or a kernel is busy."""
        if self._holds.any(sandbox.id):
            return True
        peer = peer_of(session)
        if peer is None:
            return session.phase == "starting"
        try:
            async with self._asking, asyncio.timeout(_ASK_S):
                return await self._any_exec(peer) or await self._any_cell(peer)
        except (BayError, TimeoutError) as error:
            # Unknown is not idle: a build must not end with one bad answer.
            log.info("session.silent", id=session.id, error=str(error))
            return True

    async def _any_exec(self, peer: Peer) -> bool:
        """Whether an exec that counts still runs; the rows are brought up to date on the way."""
        async with self._store.read() as db:
            if not await execs.any_active(db, peer.session_id):
                return False
        known = await self._ship.list_execs(peer)
        async with self._store.write() as db:
            for item in known:
                await execs.save(db, peer.session_id, item)
            return await execs.any_active(db, peer.session_id)

    async def _any_cell(self, peer: Peer) -> bool:
        """Whether a cell runs or waits for its turn. Cells have no rows, so this is always asked."""
        return any(item.queued or item.state == "busy" for item in await self._kernels.every(peer))
