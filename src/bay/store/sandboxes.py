"""Database queries on sandboxes. One row has a sandbox with its live session, all that a call needs."""

from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Row,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    literal,
    or_,
    select,
    union_all,
    update,
)

from bay.clock import expiry
from bay.models import CheckpointPolicy, Failure, PortSettings, SandboxSecret, Volume, from_wire, to_wire
from bay.store.connection import StoreConnection
from bay.store.dialects import HasElements, NextSeq, elements, member_text
from bay.store.records import (
    HAVING,
    KEEPING,
    NOBODY,
    Filters,
    Page,
    Phase,
    ResizeFailure,
    RestoreFailure,
    SandboxRecord,
    SessionRecord,
    StateTotal,
    Target,
)
from bay.store.rows import page_of
from bay.store.schema import checkpoints, images, sandboxes, sessions

_S = sandboxes.c
KEEP: Literal["keep"] = "keep"
_LIVE = [c.label(f"session_{c.name}") for c in sessions.c]
_LIVE_NAMES = frozenset(column.name for column in _LIVE)
_DUE = (
    select(func.min(checkpoints.c.seq))
    .where(checkpoints.c.sandbox_id == _S.id, checkpoints.c.state == "making")
    .correlate(sandboxes)
    .scalar_subquery()
)
_WITH_SESSION = sandboxes.outerjoin(
    sessions, and_(sessions.c.sandbox_id == _S.id, sessions.c.ended_at.is_(None))
)
_JOINED = select(
    sandboxes,
    *_LIVE,
    select(checkpoints.c.id).where(checkpoints.c.seq == _DUE).scalar_subquery().label("checkpoint_due"),
    select(images.c.state).where(images.c.id == _S.image_id).scalar_subquery().label("image_state"),
).select_from(_WITH_SESSION)

# Made once: to put a statement together costs about as much as to run it.
_ADD = insert(sandboxes)
_OF_ID = _S.id == bindparam("of_id")
_GET = _JOINED.where(_OF_ID)
_FIND = _JOINED.where(
    _S.owner == bindparam("of_owner"),
    or_(_OF_ID, and_(_S.name == bindparam("of_id"), _S.deleted_at.is_(None))),
)
_CHANGE = update(sandboxes).where(_OF_ID)
_CHANGE_TARGET = _CHANGE.where(_S.target.in_(bindparam("of_targets", expanding=True)))
_STOP_CLOCKS = _CHANGE.where(_S.target.not_in(HAVING)).values(idle_expires_at=None, warm_expires_at=None)
_FIRST_POOLED = (
    _JOINED.where(_S.pool == bindparam("of_pool"), _S.owner == NOBODY, _S.target == "running")
    .where(_S.deleted_at.is_(None), sessions.c.phase == "running")
    .order_by(_S.seq)
    .limit(1)
)
_CLAIM = _CHANGE.values(seq=NextSeq(_S.seq))
_OTHERS = select(_S.id).where(_S.id != bindparam("of_id"), _S.deleted_at.is_(None))
_OF_CARGOS: BindParameter[str] = bindparam("of_cargos", expanding=True)
_RESTORED_ELSEWHERE = _OTHERS.where(_S.cargo_id.in_(_OF_CARGOS), _S.restore_id.is_not(None))
_COPIED_ELSEWHERE = _OTHERS.where(_S.cargo_id.in_(_OF_CARGOS), _DUE.is_not(None))
_MAKING = checkpoints.alias("making")
_COPIED_BEFORE = _OTHERS.where(_S.cargo_id == bindparam("of_cargo")).where(
    select(_MAKING.c.seq).where(_MAKING.c.id == bindparam("of_checkpoint")).scalar_subquery() > _DUE
)
_VOLUME = elements(_S.volumes, "volume")
_VOLUME_CARGO: Any = member_text(_VOLUME.c.value, "cargo")
_CONTENDED = union_all(
    _RESTORED_ELSEWHERE,
    _OTHERS.join(_VOLUME, literal(True)).where(HasElements(_S.volumes), _VOLUME_CARGO.in_(_OF_CARGOS)),
)
_IS_PULLED = and_(
    sessions.c.id.is_(None), _S.image_id.in_(select(images.c.id).where(images.c.state == "pulling"))
)
_HAS_VOLUMES = and_(HasElements(_S.volumes), _S.deleted_at.is_(None))
"""In the words of the index."""
_NOW = bindparam("now", type_=_S.expires_at.type)
_DUE_NOW = _JOINED.where(
    _S.deleted_at.is_(None),
    or_(
        and_(_S.expires_at <= _NOW, or_(sessions.c.phase != "ending", _S.on_expiry == "pause")),
        and_(_S.expires_at <= bindparam("hidden_from", type_=_S.expires_at.type), sessions.c.id.is_(None)),
        and_(_S.idle_expires_at <= _NOW, _S.target == "running"),
        and_(_S.warm_expires_at <= _NOW, _S.target == "paused"),
    ),
)
_DUE_CHECKPOINTS = _JOINED.where(
    _S.checkpoint_at <= _NOW, _S.deleted_at.is_(None), _S.target != "deleted"
).order_by(_S.checkpoint_at, _S.seq)
_POOLED = _JOINED.where(_S.pool.is_not(None), _S.deleted_at.is_(None), _S.target != "deleted").order_by(
    _S.seq
)


