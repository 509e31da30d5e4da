"""Database queries on idempotency claims, written in the transaction of the intent they guard."""

from datetime import datetime

from sqlalchemy import delete, insert, select, tuple_

from bay.store.connection import StoreConnection
from bay.store.records import Claim
from bay.store.rows import values_of
from bay.store.schema import claims


async def find(db: StoreConnection, owner: str, key: str) -> Claim | None:
    """The owner's claim on `key`, if the key was used."""
    row = (await db.execute(select(claims).where(claims.c.owner == owner, claims.c.key == key))).first()
    return Claim(**row._mapping) if row else None


async def add(db: StoreConnection, claim: Claim) -> None:
    """Insert one claim."""
    await db.execute(insert(claims).values(values_of(claims, claim)))


async def forget(db: StoreConnection, before: datetime, most: int = 500) -> int:
    """Drop up to `most` claims made before `before`; how many that were."""
    old = select(claims.c.owner, claims.c.key).where(claims.c.created_at < before)
    oldest = old.order_by(claims.c.created_at).limit(most)
    gone = tuple_(claims.c.owner, claims.c.key).in_(oldest)
    return (await db.execute(delete(claims).where(gone))).rowcount


async def forget_key(db: StoreConnection, owner: str, key: str, request_hash: str) -> None:
    """Drop the claim of a call that came to nothing, and may be made again; another call's stays."""
    named = (claims.c.owner == owner, claims.c.key == key)
    await db.execute(delete(claims).where(*named, claims.c.request_hash == request_hash))


async def forget_resource(db: StoreConnection, owner: str, resource_id: str) -> None:
    """Drop the owner's claims of calls that were to make something which came to nothing."""
    await db.execute(delete(claims).where(claims.c.owner == owner, claims.c.resource_id == resource_id))
