"""Database queries on services, which start with every session of a sandbox."""

from sqlalchemy import bindparam, delete, insert, select

from bay.models import ServiceSpec, from_wire, to_wire
from bay.store.connection import StoreConnection
from bay.store.schema import services

_S = services.c
_OF_SANDBOX = _S.sandbox_id == bindparam("of_sandbox")
_ALL = select(_S.spec).where(_OF_SANDBOX).order_by(_S.seq)
_REMOVE_ALL = delete(services).where(_OF_SANDBOX)


async def all_of(db: StoreConnection, sandbox_id: str) -> list[ServiceSpec]:
    """The sandbox's services, in the order in which they were made."""
    found = await db.execute(_ALL, {"of_sandbox": sandbox_id})
    return [from_wire(ServiceSpec, spec) for spec in found.scalars()]


async def put(db: StoreConnection, sandbox_id: str, spec: ServiceSpec) -> bool:
    """Insert or update the service; whether it is new."""
    own = (_S.sandbox_id == sandbox_id) & (_S.name == spec.name)
    changed = await db.execute(services.update().where(own).values(spec=to_wire(spec)))
    if changed.rowcount:
        return False
    await db.execute(insert(services).values(sandbox_id=sandbox_id, name=spec.name, spec=to_wire(spec)))
    return True


async def remove(db: StoreConnection, sandbox_id: str, name: str) -> bool:
    """Remove one; whether it was there."""
    query = delete(services).where(_S.sandbox_id == sandbox_id, _S.name == name)
    return (await db.execute(query)).rowcount == 1


async def remove_all(db: StoreConnection, sandbox_id: str) -> None:
    """Delete the services of a deleted sandbox, with their environments."""
    await db.execute(_REMOVE_ALL, {"of_sandbox": sandbox_id})
