"""Database queries on the history: the execs of `shell/exec`, `python/exec` and a browser that have ended.

The caller that waited for an execution writes its end (`finish`). Without such a caller it follows from the
exec's state, which is always kept; so an entry never says "running" of an exec that is not.
"""

import math
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    ColumnElement,
    Row,
    Select,
    Update,
    and_,
    case,
    delete,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    union_all,
    update,
)

from bay.models import ExecType, HistoryEntry, PythonResult, ShellResult
from bay.store import skills
from bay.store.connection import StoreConnection
from bay.store.dialects import ByteLength, whole
from bay.store.records import HistoryFilters, Keep, RunFigures
from bay.store.schema import execs, sessions, skill_runs

MAX_TEXT_BYTES = 64 * 1024
"""How much of stdout, and of stderr, an entry keeps: half of it from the beginning, half from the end."""

_E = execs.c
_DONE = or_(_E.state != "running", _E.success.is_not(None))
_SUCCEEDED = case(
    (_E.success.is_not(None), _E.success),
    (and_(_E.state == "exited", _E.exit_code == 0, _E.timed_out.is_(False)), true()),
    else_=False,
)
_P = skill_runs.c
_PAST = (_P.success.label("success"), _P.execution_time_ms.label("time_ms"))
_KEPT = (
    *("id", "session_id", "exec_type", "code", "description", "tags", "notes", "payload_ref", "learn_status"),
)
_TIMED_OUT = "Command timed out"
_LOST = "lost: its session or Bay ended first, so how it ended is not known"

Kind = Literal["plain", "running", "successful", "failed"]
"""Kinds of rows with limits of their own: execs of no history, ended or not, and entries of the history."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOutcome:
    """The end of an execution, cut to the kept size."""

    id: str
    success: bool
    execution_time_ms: int
    output: str = field(repr=False)
    error: str | None = field(repr=False)


def outcome_of(result: ShellResult | PythonResult) -> ExecutionOutcome:
    """The kept part of a result."""
    return ExecutionOutcome(
        id=result.execution_id,
        success=result.success,
        execution_time_ms=result.execution_time_ms,
        output=_bounded(result.output, lacks_head=result.truncated),
        error=_bounded(result.error, lacks_head=result.truncated) if result.error is not None else None,
    )


async def finish(db: StoreConnection, session_id: str, outcome: ExecutionOutcome) -> None:
    """Write down how an execution of the session ended, unless that is written already."""
    values = {name: getattr(outcome, name) for name in ("success", "execution_time_ms", "output", "error")}
    await db.execute(_unknown(session_id, outcome.id).values(values))


async def settle(db: StoreConnection, session_id: str, execution_id: str) -> None:
    """End an execution of the session by its state alone, as its output will never be known."""
    await db.execute(_unknown(session_id, execution_id).values(success=_SUCCEEDED))


async def add_trace(
    db: StoreConnection, sandbox_id: str, execution_id: str, ref: str | None, learn_status: str | None
) -> None:
    """Write down where an execution's trace is, and what became of the wish to learn from it."""
    own = and_(_E.sandbox_id == sandbox_id, _E.id == execution_id)
    await db.execute(update(execs).where(own).values(payload_ref=ref, learn_status=learn_status))


async def page(
    db: StoreConnection,
    sandbox_id: str,
    live: str | None,
    filters: HistoryFilters,
    *,
    limit: int,
    offset: int,
) -> tuple[list[HistoryEntry], int]:
    """Some of a sandbox's entries, newest first, and their number; `live` is its live session's id."""
    wanted = _conditions(sandbox_id, live, filters)
    total = (await db.execute(select(func.count()).select_from(execs).where(*wanted))).scalar_one()
    query = _entries().where(*wanted).order_by(_E.seq.desc()).limit(limit).offset(offset)
    return [_entry(row) for row in await db.execute(query)], total


async def last(
    db: StoreConnection, sandbox_id: str, live: str | None, kind: ExecType | None
) -> HistoryEntry | None:
    """The newest entry (of that kind)."""
    wanted = _conditions(sandbox_id, live, HistoryFilters(exec_type=kind))
    row = (await db.execute(_entries().where(*wanted).order_by(_E.seq.desc()).limit(1))).first()
    return _entry(row) if row else None


async def get(
    db: StoreConnection, sandbox_id: str, live: str | None, execution_id: str
) -> HistoryEntry | None:
    """One entry."""
    wanted = _conditions(sandbox_id, live, HistoryFilters())
    row = (await db.execute(_entries().where(*wanted, _E.id == execution_id))).first()
    return _entry(row) if row else None


