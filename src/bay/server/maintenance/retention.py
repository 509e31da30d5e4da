"""Retention deletes old rows once a minute, in transactions so small that no call waits long for one.

docs/settings.md has what goes when. Execs are also looked at in between, when many have come: a loop of quick
commands adds rows as fast as it can. Rejected: one `DELETE` of everything, which holds the database's only
writer for as long as it takes; and `VACUUM`, because SQLite fills freed pages again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

from bay.server.execs.results import ExecResults
from bay.server.samples.rolling import Rolling
from bay.server.sessions.core import Core
from bay.store import audit, checkpoints, claims, events, history, skills, tombstones
from bay.store.connection import StoreConnection
from bay.store.history import Kind
from bay.store.records import Keep

T = TypeVar("T")
log = structlog.get_logger("bay.housekeeping")

CLAIM_LIFE = timedelta(hours=24)
_POOLED_LIFE = timedelta(hours=1)
_KEEP_PLAIN = Keep(count=1000, size=16 << 20)
_MANY = 10
"""How many times as much of failed executions is kept, and of execs that count as running."""
_KEEP_SESSIONS = 20

_PERIOD_S = 60.0
_LOOK_S = 5.0
_RUSH = 500
"""Execs since the last round after which the next one comes early."""
_BATCH = 500
_SMALL_BATCH = 50  # of rows that others refer to: each costs a look at those


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How much is kept, and for how long."""

    history: Keep
    """Of each sandbox's successful executions; ten times as much of the failed ones."""
    history_age: timedelta
    events: int
    event_age: timedelta
    audit: int
    audit_age: timedelta
    deleted_age: timedelta


class Housekeeping:
    """Keeps the database from growing for ever. Touches rows only: files are the reconciler's."""

    def __init__(self, core: Core, results: ExecResults, keep: Retention) -> None:
        self._core = core
        self._results = results
        self._keep = keep
        self._rolling = Rolling(core)
        self._limits: dict[Kind, Keep] = {
            "successful": keep.history,
            "failed": _times(_MANY, keep.history),
            "plain": _KEEP_PLAIN,
            "running": _times(_MANY, _KEEP_PLAIN),
        }
        limits = self._limits.values()
        self._least = Keep(count=min(one.count for one in limits), size=min(one.size for one in limits))
        """A sandbox that has no more execs than this, of all kinds together, is within each limit."""
        self._trimmed_to = 0
        """The execs up to this row have been counted; those behind it tell which sandboxes to look at."""
        self._aged_to = 0
        """The execs up to this row have been judged by their age, which comes only once."""
        self._sessions_to = 0
        """The same for sessions as `_trimmed_to` for execs."""

    async def run(self) -> None:
        """Keep house until cancelled; first of all Bay has other things to do."""
        await asyncio.sleep(_LOOK_S)
        while True:
            await self._safely(self.housekeep)
            for _ in range(round(_PERIOD_S / _LOOK_S)):
                await asyncio.sleep(_LOOK_S)
                await self._safely(self.look)

    async def housekeep(self) -> None:
        """Forget once what is too old or too much. Each part does its work whatever becomes of the others."""
        for part in (
            self._results.learn,
            self._trim_execs,
            self._trim_by_age,
            self._forget_claims,
            self._trim_events,
            self._trim_audit,
            self._bury,
            self._forget_sessions,
            self._forget_checkpoints,
            self._forget_skills,
            self._rolling.roll_up,
        ):
            await self._safely(part)

    async def look(self) -> None:
        """See whether many commands have come since the last round, which are then not left to the next."""
        async with self._core.store.read() as db:
            newest = await history.newest(db)
        if newest - self._trimmed_to >= _RUSH:
            await self._results.learn()
            await self._trim_execs()

    async def _safely(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except Exception:
            log.exception("housekeeping.failed", part=getattr(part, "__name__", ""))

    async def _trim_execs(self) -> None:
        await self._core.deferred.flush()
        async with self._core.store.read() as db:
            newest = await history.newest(db)
            grown = await history.grown(db, self._trimmed_to, self._least)
        for sandbox_id in grown:
            for kind, keep in self._limits.items():
                async with self._core.store.read() as db:
                    surplus = await history.surplus(db, sandbox_id, kind, keep)
                await self._drop(surplus)
        self._trimmed_to = newest

    async def _trim_by_age(self) -> None:
        before = self._core.clock() - self._keep.history_age
        while True:
            async with self._core.store.read() as db:
                old, last = await history.aged(db, self._aged_to, before, _BATCH)
            await self._drop(old)
            if last is None:
                return
            self._aged_to = last

    async def _drop(self, seqs: list[int]) -> None:
        for some in _batches(seqs, _BATCH):
            async with self._core.store.write() as db:
                await history.drop(db, some)

    async def _forget_claims(self) -> None:
        before = self._core.clock() - CLAIM_LIFE
        await self._until_few(lambda db: claims.forget(db, before, _BATCH))

    async def _trim_events(self) -> None:
        before = self._core.clock() - self._keep.event_age
        async with self._core.store.read() as db:
            too_many = await events.time_of(db, await events.last(db) - self._keep.events)
        oldest = max(before, too_many) if too_many else before
        await self._until_few(lambda db: events.trim(db, oldest, _BATCH))

    async def _trim_audit(self) -> None:
        before = self._core.clock() - self._keep.audit_age
        async with self._core.store.write() as db:
            await audit.trim(db, before, self._keep.audit)

    async def _until_few(self, forget: Callable[[StoreConnection], Awaitable[int]]) -> None:
        """Do it until it finds fewer than a batch, each time in a transaction of its own."""
        found = _BATCH
        while found >= _BATCH:
            async with self._core.store.write() as db:
                found = await forget(db)

    async def _bury(self) -> None:
        """Delete the rows of sandboxes that were removed long ago, and of cargos without a reference."""
        now = self._core.clock()
        old = (now - self._keep.deleted_age, now - _POOLED_LIFE)
        while True:
            async with self._core.store.read() as db:
                dead = await tombstones.dead_sandboxes(db, *old, _SMALL_BATCH)
            if not dead:
                break
            async with self._core.store.write() as db:
                await tombstones.forget_sandboxes(db, dead)
        async with self._core.store.read() as db:
            cargos = await tombstones.dead_cargos(db, *old, _BATCH)
        for some in _batches(cargos, _SMALL_BATCH):
            async with self._core.store.write() as db:
                await tombstones.forget_cargos(db, some)

    async def _forget_checkpoints(self) -> None:
        before = self._core.clock() - self._keep.deleted_age
        await self._until_few(lambda db: checkpoints.forget(db, before, _BATCH))

    async def _forget_skills(self) -> None:
        now = self._core.clock()
        old = (now - self._keep.history_age, now - self._keep.deleted_age)
        await self._until_few(lambda db: skills.forget(db, *old, _BATCH))

    async def _forget_sessions(self) -> None:
        async with self._core.store.read() as db:
            newest = await tombstones.newest_session(db)
            old = await tombstones.old_sessions(db, self._sessions_to, _KEEP_SESSIONS)
        for some in _batches(old, _SMALL_BATCH):
            async with self._core.store.write() as db:
                await tombstones.forget_sessions(db, some)
        self._sessions_to = newest


def _times(factor: int, keep: Keep) -> Keep:
    return Keep(count=factor * keep.count, size=factor * keep.size)


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
