"""Database queries on API keys. A revoked key keeps its row, so that the audit log can still name it."""

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, delete, insert, or_, select, update

from bay.store import metadata
from bay.store.connection import StoreConnection
from bay.store.records import ApiKey
from bay.store.rows import values_of
from bay.store.schema import keys

_CHANGES = "key_changes"


async def add(db: StoreConnection, key: ApiKey) -> None:
    """Insert one key. Raises IntegrityError when the secret is known already."""
    await db.execute(insert(keys).values(values_of(keys, key)))
    await _count(db)


async def changes(db: StoreConnection) -> int:
    """How many times the keys have changed."""
    return int((await metadata.get(db, _CHANGES) or {"count": "0"})["count"])


async def get(db: StoreConnection, key_id: str) -> ApiKey | None:
    """The key, of any owner, revoked or not."""
    return await _one(db, keys.c.id == key_id)


async def by_hash(db: StoreConnection, secret_hash: str) -> ApiKey | None:
    """The key with that secret, revoked or not."""
    return await _one(db, keys.c.hash == secret_hash)


async def revoke(db: StoreConnection, key_id: str, now: datetime) -> None:
    """Write down that the key opens nothing from `now` on."""
    await db.execute(update(keys).where(keys.c.id == key_id).values(revoked_at=now))
    await _count(db)


async def retire(db: StoreConnection, name: str, new_name: str, now: datetime) -> None:
    """Revoke every key of that name, and rename it, so that it differs from one that a user revoked."""
    named = keys.c.name == name, keys.c.revoked_at.is_(None)
    await db.execute(update(keys).where(*named).values(name=new_name, revoked_at=now))
    await _count(db)


async def forget_former(db: StoreConnection, name: str, secret_hash: str) -> None:
    """Remove the key of that name and secret: giving it again makes a new one."""
    await db.execute(delete(keys).where(keys.c.name == name, keys.c.hash == secret_hash))


async def hashes_named(db: StoreConnection, names: Collection[str]) -> set[str]:
    """Of the keys of those names, valid or not."""
    return set((await db.execute(select(keys.c.hash).where(keys.c.name.in_(names)))).scalars())


async def all_valid(db: StoreConnection, now: datetime) -> list[ApiKey]:
    """Every key that is neither revoked nor expired."""
    return await _all(db, select(keys).where(_valid(now)))


async def with_quotas(db: StoreConnection) -> list[ApiKey]:
    """Every key that has quotas, valid or not."""
    return await _all(db, select(keys).where(keys.c.quotas.is_not(None)))


async def page(
    db: StoreConnection, owner: str | None, *, after: tuple[datetime, str] | None, limit: int
) -> tuple[tuple[ApiKey, ...], bool]:
    """Up to `limit` keys behind `after` (time and id, for want of a `seq`), oldest first; if more follow."""
    query = select(keys).order_by(keys.c.created_at, keys.c.id).limit(limit + 1)
    if owner is not None:
        query = query.where(keys.c.owner == owner)
    if after is not None:
        made_at, key_id = after
        same_time = and_(keys.c.created_at == made_at, keys.c.id > key_id)
        query = query.where(or_(keys.c.created_at > made_at, same_time))
    found = await _all(db, query)
    return tuple(found[:limit]), len(found) > limit


async def other_admin(db: StoreConnection, key_id: str, now: datetime) -> bool:
    """Whether a valid admin key would be left without `key_id`."""
    query = select(keys.c.id).where(keys.c.scope == "admin", keys.c.id != key_id, _valid(now)).limit(1)
    return (await db.execute(query)).first() is not None


async def any_admin(db: StoreConnection, now: datetime) -> bool:
    """Whether there is an admin key that opens something."""
    return await other_admin(db, "", now)


async def _count(db: StoreConnection) -> None:
    await metadata.set(db, _CHANGES, {"count": str(await changes(db) + 1)})


def _valid(now: datetime) -> ColumnElement[bool]:
    return and_(keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now))


async def _one(db: StoreConnection, condition: ColumnElement[bool]) -> ApiKey | None:
    row = (await db.execute(select(keys).where(condition))).first()
    return ApiKey(**row._mapping) if row else None


async def _all(db: StoreConnection, query: Select[Any]) -> list[ApiKey]:
    return [ApiKey(**row._mapping) for row in await db.execute(query)]
