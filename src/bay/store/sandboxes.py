"""Queries on sandboxes. A sandbox is read with its live session: one row tells all that a call needs."""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, case, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bay.models import Failure, from_wire, to_wire
from bay.store.records import Filters, Page, SandboxRecord, SessionRecord, Target
from bay.store.schema import sandboxes, sessions

_S = sandboxes.c
_LIVE = [c.label(f"session_{c.name}") for c in sessions.c]
_JOINED = select(sandboxes, *_LIVE).outerjoin(
    sessions, and_(sessions.c.sandbox_id == _S.id, sessions.c.ended_at.is_(None))
)


async def add(db: AsyncConnection, record: SandboxRecord) -> None:
    """Insert one sandbox. Raises IntegrityError when its owner has the name in use."""
    values = {c.name: getattr(record, c.name) for c in sandboxes.c if c.name not in ("seq", "error")}
    await db.execute(insert(sandboxes).values(values))


async def get(db: AsyncConnection, sandbox_id: str) -> SandboxRecord | None:
    """The sandbox with its live session, deleted or not, whoever owns it: for the reconciler."""
    row = (await db.execute(_JOINED.where(_S.id == sandbox_id))).first()
    return _record(row) if row else None


async def find(db: AsyncConnection, owner: str, ref: str) -> SandboxRecord | None:
    """The owner's sandbox whose id is `ref` (deleted or not) or whose name is (not deleted)."""
    by_ref = or_(_S.id == ref, and_(_S.name == ref, _S.deleted_at.is_(None)))
    row = (await db.execute(_JOINED.where(_S.owner == owner, by_ref))).first()
    return _record(row) if row else None


async def page(
    db: AsyncConnection, owner: str, filters: Filters, *, now: datetime, after: int, limit: int
) -> Page[SandboxRecord]:
    """Up to `limit` of the owner's sandboxes with `seq` > `after`, oldest first."""
    query = _JOINED.where(_S.owner == owner, _S.deleted_at.is_(None), _S.target != "deleted", _S.seq > after)
    query = query.where(*_conditions(filters, now)).order_by(_S.seq).limit(limit + 1)
    records = tuple(_record(row) for row in await db.execute(query))
    more = len(records) > limit
    return Page(items=records[:limit], next_cursor=records[limit - 1].seq if more else None)


async def change(db: AsyncConnection, sandbox_id: str, **values: Any) -> None:
    """Set columns of one sandbox."""
    await db.execute(update(sandboxes).where(_S.id == sandbox_id).values(**values))


async def change_target(
    db: AsyncConnection, sandbox_id: str, *, old: Target, new: Target, error: Failure | None = None
) -> None:
    """Move the target from `old` to `new`, unless its owner has changed it meanwhile, and set `error`."""
    values = {"target": new, "error": to_wire(error) if error else None}
    await db.execute(update(sandboxes).where(_S.id == sandbox_id, _S.target == old).values(values))


async def idle_out(db: AsyncConnection, sandbox_id: str, now: datetime) -> bool:
    """Stop the sandbox, unless its idle clock was pushed meanwhile; whether it was stopped."""
    query = update(sandboxes).where(_S.id == sandbox_id, _S.target == "running", _S.idle_expires_at <= now)
    return (await db.execute(query.values(target="stopped"))).rowcount == 1


async def due(db: AsyncConnection, now: datetime) -> list[SandboxRecord]:
    """Sandboxes past `expires_at` or `idle_expires_at` on which something is left to do."""
    idle = and_(_S.idle_expires_at <= now, _S.target == "running")
    query = _JOINED.where(_S.deleted_at.is_(None), or_(_S.expires_at <= now, idle))
    return [_record(row) for row in await db.execute(query)]


async def unsettled(db: AsyncConnection) -> list[SandboxRecord]:
    """Sandboxes that a restarted Bay must look at: with a live session, or wanting one, or being deleted."""
    wanting = or_(sessions.c.id.is_not(None), _S.target != "stopped")
    query = _JOINED.where(_S.deleted_at.is_(None), wanting)
    return [_record(row) for row in await db.execute(query)]


def status_expression(now: datetime) -> ColumnElement[str]:
    """The public status in SQL. A test holds that it agrees with `lifecycle.status_of` on every combination."""
    live = sessions.c.phase
    return case(
        (_S.expires_at <= now, "expired"),
        (and_(_S.target != "running", _S.error.is_(None)), "idle"),
        (_S.target != "running", "failed"),
        (live.in_(["starting", "ending"]), "starting"),
        (live.in_(["running", "paused"]), "ready"),
        (_S.error.is_not(None), "failed"),
        else_="idle",
    )


def compute_expression() -> ColumnElement[str]:
    """The public compute in SQL; agrees with `lifecycle.compute_of`."""
    return case(
        (sessions.c.phase == "starting", "warming"),
        (sessions.c.phase == "paused", "warm"),
        (sessions.c.phase == "running", "running"),
        else_="cold",
    )


def _conditions(filters: Filters, now: datetime) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if filters.status:
        wanted.append(status_expression(now) == filters.status)
    if filters.compute:
        wanted.append(compute_expression() == filters.compute)
    if filters.profile:
        wanted.append(_S.profile == filters.profile)
    if filters.name_prefix:
        wanted.append(_S.name.startswith(filters.name_prefix, autoescape=True))
    wanted += [_S.labels[key].as_string() == value for key, value in filters.labels]
    return wanted


def _record(row: Row[Any]) -> SandboxRecord:
    values = dict(row._mapping)
    live = {name.removeprefix("session_"): values.pop(name) for name in list(values) if name in _LIVE_NAMES}
    live.pop("seq")
    error = values.pop("error")
    return SandboxRecord(
        **values,
        error=from_wire(Failure, error) if error else None,
        session=SessionRecord(**live) if live["id"] else None,
    )


_LIVE_NAMES = frozenset(f"session_{c.name}" for c in sessions.c)
