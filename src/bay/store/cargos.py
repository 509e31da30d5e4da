"""Queries on cargos."""

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.store.records import CargoRecord
from bay.store.schema import cargos

_COLUMNS = [c for c in cargos.c if c.name != "seq"]


async def add(db: AsyncConnection, values: dict[str, Any]) -> None:
    """Insert one cargo."""
    await db.execute(insert(cargos).values(values))


async def change(db: AsyncConnection, cargo_id: str, **values: Any) -> None:
    """Set columns of one cargo."""
    await db.execute(update(cargos).where(cargos.c.id == cargo_id).values(**values))


async def find(db: AsyncConnection, owner: str, cargo_id: str) -> CargoRecord | None:
    """The owner's cargo, unless it is deleted."""
    query = select(*_COLUMNS).where(
        cargos.c.id == cargo_id, cargos.c.owner == owner, cargos.c.deleted_at.is_(None)
    )
    row = (await db.execute(query)).first()
    return CargoRecord(**row._mapping) if row else None


async def get(db: AsyncConnection, cargo_id: str) -> CargoRecord:
    """The cargo, whoever owns it, deleted or not."""
    row = (await db.execute(select(*_COLUMNS).where(cargos.c.id == cargo_id))).one()
    return CargoRecord(**row._mapping)


async def live_ids(db: AsyncConnection) -> set[str]:
    """Ids of the cargos that are not deleted."""
    return set((await db.execute(select(cargos.c.id).where(cargos.c.deleted_at.is_(None)))).scalars())