async def add(db: StoreConnection, record: SandboxRecord) -> None:
    """Insert one sandbox. Raises IntegrityError when its owner has the name in use."""
    await db.execute(_ADD, _values(record, besides=("seq", "error")))


async def get(db: StoreConnection, sandbox_id: str) -> SandboxRecord | None:
    """The sandbox with its live session, deleted or not, of any owner: for the reconciler."""
    return await _first(db, _GET, {"of_id": sandbox_id})


async def find(db: StoreConnection, owner: str, ref: str) -> SandboxRecord | None:
    """The owner's sandbox whose id is `ref` (deleted or not) or whose name is (not deleted)."""
    return await _first(db, _FIND, {"of_owner": owner, "of_id": ref})


async def of_session(db: StoreConnection, session_id: str) -> SandboxRecord | None:
    """The sandbox whose live session that is."""
    return await _first(db, _JOINED.where(sessions.c.id == session_id, _S.deleted_at.is_(None)))


async def at_host(db: StoreConnection, host: str) -> SandboxRecord | None:
    """The sandbox whose label in host names (id or `host`) is `host`, of any owner; not a removed one."""
    named = or_(_S.id == host, _S.host == host)
    return await _first(db, _JOINED.where(named, _S.deleted_at.is_(None), _S.target != "deleted"))


async def free_host(db: StoreConnection, wanted: str | None, sandbox_id: str) -> str | None:
    """`wanted` if no other sandbox has it as its host, else None."""
    if wanted is None:
        return None
    taken = select(_S.id).where(_S.host == wanted, _S.id != sandbox_id, _S.deleted_at.is_(None))
    return None if (await db.execute(taken)).first() is not None else wanted


async def page(
    db: StoreConnection,
    owner: str,
    filters: Filters,
    *,
    now: datetime,
    after: int,
    limit: int,
    newest_first: bool = False,
) -> Page[SandboxRecord]:
    """Up to `limit` of the owner's sandboxes that come after the one with `seq` = `after`, 0 being before
    all: oldest first, or `newest_first`.
    """
    query = _JOINED.where(_S.owner == owner, _S.deleted_at.is_(None), _S.target != "deleted")
    if after:
        query = query.where(_S.seq < after if newest_first else _S.seq > after)
    order = _S.seq.desc() if newest_first else _S.seq
    query = query.where(*_conditions(filters, now)).order_by(order).limit(limit + 1)
    return page_of((await db.execute(query)).all(), limit, _record)


async def counts(db: StoreConnection, owner: str, filters: Filters, now: datetime) -> dict[str, int]:
    """How many of the owner's sandboxes there are, by their public compute."""
    compute = compute_expression()
    query = select(compute, func.count()).select_from(_WITH_SESSION)
    query = query.where(_S.owner == owner, _S.deleted_at.is_(None), _S.target != "deleted")
    found = await db.execute(query.where(*_conditions(filters, now)).group_by(compute))
    return {row[0]: row[1] for row in found}


async def state_totals(db: StoreConnection, now: datetime) -> list[StateTotal]:
    """The sandboxes of all owners, counted in one query by what their states have in common."""
    each = (
        select(
            _S.pool.is_not(None).label("pooled"),
            status_expression(now).label("status"),
            compute_expression().label("compute"),
            sessions.c.id.label("session"),
        )
        .select_from(_WITH_SESSION)
        .where(_S.deleted_at.is_(None), _S.target != "deleted")
        .subquery()
    )
    group = each.c.pooled, each.c.status, each.c.compute
    found = await db.execute(select(*group, func.count(), func.count(each.c.session)).group_by(*group))
    return [
        StateTotal(pooled=bool(pooled), status=status, compute=compute, sandboxes=number, sessions=live)
        for pooled, status, compute, number, live in found
    ]


