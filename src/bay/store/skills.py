"""Database queries on skills. Each row counts for its owner with `size_bytes`, also a deleted one."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, delete, func, insert, or_, select, text, update

from bay.ids import is_id_of
from bay.models import (
    CandidateStatus,
    SkillCandidate,
    SkillDeletion,
    SkillEvaluation,
    SkillRelease,
    SkillStage,
)
from bay.store.connection import StoreConnection
from bay.store.dialects import whole_sum
from bay.store.schema import (
    execs,
    sandboxes,
    skill_candidates,
    skill_evaluations,
    skill_payloads,
    skill_releases,
    skill_runs,
)

_P = skill_payloads.c
_C = skill_candidates.c
_EV = skill_evaluations.c
_R = skill_releases.c
_SIZED = (skill_payloads, skill_candidates, skill_evaluations, skill_releases)
_ACTIVE = and_(text("is_active AND deleted_at IS NULL"))
"""In the words of the index."""

RUN_TAG = "release:"
"""Before the id of a release in the tag of an entry of the history."""

TRACES = ("browser_exec_trace", "browser_batch_trace")
"""Kinds of payloads that are kept as long as the history that refers to them."""


def _names(model: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(model))


_CANDIDATE = tuple(name for name in _names(SkillCandidate) if name in _C)
_RELEASE = tuple(name for name in _names(SkillRelease) if name in _R)
_CANDIDATE_COLUMNS = tuple(_C[name] for name in _CANDIDATE)
_RELEASE_COLUMNS = tuple(_R[name] for name in _RELEASE)

ROW_BYTES = 512
"""The size of a row besides its texts: it fills the database too."""


async def used_bytes(db: StoreConnection, owner: str) -> int:
    """The bytes that the owner's skills count for. Read from indexes alone."""
    sums = [
        select(func.coalesce(whole_sum(table.c.size_bytes), 0))
        .where(table.c.owner == owner)
        .scalar_subquery()
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


async def is_in_use(db: StoreConnection, owner: str, payload_ref: str) -> bool:
    """Whether a candidate of the owner has that payload, also a deleted one of which a release is left."""
    own = _C.owner == owner, _C.payload_ref == payload_ref
    released = select(_R.seq).where(_R.candidate_id == _C.id, _R.deleted_at.is_(None)).exists()
    query = select(_C.seq).where(*own, or_(_C.deleted_at.is_(None), released)).limit(1)
    return (await db.execute(query)).first() is not None


async def kinds_of(db: StoreConnection, owner: str, execution_ids: Collection[str]) -> dict[str, str]:
    """Those of the ids that are in the history of a sandbox of the owner, each with its type."""
    own = select(sandboxes.c.id).where(sandboxes.c.owner == owner)
    query = select(execs.c.id, execs.c.exec_type).where(
        execs.c.sandbox_id.in_(own), execs.c.id.in_(execution_ids), execs.c.exec_type.is_not(None)
    )
    return {row.id: row.exec_type for row in await db.execute(query)}


async def add_candidate(db: StoreConnection, owner: str, item: SkillCandidate, text_bytes: int) -> None:
    """Insert one candidate."""
    row = {name: getattr(item, name) for name in _CANDIDATE} | {"owner": owner}
    row["source_execution_ids"] = list(item.source_execution_ids)
    await db.execute(insert(skill_candidates).values({**row, "size_bytes": ROW_BYTES + text_bytes}))


async def change_candidate(db: StoreConnection, candidate_id: str, **values: Any) -> None:
    """Set columns of one candidate."""
    await db.execute(update(skill_candidates).where(_C.id == candidate_id).values(**values))


async def candidate(db: StoreConnection, owner: str, candidate_id: str) -> SkillCandidate | None:
    """The owner's candidate, deleted or not."""
    query = select(*_CANDIDATE_COLUMNS).where(_C.id == candidate_id, _C.owner == owner)
    row = (await db.execute(query)).first()
    return _candidate(row) if row else None


async def candidates(
    db: StoreConnection,
    owner: str,
    *,
    status: CandidateStatus | None,
    skill_key: str | None,
    limit: int,
    offset: int,
) -> tuple[list[SkillCandidate], int]:
    """Some of the owner's candidates, newest first, and how many there are."""
    wanted = [_C.owner == owner, _C.deleted_at.is_(None)]
    wanted += [_C.status == status] if status else []
    wanted += [_C.skill_key == skill_key] if skill_key else []
    rows, total = await _page(db, _CANDIDATE_COLUMNS, _C.seq, wanted, limit, offset)
    return [_candidate(row) for row in rows], total


async def delete_candidate(db: StoreConnection, candidate_id: str, gone: SkillDeletion) -> None:
    """Mark it deleted. Its texts and evaluations go; its payload is what a release of it runs."""
    await db.execute(delete(skill_evaluations).where(_EV.candidate_id == candidate_id))
    empty = dict.fromkeys(("summary", "usage_notes", "preconditions", "postconditions"))
    await change_candidate(db, candidate_id, **_gone(gone), **empty)


async def add_evaluation(db: StoreConnection, owner: str, item: SkillEvaluation, text_bytes: int) -> None:
    """Insert one evaluation."""
    row = {name: getattr(item, name) for name in _names(SkillEvaluation)} | {"owner": owner}
    await db.execute(insert(skill_evaluations).values({**row, "size_bytes": ROW_BYTES + text_bytes}))


async def evaluation(db: StoreConnection, owner: str, evaluation_id: str) -> SkillEvaluation | None:
    """The owner's evaluation."""
    columns = [_EV[name] for name in _names(SkillEvaluation)]
    row = (await db.execute(select(*columns).where(_EV.id == evaluation_id, _EV.owner == owner))).first()
    return SkillEvaluation(**row._mapping) if row else None


async def add_release(db: StoreConnection, owner: str, item: SkillRelease, text_bytes: int) -> None:
    """Insert one release, which is active: any other of its key stops being so."""
    active = _R.owner == owner, _R.skill_key == item.skill_key, _ACTIVE
    await db.execute(update(skill_releases).where(*active).values(is_active=False))
    row = {name: getattr(item, name) for name in _RELEASE} | {"owner": owner}
    await db.execute(insert(skill_releases).values({**row, "size_bytes": ROW_BYTES + text_bytes}))


async def release(db: StoreConnection, owner: str, release_id: str) -> SkillRelease | None:
    """The owner's release, deleted or not."""
    return await _release_where(db, _R.id == release_id, _R.owner == owner)


async def active_release(db: StoreConnection, owner: str, skill_key: str) -> SkillRelease | None:
    """The one release of the key that is active."""
    return await _release_where(db, _R.owner == owner, _R.skill_key == skill_key, _ACTIVE)


async def release_before(db: StoreConnection, owner: str, item: SkillRelease) -> SkillRelease | None:
    """The nearest lower version of the key that is not deleted."""
    lower = _R.skill_key == item.skill_key, _R.version < item.version, _R.deleted_at.is_(None)
    return await _release_where(db, _R.owner == owner, *lower)


async def newest_version(db: StoreConnection, owner: str, skill_key: str) -> int:
    """The highest version that the key ever had; 0 without one."""
    query = select(func.max(_R.version)).where(_R.owner == owner, _R.skill_key == skill_key)
    return (await db.execute(query)).scalar() or 0


async def releases(
    db: StoreConnection,
    owner: str,
    *,
    skill_key: str | None,
    stage: SkillStage | None,
    active_only: bool,
    limit: int,
    offset: int,
) -> tuple[list[SkillRelease], int]:
    """Some of the owner's releases, newest first, and how many there are."""
    wanted = [_R.owner == owner, _R.deleted_at.is_(None)]
    wanted += [_R.skill_key == skill_key] if skill_key else []
    wanted += [_R.stage == stage] if stage else []
    wanted += [_R.is_active.is_(True)] if active_only else []
    rows, total = await _page(db, _RELEASE_COLUMNS, _R.seq, wanted, limit, offset)
    return [_release(row) for row in rows], total


async def has_active(db: StoreConnection, candidate_id: str) -> bool:
    """Whether a release of the candidate is active."""
    query = select(_R.seq).where(_R.candidate_id == candidate_id, _ACTIVE).limit(1)
    return (await db.execute(query)).first() is not None


async def delete_release(db: StoreConnection, item: SkillRelease, gone: SkillDeletion) -> None:
    """Mark it deleted, which ends its being active, and have its candidate name it no longer."""
    empty = {"is_active": False, "upgrade_reason": None, "change_summary": None}
    changed = update(skill_releases).where(_R.id == item.id).values(**_gone(gone), **empty)
    await db.execute(changed)
    own = _C.id == item.candidate_id, _C.promotion_release_id == item.id
    await db.execute(update(skill_candidates).where(*own).values(promotion_release_id=None))


async def note_run(db: StoreConnection, sandbox_id: str, exec_id: str, tags: str | None) -> None:
    """Mark an entry of the history as a run of the release that its tags name, if its owner has that."""
    named = (tag.removeprefix(RUN_TAG) for tag in (tags or "").split(",") if tag.startswith(RUN_TAG))
    release_id = next((name for name in named if is_id_of("rel", name)), None)
    own = sandboxes.c.id == sandbox_id, sandboxes.c.owner == _R.owner, _R.id == release_id
    found = select(_R.id).where(*own).scalar_subquery() if release_id else None
    entry = execs.c.sandbox_id == sandbox_id, execs.c.id == exec_id
    if release_id is None:  # rows without a release stay out of the index
        entry = (*entry, execs.c.release_id.is_not(None))
    await db.execute(update(execs).where(*entry).values(release_id=found))


async def forget(db: StoreConnection, old: datetime, deleted: datetime, most: int) -> int:
    """Drop up to so many old traces of no candidate, old runs, and rows deleted longer ago; how many."""
    used = select(_C.seq).where(_C.owner == _P.owner, _C.payload_ref == "blob:" + _P.id)
    traces = select(_P.seq).where(_P.created_at < old, _P.kind.in_(TRACES), ~used.exists())
    dropped = await db.execute(delete(skill_payloads).where(_P.seq.in_(traces.limit(most))))
    higher = skill_releases.alias()
    # The highest version of a key stays, deleted or not: no version is given twice.
    above = select(higher.c.seq).where(
        higher.c.owner == _R.owner, higher.c.skill_key == _R.skill_key, higher.c.version > _R.version
    )
    ran = select(skill_runs.c.seq).where(skill_runs.c.started_at < old).limit(most)
    counted = await db.execute(delete(skill_runs).where(skill_runs.c.seq.in_(ran)))
    past = select(_R.seq).where(_R.deleted_at < deleted, above.exists()).limit(most)
    released = await db.execute(delete(skill_releases).where(_R.seq.in_(past)))
    left = select(_R.seq).where(_R.candidate_id == _C.id)
    dead = select(_C.seq).where(_C.deleted_at < deleted, ~left.exists()).limit(most)
    ended = await db.execute(delete(skill_candidates).where(_C.seq.in_(dead)))
    return max(dropped.rowcount, counted.rowcount, released.rowcount, ended.rowcount)


async def _page(
    db: StoreConnection,
    columns: Sequence[ColumnElement[Any]],
    seq: ColumnElement[int],
    wanted: list[ColumnElement[bool]],
    limit: int,
    offset: int,
) -> tuple[Sequence[Row[Any]], int]:
    total = (await db.execute(select(func.count(seq)).where(*wanted))).scalar_one()
    query = select(*columns).where(*wanted).order_by(seq.desc()).limit(limit).offset(offset)
    return (await db.execute(query)).all(), total


async def _release_where(db: StoreConnection, *wanted: ColumnElement[bool]) -> SkillRelease | None:
    query = select(*_RELEASE_COLUMNS).where(*wanted).order_by(_R.version.desc()).limit(1)
    row = (await db.execute(query)).first()
    return _release(row) if row else None


def _gone(gone: SkillDeletion) -> dict[str, Any]:
    kept = {name: getattr(gone, name) for name in ("deleted_at", "deleted_by", "delete_reason")}
    return {**kept, "size_bytes": ROW_BYTES + len((gone.delete_reason or "").encode())}


def _candidate(row: Row[Any]) -> SkillCandidate:
    values: dict[str, Any] = {**row._mapping}
    sources: list[str] = values.pop("source_execution_ids")
    return SkillCandidate(
        **values, source_execution_ids=tuple(sources), is_deleted=row.deleted_at is not None
    )


def _release(row: Row[Any]) -> SkillRelease:
    return SkillRelease(**row._mapping, is_deleted=row.deleted_at is not None)
