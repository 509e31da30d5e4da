"""Database queries on services, which start with every session of a sandbox."""

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.models import ServiceSpec, from_wire, to_wire
from bay.store.schema import services

_S = services.c


async def all_of(db: AsyncConnection, sandbox_id: str) -> list[ServiceSpec]:
    """The sandbox's services, in the order in which they were made."""
    query = select(_S.spec).where(_S.sandbox_id == sandbox_id).order_by(_S.seq)
    return [from_wire(ServiceSpec, spec) for spec in (await db.execute(query)).scalars()]


async def put(db: AsyncConnection, sandbox_id: str, spec: ServiceSpec) -> bool:
    """Insert or update the service; whether it is new."""
    own = (_S.sandbox_id == sandbox_id) & (_S.name == spec.name)
    changed = await db.execute(services.update().where(own).values(spec=to_wire(spec)))
    if changed.rowcount:
        return False
    await db.execute(insert(services).values(sandbox_id=sandbox_id, name=spec.name, spec=to_wire(spec)))
    return True


async def remove(db: AsyncConnection, sandbox_id: str, name: str) -> bool:
    """Remove one; whether it was there."""
    query = delete(services).where(_S.sandbox_id == sandbox_id, _S.name == name)
    return (await db.execute(query)).rowcount == 1


async def remove_all(db: AsyncConnection, sandbox_id: str) -> None:
    """Delete the services of a deleted sandbox, with their environments."""
    await db.execute(delete(services).where(_S.sandbox_id == sandbox_id))