async def with_label(db: StoreConnection, key: str) -> list[SandboxRecord]:
    """The sandboxes of all owners that have a label of that name."""
    query = _JOINED.where(
        _S.deleted_at.is_(None), _S.target != "deleted", member_text(_S.labels, key).is_not(None)
    )
    return [_record(row) for row in await db.execute(query)]


async def newest_with_label(db: StoreConnection, key: str, most: int) -> list[tuple[str, str]]:
    """The ids and owners of the newest of them, and nothing else of them."""
    query = select(_S.id, _S.owner).where(
        _S.deleted_at.is_(None), _S.target != "deleted", member_text(_S.labels, key).is_not(None)
    )
    return [(row[0], row[1]) for row in await db.execute(query.order_by(_S.seq.desc()).limit(most))]


async def change(db: StoreConnection, sandbox_id: str, **values: Any) -> None:
    """Set columns of one sandbox."""
    if values:
        await db.execute(_CHANGE, {"of_id": sandbox_id, **values})


async def change_target(
    db: StoreConnection,
    sandbox_id: str,
    *,
    old: tuple[Target, ...],
    new: Target,
    error: Failure | Literal["keep"] | None = None,
    **values: Any,
) -> bool:
    """Move the target from one of `old` to `new`, and set `error` or keep it; whether it was moved.
    It stays when its owner has changed it meanwhile.
    """
    wanted = {"of_id": sandbox_id, "of_targets": old, "target": new, **values}
    if error != KEEP:
        wanted["error"] = to_wire(error) if error else None
    return (await db.execute(_CHANGE_TARGET, wanted)).rowcount == 1


async def change_error(
    db: StoreConnection, sandbox_id: str, *, old: Failure | None, new: Failure | None
) -> bool:
    """Set the sandbox's error to `new` if it is `old`; whether it was."""
    present = (await db.execute(select(_S.error).where(_S.id == sandbox_id))).scalar()
    if present != (to_wire(old) if old else None):
        return False
    await change(db, sandbox_id, error=to_wire(new) if new else None)
    return True


async def touch(db: StoreConnection, sandbox_id: str, now: datetime) -> None:
    """Something happened in the sandbox at `now`: its idle clock, if it counts, starts again from there."""
    own = and_(_S.id == sandbox_id, _S.target == "running")
    row = (await db.execute(select(_S.idle_timeout).where(own))).first()
    if row is not None:
        await change(db, sandbox_id, idle_expires_at=expiry(now, row.idle_timeout), last_active_at=now)


async def stop_clocks(db: StoreConnection, sandbox_id: str) -> None:
    """Clear the clocks of a sandbox whose compute has ended, unless it is wanted again already."""
    await db.execute(_STOP_CLOCKS, {"of_id": sandbox_id})


async def begin_warm(db: StoreConnection, sandbox_id: str, until: datetime | None) -> bool:
    """Its idle clock stops and its warm one runs, if it is still to be frozen; whether it is."""
    own = and_(_S.id == sandbox_id, _S.target.in_(("paused", "hibernated")))
    clocks = {"idle_expires_at": None, "warm_expires_at": until}
    return (await db.execute(update(sandboxes).where(own).values(clocks))).rowcount == 1


async def keep_warm(db: StoreConnection, sandbox_id: str, now: datetime) -> None:
    """The clock of a frozen sandbox starts again at `now`."""
    own = and_(_S.id == sandbox_id, _S.target == "paused")
    row = (await db.execute(select(_S.warm_timeout).where(own))).first()
    if row is not None:
        await change(db, sandbox_id, warm_expires_at=expiry(now, row.warm_timeout))


async def idle_out(db: StoreConnection, sandbox_id: str, now: datetime, new: Target) -> bool:
    """Take the compute of a sandbox, unless its idle clock was pushed meanwhile; whether it was taken."""
    query = update(sandboxes).where(_S.id == sandbox_id, _S.target == "running", _S.idle_expires_at <= now)
    return (await db.execute(query.values(target=new))).rowcount == 1


