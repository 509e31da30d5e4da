"""Database queries on pushes to the object store. The store itself has what is there; a row says what is
wanted, how far it is, and what may have to be removed.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import and_, delete, or_, select, update

from bay.models import from_wire, to_wire
from bay.store.connection import StoreConnection
from bay.store.dialects import insert
from bay.store.records import KeptFailure, PushRecord
from bay.store.rows import columns_of, values_of
from bay.store.schema import pushes

_P = pushes.c
_COLUMNS = columns_of(pushes)
_ALIVE = _P.deleted_at.is_(None)
_IS_WANTED = and_(_P.state == "pushing", _ALIVE)


async def want(db: StoreConnection, record: PushRecord) -> None:
    """Ask for a push; one that failed, or was deleted, begins anew, and one under way goes on."""
    add = insert(pushes).values({**values_of(pushes, record), "failure": None})
    await db.execute(add.on_conflict_do_nothing(index_elements=[_P.checkpoint_id]))
    again = update(pushes).where(_P.checkpoint_id == record.checkpoint_id, ~_IS_WANTED)
    anew = {"state": "pushing", "bytes": 0, "attempts": 0, "retry_at": None, "failure": None}
    await db.execute(again.values(**anew, is_littered=True, deleted_at=None, created_at=record.created_at))


async def get(db: StoreConnection, checkpoint_id: str) -> PushRecord | None:
    """The push of that checkpoint, of any owner, deleted or not."""
    found = await _all(db, select(*_COLUMNS).where(_P.checkpoint_id == checkpoint_id))
    return found[0] if found else None


async def note(db: StoreConnection, checkpoint_id: str, size: int) -> bool:
    """Write down how much is there; whether the push is still wanted."""
    wanted = update(pushes).where(_P.checkpoint_id == checkpoint_id, _IS_WANTED)
    return bool((await db.execute(wanted.values(bytes=size))).rowcount)


async def end(
    db: StoreConnection, checkpoint_id: str, *, failure: KeptFailure | None = None, **values: Any
) -> bool:
    """Set columns of a push that is still wanted; whether it was."""
    wanted = update(pushes).where(_P.checkpoint_id == checkpoint_id, _IS_WANTED)
    row = {**values, "failure": to_wire(failure) if failure else None}
    return bool((await db.execute(wanted.values(**row))).rowcount)


async def hide(db: StoreConnection, checkpoint_id: str, now: datetime) -> None:
    """Mark it deleted; its objects may still be there."""
    own = update(pushes).where(_P.checkpoint_id == checkpoint_id, _ALIVE)
    await db.execute(own.values(deleted_at=now, is_littered=True))


async def wanted(db: StoreConnection) -> list[PushRecord]:
    """Every push that is not over, oldest first."""
    return await _all(db, select(*_COLUMNS).where(_IS_WANTED).order_by(_P.seq))


async def unfinished(db: StoreConnection, owner: str) -> list[PushRecord]:
    """The owner's pushes under way, and those that failed."""
    open_ = _P.owner == owner, _ALIVE, _P.state != "ready"
    return await _all(db, select(*_COLUMNS).where(*open_).order_by(_P.checkpoint_id))


async def littered(db: StoreConnection) -> list[PushRecord]:
    """Pushes that are over and may have left objects."""
    return await _all(db, select(*_COLUMNS).where(_P.is_littered.is_(True), ~_IS_WANTED).order_by(_P.seq))


async def cleared(db: StoreConnection, checkpoint_id: str) -> None:
    """A push that is over has left no more objects."""
    over = update(pushes).where(_P.checkpoint_id == checkpoint_id, ~_IS_WANTED)
    await db.execute(over.values(is_littered=False))


async def forget(db: StoreConnection, before: datetime) -> None:
    """Remove the rows of pushes that were deleted, or failed before `before`, and left nothing."""
    over = or_(_P.deleted_at.is_not(None), and_(_P.state == "failed", _P.created_at < before))
    await db.execute(delete(pushes).where(over, _P.is_littered.is_(False)))


async def _all(db: StoreConnection, query: Any) -> list[PushRecord]:
    return [_record(dict(row._mapping)) for row in await db.execute(query)]


def _record(values: dict[str, Any]) -> PushRecord:
    failure = values.pop("failure")
    return PushRecord(**values, failure=from_wire(KeptFailure, failure) if failure else None)
