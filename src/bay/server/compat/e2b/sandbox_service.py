"""The calls of E2B's control plane that take more than one of Bay's own.

They have no rules and no rows: each step is a call of the service that Bay's routes call.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from bay.clock import Clock
from bay.errors import CapabilityNotSupported, Conflict, DriverUnavailable, NotFound, SandboxNotReady
from bay.models import MetricsPoint, Sandbox, SandboxUsage
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.checkpoints.service import Checkpoints
from bay.server.compat.e2b.sandbox_words import OPTIONS, state_of, template_of
from bay.server.samples.history import LONGEST, SampleHistory
from bay.server.sandboxes.service import Forks, SandboxChanges, Sandboxes
from bay.server.sandboxes.usages import SandboxUsages
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store.engine import Store
from bay.store.records import Filters, Page, SandboxRecord

START_S = 60.0
_MOST_PAGES = 20
"""Pages of Bay's own list that one page of a list is picked from: the next begins where it ends."""
_OVER_S = 0.2
"""Seconds of which the use of processors is told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class E2bFilters:
    """The filters of a list; empty means all."""

    metadata: tuple[tuple[str, str], ...] = ()
    states: tuple[str, ...] = ()
    template: str | None = None
    since: datetime | None = None
    """Those made then or later."""

    def native(self) -> Filters:
        """As much of them as Bay's own list has; it may have sandboxes that they do not let through."""
        paused = {state == "paused" for state in self.states}
        return Filters(
            labels=self.metadata, since=self.since, paused=paused.pop() if len(paused) == 1 else None
        )

    def let_through(self, sandbox: Sandbox) -> bool:
        """Whether the list has that sandbox."""
        is_alive = sandbox.status != "expired"
        is_wanted = not self.states or state_of(sandbox) in self.states
        return is_alive and is_wanted and self.template in (None, template_of(sandbox))


