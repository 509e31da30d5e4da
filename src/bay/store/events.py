"""Database queries on events: every change of state, written in the transaction that makes it."""

import hashlib
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, func, insert, select

from bay.store.connection import StoreConnection
from bay.store.dialects import insert as upsert
from bay.store.dialects import member_text
from bay.store.records import EventRecord, SandboxRecord
from bay.store.schema import events, facts, sandboxes

# Made once: to put a statement together costs about as much as to run it.
_PRESENT = select(sandboxes.c.owner).where(sandboxes.c.id == bindparam("of_sandbox")).scalar_subquery()
_ADD = insert(events).values(owner=func.coalesce(_PRESENT, bindparam("of_owner")))


async def add(db: StoreConnection, sandbox: SandboxRecord, kind: str, at: datetime, **data: Any) -> None:
    """Record the event `kind` (such as ``sandbox.started``) for the sandbox's present owner.
    `sandbox` may have been read before a create took it from the pool.
    """
    row = {"sandbox_id": sandbox.id, "type": kind, "at": at, "data": data}
    await db.execute(_ADD, {"of_sandbox": sandbox.id, "of_owner": sandbox.owner, **row})
    db.tally(lambda meters: meters.events.labels(kind).inc())


async def add_of_image(db: StoreConnection, owner: str, kind: str, at: datetime, **data: Any) -> None:
    """Record the event `kind` of an owner's image or template, which belongs to no sandbox."""
    row = {"owner": owner, "sandbox_id": "", "type": kind, "at": at, "data": data}
    await db.execute(insert(events).values(row))
    db.tally(lambda meters: meters.events.labels(kind).inc())


async def after(
    db: StoreConnection, owner: str, sandbox_id: str | None, seq: int, limit: int
) -> list[EventRecord]:
    """Up to `limit` of the owner's events (of one sandbox) behind `seq`, oldest first."""
    query = select(events).where(events.c.owner == owner, events.c.seq > seq)
    if sandbox_id is not None:
        query = query.where(events.c.sandbox_id == sandbox_id)
    rows = await db.execute(query.order_by(events.c.seq).limit(limit))
    return [EventRecord(**row._mapping) for row in rows]


async def next_of(db: StoreConnection, owner: str, types: tuple[str, ...], seq: int) -> EventRecord | None:
    """The owner's first event behind `seq` of one of `types`, or of any when there are none."""
    query = select(events).where(events.c.owner == owner, events.c.seq > seq)
    if types:
        query = query.where(events.c.type.in_(types))
    row = (await db.execute(query.order_by(events.c.seq).limit(1))).first()
    return EventRecord(**row._mapping) if row else None


async def newest(db: StoreConnection, owner: str) -> int:
    """The owner's latest event: the place from which to follow."""
    last = (await db.execute(select(func.max(events.c.seq)).where(events.c.owner == owner))).scalar()
    return max(last or 0, await gone(db, owner))


async def newest_before(db: StoreConnection, owner: str, at: datetime) -> int:
    """The last of the owner's events that are no younger than `at`; 0 without any."""
    query = select(func.max(events.c.seq)).where(events.c.owner == owner, events.c.at <= at)
    return (await db.execute(query)).scalar() or 0


async def last(db: StoreConnection) -> int:
    """The newest event of any owner; 0 without any."""
    return (await db.execute(select(func.max(events.c.seq)))).scalar() or 0


async def owners_after(db: StoreConnection, seq: int) -> dict[str, int]:
    """The owners with events behind `seq`, and the last event of each."""
    query = select(events.c.owner, func.max(events.c.seq)).where(events.c.seq > seq)
    return {row.owner: row[1] for row in await db.execute(query.group_by(events.c.owner))}


async def time_of(db: StoreConnection, seq: int) -> datetime | None:
    """When the newest event up to `seq` happened; None when none is kept."""
    query = select(events.c.at).where(events.c.seq <= seq).order_by(events.c.seq.desc())
    return (await db.execute(query.limit(1))).scalar()


async def open_ports(db: StoreConnection, sandbox_id: str, session_id: str) -> dict[int, str | None]:
    """The open ports of a session by its events, each with its program."""
    query = select(events.c.type, events.c.data).where(
        events.c.sandbox_id == sandbox_id,
        events.c.type.in_(("port.opened", "port.closed")),
        member_text(events.c.data, "session_id") == session_id,
    )
    found: dict[int, str | None] = {}
    for kind, data in await db.execute(query.order_by(events.c.seq)):
        if kind == "port.opened":
            found[data["port"]] = data["process"]
        else:
            found.pop(data["port"], None)
    return found


async def trim(db: StoreConnection, before: datetime, most: int) -> int:
    """Delete up to `most` events from before `before`, noting each owner's oldest place; their number."""
    oldest = select(events.c.seq, events.c.owner).where(events.c.at < before)
    old = oldest.order_by(events.c.at, events.c.seq).limit(most).subquery()
    lasts = (await db.execute(select(old.c.owner, func.max(old.c.seq)).group_by(old.c.owner))).all()
    for owner, last in lasts:
        place = max(last, await gone(db, owner))
        row = upsert(facts).values(name=_gone_name(owner), value=place)
        await db.execute(row.on_conflict_do_update(index_elements=["name"], set_={"value": place}))
    return (await db.execute(delete(events).where(events.c.seq.in_(select(old.c.seq))))).rowcount


async def gone(db: StoreConnection, owner: str) -> int:
    """The last of the owner's events that are no longer kept; 0 when all are."""
    query = select(facts.c.value).where(facts.c.name == _gone_name(owner))
    return (await db.execute(query)).scalar() or 0


def _gone_name(owner: str) -> str:
    # An owner may have 128 characters, the name of a fact 64.
    return f"events_gone:{hashlib.sha256(owner.encode()).hexdigest()[:32]}"


async def id_key(db: StoreConnection, fresh: str) -> str:
    """The secret (hex) that seals the ids of events: this database's, which is `fresh` if it has none yet."""
    await db.execute(upsert(facts).values(name="event_id_key", value=fresh).on_conflict_do_nothing())
    return (await db.execute(select(facts.c.value).where(facts.c.name == "event_id_key"))).scalar_one()
