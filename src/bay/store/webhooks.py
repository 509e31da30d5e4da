"""Database queries on webhooks: each owner's targets for events, and how far delivery has come."""

from typing import Any

from sqlalchemy import Row, delete, func, insert, select, update

from bay.store.connection import StoreConnection
from bay.store.records import WebhookRecord
from bay.store.rows import columns_of, values_of
from bay.store.schema import webhooks

_W = webhooks.c
_COLUMNS = columns_of(webhooks)


async def add(db: StoreConnection, record: WebhookRecord) -> None:
    """Insert one webhook."""
    values = values_of(webhooks, record)
    await db.execute(insert(webhooks).values({**values, "types": list(record.types)}))


async def count(db: StoreConnection, owner: str) -> int:
    """How many the owner has."""
    query = select(func.count()).select_from(webhooks).where(_W.owner == owner)
    return (await db.execute(query)).scalar_one()


async def find(db: StoreConnection, owner: str, webhook_id: str) -> WebhookRecord | None:
    """The owner's webhook of that id."""
    query = select(*_COLUMNS).where(_W.owner == owner, _W.id == webhook_id)
    row = (await db.execute(query)).first()
    return _record(row) if row else None


async def get(db: StoreConnection, webhook_id: str) -> WebhookRecord | None:
    """The webhook, of any owner: for the delivery."""
    row = (await db.execute(select(*_COLUMNS).where(_W.id == webhook_id))).first()
    return _record(row) if row else None


async def of_owner(db: StoreConnection, owner: str) -> list[WebhookRecord]:
    """All of the owner's, oldest first."""
    query = select(*_COLUMNS).where(_W.owner == owner).order_by(_W.seq)
    return [_record(row) for row in await db.execute(query)]


async def ids(db: StoreConnection) -> list[tuple[str, str]]:
    """The id and the owner of every webhook, oldest first."""
    rows = (await db.execute(select(_W.id, _W.owner).order_by(_W.seq))).all()
    return [(row.id, row.owner) for row in rows]


async def change(db: StoreConnection, webhook_id: str, **values: Any) -> None:
    """Set columns of one webhook."""
    await db.execute(update(webhooks).where(_W.id == webhook_id).values(**values))


async def remove(db: StoreConnection, owner: str, webhook_id: str) -> bool:
    """Delete the owner's webhook; whether there was one."""
    query = delete(webhooks).where(_W.owner == owner, _W.id == webhook_id)
    return (await db.execute(query)).rowcount == 1


def _record(row: Row[Any]) -> WebhookRecord:
    values: dict[str, Any] = {**row._mapping, "types": tuple(row.types)}
    return WebhookRecord(**values)
