"""Database queries on Bay's own metadata: small JSON values by name."""

from sqlalchemy import delete, insert, select

from bay.store.connection import StoreConnection
from bay.store.schema import facts


async def get(db: StoreConnection, name: str) -> dict[str, str] | None:
    """The fact of that name, None when it was never set."""
    return (await db.execute(select(facts.c.value).where(facts.c.name == name))).scalar()


async def set(db: StoreConnection, name: str, value: dict[str, str]) -> None:  # noqa: A001 - read as facts.set
    """Set the value of `name`."""
    await db.execute(delete(facts).where(facts.c.name == name))
    await db.execute(insert(facts).values(name=name, value=value))
