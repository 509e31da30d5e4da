"""Queries on API keys."""

from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.store.records import ApiKey
from bay.store.schema import keys


async def add(db: AsyncConnection, key: ApiKey) -> None:
    """Insert one key. Raises IntegrityError when the secret is known already."""
    await db.execute(
        insert(keys).values(
            id=key.id, owner=key.owner, name=key.name, hash=key.hash, scope=key.scope,
            created_at=key.created_at, expires_at=key.expires_at, revoked_at=key.revoked_at,
        )
    )  # fmt: skip


async def remove_named(db: AsyncConnection, name: str) -> None:
    """Forget every key of that name; one that is given again later is a new one."""
    await db.execute(delete(keys).where(keys.c.name == name))


async def all_valid(db: AsyncConnection, now: datetime) -> list[ApiKey]:
    """Every key that is neither revoked nor expired."""
    query = select(keys).where(keys.c.revoked_at.is_(None))
    found = [ApiKey(**row._mapping) for row in await db.execute(query)]
    return [key for key in found if key.expires_at is None or key.expires_at > now]


async def any_admin(db: AsyncConnection) -> bool:
    """Whether an admin key was ever made."""
    return (await db.execute(select(keys.c.id).where(keys.c.scope == "admin").limit(1))).first() is not None
