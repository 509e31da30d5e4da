"""Database queries on execs. Those on their history are in `bay.store.history`."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, case, delete, or_, select, update

from bay.meters import Meters
from bay.models import Exec
from bay.store import history, skills
from bay.store.connection import StoreConnection
from bay.store.dialects import insert, member_text
from bay.store.records import HistoryNote, Page, SessionRecord, Unfinished
from bay.store.rows import columns_of, page_of
from bay.store.schema import execs, sessions

_NOTED = ("exec_type", "code", "description", "tags", "learn_enabled")
_HISTORY = frozenset(
    (
        *_NOTED,
        "success",
        "execution_time_ms",
        "output",
        "error",
        "notes",
        "release_id",
        "payload_ref",
        "learn_status",
    )
)
_OWN = [c for c in execs.c if c.name not in {"seq", "sandbox_id", "session_id", "request_hash"} | _HISTORY]
_END = select(sessions.c.end_reason).where(sessions.c.id == execs.c.session_id).scalar_subquery()
# Why its session ended, of an exec that was lost with it.
_COLUMNS = [*_OWN, case((execs.c.state == "lost", _END)).label("reason")]
_SESSION = columns_of(sessions)
_IS_PROCESS = or_(execs.c.exec_type.is_(None), execs.c.exec_type.not_in(("python", "browser_batch")))
"""Runs of `python/exec` have a row for the history's sake, but are cells of a kernel. So have batches of a
browser, whose steps are the processes.
"""


# Made once: to put a statement together took a quarter of the time of an exec's two transactions.
_ADD = insert(execs).on_conflict_do_nothing(index_elements=["sandbox_id", "id"])
_SAVE = update(execs).where(
    execs.c.session_id == bindparam("of_session"),
    execs.c.id == bindparam("of_id"),
    execs.c.state == "running",
)
_REMOVE_ALL = delete(execs).where(execs.c.sandbox_id == bindparam("of_sandbox"))
_LOSE_RUNNING = update(execs).where(execs.c.session_id == bindparam("of_session"), execs.c.state == "running")


async def add(
    db: StoreConnection,
    sandbox_id: str,
    session_id: str,
    item: Exec,
    note: HistoryNote | None = None,
    request_hash: str | None = None,
) -> bool:
    """Insert one exec, with a `note` as an entry of the history; False: its sandbox has that id already."""
    kept: dict[str, Any] = {} if note is None else {name: getattr(note, name) for name in _NOTED}
    row: dict[str, Any] = {
        "id": item.id, "sandbox_id": sandbox_id, "session_id": session_id, "argv": list(item.argv), "tty": item.tty,
        "keep_alive": item.keep_alive, "labels": item.labels, "started_at": item.started_at, "request_hash": request_hash, **_facts(item), **kept,
    }  # fmt: skip
    added = await db.execute(_ADD, row, preserve_rowcount=True)
    if note is not None and skills.RUN_TAG in (note.tags or "") and added.rowcount == 1:
        await skills.note_run(db, sandbox_id, item.id, note.tags)
    if added.rowcount == 1:
        db.tally(lambda meters: meters.execs_started.inc())
    return added.rowcount == 1


async def save(db: StoreConnection, session_id: str, item: Exec) -> None:
    """Save the exec's latest state. One that has ended stays as it is.
    A Ship's report of an unknown exec changes nothing, nor does its report of a start: Bay started it.
    """
    own = {"of_session": session_id, "of_id": item.id}
    row = {**own, "argv": list(item.argv), **_facts(item)}
    saved = await db.execute(_SAVE, row, preserve_rowcount=True)
    if item.state != "running" and saved.rowcount == 1:
        db.tally(partial(_count_end, item))


async def go_on_in(
    db: StoreConnection, sandbox_id: str, session_id: str, items: Sequence[Exec], *, of: str
) -> None:
    """Have the execs that a session brought along in its memory as its own. They were made in sandbox `of`,
    whose rows know more of them than Ship does.
    """
    for item in items:
        made = await get(db, of, item.id)
        known = item if made is None else replace(item, keep_alive=made[0].keep_alive, labels=made[0].labels)
        facts = {"session_id": session_id, **_facts(known)}
        row: dict[str, Any] = {
            "id": known.id, "sandbox_id": sandbox_id, "argv": list(known.argv), "tty": known.tty,
            "keep_alive": known.keep_alive, "labels": known.labels, "started_at": known.started_at, **facts,
        }  # fmt: skip
        adding = insert(execs).values(row)
        await db.execute(adding.on_conflict_do_update(index_elements=["sandbox_id", "id"], set_=facts))


async def remove(db: StoreConnection, sandbox_id: str, exec_id: str) -> None:
    """Forget an exec that was never started."""
    await db.execute(delete(execs).where(execs.c.sandbox_id == sandbox_id, execs.c.id == exec_id))


async def remove_all(db: StoreConnection, sandbox_id: str) -> None:
    """Forget every exec of a sandbox that is being removed: their command lines may hold secrets."""
    await history.keep_runs(db, sandbox_id)
    await db.execute(_REMOVE_ALL, {"of_sandbox": sandbox_id})


async def request_hash(db: StoreConnection, sandbox_id: str, exec_id: str) -> str | None:
    """The hash of the call that made an exec; None without one, or without the exec."""
    query = select(execs.c.request_hash).where(execs.c.sandbox_id == sandbox_id, execs.c.id == exec_id)
    return (await db.execute(query)).scalar()


async def get(db: StoreConnection, sandbox_id: str, exec_id: str) -> tuple[Exec, str] | None:
    """The exec and the id of the session it ran in."""
    query = select(execs.c.session_id, *_COLUMNS).where(_IS_PROCESS)
    row = (await db.execute(query.where(execs.c.sandbox_id == sandbox_id, execs.c.id == exec_id))).first()
    return (_exec(row), row.session_id) if row else None


async def page(db: StoreConnection, sandbox_id: str, *, after: int, limit: int) -> Page[tuple[Exec, str]]:
    """Up to `limit` execs of a sandbox with `seq` > `after`, oldest first, each with its session's id."""
    query = select(execs.c.seq, execs.c.session_id, *_COLUMNS)
    query = query.where(execs.c.sandbox_id == sandbox_id, execs.c.seq > after, _IS_PROCESS)
    rows = (await db.execute(query.order_by(execs.c.seq).limit(limit + 1))).all()
    return page_of(rows, limit, lambda row: (_exec(row), row.session_id))


