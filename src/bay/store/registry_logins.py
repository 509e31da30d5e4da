"""Database queries on logins to registries. User names and passwords come and go encrypted."""

from sqlalchemy import delete, insert, select, update

from bay.store.connection import StoreConnection
from bay.store.records import RegistryLoginRecord
from bay.store.schema import registry_logins

_L = registry_logins.c
_COLUMNS = _L.owner, _L.host, _L.sealed, _L.updated_at


async def put(db: StoreConnection, record: RegistryLoginRecord) -> None:
    """Keep the login, in place of the owner's earlier one of that host."""
    values = {"sealed": record.sealed, "updated_at": record.updated_at}
    own = _L.owner == record.owner, _L.host == record.host
    changed = await db.execute(update(registry_logins).where(*own).values(**values))
    if not changed.rowcount:
        row = {"owner": record.owner, "host": record.host, **values}
        await db.execute(insert(registry_logins).values(row))


async def get(db: StoreConnection, owner: str, host: str) -> RegistryLoginRecord | None:
    """The owner's login of that host."""
    row = (await db.execute(select(*_COLUMNS).where(_L.owner == owner, _L.host == host))).first()
    return RegistryLoginRecord(**row._mapping) if row else None


async def of_owner(db: StoreConnection, owner: str) -> list[RegistryLoginRecord]:
    """The owner's logins by host."""
    query = select(*_COLUMNS).where(_L.owner == owner).order_by(_L.host)
    return [RegistryLoginRecord(**row._mapping) for row in await db.execute(query)]


async def remove(db: StoreConnection, owner: str, host: str) -> bool:
    """Delete the login; whether there was one."""
    own = _L.owner == owner, _L.host == host
    return (await db.execute(delete(registry_logins).where(*own))).rowcount == 1
