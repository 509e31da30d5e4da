"""Database queries on skills. Each row counts for its owner with `size_bytes`, also a deleted one."""

from datetime import datetime

from sqlalchemy import delete, func, insert, select

from bay.store.schema import (
    skill_candidates,
    skill_evaluations,
    skill_payloads,
    skill_releases,
)
from bay.store.sqlite import StoreConnection

_P = skill_payloads.c
_SIZED = (skill_payloads, skill_candidates, skill_evaluations, skill_releases)

ROW_BYTES = 512
"""The size of a row besides its texts: it fills the database too."""


async def used_bytes(db: StoreConnection, owner: str) -> int:
    """The bytes that the owner's skills count for. Read from indexes alone."""
    sums = [
        select(func.coalesce(func.sum(table.c.size_bytes), 0)).where(table.c.owner == owner).scalar_subquery()
        for table in _SIZED
    ]
    return (await db.execute(select(sums[0] + sums[1] + sums[2] + sums[3]))).scalar_one()


async def add_payload(
    db: StoreConnection, owner: str, payload_id: str, kind: str, text: str, now: datetime
) -> None:
    """Insert one payload, which is JSON in ASCII."""
    row = {"id": payload_id, "owner": owner, "kind": kind, "payload": text, "created_at": now}
    await db.execute(insert(skill_payloads).values({**row, "size_bytes": ROW_BYTES + len(text)}))


async def payload(db: StoreConnection, owner: str, payload_id: str) -> tuple[str, str] | None:
    """The kind and the JSON of the owner's payload."""
    query = select(_P.kind, _P.payload).where(_P.id == payload_id, _P.owner == owner)
    row = (await db.execute(query)).first()
    return (row.kind, row.payload) if row else None


async def remove_payload(db: StoreConnection, owner: str, payload_id: str) -> bool:
    """Delete the owner's payload; whether there was one."""
    gone = delete(skill_payloads).where(_P.id == payload_id, _P.owner == owner)
    return (await db.execute(gone)).rowcount == 1
