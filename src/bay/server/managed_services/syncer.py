"""The syncer has the Ship of each running session keep the services of the rows, and follows their state.

A Ship gets them when it starts, when the rows change, and when Bay adopts it; a failed sync is retried. Then
it reports each change by itself, over the session's feed. Of replicas the one that acts on the sandbox does
all of this, as two that tell at once could leave an older version; the others ask it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import structlog

from bay.backoff import Backoff
from bay.clock import Clock
from bay.errors import BayError
from bay.models import Profile
from bay.server.events.rate import event_bucket
from bay.server.managed_services.ship_client import ServiceClient, ServiceStatus, States, states_of
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sessions.feeds import Take
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.shares import Shares
from bay.server.ship.connection import Peer
from bay.store import events, sandboxes, services
from bay.store.engine import Store
from bay.store.records import SandboxRecord
from bay.token_bucket import TokenBucket

log = structlog.get_logger("bay.services")

_BACKOFF = Backoff(0.5, 30.0)
_TELL, _TELL_LATER, _REPORT = "services.tell", "services.tell_later", "services.report"
_AT_ONCE, _LONGEST_S = 16, 1.0
"""How many are told at the same time, of those that nobody waits for: a Bay that takes thousands of sessions
over answers calls meanwhile. A Ship that takes longer keeps none of the others waiting.
"""
_TOLD_S = 45.0
"""Longer than a sync may take: the client of Ship has a shorter deadline."""
_AGAIN_S = 0.5


@dataclass(slots=True, eq=False)
class _Kept:
    """A session whose services are kept."""

    sandbox_id: str
    peer: Peer | None
    """None before its Ship is there."""
    seen: States | None
    """Ship's last report; None before the first one of a session that an earlier Bay has started."""
    trouble: str | None = None
    """Why the last sync failed."""
    dirty: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while the rows may be newer than the definitions that Ship has."""
    running: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear before Ship is there and while it is frozen: its socket's backlog would fill with dead calls."""
    sync_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from the read of the rows until Ship has them: no older version comes after a newer one."""
    task: asyncio.Task[None] | None = None
    is_over: bool = False
    events: TokenBucket = field(default_factory=event_bucket)


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """The facts that are known of a session's services without a call of its Ship."""

    seen: States = field(default_factory=dict[str, ServiceStatus])
    """Their state in Ship's last report."""
    trouble: str | None = None
    """Why its Ship does not know what the rows say; None when it does."""


