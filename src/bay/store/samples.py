"""Database queries on samples: the use of resources by sandboxes over time, packed into few rows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import bindparam, delete, func, select

from bay.store.connection import StoreConnection
from bay.store.dialects import insert
from bay.store.records import NOBODY
from bay.store.schema import cargos, execs, samples, sandboxes, sessions

_S = samples.c
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class RunningSession:
    """A session that runs, with what the rows know of the sandbox's use."""

    sandbox_seq: int
    sandbox_id: str
    session_id: str
    created_at: float
    """When its start began, in seconds since 1970."""
    started_at: float
    """When it was ready."""
    disk_bytes: int | None
    execs: int


@dataclass(frozen=True, slots=True)
class SampleRow:
    """Some points of a sandbox, as the table has them."""

    sandbox_seq: int
    step: int
    at: int
    points: bytes


# Made once: to put a statement together costs about as much as to run it.
_EXECS = (
    select(func.count())
    .where(execs.c.session_id == sessions.c.id, execs.c.state == "running")
    .scalar_subquery()
)
_RUNNING = (
    select(
        sandboxes.c.seq,
        sandboxes.c.id,
        sessions.c.id,
        sessions.c.created_at,
        func.coalesce(sessions.c.started_at, sessions.c.created_at),
        func.coalesce(cargos.c.charged_bytes, cargos.c.used_bytes),
        _EXECS,
    )
    .select_from(sessions)
    .join(sandboxes, sandboxes.c.id == sessions.c.sandbox_id)
    .join(cargos, cargos.c.id == sandboxes.c.cargo_id)
    .where(
        sessions.c.ended_at.is_(None),
        sessions.c.phase == "running",
        sandboxes.c.owner != NOBODY,
        sandboxes.c.deleted_at.is_(None),
    )
)
_ADD = insert(samples).on_conflict_do_nothing(index_elements=["sandbox_seq", "step", "at"])
_OF = (
    select(samples)
    .where(_S.sandbox_seq == bindparam("of_sandbox"), _S.step == bindparam("of_step"))
    .where(_S.at >= bindparam("since"), _S.at < bindparam("before"))
)


async def running(db: StoreConnection) -> list[RunningSession]:
    """The sessions that run of all sandboxes that have an owner; a frozen one does not run."""
    return [
        RunningSession(seq, sandbox_id, session_id, begun.timestamp(), ready.timestamp(), disk_bytes, count)
        for seq, sandbox_id, session_id, begun, ready, disk_bytes, count in await db.execute(_RUNNING)
    ]


async def handles(db: StoreConnection, session_ids: Sequence[str]) -> dict[str, dict[str, object]]:
    """The handles of those of the sessions that have one."""
    found: dict[str, dict[str, object]] = {}
    for start in range(0, len(session_ids), _AT_ONCE):
        some = session_ids[start : start + _AT_ONCE]
        query = select(sessions.c.id, sessions.c.handle).where(sessions.c.id.in_(some))
        found |= {row.id: row.handle for row in await db.execute(query) if row.handle is not None}
    return found


async def present(db: StoreConnection, sandbox_seqs: Sequence[int]) -> set[int]:
    """Those of the sandboxes that were not deleted."""
    found = set[int]()
    for start in range(0, len(sandbox_seqs), _AT_ONCE):
        some = sandbox_seqs[start : start + _AT_ONCE]
        query = select(sandboxes.c.seq).where(sandboxes.c.seq.in_(some), sandboxes.c.deleted_at.is_(None))
        found.update((await db.execute(query)).scalars())
    return found


async def seq_of(db: StoreConnection, sandbox_id: str) -> int | None:
    """The number that a sandbox's samples are under."""
    return (await db.execute(select(sandboxes.c.seq).where(sandboxes.c.id == sandbox_id))).scalar()


async def add(db: StoreConnection, rows: Iterable[SampleRow]) -> None:
    """Insert rows; one that is there already stays as it is."""
    if given := [asdict(row) for row in rows]:
        await db.execute(_ADD, given)


async def of_sandbox(
    db: StoreConnection, sandbox_seq: int, step: int, since: int, before: int
) -> list[SampleRow]:
    """The rows of a sandbox whose first points are from `since` on and before `before`."""
    given = {"of_sandbox": sandbox_seq, "of_step": step, "since": since, "before": before}
    return [SampleRow(*row) for row in await db.execute(_OF, given)]


async def remove_all(db: StoreConnection, sandbox_id: str) -> None:
    """Forget all of a sandbox that is being removed."""
    seq = select(sandboxes.c.seq).where(sandboxes.c.id == sandbox_id).scalar_subquery()
    await db.execute(delete(samples).where(_S.sandbox_seq == seq))


async def first(db: StoreConnection, step: int, since: int = 0) -> int | None:
    """When the first row of that step begins that begins at `since` or later."""
    return (await db.execute(select(func.min(_S.at)).where(_S.step == step, _S.at >= since))).scalar()


async def last(db: StoreConnection, step: int) -> int | None:
    """When the last row of that step begins."""
    return (await db.execute(select(func.max(_S.at)).where(_S.step == step))).scalar()


async def within(
    db: StoreConnection, step: int, since: int, before: int, after_sandbox: int, limit: int
) -> list[SampleRow]:
    """The rows of that step and time of the next `limit` sandboxes behind `after_sandbox`, by sandbox."""
    of_step = _S.step == step, _S.at >= since, _S.at < before, _S.sandbox_seq > after_sandbox
    some = select(_S.sandbox_seq).where(*of_step).distinct().order_by(_S.sandbox_seq).limit(limit)
    query = select(samples).where(*of_step, _S.sandbox_seq.in_(some))
    return [SampleRow(*row) for row in await db.execute(query.order_by(_S.sandbox_seq, _S.at))]


async def forget(db: StoreConnection, step: int, before: int) -> int:
    """Drop the rows of that step that begin before `before`; how many that were."""
    gone = delete(samples).where(_S.step == step, _S.at < before)
    return (await db.execute(gone, preserve_rowcount=True)).rowcount
