"""Enforces time limits: looks once a second for rows whose time has come. The times are in the rows."""

import asyncio
from datetime import UTC, datetime, timedelta

import structlog

from bay.clock import Clock
from bay.errors import BayError
from bay.server import lifecycle
from bay.server.peers import peer_of
from bay.server.ship_link import ShipLink
from bay.server.workqueue import WorkQueue
from bay.store import claims, events, execs, sandboxes
from bay.store.engine import Store
from bay.store.records import SandboxRecord, SessionRecord

log = structlog.get_logger("bay.sweep")

_PERIOD_S = 1.0
_CLAIM_PERIOD = timedelta(hours=1)
CLAIM_LIFE = timedelta(hours=24)


class Sweep:
    """Expires sandboxes, gives back idle compute, and forgets old idempotency claims."""

    def __init__(self, *, store: Store, queue: WorkQueue, link: ShipLink, clock: Clock) -> None:
        self._store = store
        self._queue = queue
        self._link = link
        self._clock = clock
        self._claims_checked_at = datetime.min.replace(tzinfo=UTC)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            try:
                await self.sweep()
            except Exception:
                log.exception("sweep.failed")
            await asyncio.sleep(_PERIOD_S)

    async def sweep(self) -> None:
        """Look once."""
        now = self._clock()
        async with self._store.read() as db:
            due = await sandboxes.due(db, now)
        for sandbox in due:
            if not lifecycle.is_expired(sandbox, now):
                await self._idle_out(sandbox, now)
            self._queue.put(sandbox.id)
        if self._claims_checked_at + _CLAIM_PERIOD <= now:
            self._claims_checked_at = now
            await self._forget_claims(now)

    async def _forget_claims(self, now: datetime) -> None:
        async with self._store.write() as db:
            await claims.forget(db, now - CLAIM_LIFE)

    async def _idle_out(self, sandbox: SandboxRecord, now: datetime) -> None:
        """Stop an idle sandbox, unless a call or an exec is under way: then its idle clock starts again."""
        if sandbox.session and await self._is_active(sandbox.session):
            async with self._store.write() as db:
                later = now + timedelta(seconds=sandbox.idle_timeout or 0)
                await sandboxes.change(db, sandbox.id, idle_expires_at=later)
            return
        async with self._store.write() as db:
            if await sandboxes.idle_out(db, sandbox.id, now):
                await events.add(db, sandbox, "sandbox.idle", now)

    async def _is_active(self, session: SessionRecord) -> bool:
        """Whether a call is under way or an exec still runs; the rows are brought up to date on the way."""
        peer = peer_of(session)
        if peer is None or self._link.busy(session.id):
            return peer is not None
        async with self._store.read() as db:
            if not await execs.any_running(db, session.id):
                return False
        try:
            known = await self._link.list_execs(peer)
        except BayError as error:
            # Its rows say that something runs, and unknown is not idle: a build must not end with one bad answer.
            log.info("session.silent", id=session.id, error=error.message)
            return True
        async with self._store.write(only_execs=True) as db:
            for item in known:
                await execs.save(db, session.id, item)
        return any(item.state == "running" for item in known)
