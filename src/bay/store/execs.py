"""Queries on execs."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.models import Exec
from bay.store.records import Page
from bay.store.schema import execs

_COLUMNS = [c for c in execs.c if c.name not in ("seq", "sandbox_id", "session_id")]


async def add(db: AsyncConnection, sandbox_id: str, session_id: str, item: Exec) -> None:
    """Insert one exec."""
    await db.execute(
        insert(execs).values(
            id=item.id, sandbox_id=sandbox_id, session_id=session_id, argv=list(item.argv), tty=item.tty,
            **_facts(item),
        )
    )  # fmt: skip


async def save(db: AsyncConnection, session_id: str, item: Exec) -> None:
    """Write down how far an exec of the session has come. One that has ended stays as it is.

    What a Ship says of execs that are not its own changes nothing.
    """
    own = and_(execs.c.session_id == session_id, execs.c.id == item.id)
    query = update(execs).where(own, execs.c.state == "running")
    await db.execute(query.values(argv=list(item.argv), **_facts(item)))


async def remove(db: AsyncConnection, sandbox_id: str, exec_id: str) -> None:
    """Forget an exec that was never started."""
    await db.execute(delete(execs).where(execs.c.sandbox_id == sandbox_id, execs.c.id == exec_id))


async def remove_all(db: AsyncConnection, sandbox_id: str) -> None:
    """Forget every exec of a sandbox that is being removed: their command lines may hold secrets."""
    await db.execute(delete(execs).where(execs.c.sandbox_id == sandbox_id))


async def get(db: AsyncConnection, sandbox_id: str, exec_id: str) -> tuple[Exec, str] | None:
    """The exec and the id of the session it ran in."""
    query = select(execs.c.session_id, *_COLUMNS)
    row = (await db.execute(query.where(execs.c.sandbox_id == sandbox_id, execs.c.id == exec_id))).first()
    return (_exec(row), row.session_id) if row else None


async def page(db: AsyncConnection, sandbox_id: str, *, after: int, limit: int) -> Page[tuple[Exec, str]]:
    """Up to `limit` execs of a sandbox with `seq` > `after`, oldest first, each with the id of its session."""
    query = select(execs.c.seq, execs.c.session_id, *_COLUMNS).where(
        execs.c.sandbox_id == sandbox_id, execs.c.seq > after
    )
    rows = (await db.execute(query.order_by(execs.c.seq).limit(limit + 1))).all()
    more = len(rows) > limit
    items = tuple((_exec(row), row.session_id) for row in rows[:limit])
    return Page(items=items, next_cursor=rows[limit - 1].seq if more else None)


async def any_running(db: AsyncConnection, session_id: str) -> bool:
    """Whether an exec of the session has not been seen to end."""
    query = select(execs.c.seq).where(execs.c.session_id == session_id, execs.c.state == "running")
    return (await db.execute(query.limit(1))).first() is not None


async def lose_running(db: AsyncConnection, session_id: str, at: datetime) -> None:
    """The session is over: what still counts as running is lost."""
    query = update(execs).where(execs.c.session_id == session_id, execs.c.state == "running")
    await db.execute(query.values(state="lost", ended_at=at))


def _facts(item: Exec) -> dict[str, Any]:
    return {
        "pid": item.pid,
        "state": item.state,
        "exit_code": item.exit_code,
        "signal": item.signal,
        "timed_out": item.timed_out,
        "output_bytes": item.output_bytes,
        "first_offset": item.first_offset,
        "started_at": item.started_at,
        "ended_at": item.ended_at,
    }


def _exec(row: Row[Any]) -> Exec:
    values: dict[str, Any] = {c.name: row._mapping[c.name] for c in _COLUMNS}
    argv: list[str] = values.pop("argv")
    return Exec(argv=tuple(argv), **values)
