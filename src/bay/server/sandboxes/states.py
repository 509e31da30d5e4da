"""The states of an owner's sandboxes with their counts: a page of them, or all and each change, live."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from bay.models import Sandbox
from bay.server.events.follow import EventNotifier
from bay.server.sessions.core import Core
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections
from bay.store import events, sandboxes
from bay.store.records import EventRecord, Filters, Page, SandboxRecord

_BATCH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedPage:
    """Part of a list, and how many sandboxes the whole list has by their compute."""

    page: Page[Sandbox]
    counts: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Sandboxes as they are now. Those of `removed` are no more; neither has one in a sign of life."""

    present: tuple[Sandbox, ...] = ()
    removed: tuple[Sandbox, ...] = ()
    counts: dict[str, int]
    """How many sandboxes the whole list has by their compute."""


@dataclass(kw_only=True, eq=False)
class SandboxStates:
    """The service behind lists with counts. A live one reads rows again when events name them."""

    core: Core
    feed: EventNotifier
    connections: OpenConnections
    view: Callable[[SandboxRecord], Sandbox]

    async def page(self, caller: Caller, filters: Filters, *, after: int, limit: int) -> CountedPage:
        """Part of the caller's sandboxes, oldest first, and the counts of all."""
        now = self.core.clock()
        async with self.core.store.read() as db:
            found = await sandboxes.page(db, caller.owner, filters, now=now, after=after, limit=limit)
            counts = await sandboxes.counts(db, caller.owner, filters, now)
        page = Page(items=tuple(map(self.view, found.items)), next_cursor=found.next_cursor)
        return CountedPage(page=page, counts=counts)

    @asynccontextmanager
    async def follow(self, caller: Caller, filters: Filters) -> AsyncGenerator[AsyncIterator[States]]:
        """All that `filters` let through, and then what changes, until the key is revoked or Bay ends.
        Raises QuotaExceeded when the owner follows events too often.
        """
        with self.feed.place(caller.owner):
            yield self._states(caller, filters)

    async def _states(self, caller: Caller, filters: Filters) -> AsyncGenerator[States]:
        async with self.core.store.read() as db:
            place = await events.newest(db, caller.owner)  # before the list, so that no change is missed
        async for states in self._list(caller, filters):
            yield states

        async def read() -> Sequence[EventRecord]:
            async with self.core.store.read() as db:
                return await events.after(db, caller.owner, None, place, _BATCH)

        async with (
            aclosing(self.feed.follow(read)) as every,
            aclosing(self.connections.allowed(caller, every)) as batches,
        ):
            async for batch in batches:
                place = batch[-1].seq if batch else place
                named = {event.sandbox_id for event in batch} - {""}
                states = await self._named(caller, filters, sorted(named))
                if states.present or states.removed or not batch:
                    yield states

    async def _list(self, caller: Caller, filters: Filters) -> AsyncGenerator[States]:
        after: int | None = 0
        while after is not None:
            part = await self.page(caller, filters, after=after, limit=_BATCH)
            yield States(present=part.page.items, counts=part.counts)
            after = part.page.next_cursor

    async def _named(self, caller: Caller, filters: Filters, ids: Iterable[str]) -> States:
        """The sandboxes of those ids; nothing of those that are not in the list."""
        async with self.core.store.read() as db:
            found = [await sandboxes.find(db, caller.owner, one) for one in ids]
            counts = await sandboxes.counts(db, caller.owner, filters, self.core.clock())
        listed = [one for one in found if one is not None and _is_listed(one, filters)]
        gone = [one for one in listed if one.deleted_at is not None or one.target == "deleted"]
        return States(
            present=tuple(self.view(one) for one in listed if one not in gone),
            removed=tuple(map(self.view, gone)),
            counts=counts,
        )


def _is_listed(record: SandboxRecord, filters: Filters) -> bool:
    """Whether a list by name has it. The other filters are of no use in a list of changes."""
    name = record.name
    return name.startswith(filters.name_prefix or "") if name is not None else not filters.named
