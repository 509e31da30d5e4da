"""Queries on events: every change of state, written in the transaction that makes it."""

from datetime import datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.store.records import SandboxRecord
from bay.store.schema import events


async def add(db: AsyncConnection, sandbox: SandboxRecord, kind: str, at: datetime, **data: Any) -> None:
    """Record that `kind` (such as ``sandbox.started``) happened to `sandbox`."""
    await add_for(db, sandbox.owner, sandbox.id, kind, at, **data)


async def add_for(
    db: AsyncConnection, owner: str, sandbox_id: str, kind: str, at: datetime, **data: Any
) -> None:
    """The same for a sandbox whose row is being made."""
    await db.execute(insert(events).values(owner=owner, sandbox_id=sandbox_id, type=kind, at=at, data=data))