@dataclass(kw_only=True, eq=False)
class E2bSandboxes:
    """The service behind the sandboxes of E2B."""

    store: Store
    waker: Waker
    sandboxes: Sandboxes
    usages: SandboxUsages
    history: SampleHistory
    checkpoints: Checkpoints
    snapshots: CheckpointRequests
    clock: Clock

    async def connect(self, caller: Caller, ref: str, timeout: int) -> tuple[Sandbox, bool]:
        """The sandbox, running, for at least `timeout` seconds more; and whether it was resumed for that."""
        record = await self._find(caller, ref)
        later = self.clock() + timedelta(seconds=timeout)
        if record.paused_at is not None or (record.expires_at is not None and record.expires_at < later):
            await self._set_ttl(caller, record.id, timeout)
        if record.paused_at is None:
            return await self.sandboxes.get(caller, record.id), False
        return await self.sandboxes.start(caller, record.id, START_S), True

    async def set_timeout(self, caller: Caller, ref: str, timeout: int) -> None:
        """End its lifetime in so many seconds; 0 is at once. Raises NotFound for one that is paused."""
        record = await self._find(caller, ref)
        if record.paused_at is not None:
            raise NotFound(f"sandbox {record.id} is paused; connect to it, which sets its time-out")
        await self._set_ttl(caller, record.id, max(1, timeout))

    async def prolong(self, caller: Caller, ref: str, seconds: int) -> None:
        """The same, if that is later than now said."""
        record = await self._find(caller, ref)
        if record.expires_at is not None and record.expires_at < self.clock() + timedelta(seconds=seconds):
            await self._set_ttl(caller, record.id, seconds)

    async def pause(self, caller: Caller, ref: str, *, memory: bool) -> None:
        """Put it to rest until a `connect`, which sets its lifetime anew: none ends it until then. Without
        `memory` it gives back its compute. Raises Conflict for one that is paused, SandboxNotReady while
        calls are under way, and DriverUnavailable when the host could not freeze it.
        """
        record = await self._find(caller, ref)
        if record.paused_at is not None:
            raise Conflict(f"sandbox {record.id} is paused already")
        if not memory:
            await self.sandboxes.stop(caller, record.id)
        try:
            paused = await self.sandboxes.pause(caller, record.id, cold_too=True, for_good=True)
        except Conflict as busy:  # E2B's clients take that for a sandbox that is paused already
            raise SandboxNotReady(busy.message) from busy
        if paused.paused_at is None:
            raise DriverUnavailable(f"the host could not freeze sandbox {record.id}; it runs as before")

    async def kill(self, caller: Caller, ref: str) -> None:
        """Remove it. Raises NotFound for one that is gone."""
        record = await self._find(caller, ref)
        await self.sandboxes.delete(caller, record.id)

    async def usage(
        self, caller: Caller, ref: str, start: int | None = None, end: int | None = None
    ) -> SandboxUsage | None:
        """The usage from now on for a moment; None for one that is paused, and unless now is a second from
        `start` to `end`, in Unix time.
        """
        record, now = await self._find(caller, ref), self.clock()
        second = int(now.timestamp())
        is_asked = (start is None or start <= second) and (end is None or second <= end)
        if record.paused_at is not None or not is_asked:
            return None
        return replace(await self.usages.get(caller, record.id, _OVER_S), at=now)

    async def metrics(
        self, caller: Caller, ref: str, start: int | None = None, end: int | None = None
    ) -> list[SandboxUsage]:
        """The usage over time, oldest first, and at last that of now, each as far as it is from `start` to
        `end`, in Unix time.
        """
        past = await self._past(caller, await self._find(caller, ref), start, end)
        now = await self.usage(caller, ref, start, end)
        return past if now is None else [*past, now]

    async def _past(
        self, caller: Caller, record: SandboxRecord, start: int | None, end: int | None
    ) -> list[SandboxUsage]:
        """The points of Bay's own metrics, with the limits that the sandbox has now. Those without a rate are
        left out: clients of E2B know no figure that is not there.
        """
        now = self.clock()
        since = max(record.created_at, now - LONGEST)
        if start is not None and start > since.timestamp():
            since = datetime.fromtimestamp(min(start, int(now.timestamp())), UTC)
        until = now if end is None else datetime.fromtimestamp(min(end, int(now.timestamp())), UTC)
        if since >= until:
            return []
        try:
            found = await self.history.get(caller, record.id, since, until)
        except CapabilityNotSupported:
            return []
        present = await self.usages.get(caller, record.id)
        return [
            _of_point(present, one) for one in found.points if one.cpus_used is not None and one.at >= since
        ]

    async def fork(self, caller: Caller, ref: str, count: int, timeout: int) -> list[Sandbox]:
        """Sandboxes like that one with copies of its files and its options, which live for `timeout` seconds;
        all start.
        """
        record = await self._find(caller, ref)
        options = {name: value for name, value in record.labels.items() if name == OPTIONS}
        forks = Forks(count=count, ttl=timeout, labels=options)
        made = await self.sandboxes.fork(caller, record.id, forks, None)
        return list(await asyncio.gather(*(self.sandboxes.start(caller, one.id, START_S) for one in made)))

    async def page(
        self, caller: Caller, filters: E2bFilters, *, after: int, limit: int, newest_first: bool
    ) -> Page[Sandbox]:
        """Part of the caller's sandboxes. It may have less than `limit`, or none, while there are more: no
        request looks at more than so many.
        """
        found, place = list[Sandbox](), after
        for _ in range(_MOST_PAGES):
            page = await self.sandboxes.page(
                caller, filters.native(), after=place, limit=limit - len(found), newest_first=newest_first
            )
            found += filter(filters.let_through, page.items)
            if page.next_cursor is None:
                return Page(items=tuple(found), next_cursor=None)
            place = page.next_cursor
            if len(found) == limit:
                break
        return Page(items=tuple(found), next_cursor=place)

    async def delete_snapshot(self, caller: Caller, snapshot: str) -> None:
        """Remove a checkpoint by its id. Raises NotFound."""
        async with self.store.read() as db:
            found = await self.snapshots.usable(db, caller, snapshot)
        if found.owner != caller.owner:
            raise NotFound(f"there is no snapshot {snapshot}")
        await self.checkpoints.delete(caller, found.sandbox_id, found.id)

    async def _find(self, caller: Caller, ref: str) -> SandboxRecord:
        record = await self.waker.find(caller, ref)
        if record.is_expired(self.clock()):
            raise NotFound(f"there is no sandbox {ref}")
        return record

    async def _set_ttl(self, caller: Caller, sandbox_id: str, seconds: int | None) -> None:
        changes = SandboxChanges(given=frozenset(("ttl",)), ttl=seconds)
        await self.sandboxes.update(caller, sandbox_id, changes)


def _of_point(present: SandboxUsage, point: MetricsPoint) -> SandboxUsage:
    def whole(figure: float | None) -> int | None:
        return None if figure is None else round(figure)

    return replace(
        present,
        at=point.at,
        cpus_used=point.cpus_used,
        memory_bytes=whole(point.memory_bytes),
        memory_cache_bytes=whole(point.memory_cache_bytes),
        disk_bytes=whole(point.disk_bytes),
    )