async def rest(db: StoreConnection, sandbox_id: str, now: datetime, new: Target) -> bool:
    """Put a sandbox to rest whose lifetime has ended, unless it was set anew; whether it was not before.
    One that is wanted running is wanted `new`. `end_lifetime` follows once it is frozen or stopped.
    """
    target = case((_S.target == "running", new), else_=_S.target)
    # One that its owner paused before that is at rest by the end of its lifetime from now on.
    fresh = and_(_is_over(sandbox_id, now), or_(_S.paused_at.is_(None), _S.paused_at < _S.expires_at))
    resting = {"idle_expires_at": None, "paused_at": now, "target": target}
    return (await db.execute(update(sandboxes).where(fresh).values(resting))).rowcount == 1


async def end_lifetime(db: StoreConnection, sandbox_id: str, now: datetime) -> None:
    """Clear the ended lifetime of a sandbox that is frozen or stopped now, and not wanted again: one that a
    call has kept from its rest is put to rest after the call.
    """
    over = and_(_is_over(sandbox_id, now), _S.paused_at.is_not(None))
    await db.execute(update(sandboxes).where(over).values(expires_at=None))


def _is_over(sandbox_id: str, now: datetime) -> ColumnElement[bool]:
    return and_(_S.id == sandbox_id, _S.expires_at <= now, _S.on_expiry == "pause", _S.target != "deleted")


async def mark_paused(db: StoreConnection, sandbox_id: str, now: datetime, *, for_good: bool) -> None:
    """Note that its owner paused it, unless it is wanted again, or was paused before; `for_good` without an
    end of its lifetime.
    """
    at_rest = and_(
        _S.id == sandbox_id, _S.target.in_(("paused", "hibernated", "stopped")), _S.paused_at.is_(None)
    )
    lifetime = {"expires_at": None} if for_good else {}
    await db.execute(update(sandboxes).where(at_rest).values(paused_at=now, **lifetime))


async def due(db: StoreConnection, now: datetime, retention: timedelta) -> list[SandboxRecord]:
    """Sandboxes past one of their time limits that have work left; not those that are ending already.
    An expired one is shown for `retention`.
    """
    return await _all(db, _DUE_NOW, {"now": now, "hidden_from": now - retention})


async def idle(db: StoreConnection, now: datetime) -> list[SandboxRecord]:
    """The owned sandboxes with an idle session: frozen, or past their idle clock. Oldest first."""
    unused = or_(_S.target == "paused", and_(_S.target == "running", _S.idle_expires_at <= now))
    query = _JOINED.where(_S.deleted_at.is_(None), _S.pool.is_(None), sessions.c.id.is_not(None), unused)
    return await _all(db, query.order_by(_S.seq))


async def with_session(db: StoreConnection) -> list[SandboxRecord]:
    """The owned sandboxes that are to keep the session that they have, oldest first."""
    query = _JOINED.where(_S.deleted_at.is_(None), _S.pool.is_(None), sessions.c.id.is_not(None))
    return await _all(db, query.where(_S.target.in_(KEEPING)).order_by(_S.seq))


async def longest_idle(db: StoreConnection, phase: Phase) -> SandboxRecord | None:
    """The owned sandbox with a session in `phase` that was idle for longest."""
    query = _JOINED.where(_S.deleted_at.is_(None), _S.pool.is_(None), sessions.c.phase == phase)
    query = query.where(_S.target == ("paused" if phase == "paused" else "running"))
    return await _first(db, query.order_by(_S.last_active_at.nulls_first(), _S.seq).limit(1))


async def sharing(db: StoreConnection, cargo_id: str) -> list[SandboxRecord]:
    """Every sandbox that has the cargo as its workspace or as a volume, oldest first; not removed ones."""
    has_it = or_(_S.cargo_id == cargo_id, has_volume(cargo_id))
    return await _all(db, _JOINED.where(has_it, _S.deleted_at.is_(None)).order_by(_S.seq))


async def live_writer(db: StoreConnection, sandbox: SandboxRecord) -> tuple[str, SandboxRecord] | None:
    """A cargo that one session at a time may write to, and the other sandbox whose live session has it: as a
    volume that is written to, while `sandbox` writes to it too; or as its workspace, and `sandbox` has it so.
    """
    written = sandbox.written_cargos
    for cargo_id in written:
        for other in await sharing(db, cargo_id):
            as_volume = cargo_id != sandbox.cargo_id or cargo_id != other.cargo_id
            if other.id != sandbox.id and other.session and as_volume and cargo_id in other.written_cargos:
                return cargo_id, other
    return None