async def annotate(db: StoreConnection, sandbox_id: str, execution_id: str, **values: str | None) -> None:
    """Set `description`, `tags` or `notes` of an entry."""
    own = and_(_E.sandbox_id == sandbox_id, _E.id == execution_id, _E.exec_type.is_not(None))
    await db.execute(update(execs).where(own).values(**values))
    if "tags" in values:
        await skills.note_run(db, sandbox_id, execution_id, values["tags"])


async def runs(db: StoreConnection, release_id: str, before: datetime | None) -> RunFigures:
    """How the runs of a release went (that began before that moment). Read from indexes alone."""
    live, past = _runs(_E.release_id == release_id, _DONE), select(*_PAST).where(_P.release_id == release_id)
    if before is not None:
        live, past = live.where(_E.started_at < before), past.where(_P.started_at < before)
    found = union_all(live, past).subquery().c
    counts = select(func.count(), func.count().filter(found.success.is_(True)), func.count(found.time_ms))
    samples, successes, timed = (await db.execute(counts)).one()
    times = select(found.time_ms).where(found.time_ms.is_not(None)).order_by(found.time_ms)
    rank = max(0, math.ceil(0.95 * timed) - 1)
    slow = (await db.execute(times.limit(1).offset(rank))).scalar()
    return RunFigures(samples=samples, successes=successes, p95_ms=slow or 0)


async def keep_runs(db: StoreConnection, sandbox_id: str) -> None:
    """Keep how the runs of releases went, of a sandbox whose history is about to be removed."""
    await _keep(db, _E.sandbox_id == sandbox_id)


async def newest(db: StoreConnection) -> int:
    """The last row of all execs, of any owner; 0 without any."""
    return (await db.execute(select(func.max(_E.seq)))).scalar() or 0


async def grown(db: StoreConnection, since: int, least: Keep) -> list[str]:
    """The sandboxes that have got execs behind row `since`, and have more of them than `least`."""
    recent = select(_E.sandbox_id).where(_E.seq > since)
    beyond = or_(func.count() > whole(least.count), func.sum(_size()) > least.size)
    query = select(_E.sandbox_id).where(_E.sandbox_id.in_(recent)).group_by(_E.sandbox_id).having(beyond)
    return list((await db.execute(query)).scalars())


async def surplus(db: StoreConnection, sandbox_id: str, kind: Kind, keep: Keep) -> list[int]:
    """The rows of a sandbox beyond the newest that `keep` allows, oldest first."""
    newest_first = _E.seq.desc()
    ranked = (
        select(
            _E.seq,
            func.row_number().over(order_by=newest_first).label("place"),
            func.sum(_size()).over(order_by=newest_first).label("size"),
        )
        .where(_E.sandbox_id == sandbox_id, _of_kind(kind))
        .subquery()
    )
    beyond = or_(ranked.c.place > whole(keep.count), ranked.c.size > keep.size)
    found = await db.execute(select(ranked.c.seq).where(beyond).order_by(ranked.c.seq))
    return list(found.scalars())


async def aged(db: StoreConnection, after: int, before: datetime, limit: int) -> tuple[list[int], int | None]:
    """Of the next rows behind `after` begun before `before`: those that expire by age, and the last one.
    Entries of failed executions never expire by age.
    """
    goes = or_(_of_kind("plain"), _of_kind("successful"))
    query = select(_E.seq, _E.started_at, goes.label("goes")).where(_E.seq > after)
    rows = (await db.execute(query.order_by(_E.seq).limit(limit))).all()
    old = [row for row in rows if row.started_at < before]
    return [row.seq for row in old if row.goes], old[-1].seq if old else None


async def drop(db: StoreConnection, seqs: list[int]) -> None:
    """Remove those rows, which are never many at once. How a run of a release went is kept."""
    await _keep(db, _E.seq.in_(seqs))
    await db.execute(delete(execs).where(_E.seq.in_(seqs)))


def _runs(*wanted: ColumnElement[bool]) -> Select[Any, Any]:
    return select(_SUCCEEDED.label("success"), _E.execution_time_ms.label("time_ms")).where(*wanted)


async def _keep(db: StoreConnection, which: ColumnElement[bool]) -> None:
    columns = ("success", "execution_time_ms", "release_id", "started_at")
    gone = _runs(which, _E.release_id.is_not(None), _DONE).add_columns(_E.release_id, _E.started_at)
    await db.execute(insert(skill_runs).from_select(columns, gone))


