"""The event service: the history of an owner's sandboxes, page by page or live."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing

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


class EventFollower:
    """The events of one follower from its position on."""

    def __init__(
        self,
        service: "Events",
        feed: EventNotifier,
        connections: OpenConnections,
        caller: Caller,
        sandbox: SandboxRecord | None,
        seq: int,
    ) -> None:
        self._service = service
        self._feed = feed
        self._connections = connections
        self._caller = caller
        self._owner = caller.owner
        self._sandbox_id = sandbox.id if sandbox else None
        self._seq = seq

    @property
    def place(self) -> str:
        """The id to go on from if nothing is read."""
        return self._service.id_of(self._owner, self._seq)

    def room(self) -> AbstractContextManager[None]:
        """To be held while the events are read. Raises QuotaExceeded when the owner follows too often."""
        return self._feed.place(self._owner)

    async def is_over(self) -> bool:
        """Whether nothing is left to tell and nothing will come: the sandbox is deleted."""
        return not await self._read() and await self._service.is_gone(self._owner, self._sandbox_id)

    async def events(self) -> AsyncGenerator[Sequence[Event], None]:
        """Events in order until the sandbox is deleted, the key is revoked, or the server shuts down.

        An empty batch is a sign of life.
        """
        async with (
            aclosing(self._feed.follow(self._read)) as all_batches,
            aclosing(self._connections.allowed(self._caller, all_batches)) as batches,
        ):
            async for batch in batches:
                if not self._service.may_go_on(self._caller):
                    return
                self._seq = batch[-1][0] if batch else self._seq
                yield [event for _, event in batch]
                if self._sandbox_id and await self._was_last(batch):
                    return

    async def _was_last(self, batch: Sequence[tuple[int, Event]]) -> bool:
        if batch:
            return batch[-1][1].type == _LAST
        return await self._service.is_gone(self._owner, self._sandbox_id)  # its last event may not be kept

    async def _read(self) -> Sequence[tuple[int, Event]]:
        return await self._service.read(self._owner, self._sandbox_id, self._seq, _BATCH)


class Events:
    """The service behind `/v1/events` and `…/events`."""

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        feed: EventNotifier,
        connections: OpenConnections,
        ids: EventIds,
        clock: Clock,
    ) -> None:
        self._store = store
        self._keys = keys
        self._feed = feed
        self._connections = connections
        self._ids = ids
        self._clock = clock

    async def page(
        self, caller: Caller, ref: str | None, after: str | None, limit: int
    ) -> tuple[Sequence[Event], str | None]:
        """A page of the caller's events (of one sandbox), oldest first, and the next page's id, if any."""
        sandbox = await self._find(caller, ref)
        seq = self._ids.seq_of(caller.owner, after) if after else 0
        found = await self.read(caller.owner, sandbox and sandbox.id, seq, limit + 1)
        items = [event for _, event in found[:limit]]
        return items, items[-1].id if len(found) > limit else None

    async def follow(self, caller: Caller, ref: str | None, since: str | None) -> EventFollower:
        """The caller's events (of one sandbox) after the id `since`; without one only future events."""
        sandbox = await self._find(caller, ref)
        if since:
            seq = self._ids.seq_of(caller.owner, since)
        else:
            async with self._store.read() as db:
                seq = await events.newest(db, caller.owner)
        return EventFollower(self, self._feed, self._connections, caller, sandbox, seq)

    def may_go_on(self, caller: Caller) -> bool:
        """Whether the key that asked is still valid."""
        return self._keys.is_valid(caller.key_id)

    def id_of(self, owner: str, seq: int) -> str:
        """How a place in the owner's events is named to it."""
        return self._ids.id_of(owner, seq)

    async def read(
        self, owner: str, sandbox_id: str | None, seq: int, limit: int
    ) -> Sequence[tuple[int, Event]]:
        """Events behind `seq` with their places, the first of them a gap if older ones are no longer kept."""
        async with self._store.read() as db:
            rows = await events.after(db, owner, sandbox_id, seq, limit)
            gone = await events.gone(db, owner) if seq else 0  # from the beginning means: of what is kept
        found = [(row.seq, self.event_of(row)) for row in rows]
        if gone > seq:
            found = [self._gap(owner, min(gone, found[0][0] - 1) if found else gone), *found[: limit - 1]]
        return found

    async def is_gone(self, owner: str, sandbox_id: str | None) -> bool:
        """Whether that sandbox is deleted for good."""
        if sandbox_id is None:
            return False
        async with self._store.read() as db:
            sandbox = await sandboxes.find(db, owner, sandbox_id)
        return sandbox is None or sandbox.deleted_at is not None

    def event_of(self, row: EventRecord) -> Event:
        """The event as its owner sees it."""
        event_id = self._ids.id_of(row.owner, row.seq)
        return Event(id=event_id, type=row.type, sandbox_id=row.sandbox_id, at=row.at, data=row.data)

    def _gap(self, owner: str, seq: int) -> tuple[int, Event]:
        event_id = self._ids.id_of(owner, seq)
        return seq, Event(id=event_id, type=GAP, sandbox_id=None, at=self._clock())

    async def _find(self, caller: Caller, ref: str | None) -> SandboxRecord | None:
        """The caller's sandbox, also a deleted one by its id: its events stay readable."""
        if ref is None:
            return None
        async with self._store.read() as db:
            sandbox = await sandboxes.find(db, caller.owner, ref)
        if sandbox is None:
            raise NotFound(f"there is no sandbox {ref}")
        return sandbox
