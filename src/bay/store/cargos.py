"""Database queries on cargos."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, insert, literal, select, update

from bay.store.connection import StoreConnection
from bay.store.dialects import HasElements, elements, member_text
from bay.store.records import CargoRecord, Page
from bay.store.rows import columns_of, page_of, without_seq
from bay.store.schema import cargos, sandboxes

_COLUMNS = columns_of(cargos)

# Made once: to put a statement together costs about as much as to run it.
_ADD = insert(cargos)
_GET = select(*_COLUMNS).where(cargos.c.id == bindparam("of_id"))
_CHANGE = update(cargos).where(cargos.c.id == bindparam("of_id"))
_WORKSPACE = select(sandboxes.c.cargo_id).where(sandboxes.c.id == bindparam("of_sandbox")).scalar_subquery()
_DROP_MANAGED = (
    update(cargos)
    .where(cargos.c.id == _WORKSPACE, cargos.c.managed_by_sandbox_id == bindparam("of_sandbox"))
    .returning(cargos.c.id)
)


async def add(db: StoreConnection, values: dict[str, Any]) -> None:
    """Insert one cargo."""
    await db.execute(_ADD, values)


async def change(db: StoreConnection, cargo_id: str, **values: Any) -> None:
    """Set columns of one cargo."""
    await db.execute(_CHANGE, {"of_id": cargo_id, **values})


async def drop_managed(db: StoreConnection, sandbox_id: str, now: datetime) -> str | None:
    """Mark the cargo that a sandbox manages deleted, and return its id; None when its cargo is external."""
    dropped = await db.execute(_DROP_MANAGED, {"of_sandbox": sandbox_id, "deleted_at": now})
    return dropped.scalar()


async def find(db: StoreConnection, owner: str, cargo_id: str) -> CargoRecord | None:
    """The owner's cargo, unless it is deleted."""
    record = await find_any(db, owner, cargo_id)
    return record if record and record.deleted_at is None else None


async def find_any(db: StoreConnection, owner: str, cargo_id: str) -> CargoRecord | None:
    """The owner's cargo, deleted or not."""
    query = select(*_COLUMNS).where(cargos.c.id == cargo_id, cargos.c.owner == owner)
    row = (await db.execute(query)).first()
    return CargoRecord(**row._mapping) if row else None


async def get(db: StoreConnection, cargo_id: str) -> CargoRecord:
    """The cargo, of any owner, deleted or not."""
    row = (await db.execute(_GET, {"of_id": cargo_id})).one()
    return CargoRecord(**row._mapping)


async def live_ids(db: StoreConnection) -> set[str]:
    """Ids of the cargos that are not deleted."""
    return set((await db.execute(select(cargos.c.id).where(cargos.c.deleted_at.is_(None)))).scalars())


async def page(
    db: StoreConnection, owner: str, *, managed: bool, after: int, limit: int
) -> Page[CargoRecord]:
    """Up to `limit` of the owner's cargos with `seq` > `after`, oldest first."""
    own = cargos.c.managed_by_sandbox_id
    kind: ColumnElement[bool] = own.is_not(None) if managed else own.is_(None)
    own_ones = cargos.c.owner == owner, cargos.c.deleted_at.is_(None), kind
    query = select(cargos.c.seq, *_COLUMNS).where(*own_ones, cargos.c.seq > after)
    rows = (await db.execute(query.order_by(cargos.c.seq).limit(limit + 1))).all()
    return page_of(rows, limit, lambda row: CargoRecord(**without_seq(row)))


async def users(db: StoreConnection, cargo_ids: list[str]) -> dict[str, tuple[str, ...]]:
    """Of each cargo the ids of the sandboxes that have it as their workspace or as a volume, oldest first."""
    c = sandboxes.c
    each = elements(c.volumes, "volume")
    mounted = member_text(each.c.value, "cargo")
    workspaces = select(c.seq, c.cargo_id, c.id).where(c.cargo_id.in_(cargo_ids), c.deleted_at.is_(None))
    volumes = select(c.seq, mounted, c.id).join(each, literal(True))
    volumes = volumes.where(HasElements(c.volumes), c.deleted_at.is_(None), mounted.in_(cargo_ids))
    found: dict[str, tuple[str, ...]] = {}
    rows = [*await db.execute(workspaces), *await db.execute(volumes)]
    for _, cargo_id, sandbox_id in sorted(tuple(row) for row in rows):
        found[cargo_id] = (*found.get(cargo_id, ()), sandbox_id)
    return found
