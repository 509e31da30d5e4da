"""Database queries on checkpoints. A deleted one is invisible; its files go once nothing is based on them."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, bindparam, delete, exists, func, insert, or_, select, update

from bay.models import from_wire
from bay.store.connection import StoreConnection
from bay.store.dialects import whole, whole_sum
from bay.store.records import CheckpointRecord, KeptFailure, Page
from bay.store.rows import columns_of, page_of, values_of, without_seq
from bay.store.schema import cargos, checkpoints, pushes, sandboxes, templates

_C = checkpoints.c
_COLUMNS = columns_of(checkpoints)
_IS_SHOWN = (_C.deleted_at.is_(None), _C.state == "ready", _C.hidden.is_(False))
_IS_STEP = and_(_C.build_key.is_not(None), _C.deleted_at.is_(None), _C.state == "ready")
_ANY_OF = select(_C.id).where(_C.sandbox_id == bindparam("of_sandbox")).limit(1)
_NEEDED = select(cargos.c.origin_id).where(cargos.c.origin_id.is_not(None), cargos.c.deleted_at.is_(None))
_RESTORED = select(sandboxes.c.restore_id).where(
    sandboxes.c.restore_id.is_not(None), sandboxes.c.deleted_at.is_(None)
)
_BEGUN_WITH = select(sandboxes.c.memory_id).where(
    sandboxes.c.memory_id.is_not(None), sandboxes.c.deleted_at.is_(None)
)
_OF_TEMPLATES = select(templates.c.checkpoint_id).where(
    templates.c.checkpoint_id.is_not(None), templates.c.deleted_at.is_(None)
)
_PUSHED = select(pushes.c.checkpoint_id).where(pushes.c.state == "pushing", pushes.c.deleted_at.is_(None))
_REMOVABLE = select(_C.id).where(
    _C.deleted_at.is_not(None),
    _C.state == "ready",
    _C.id.not_in(_NEEDED),
    _C.id.not_in(_RESTORED),
    _C.id.not_in(_BEGUN_WITH),
    _C.id.not_in(_PUSHED),
)

_OF_PRESENT_FILES = exists().where(sandboxes.c.id == _C.sandbox_id, sandboxes.c.checkpoint_id == _C.id)
_LATER = checkpoints.alias()
_COUNTS = and_(
    _C.number.is_not(None),
    _C.sandbox_id.in_(select(sandboxes.c.id).where(sandboxes.c.deleted_at.is_(None))),
    ~exists().where(_LATER.c.sandbox_id == _C.sandbox_id, _LATER.c.number > _C.number),
)
"""Whether it has the highest number of a sandbox that may get further checkpoints."""


async def add(db: StoreConnection, record: CheckpointRecord) -> CheckpointRecord:
    """Insert one checkpoint, and return it with its number. Raises IntegrityError when its sandbox has
    one by that name.
    """
    if not record.hidden:
        newest = select(func.coalesce(func.max(_C.number), 0)).where(_C.sandbox_id == record.sandbox_id)
        record = replace(record, number=(await db.execute(newest)).scalar_one() + 1)
    await db.execute(insert(checkpoints).values(values_of(checkpoints, record)))
    return record


async def change(db: StoreConnection, checkpoint_id: str, **values: Any) -> None:
    """Set columns of one checkpoint."""
    await db.execute(update(checkpoints).where(_C.id == checkpoint_id).values(**values))


async def get(db: StoreConnection, checkpoint_id: str) -> CheckpointRecord | None:
    """The checkpoint, of any owner, deleted or not."""
    return await _first(db, select(*_COLUMNS).where(_C.id == checkpoint_id))


async def find(db: StoreConnection, sandbox_id: str, ref: str | int) -> CheckpointRecord | None:
    """The sandbox's checkpoint with that id or name, or number, if it is whole and not deleted."""
    named = _C.number == ref if isinstance(ref, int) else or_(_C.id == ref, _C.name == ref)
    return await _first(db, _shown().where(_C.sandbox_id == sandbox_id, named))


async def find_owned(db: StoreConnection, owner: str, checkpoint_id: str) -> CheckpointRecord | None:
    """The owner's checkpoint, of whichever sandbox, if it is whole and not deleted."""
    return await _first(db, _shown().where(_C.owner == owner, _C.id == checkpoint_id))


