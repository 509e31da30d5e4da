"""The event service: the history of an owner's sandboxes, page by page or live."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass

from bay.clock import Clock
from bay.errors import NotFound
from bay.models import GAP, Event
from bay.server.events.follow import EventNotifier
from bay.server.web.auth import Caller, Keys
from bay.server.web.open_connections import OpenConnections
from bay.server.web.sealing import EventIds
from bay.store import events, sandboxes
from bay.store.engine import Store
from bay.store.records import EventRecord, SandboxRecord

_BATCH = 100
_LAST = "sandbox.deleted"


@dataclass(slots=True)
class EventFollower:
    """The events of one follower from its position on."""

    service: "Events"
    caller: Caller
    sandbox_id: str | None
    seq: int

    @property
    def place(self) -> str:
        """The id to go on from if nothing is read."""
        return self.service.ids.id_of(self.caller.owner, self.seq)

    def room(self) -> AbstractContextManager[None]:
        """To be held while the events are read. Raises QuotaExceeded when the owner follows too often."""
        return self.service.feed.place(self.caller.owner)

    async def is_over(self) -> bool:
        """Whether nothing is left to tell and nothing will come: the sandbox is deleted."""
        return not await self._read() and await self.service.is_gone(self.caller.owner, self.sandbox_id)

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """Events until the sandbox is deleted, the key revoked, or Bay ends; empty ones are signs of life."""
        async with (
            aclosing(self.service.feed.follow(self._read)) as all_batches,
            aclosing(self.service.connections.allowed(self.caller, all_batches)) as batches,
        ):
            async for batch in batches:
                if not self.service.keys.is_valid(self.caller.key_id):
                    return
                self.seq = batch[-1][0] if batch else self.seq
                yield [event for _, event in batch]
                if self.sandbox_id and await self._was_last(batch):
                    return

    async def _was_last(self, batch: Sequence[tuple[int, Event]]) -> bool:
        if batch:
            return batch[-1][1].type == _LAST
        # Its last event may not be kept.
        return await self.service.is_gone(self.caller.owner, self.sandbox_id)

    async def _read(self) -> Sequence[tuple[int, Event]]:
        return await self.service.read(self.caller.owner, self.sandbox_id, self.seq, _BATCH)


@dataclass(eq=False, kw_only=True)
class Events:
    """The service behind `/v1/events` and `…/events`."""

    store: Store
    keys: Keys
    feed: EventNotifier
    connections: OpenConnections
    ids: EventIds
    clock: Clock

    async def page(
        self, caller: Caller, ref: str | None, after: str | None, limit: int
    ) -> tuple[Sequence[Event], str | None]:
        """A page of the caller's events (of one sandbox), oldest first, and the next page's id, if any."""
        sandbox = await self._find(caller, ref)
        seq = self.ids.seq_of(caller.owner, after) if after else 0
        found = await self.read(caller.owner, sandbox and sandbox.id, seq, limit + 1)
        items = [event for _, event in found[:limit]]
        return items, items[-1].id if len(found) > limit else None

    async def follow(self, caller: Caller, ref: str | None, since: str | None) -> EventFollower:
        """The caller's events (of one sandbox) after the id `since`; without one only future events."""
        sandbox = await self._find(caller, ref)
        if since:
            seq = self.ids.seq_of(caller.owner, since)
        else:
            async with self.store.read() as db:
                seq = await events.newest(db, caller.owner)
        return EventFollower(self, caller, sandbox and sandbox.id, seq)

    async def read(
        self, owner: str, sandbox_id: str | None, seq: int, limit: int
    ) -> Sequence[tuple[int, Event]]:
        """Events behind `seq` with their places, the first of them a gap if older ones are no longer kept."""
        async with self.store.read() as db:
            rows = await events.after(db, owner, sandbox_id, seq, limit)
            gone = await events.gone(db, owner) if seq else 0  # from the beginning means: of what is kept
        found = [(row.seq, event_of(self.ids, row)) for row in rows]
        if gone > seq:
            found = [self._gap(owner, min(gone, found[0][0] - 1) if found else gone), *found[: limit - 1]]
        return found

    async def is_gone(self, owner: str, sandbox_id: str | None) -> bool:
        """Whether that sandbox is deleted for good."""
        if sandbox_id is None:
            return False
        async with self.store.read() as db:
            sandbox = await sandboxes.find(db, owner, sandbox_id)
        return sandbox is None or sandbox.deleted_at is not None

    def _gap(self, owner: str, seq: int) -> tuple[int, Event]:
        event_id = self.ids.id_of(owner, seq)
        return seq, Event(id=event_id, type=GAP, sandbox_id=None, at=self.clock())

    async def _find(self, caller: Caller, ref: str | None) -> SandboxRecord | None:
        """The caller's sandbox, also a deleted one by its id: its events stay readable."""
        if ref is None:
            return None
        async with self.store.read() as db:
            sandbox = await sandboxes.find(db, caller.owner, ref)
        if sandbox is None:
            raise NotFound(f"there is no sandbox {ref}")
        return sandbox


def event_of(ids: EventIds, row: EventRecord) -> Event:
    """The event as its owner sees it."""
    event_id = ids.id_of(row.owner, row.seq)
    return Event(id=event_id, type=row.type, sandbox_id=row.sandbox_id or None, at=row.at, data=row.data)