async def running(db: StoreConnection, session_id: str) -> list[Exec]:
    """The execs of the session that count as running, oldest first. Ship bounds their number."""
    query = select(*_COLUMNS).where(execs.c.session_id == session_id, execs.c.state == "running", _IS_PROCESS)
    return [_exec(row) for row in await db.execute(query.order_by(execs.c.seq))]


async def of_process(
    db: StoreConnection, session_id: str, pid: int | None, label: tuple[str, str] | None = None
) -> Exec | None:
    """The newest exec of the session whose first process has or had that number, or that has a label."""
    query = select(*_COLUMNS).where(execs.c.session_id == session_id, _IS_PROCESS)
    query = query.where(execs.c.pid == pid) if label is None else query.where(_has_label(*label))
    row = (await db.execute(query.order_by(execs.c.seq.desc()).limit(1))).first()
    return _exec(row) if row else None


def _has_label(name: str, value: str) -> ColumnElement[bool]:
    return member_text(execs.c.labels, name) == value


async def any_active(db: StoreConnection, session_id: str) -> bool:
    """Whether an exec that keeps its sandbox active is not known to have ended; kernels are asked."""
    runs = execs.c.session_id == session_id, execs.c.state == "running", execs.c.keep_alive
    query = select(execs.c.seq).where(*runs, _IS_PROCESS).limit(1)
    return (await db.execute(query)).first() is not None


async def lose_running(db: StoreConnection, session_id: str, at: datetime) -> None:
    """Mark the running execs of an ended session as lost."""
    row = {"of_session": session_id, "state": "lost", "ended_at": at}
    lost = (await db.execute(_LOSE_RUNNING, row, preserve_rowcount=True)).rowcount
    db.tally(lambda meters: meters.execs_ended.labels("lost").inc(lost))


async def with_unfinished(db: StoreConnection) -> list[SessionRecord]:
    """The sessions that answer and of which execs count as running."""
    answers = and_(sessions.c.ended_at.is_(None), sessions.c.phase == "running")
    runs = select(execs.c.seq).where(execs.c.session_id == sessions.c.id, execs.c.state == "running")
    found = await db.execute(select(*_SESSION).where(answers, runs.exists()))
    return [SessionRecord(**row._mapping) for row in found]


async def unfinished(db: StoreConnection, session_id: str, limit: int) -> list[Unfinished]:
    """The execs of the session that count as running, oldest first."""
    return await _unfinished(db, execs.c.session_id == session_id, execs.c.state == "running", limit=limit)


async def unfinished_history(db: StoreConnection, session_id: str, limit: int) -> list[Unfinished]:
    """The session's entries of the history that count as running, or whose output is not known."""
    silent = and_(execs.c.success.is_(None), execs.c.state.in_(("exited", "killed")))
    own = and_(execs.c.session_id == session_id, execs.c.exec_type.is_not(None))
    return await _unfinished(db, own, or_(execs.c.state == "running", silent), limit=limit)


async def _unfinished(db: StoreConnection, *conditions: ColumnElement[bool], limit: int) -> list[Unfinished]:
    has_ended = (execs.c.state != "running").label("has_ended")
    query = select(execs.c.id, execs.c.exec_type, has_ended, execs.c.started_at).where(*conditions)
    found = await db.execute(query.order_by(execs.c.seq).limit(limit))
    return [Unfinished(**row._mapping) for row in found]


async def lose(db: StoreConnection, session_id: str, exec_id: str, at: datetime) -> None:
    """Mark an exec of the session as lost: its end cannot be known."""
    query = update(execs).where(execs.c.session_id == session_id, execs.c.id == exec_id)
    query = query.where(execs.c.state == "running").values(state="lost", ended_at=at)
    lost = (await db.execute(query, preserve_rowcount=True)).rowcount
    db.tally(lambda meters: meters.execs_ended.labels("lost").inc(lost))


def _count_end(item: Exec, meters: Meters) -> None:
    if item.timed_out:
        outcome = "timed_out"
    elif item.state == "exited":
        outcome = "succeeded" if item.exit_code == 0 else "failed"
    else:
        outcome = item.state
    meters.execs_ended.labels(outcome).inc()
    meters.exec_output_bytes.inc(item.output_bytes)


def _facts(item: Exec) -> dict[str, Any]:
    return {
        "pid": item.pid,
        "state": item.state,
        "exit_code": item.exit_code,
        "signal": item.signal,
        "timed_out": item.timed_out,
        "output_bytes": item.output_bytes,
        "first_offset": item.first_offset,
        "ended_at": item.ended_at,
    }


def _exec(row: Row[Any]) -> Exec:
    values: dict[str, Any] = {c.name: row._mapping[c.name] for c in _COLUMNS}
    argv: list[str] = values.pop("argv")
    return Exec(argv=tuple(argv), **values)