async def page(
    db: StoreConnection, sandbox_id: str, *, auto: bool | None, after: int, limit: int
) -> Page[CheckpointRecord]:
    """Up to `limit` of the sandbox's checkpoints with `seq` > `after`, oldest first."""
    query = _shown(_C.seq).where(_C.sandbox_id == sandbox_id, _C.seq > after)
    if auto is not None:
        query = query.where(_C.auto == auto)
    rows = (await db.execute(query.order_by(_C.seq).limit(limit + 1))).all()
    return page_of(rows, limit, lambda row: _record(without_seq(row)))


async def page_of_owner(
    db: StoreConnection, owner: str, *, sandbox_id: str | None, ref: str | None, after: int, limit: int
) -> Page[tuple[CheckpointRecord, bool]]:
    """Up to `limit` of the owner's checkpoints with `seq` > `after`, of one sandbox or of all, of the id or
    name `ref` or all, oldest first; and of each whether the present files of its sandbox grew from it.
    """
    current = _OF_PRESENT_FILES.label("current")
    query = _shown(_C.seq, current).where(_C.owner == owner, _C.seq > after)
    if sandbox_id is not None:
        query = query.where(_C.sandbox_id == sandbox_id)
    if ref is not None:
        query = query.where(or_(_C.id == ref, _C.name == ref))
    rows = (await db.execute(query.order_by(_C.seq).limit(limit + 1))).all()
    return page_of(rows, limit, _with_current)


async def count(db: StoreConnection, sandbox_id: str) -> int:
    """How many checkpoints the sandbox has, those that are being made with them."""
    query = select(func.count()).where(_C.sandbox_id == sandbox_id, _C.deleted_at.is_(None))
    return (await db.execute(query)).scalar_one()


async def making(db: StoreConnection) -> int:
    """How many checkpoints of policies are being made."""
    query = select(func.count()).where(_C.state == "making", _C.auto.is_(True))
    return (await db.execute(query)).scalar_one()


async def newest_at(db: StoreConnection, sandbox_id: str) -> datetime | None:
    """When the newest of the sandbox's checkpoints was made."""
    query = select(func.max(_C.created_at)).where(_C.sandbox_id == sandbox_id, *_IS_SHOWN)
    return (await db.execute(query)).scalar()


async def surplus(db: StoreConnection, sandbox_id: str, keep: int) -> list[str]:
    """The automatic checkpoints of the sandbox beyond the newest `keep`."""
    query = _shown().where(_C.sandbox_id == sandbox_id, _C.auto.is_(True)).order_by(_C.seq.desc())
    return [row.id for row in await db.execute(query.offset(keep))]


async def hide(db: StoreConnection, checkpoint_ids: list[str], now: datetime) -> None:
    """Mark them deleted. Checkpoints based on one are based on its parent from now on."""
    for checkpoint_id in checkpoint_ids:
        record = await get(db, checkpoint_id)
        if record is None or record.deleted_at is not None:
            continue
        parent = record.parent_id
        await change(db, checkpoint_id, deleted_at=now)
        await db.execute(update(checkpoints).where(_C.parent_id == checkpoint_id).values(parent_id=parent))
        grown = update(sandboxes).where(sandboxes.c.checkpoint_id == checkpoint_id)
        await db.execute(grown.values(checkpoint_id=parent))


async def hide_all(db: StoreConnection, sandbox_id: str, now: datetime) -> None:
    """The same for all of a sandbox that is being removed, and nothing more is made of it."""
    if (await db.execute(_ANY_OF, {"of_sandbox": sandbox_id})).first() is None:
        return
    own = and_(_C.sandbox_id == sandbox_id, _C.deleted_at.is_(None))
    ids = select(_C.id).where(_C.sandbox_id == sandbox_id)
    grown = update(sandboxes).where(sandboxes.c.checkpoint_id.in_(ids), sandboxes.c.id != sandbox_id)
    await db.execute(grown.values(checkpoint_id=None))
    children = update(checkpoints).where(_C.parent_id.in_(ids), _C.sandbox_id != sandbox_id)
    await db.execute(children.values(parent_id=None))
    await db.execute(update(checkpoints).where(own).values(deleted_at=now))
    making = and_(_C.sandbox_id == sandbox_id, _C.state == "making")
    await db.execute(update(checkpoints).where(making).values(state="ready"))


async def removable(db: StoreConnection) -> list[str]:
    """Deleted checkpoints that nothing is based on, whose files may be removed."""
    return list((await db.execute(_REMOVABLE)).scalars())