async def is_contended(db: StoreConnection, sandbox: SandboxRecord) -> bool:
    """Whether another one restores into a cargo of this one, or has one as a volume: in one statement."""
    of = {"of_cargos": sandbox.cargos, "of_id": sandbox.id}
    return (await db.execute(_CONTENDED, of)).first() is not None


async def is_restored_elsewhere(db: StoreConnection, cargo_ids: tuple[str, ...], sandbox_id: str) -> bool:
    """Whether another sandbox than `sandbox_id` is having a checkpoint put back into one of the cargos."""
    found = await db.execute(_RESTORED_ELSEWHERE, {"of_cargos": cargo_ids, "of_id": sandbox_id})
    return found.first() is not None


async def copied_elsewhere(db: StoreConnection, sandbox: SandboxRecord) -> str | None:
    """Another sandbox whose checkpoint is not made yet, and is of a cargo that this one writes to."""
    of = {"of_cargos": sandbox.written_cargos, "of_id": sandbox.id}
    found = (await db.execute(_COPIED_ELSEWHERE, of)).first()
    return None if found is None else str(found[0])


async def copied_before(db: StoreConnection, sandbox: SandboxRecord, checkpoint_id: str) -> str | None:
    """Another sandbox with the same workspace of which a checkpoint is not made yet that was asked for before
    that one.
    """
    of = {"of_cargo": sandbox.cargo_id, "of_id": sandbox.id, "of_checkpoint": checkpoint_id}
    found = (await db.execute(_COPIED_BEFORE, of)).first()
    return None if found is None else str(found[0])


async def due_checkpoints(db: StoreConnection, now: datetime, most: int) -> list[SandboxRecord]:
    """At most so many sandboxes of whose policy a checkpoint is due, the longest due first."""
    return await _all(db, _DUE_CHECKPOINTS.limit(most), {"now": now})


async def shift_times(db: StoreConnection, by: timedelta) -> int:
    """Move every live time limit, and the times of last activity; returns the number of sandboxes."""
    limits = (_S.expires_at, _S.idle_expires_at, _S.warm_expires_at, _S.last_active_at, _S.checkpoint_at)
    query = select(_S.id, *limits).where(_S.deleted_at.is_(None), or_(*(c.is_not(None) for c in limits)))
    moved = [
        {"row_id": row.id, **{limit.name: at and at + by for limit, at in zip(limits, row[1:], strict=True)}}
        for row in await db.execute(query)
    ]
    if moved:
        new: dict[str, Any] = {limit.name: bindparam(limit.name) for limit in limits}
        await db.execute(update(sandboxes).where(_S.id == bindparam("row_id")).values(new), moved)
    return len(moved)


async def pooled(db: StoreConnection) -> list[SandboxRecord]:
    """Everything that waits in the pool or is on its way there, oldest first."""
    return await _all(db, _POOLED)


async def pooled_of(db: StoreConnection, image_id: str) -> list[str]:
    """Ids of the sandboxes of an image that are in the pool, or on their way out of it."""
    query = select(_S.id).where(_S.image_id == image_id, _S.owner == NOBODY, _S.deleted_at.is_(None))
    return list((await db.execute(query)).scalars())


async def first_pooled(db: StoreConnection, fingerprint: str) -> SandboxRecord | None:
    """The oldest sandbox of that fingerprint that runs and waits in the pool."""
    return await _first(db, _FIRST_POOLED, {"of_pool": fingerprint})


async def drop_pooled(db: StoreConnection, sandbox_id: str) -> None:
    """Remove one that waits in the pool, unless a create has taken it meanwhile."""
    query = update(sandboxes).where(_S.id == sandbox_id, _S.owner == NOBODY, _S.pool.is_not(None))
    await db.execute(query.values(target="deleted"))


async def claim(db: StoreConnection, record: SandboxRecord) -> None:
    """Turn a pooled sandbox into `record`. Raises IntegrityError when its owner has the name in use.
    It moves to the end of the lists, so that a client that pages through them meets it as a new one.
    """
    values = _values(record, besides=("seq", "id", "cargo_id", "generation", "error"))
    await db.execute(_CLAIM, {"of_id": record.id, **values})


async def unsettled(db: StoreConnection) -> list[SandboxRecord]:
    """Sandboxes with a live session, or that want one, or are being deleted, checkpointed or restored."""
    files = or_(_S.restore_id.is_not(None), _DUE.is_not(None))
    wanting = or_(sessions.c.id.is_not(None), _S.target != "stopped", files)
    query = _JOINED.where(_S.deleted_at.is_(None), wanting)
    return await _all(db, query)


