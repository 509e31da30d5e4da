"""Database queries on network policies: one row for each sandbox that has its own."""

from typing import Any

from sqlalchemy import bindparam, delete, insert, select

from bay.models import NetworkPolicy, from_wire, to_wire
from bay.store.connection import StoreConnection
from bay.store.schema import network_policies

_P = network_policies.c
_OF_SANDBOX = _P.sandbox_id == bindparam("of_sandbox")
_GET = select(_P.policy).where(_OF_SANDBOX)
_REMOVE = delete(network_policies).where(_OF_SANDBOX)


async def get(db: StoreConnection, sandbox_id: str) -> NetworkPolicy | None:
    """The sandbox's own policy; None while it has its profile's."""
    found: Any = (await db.execute(_GET, {"of_sandbox": sandbox_id})).scalar()
    return from_wire(NetworkPolicy, found) if found is not None else None


async def put(db: StoreConnection, sandbox_id: str, policy: NetworkPolicy) -> None:
    """Give the sandbox that policy, in place of the one it has."""
    await remove(db, sandbox_id)
    await db.execute(insert(network_policies).values(sandbox_id=sandbox_id, policy=to_wire(policy)))


async def remove(db: StoreConnection, sandbox_id: str) -> None:
    """Delete the sandbox's own policy: its profile's holds again, or it is deleted."""
    await db.execute(_REMOVE, {"of_sandbox": sandbox_id})
