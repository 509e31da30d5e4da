"""Database queries on replicas and their leases. Every time is compared and set by the database's clock, so
that clocks of hosts need not agree.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, bindparam, case, delete, func, insert, or_, select, tuple_, update

from bay.store.connection import StoreConnection
from bay.store.dialects import insert as upsert
from bay.store.records import LeaseRecord, ReplicaRecord
from bay.store.schema import leases, replicas

LEASE = timedelta(seconds=10)
"""How long a lease lasts that is not renewed, and how long a replica counts that says nothing."""

_KEPT = timedelta(hours=1)
_L, _R = leases.c, replicas.c
_NOW = func.clock_timestamp()


async def now(db: StoreConnection) -> datetime:
    """The database's clock."""
    return (await db.execute(select(_NOW))).scalar_one()


async def join(db: StoreConnection, replica_id: str, url: str, version: str) -> None:
    """Make the row of a replica, and forget those that have said nothing for an hour."""
    await db.execute(delete(replicas).where(_R.beat_at < _NOW - _KEPT))
    values = {"id": replica_id, "url": url, "version": version, "started_at": _NOW, "beat_at": _NOW}
    await db.execute(insert(replicas).values(values))


async def beat(db: StoreConnection, replica_id: str) -> datetime | None:
    """Say that the replica lives; the time. None when its row is gone."""
    query = update(replicas).where(_R.id == replica_id).values(beat_at=_NOW).returning(_R.beat_at)
    return (await db.execute(query)).scalar()


async def leave(db: StoreConnection, replica_id: str) -> None:
    """Remove the row of a replica that ends, and let go of its leases."""
    await db.execute(update(leases).where(_L.holder == replica_id).values(holder=None))
    await db.execute(delete(replicas).where(_R.id == replica_id))


async def living(db: StoreConnection) -> list[ReplicaRecord]:
    """The replicas that live, in the order in which they joined."""
    query = select(replicas).where(_R.beat_at > _NOW - LEASE).order_by(_R.started_at, _R.id)
    return [ReplicaRecord(**row._mapping) for row in await db.execute(query)]


async def all_of(db: StoreConnection) -> list[LeaseRecord]:
    """Every lease by its name; without a holder where that has let go, or its time is over."""
    holder = case((_L.until > _NOW, _L.holder)).label("holder")
    query = select(_L.name, holder, _L.epoch, _L.until).order_by(_L.name)
    return [LeaseRecord(**row._mapping) for row in await db.execute(query)]


async def ensure(db: StoreConnection, names: Sequence[str]) -> None:
    """See to it that there is a row for each of these leases."""
    rows = [{"name": name, "holder": None, "epoch": 0} for name in names]
    add = upsert(leases).values(until=_NOW).on_conflict_do_nothing(index_elements=[_L.name])
    await db.execute(add, rows)


async def free(db: StoreConnection, names: Collection[str]) -> list[str]:
    """Those of these leases that can be taken."""
    return list((await db.execute(select(_L.name).where(_L.name.in_(names), _is_free()))).scalars())


async def take(db: StoreConnection, names: Collection[str], replica_id: str) -> dict[str, int]:
    """Take those of these leases that are free; their new epochs by name. Call it in a transaction of the
    writer's: so it waits for those that are fenced by the holder before.
    """
    query = update(leases).where(_L.name.in_(names), _is_free())
    taken = query.values(holder=replica_id, epoch=_L.epoch + 1, until=_NOW + LEASE)
    return {row.name: row.epoch for row in await db.execute(taken.returning(_L.name, _L.epoch))}


async def renew(db: StoreConnection, replica_id: str) -> dict[str, int]:
    """Renew all that the replica holds; the epochs by name. One that was over, and not taken, counts."""
    query = update(leases).where(_L.holder == replica_id).values(until=_NOW + LEASE)
    return {row.name: row.epoch for row in await db.execute(query.returning(_L.name, _L.epoch))}


async def release(db: StoreConnection, epochs: Mapping[str, int], replica_id: str) -> None:
    """Let go of leases, by name, that the replica has under these epochs: of none that it took anew since."""
    held = tuple_(_L.name, _L.epoch).in_(list(epochs.items()))
    await db.execute(update(leases).where(held, _L.holder == replica_id).values(holder=None))


async def notify(db: StoreConnection, channel: str, payloads: Sequence[str]) -> None:
    """Tell those who listen on `channel`. At most 8,000 bytes each (PostgreSQL, NOTIFY)."""
    for payload in payloads:
        await db.execute(select(func.pg_notify(bindparam("channel"), bindparam("payload"))), {
            "channel": channel, "payload": payload,
        })  # fmt: skip


def _is_free() -> ColumnElement[bool]:
    return or_(_L.holder.is_(None), _L.until <= _NOW)