def status_expression(now: datetime) -> ColumnElement[str]:
    """The public status in SQL; a test holds that it agrees with `lifecycle.status_of` in every case."""
    live = sessions.c.phase
    return case(
        (and_(_S.expires_at <= now, _S.on_expiry == "delete"), "expired"),
        (and_(_S.target.not_in(HAVING), _S.error.is_(None)), "idle"),
        (_S.target.not_in(HAVING), "failed"),
        (live.in_(["starting", "ending", "hibernated"]), "starting"),
        (and_(live.in_(["running", "paused"]), _S.last_active_at.is_(None)), "idle"),
        (live.in_(["running", "paused"]), "ready"),
        (_IS_PULLED, "starting"),
        (_S.error.is_not(None), "failed"),
        else_="idle",
    )


def compute_expression() -> ColumnElement[str]:
    """The public compute in SQL; agrees with `lifecycle.compute_of`."""
    return case(
        (sessions.c.phase == "starting", "warming"),
        (sessions.c.phase == "paused", "warm"),
        (sessions.c.phase == "running", "running"),
        (sessions.c.phase == "hibernated", "hibernated"),
        (and_(_S.target.in_(HAVING), _IS_PULLED), "warming"),
        else_="cold",
    )


def has_volume(cargo_id: str | ColumnElement[str]) -> ColumnElement[bool]:
    """Whether a sandbox has the cargo as a volume; of those that are removed nothing is known."""
    found = select(literal(1)).select_from(_VOLUME).where(cargo_id == _VOLUME_CARGO)
    return and_(_HAS_VOLUMES, found.correlate_except(_VOLUME).exists())


def _conditions(filters: Filters, now: datetime) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = []
    if filters.status:
        wanted.append(status_expression(now) == filters.status)
    if filters.compute:
        wanted.append(compute_expression() == filters.compute)
    if filters.profile:
        wanted.append(_S.profile == filters.profile)
    if filters.name_prefix:
        wanted.append(_S.name.istartswith(filters.name_prefix, autoescape=True))
    if filters.named:
        wanted.append(_S.name.is_not(None))
    if filters.paused is not None:
        wanted.append(_S.paused_at.is_not(None) if filters.paused else _S.paused_at.is_(None))
    if filters.since is not None:
        wanted.append(_S.created_at >= filters.since)
    wanted += [member_text(_S.labels, key) == value for key, value in filters.labels]
    return wanted


async def _first(
    db: StoreConnection, query: Select[Any], of: dict[str, str] | None = None
) -> SandboxRecord | None:
    row = (await db.execute(query, of)).first()
    return _record(row) if row else None


async def _all(
    db: StoreConnection, query: Select[Any], of: dict[str, datetime] | None = None
) -> list[SandboxRecord]:
    return [_record(row) for row in await db.execute(query, of)]


def _record(row: Row[Any]) -> SandboxRecord:
    values = dict(row._mapping)
    live = {name.removeprefix("session_"): values.pop(name) for name in list(values) if name in _LIVE_NAMES}
    live.pop("seq")
    error, policy = values.pop("error"), values.pop("checkpoint_policy")
    url, ports = values.pop("url"), values.pop("ports")
    given, mounted = values.pop("secrets"), values.pop("volumes")
    failures, refusals = values.pop("restore_failures"), values.pop("resize_failures")
    return SandboxRecord(
        **values,
        url=from_wire(PortSettings, url) if url else None,
        ports=tuple(from_wire(PortSettings, port) for port in ports),
        secrets=tuple(from_wire(SandboxSecret, secret) for secret in given),
        volumes=tuple(from_wire(Volume, volume) for volume in mounted),
        checkpoint_policy=from_wire(CheckpointPolicy, policy) if policy else None,
        restore_failures=tuple(from_wire(RestoreFailure, failure) for failure in failures),
        resize_failures=tuple(from_wire(ResizeFailure, refusal) for refusal in refusals),
        error=from_wire(Failure, error) if error else None,
        session=SessionRecord(**live) if live["id"] else None,
    )


def _values(record: SandboxRecord, besides: tuple[str, ...]) -> dict[str, Any]:
    values = {c.name: getattr(record, c.name) for c in sandboxes.c if c.name not in besides}
    encoded = (
        "checkpoint_policy",
        "url",
        "ports",
        "secrets",
        "volumes",
        "restore_failures",
        "resize_failures",
    )
    return {**values, **{name: to_wire(values[name]) for name in encoded}}
