"""Database queries on expired tombstones: rows of removed sandboxes and of ended sessions."""

from datetime import datetime

from sqlalchemy import ColumnElement, Table, and_, delete, func, or_, select

from bay.store.connection import StoreConnection
from bay.store.records import NOBODY
from bay.store.schema import cargos, execs, sandboxes, sessions


async def dead_sandboxes(
    db: StoreConnection, before: datetime, pooled_before: datetime, limit: int
) -> list[str]:
    """Sandboxes that were removed before `before`, or before `pooled_before` if no owner ever had them."""
    query = select(sandboxes.c.id).where(_is_dead(sandboxes, before, pooled_before))
    return list((await db.execute(query.limit(limit))).scalars())


async def forget_sandboxes(db: StoreConnection, ids: list[str]) -> None:
    """Remove their rows, with those of their sessions and execs."""
    for table in (execs, sessions):
        await db.execute(delete(table).where(table.c.sandbox_id.in_(ids)))
    await db.execute(delete(sandboxes).where(sandboxes.c.id.in_(ids)))


async def dead_cargos(
    db: StoreConnection, before: datetime, pooled_before: datetime, limit: int
) -> list[str]:
    """Removed cargos to which no sandbox's row refers."""
    users = select(sandboxes.c.cargo_id)
    query = select(cargos.c.id).where(_is_dead(cargos, before, pooled_before), cargos.c.id.not_in(users))
    return list((await db.execute(query.limit(limit))).scalars())


async def forget_cargos(db: StoreConnection, ids: list[str]) -> None:
    """Remove their rows."""
    await db.execute(delete(cargos).where(cargos.c.id.in_(ids)))


async def newest_session(db: StoreConnection) -> int:
    """The last row of all sessions; 0 without any."""
    return (await db.execute(select(func.max(sessions.c.seq)))).scalar() or 0


async def old_sessions(db: StoreConnection, since: int, keep: int) -> list[int]:
    """Of sandboxes with sessions behind row `since`: ended ones beyond the newest `keep`, without an exec."""
    changed = select(sessions.c.sandbox_id).where(sessions.c.seq > since)
    place = func.row_number().over(partition_by=sessions.c.sandbox_id, order_by=sessions.c.seq.desc())
    ended = (
        select(sessions.c.id, sessions.c.seq, place.label("place"))
        .where(sessions.c.ended_at.is_not(None), sessions.c.sandbox_id.in_(changed))
        .subquery()
    )
    used = select(execs.c.seq).where(execs.c.session_id == ended.c.id).exists()
    query = select(ended.c.seq).where(ended.c.place > keep, ~used)
    return list((await db.execute(query)).scalars())


async def forget_sessions(db: StoreConnection, seqs: list[int]) -> None:
    """Remove those rows, unless an exec refers to them after all."""
    used = select(execs.c.seq).where(execs.c.session_id == sessions.c.id).exists()
    await db.execute(delete(sessions).where(sessions.c.seq.in_(seqs), ~used))


def _is_dead(table: Table, before: datetime, pooled_before: datetime) -> ColumnElement[bool]:
    died = table.c.deleted_at
    return or_(died < before, and_(died < pooled_before, table.c.owner == NOBODY))
