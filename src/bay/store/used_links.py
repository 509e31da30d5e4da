"""Database queries on links that open once, and whether they were opened."""

from datetime import datetime

from sqlalchemy import delete

from bay.store.connection import StoreConnection
from bay.store.dialects import insert
from bay.store.schema import used_links

_L = used_links.c


async def use(db: StoreConnection, link_id: str, expires_at: datetime, now: datetime) -> bool:
    """Take the link, which opens nothing from now on; False when it was taken. Forgets those that expired."""
    await db.execute(delete(used_links).where(_L.expires_at <= now))
    taken = insert(used_links).values(id=link_id, expires_at=expires_at).on_conflict_do_nothing()
    return (await db.execute(taken)).rowcount == 1
