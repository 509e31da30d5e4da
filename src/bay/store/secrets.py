"""Database queries on secrets. Values come and go encrypted."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, func, insert, select, update

from bay.store.connection import StoreConnection
from bay.store.records import SecretRecord
from bay.store.schema import secrets

_S = secrets.c
_COLUMNS = _S.owner, _S.name, _S.sealed, _S.created_at, _S.updated_at


async def put(db: StoreConnection, owner: str, name: str, sealed: bytes, now: datetime) -> bool:
    """Give the secret that value; whether it is a new one."""
    own = _S.owner == owner, _S.name == name
    changed = await db.execute(update(secrets).where(*own).values(sealed=sealed, updated_at=now))
    if changed.rowcount:
        return False
    row = {"owner": owner, "name": name, "sealed": sealed, "created_at": now, "updated_at": now}
    await db.execute(insert(secrets).values(row))
    return True


async def get(db: StoreConnection, owner: str, name: str) -> SecretRecord | None:
    """The owner's secret of that name."""
    found = await named(db, owner, (name,))
    return found.get(name)


async def named(db: StoreConnection, owner: str, names: Collection[str]) -> dict[str, SecretRecord]:
    """Those of the owner's secrets that have one of these names, by name."""
    query = select(*_COLUMNS).where(_S.owner == owner, _S.name.in_(names))
    return {row.name: SecretRecord(**row._mapping) for row in await db.execute(query)}


async def of_owner(db: StoreConnection, owner: str) -> list[SecretRecord]:
    """The owner's secrets by name."""
    query = select(*_COLUMNS).where(_S.owner == owner).order_by(_S.name)
    return [SecretRecord(**row._mapping) for row in await db.execute(query)]


async def count(db: StoreConnection, owner: str) -> int:
    """How many secrets the owner has."""
    return (await db.execute(select(func.count()).where(_S.owner == owner))).scalar_one()


async def remove(db: StoreConnection, owner: str, name: str) -> bool:
    """Delete the secret; whether there was one."""
    return (await db.execute(delete(secrets).where(_S.owner == owner, _S.name == name))).rowcount == 1