def _unknown(session_id: str, execution_id: str) -> Update:
    own = (_E.session_id == session_id, _E.id == execution_id, _E.exec_type.is_not(None))
    return update(execs).where(*own, _E.success.is_(None))


def _of_kind(kind: Kind) -> ColumnElement[bool]:
    match kind:
        case "plain":
            return and_(_E.exec_type.is_(None), _over())
        case "running":
            return ~_DONE
        case "successful":
            return and_(_E.exec_type.is_not(None), _over(), _SUCCEEDED.is_(True))
        case "failed":
            return and_(_E.exec_type.is_not(None), _over(), _SUCCEEDED.is_(False))


def _over() -> ColumnElement[bool]:
    """Done, or of an ended session, which is looked up for the few rows only that are not done."""
    ended = select(sessions.c.seq).where(sessions.c.id == _E.session_id, sessions.c.ended_at.is_not(None))
    return or_(_DONE, ended.exists())


def _size() -> ColumnElement[int]:
    texts = (_E.argv, _E.code, _E.output, _E.error, _E.description, _E.tags, _E.notes)
    sizes = [func.coalesce(ByteLength(column), 0) for column in texts]
    return sum(sizes[1:], sizes[0])


def _entries() -> Select[Any]:
    end = ("state", "exit_code", "signal", "timed_out", "started_at", "ended_at")
    names = (*_KEPT, "learn_enabled", "success", "execution_time_ms", "output", "error", *end)
    return select(*(_E[name] for name in names), _SUCCEEDED.label("succeeded"))


def _conditions(sandbox_id: str, live: str | None, filters: HistoryFilters) -> list[ColumnElement[bool]]:
    wanted: list[ColumnElement[bool]] = [_E.sandbox_id == sandbox_id]
    wanted.append(_E.exec_type == filters.exec_type if filters.exec_type else _E.exec_type.is_not(None))
    # A row of an ended session is "running" only until it is marked as lost.
    wanted.append(or_(_DONE, _E.session_id != live) if live else true())
    asked = (
        (filters.success_only, _SUCCEEDED.is_(True)),
        (filters.failed_only, _SUCCEEDED.is_(False)),
        (filters.has_notes, _E.notes != ""),
        (filters.has_description, _E.description != ""),
        (filters.tags, or_(false(), *map(_has_tag, filters.tags))),
    )
    return [*wanted, *(condition for is_asked, condition in asked if is_asked)]


def _has_tag(tag: str) -> ColumnElement[bool]:
    return (literal(",", _E.tags.type) + _E.tags + ",").icontains(f",{tag},", autoescape=True)


def _entry(row: Row[Any]) -> HistoryEntry:
    kept: dict[str, Any] = {name: row._mapping[name] for name in _KEPT}
    return HistoryEntry(
        **kept,
        success=bool(row.succeeded),
        execution_time_ms=_time_ms(row),
        output=row.output,
        error=row.error if row.output is not None else _reason(row),
        learn_enabled=bool(row.learn_enabled),
        created_at=row.started_at,
    )


def _time_ms(row: Row[Any]) -> int:
    if row.execution_time_ms is not None:
        return row.execution_time_ms
    return max(0, round(((row.ended_at or row.started_at) - row.started_at).total_seconds() * 1000))


def _reason(row: Row[Any]) -> str | None:
    """The error of a failed execution whose end no caller waited for."""
    if row.timed_out:
        return _TIMED_OUT
    if row.state == "killed":
        return f"killed by signal {row.signal}" if row.signal else "killed"
    if row.state == "exited":
        return None if row.exit_code == 0 else f"exited with {row.exit_code}; what it printed was not kept"
    return _LOST


def _bounded(text: str, *, lacks_head: bool) -> str:
    """`text`, without its middle if it is long. A stranger's: it may have characters outside of UTF-8."""
    data = text.encode("utf-8", "replace")
    text = data.decode("utf-8")
    if len(data) > MAX_TEXT_BYTES:
        half = MAX_TEXT_BYTES // 2
        head, tail = (part.decode("utf-8", "ignore") for part in (data[:half], data[-half:]))
        text = f"{head}\n[... {len(data) - MAX_TEXT_BYTES} bytes not kept ...]\n{tail}"
    return f"[... the beginning was not kept ...]\n{text}" if lacks_head and text else text