class ServiceSyncer:
    """See the module. `run` has to run for anything to be tried again and heard."""

    def __init__(
        self,
        *,
        store: Store,
        ship: ServiceClient,
        profiles: Mapping[str, Profile],
        bring_secrets: Callable[[SandboxRecord, Peer], Awaitable[Mapping[str, str]]],
        notifier: Notifier,
        clock: Clock,
        leases: ReplicaLeases,
        bus: Bus,
    ) -> None:
        self._store = store
        self._leases = leases
        self._bus = bus
        bus.answer(_TELL, self._tell_here)
        bus.answer(_REPORT, self._report_here)
        bus.hear(_TELL_LATER, self._tell_later_here)
        self._bring_secrets = bring_secrets
        self._ship = ship
        self._profiles = profiles
        self._notifier = notifier
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        """By session."""
        self._to_keep: asyncio.Queue[_Kept] = asyncio.Queue()
        self._telling = Shares(_AT_ONCE, _AT_ONCE, _LONGEST_S)

    async def run(self) -> None:
        """Work until cancelled; services keep running."""
        async with asyncio.TaskGroup() as group:
            while True:
                kept = await self._to_keep.get()
                if not kept.is_over and (kept.task is None or kept.task.done()):
                    kept.task = group.create_task(self._keep(kept))

    async def expect(self, sandbox_id: str, session_id: str) -> None:
        """A session is about to start. Looked at now: one without services is not kept from being ready."""
        await self.end(session_id)  # an attempt to start it may have come far before
        kept = self._kept[session_id] = _Kept(sandbox_id, None, {})
        async with self._store.read() as db:
            if await services.all_of(db, sandbox_id):
                kept.dirty.set()

    async def begin(self, peer: Peer) -> None:
        """Start the services of a session that was expected. A failed sync is retried, and nothing raised."""
        if (kept := self._kept.get(peer.session_id)) is not None:
            kept.peer = peer
            kept.running.set()
            if kept.dirty.is_set():
                await self._try_to_tell(kept)

    def adopt(self, sandbox_id: str, peer: Peer, *, frozen: bool) -> None:
        """An earlier Bay has begun that session: sync it again, which changes nothing that is up to date."""
        kept = self._kept[peer.session_id] = _Kept(sandbox_id, peer, None)
        kept.dirty.set()
        if not frozen:
            kept.running.set()
        self._to_keep.put_nowait(kept)

    async def end(self, session_id: str) -> None:
        """The session is over, or about to be."""
        if (kept := self._kept.pop(session_id, None)) is None:
            return
        kept.is_over = True
        if kept.task is not None:
            kept.task.cancel()
            await asyncio.wait((kept.task,))

    async def tell(self, sandbox_id: str, session_id: str) -> None:
        """The rows have changed: tell a session that runs; nothing is raised, as for `begin`. If the replica
        that acts on the sandbox was killed, the next one is waited for, within a bound.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(_TOLD_S):
                while True:
                    if await self._leases.ask_owner(sandbox_id, _TELL, session_id, _TOLD_S):
                        return
                    await asyncio.sleep(_AGAIN_S)

    def tell_later(self, session_id: str) -> None:
        """The rows have changed: tell the session once it is able to hear it."""
        self._tell_later_here([session_id])
        self._bus.tell(_TELL_LATER, [session_id])

    def tell_all_later(self) -> None:
        """Words of other replicas may have been missed: tell all sessions that this one keeps."""
        self._tell_later_here(list(self._kept))

    async def report(self, sandbox_id: str, session_id: str) -> ServiceReport:
        """The facts that the replica has which acts on the sandbox; none while it does not answer."""
        if self._leases.owns(sandbox_id):
            return self._known(session_id)
        found = await self._leases.ask_owner(sandbox_id, _REPORT, session_id)
        if found is None:
            return ServiceReport()
        seen = (ServiceStatus.model_validate(one) for one in found["seen"])
        return ServiceReport({one.name: one for one in seen}, found["trouble"])

    async def _tell_here(self, session_id: str) -> bool:
        """Whether it was tried; False while this replica is about to take the session over."""
        if (kept := self._kept.get(session_id)) is not None:
            await self._try_to_tell(kept)
            return True
        async with self._store.read() as db:
            found = await sandboxes.of_session(db, session_id)
        return found is None or found.session is None or found.session.id != session_id

    def _tell_later_here(self, session_ids: list[str]) -> None:
        for session_id in session_ids:
            if (kept := self._kept.get(session_id)) is not None:
                kept.dirty.set()
                self._to_keep.put_nowait(kept)

    async def _report_here(self, session_id: str) -> object:
        known = self._known(session_id)
        seen = [one.model_dump(mode="json", exclude_defaults=True) for one in known.seen.values()]
        return {"seen": seen, "trouble": known.trouble}

    def _known(self, session_id: str) -> ServiceReport:
        kept = self._kept.get(session_id)
        return ServiceReport(kept.seen or {}, kept.trouble) if kept is not None else ServiceReport()

    def froze(self, session_id: str) -> None:
        """The session hears nothing from now on."""
        if (kept := self._kept.get(session_id)) is not None:
            kept.running.clear()

    def thawed(self, session_id: str) -> None:
        """The session was thawed: do the syncs that waited for it."""
        if (kept := self._kept.get(session_id)) is not None:
            kept.running.set()

    async def _try_to_tell(self, kept: _Kept) -> None:
        try:
            await self._tell(kept)
        except BayError as error:
            log.warning("services.not_told", sandbox=kept.sandbox_id, code=error.code, error=error.message)
        self._to_keep.put_nowait(kept)

    async def _tell(self, kept: _Kept) -> None:
        async with kept.sync_lock:
            if (peer := kept.peer) is None:
                return
            kept.dirty.clear()
            try:
                async with self._store.read() as db:
                    sandbox = await sandboxes.get(db, kept.sandbox_id)
                    specs = await services.all_of(db, kept.sandbox_id)
                profile = self._profiles.get(sandbox.profile) if sandbox else None
                env = {**(profile.env if profile else {}), **(sandbox.env if sandbox else {})}
                env |= await self._bring_secrets(sandbox, peer) if sandbox else {}
                await self._ship.put(peer, env, specs)
            except BayError as error:
                kept.trouble = (
                    f"the sandbox's runtime could not be informed: {error.message}; Bay tries again"
                )
                kept.dirty.set()
                raise
            kept.trouble = None

    async def _keep(self, kept: _Kept) -> None:
        """Retry until Ship has what the rows say, also if that is nothing: Bay may have died before that."""
        failures = 0
        while kept.dirty.is_set():
            await kept.running.wait()
            try:
                async with self._telling.take(kept.sandbox_id):
                    await self._tell(kept)
            except BayError as error:
                failures += 1
                wait_s = _BACKOFF.pause(failures)
                log.info("services.not_told", sandbox=kept.sandbox_id, retry_in_s=wait_s, error=error.message)
                await asyncio.sleep(wait_s)
            except Exception:
                log.exception("services.keeping_failed", sandbox=kept.sandbox_id)
                kept.dirty.set()
                await asyncio.sleep(_BACKOFF.longest_s)

    def listener(self, _sandbox_id: str, session_id: str) -> "ServiceListener":
        """The listener to what the session's Ship tells of its services."""
        return ServiceListener(self, session_id)

    async def hear(self, session_id: str, states: States) -> None:
        """Write the owner's events first, and then the state: events that could not be written come again."""
        if (kept := self._kept.get(session_id)) is None:
            return
        news = None if kept.seen is None else news_of(kept.seen, states)
        if news:
            await self._write(kept.sandbox_id, news)
        kept.seen = states
        self._notifier.announce(kept.sandbox_id)
        if news:
            await asyncio.sleep(kept.events.pay(len(news.failed) + len(news.unhealthy)))

    async def _write(self, sandbox_id: str, news: "News") -> None:
        now = self._clock()
        async with self._store.write() as db:
            sandbox = await sandboxes.get(db, sandbox_id)
            if sandbox is None or sandbox.deleted_at is not None:
                return
            for one in news.failed:
                await events.add(
                    db, sandbox, "service.failed", now,
                    service=one.name, exit_code=one.exit_code, signal=one.signal, message=one.message,
                )  # fmt: skip
            for one in news.unhealthy:
                await events.add(db, sandbox, "service.unhealthy", now, service=one.name, message=one.message)


class ServiceListener:
    """The listener to the states of one session's services."""

    def __init__(self, syncer: ServiceSyncer, session_id: str) -> None:
        self._syncer = syncer
        self._session_id = session_id

    def read(self, line: bytes) -> Take:
        """Check a line. Raises ShipError."""
        return partial(self._syncer.hear, self._session_id, states_of(line))


class News(NamedTuple):
    """Services that have failed for good, and services that fail their health check."""

    failed: list[ServiceStatus]
    unhealthy: list[ServiceStatus]

    def __bool__(self) -> bool:
        return bool(self.failed or self.unhealthy)


def news_of(before: States, now: States) -> News:
    """The owner's events of a change."""
    news = News([], [])
    for name, status in now.items():
        old = before.get(name)
        # A run that has come and gone between two looks is another one all the same.
        same = old if old and (old.started_at, old.restarts) == (status.started_at, status.restarts) else None
        if status.has_failed and not (same and same.has_failed):
            news.failed.append(status)
        if status.healthy is False and not (same and same.healthy is False):
            news.unhealthy.append(status)
    return news