async def hide_forgotten(db: StoreConnection, now: datetime, before: datetime) -> None:
    """Those that were asked for before `before`, for a fork in which Bay ended; not the files of templates,
    nor steps of builds.
    """
    hidden = and_(_C.hidden.is_(True), _C.deleted_at.is_(None), _C.created_at <= before)
    lost = and_(hidden, _C.id.not_in(_OF_TEMPLATES), _C.build_key.is_(None))
    await db.execute(update(checkpoints).where(lost).values(deleted_at=now, state="ready"))


async def steps_among(db: StoreConnection, owner: str, keys: Sequence[str]) -> dict[str, CheckpointRecord]:
    """The owner's snapshots after steps of builds, by their keys, of the ones in `keys` that are there."""
    query = select(*_COLUMNS).where(_IS_STEP, _C.owner == owner, _C.build_key.in_(keys))
    records = [_record(dict(row._mapping)) for row in await db.execute(query.order_by(_C.seq))]
    return {record.build_key: record for record in records if record.build_key is not None}


async def stale_steps(db: StoreConnection, before: datetime, most: int, most_bytes: int) -> list[str]:
    """Ids of snapshots after steps that no build has used since `before`, or that the owner's newest `most`,
    or `most_bytes`, leave behind. Blocks that snapshots share count for each of them.
    """
    newest = (_C.used_at.desc().nulls_last(), _C.seq.desc())
    rank = func.row_number().over(partition_by=_C.owner, order_by=newest)
    size = func.sum(func.coalesce(_C.size_bytes, 0))
    total = size.over(partition_by=_C.owner, order_by=newest, rows=(None, 0))
    ranked = select(_C.id, _C.used_at, rank.label("rank"), total.label("total")).where(_IS_STEP).subquery()
    r = ranked.c
    query = select(r.id).where(or_(r.used_at < before, r.rank > whole(most), r.total > most_bytes))
    return list((await db.execute(query)).scalars())


async def step_totals(db: StoreConnection) -> tuple[int, int]:
    """The number of all owners' snapshots after steps, and their bytes, as far as they were measured."""
    query = select(func.count(), func.coalesce(whole_sum(_C.size_bytes), 0)).select_from(checkpoints)
    count, size = (await db.execute(query.where(_IS_STEP))).one()
    return count, size


async def hide_steps_of(db: StoreConnection, image_id: str, now: datetime) -> None:
    """Delete the snapshots after steps of builds on that image: they are of no use without it."""
    steps = update(checkpoints).where(_IS_STEP, _C.image_id == image_id)
    await db.execute(steps.values(deleted_at=now))


async def ids_in(db: StoreConnection, *states: str) -> set[str]:
    """Ids of the checkpoints in one of those states."""
    return set((await db.execute(select(_C.id).where(_C.state.in_(states)))).scalars())


async def forget(db: StoreConnection, before: datetime, limit: int) -> int:
    """Remove rows of checkpoints whose files went before `before`; how many that were. The newest of a
    sandbox that lives stays: the next one's number comes after its.
    """
    old = select(_C.seq).where(_C.state == "gone", _C.deleted_at < before, ~_COUNTS).limit(limit)
    return (await db.execute(delete(checkpoints).where(_C.seq.in_(old)))).rowcount


async def unmeasured(db: StoreConnection, stale: datetime, limit: int) -> list[str]:
    """Ids of whole checkpoints never measured, or before `stale` with their sandbox active since."""
    used = sandboxes.c.id == _C.sandbox_id, sandboxes.c.last_active_at >= _C.measured_at
    active = select(sandboxes.c.id).where(*used).exists()
    due = or_(_C.measured_at.is_(None), and_(_C.measured_at < stale, active))
    query = select(_C.id).where(_C.state == "ready", _C.deleted_at.is_(None), due)
    longest_ago = query.order_by(_C.measured_at.nulls_first(), _C.seq).limit(limit)
    return list((await db.execute(longest_ago)).scalars())


def _with_current(row: Row[Any]) -> tuple[CheckpointRecord, bool]:
    values = without_seq(row)
    current = values.pop("current")
    return _record(values), current


def _shown(*more: Any) -> Any:
    return select(*more, *_COLUMNS).where(*_IS_SHOWN)


async def _first(db: StoreConnection, query: Any) -> CheckpointRecord | None:
    row = (await db.execute(query)).first()
    return _record(dict(row._mapping)) if row else None


def _record(values: dict[str, Any]) -> CheckpointRecord:
    failure = values.pop("failure")
    return CheckpointRecord(**values, failure=from_wire(KeptFailure, failure) if failure else None)
