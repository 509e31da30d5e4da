"""The audit log: one row for each call that is meant to change something.

The row is written by the first transaction that such a call commits, together with the call's changes, and
its result is added when the answer is known. So no call changes anything without a row, and a row without a
result means that Bay ended during the call. Rejected: a row after the call, which a crash would lose when it
matters; and a transaction of its own before it, which costs as much as the call.

A context variable carries the call, not an argument, so that a new service cannot forget it.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, or_, select, update

from bay.models import AuditEntry
from bay.store.connection import StoreConnection
from bay.store.records import AuditFilters, Page
from bay.store.rows import page_of, values_of, without_seq
from bay.store.schema import audit

# Made once, since they run for every call that changes something.
_ADD = insert(audit)
_FINISH = update(audit).where(audit.c.seq == bindparam("of_seq"))


@dataclass(slots=True, kw_only=True)
class AuditedCall:
    """A call under way. Its caller and its subject are filled in as they become known."""

    at: datetime
    method: str
    path: str
    request_id: str
    owner: str | None = None
    key_id: str | None = None
    resource_id: str | None = None
    status: int | None = None
    code: str | None = None
    seq: int | None = None
    """Its row, once that is committed."""
    over: bool = False
    """Whether it has been answered: later writes of its background tasks are not attributed to it."""

    def row(self) -> dict[str, Any]:
        """The values of its row."""
        return values_of(audit, self)


_call: ContextVar[AuditedCall | None] = ContextVar("bay_audited_call", default=None)


@contextmanager
def during(call: AuditedCall | None) -> Generator[None]:
    """Attribute every transaction in the block to `call` (None: a call that only reads)."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)
        if call is not None:
            call.over = True


def about(resource_id: str) -> None:
    """Set the subject of the present call, best before its first transaction ends: an id of any kind."""
    call = _call.get()
    if call is not None:
        call.resource_id = resource_id


def by(owner: str, key_id: str) -> None:
    """Set the caller of the present call, where no header of it said who that is."""
    call = _call.get()
    if call is not None:
        call.owner, call.key_id = owner, key_id


async def note(db: StoreConnection) -> Callable[[], None]:
    """Add the present call's row to this transaction, unless it has one; what to call after the commit."""
    call = _call.get()
    if call is None or call.over or call.seq is not None:
        return lambda: None
    seq = await _insert(db, call)

    def committed() -> None:
        call.seq = seq

    return committed


async def finish(db: StoreConnection, call: AuditedCall) -> None:
    """Write the result of an answered call: into its row, or with a row if it made no transaction."""
    if call.seq is None:
        await _insert(db, call)
    else:
        result = {"status": call.status, "code": call.code, "resource_id": call.resource_id}
        await db.execute(_FINISH, {"of_seq": call.seq, **result})


async def page(
    db: StoreConnection, filters: AuditFilters, *, after: int, limit: int, newest_first: bool = False
) -> Page[AuditEntry]:
    """Up to `limit` rows that come after the one with `seq` = `after`, 0 being before all: oldest first, or
    `newest_first`.
    """
    query = select(audit).where(*_conditions(filters))
    if after:
        query = query.where(audit.c.seq < after if newest_first else audit.c.seq > after)
    query = query.order_by(audit.c.seq.desc() if newest_first else audit.c.seq)
    rows = (await db.execute(query.limit(limit + 1))).all()
    return page_of(rows, limit, lambda row: AuditEntry(**without_seq(row)))


async def trim(db: StoreConnection, before: datetime, most: int) -> int:
    """Forget the rows from before `before`, and the oldest beyond `most`; how many that were."""
    last = select(func.max(audit.c.seq)).scalar_subquery()
    old = or_(audit.c.at < before, audit.c.seq <= last - most)
    return (await db.execute(delete(audit).where(old))).rowcount


async def _insert(db: StoreConnection, call: AuditedCall) -> int:
    made = await db.execute(_ADD, call.row())
    db.tally(lambda meters: meters.audited.inc())
    key = made.inserted_primary_key
    assert key is not None  # noqa: S101 — an INSERT of one row has one
    return key[0]


def _conditions(filters: AuditFilters) -> list[ColumnElement[bool]]:
    names = ("owner", "key_id", "method", "request_id", "resource_id")
    wanted = [audit.c[name] == value for name in names if (value := getattr(filters, name)) is not None]
    if filters.path is not None:
        # LIKE would ignore case in SQLite, and not in PostgreSQL.
        wanted.append(func.substr(audit.c.path, 1, len(filters.path)) == filters.path)
    if filters.status is not None:
        first = int(filters.status.replace("x", "0"))
        wanted.append(audit.c.status.between(first, first + 99 if "x" in filters.status else first))
    if filters.since is not None:
        wanted.append(audit.c.at >= filters.since)
    if filters.until is not None:
        wanted.append(audit.c.at < filters.until)
    return wanted
