"""What the stored facts of a sandbox mean: every combination of them, in Python and in SQL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import select

from bay.models import Compute, Failure, Sizes, Status
from bay.server.sessions.lifecycle import (
    AbandonStorage,
    ApplyNetworkPolicy,
    ApplySizes,
    Begin,
    End,
    Hibernate,
    Nothing,
    Pause,
    Remove,
    Restore,
    Resume,
    ResumeStart,
    Step,
    TakeCheckpoint,
    WakeUp,
    compute_of,
    next_step,
    status_of,
    view,
)
from bay.store import cargos, sandboxes, sessions
from bay.store.engine import Store
from bay.store.records import Filters, Phase, SandboxRecord, SessionRecord, Target
from bay.store.sandboxes import compute_expression, status_expression
from bay.store.schema import sandboxes as sandboxes_table
from bay.store.schema import sessions as sessions_table
from bay.store.sqlite import SqliteDatabase

pytestmark = pytest.mark.pure

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RETENTION = timedelta(seconds=60)
FAILURE = Failure(code="driver_unavailable", message="no runc", at=NOW)
TARGETS: tuple[Target, ...] = ("running", "paused", "hibernated", "stopped", "deleted")
PHASES: tuple[Phase | None, ...] = (None, "starting", "running", "paused", "hibernated", "ending")
EXPIRIES = {
    "never": None,
    "later": NOW + timedelta(microseconds=1),
    "now": NOW,
    "just": NOW - RETENTION + timedelta(seconds=1),
    "long": NOW - RETENTION,
}
PAST = ("now", "just", "long")


class Case(NamedTuple):
    target: Target
    phase: Phase | None
    failed: bool
    expires: str
    exited: bool
    deleted: bool


CASES = [
    Case(*values)
    for values in product(TARGETS, PHASES, (False, True), EXPIRIES, (False, True), (False, True))
    if not (values[5] and values[1])  # a sandbox that is removed has no session
]


def sandbox_of(case: Case, number: int = 0) -> SandboxRecord:
    sandbox_id = f"sandbox-{number:024x}"
    return SandboxRecord(
        seq=number + 1, id=sandbox_id, owner="alice", name=None, profile="p", image="host", isolation="container",
        cargo_id="ws-1", env={}, labels={}, target=case.target, generation=1,
        error=FAILURE if case.failed else None, idle_timeout=None, idle_expires_at=None,
        expires_at=EXPIRIES[case.expires], last_active_at=NOW, created_at=NOW, deleted_at=NOW if case.deleted else None,
        session=session_of(sandbox_id, case.phase) if case.phase else None,
    )  # fmt: skip


def session_of(sandbox_id: str, phase: Phase) -> SessionRecord:
    return SessionRecord(
        id=sandbox_id.replace("sandbox", "sess"), sandbox_id=sandbox_id, generation=1, driver="fake", phase=phase,
        token="t", handle=None, network_version=0, end_reason=None, created_at=NOW, started_at=None, ended_at=None,
    )  # fmt: skip


def expected_status(case: Case) -> Status:
    """The table, written as the specification tells it and not as the code does."""
    if case.expires in PAST:
        return "expired"
    if case.target not in ("running", "paused"):
        return "failed" if case.failed else "idle"
    by_phase: dict[Phase | None, Status] = {
        "starting": "starting",
        "ending": "starting",
        "hibernated": "starting",
        "running": "ready",
        "paused": "ready",
    }
    return by_phase.get(case.phase, "failed" if case.failed else "idle")


COMPUTE: dict[Phase | None, Compute] = {
    None: "cold",
    "starting": "warming",
    "running": "running",
    "paused": "warm",
    "hibernated": "hibernated",
    "ending": "cold",
}


def expected_step(case: Case, session: SessionRecord | None) -> Step:
    if case.deleted:
        return Nothing()
    if session is None:
        if case.target == "deleted" or case.expires == "long":
            return Remove()
        wanted = case.target in ("running", "paused") and case.expires not in PAST
        return Begin() if wanted else Nothing()
    if case.phase == "ending":
        return End(session, "stopped", graceful=False)
    reasons = {
        "deleted": case.target == "deleted",
        "expired": case.expires in PAST,
        "exited": case.exited,
        "stopped": case.target == "stopped",
    }
    for reason, holds in reasons.items():
        if holds:
            return End(session, reason, graceful=reason == "stopped" and case.phase in ("running", "paused"))
    by_phase: dict[tuple[Phase, Target], Step] = {
        ("starting", "running"): ResumeStart(session),
        ("starting", "paused"): ResumeStart(session),
        ("starting", "hibernated"): ResumeStart(session),
        ("running", "hibernated"): Pause(session),
        ("paused", "hibernated"): Hibernate(session),
        ("hibernated", "running"): WakeUp(session),
        ("hibernated", "paused"): WakeUp(session),
        ("running", "paused"): Pause(session),
        ("paused", "running"): Resume(session),
    }
    return by_phase.get((session.phase, case.target), Nothing())


@pytest.mark.parametrize("case", CASES, ids=str)
def test_each_combination_of_facts_has_its_status_compute_and_next_step(case: Case) -> None:
    sandbox = sandbox_of(case)
    assert status_of(sandbox, NOW) == expected_status(case)
    assert compute_of(sandbox) == COMPUTE[case.phase]
    step = next_step(sandbox, NOW, exited=case.exited, retention=RETENTION)
    assert step == expected_step(case, sandbox.session)


WISHES = {
    "checkpoint": {"checkpoint_due": "ckpt-1"},
    "restore": {"restore_id": "ckpt-2"},
    "both": {"checkpoint_due": "ckpt-1", "restore_id": "ckpt-2"},
}


@pytest.mark.parametrize("wish", WISHES)
def test_files_are_seen_to_before_compute_and_after_what_must_end(wish: str) -> None:
    for case in CASES:
        sandbox = replace(sandbox_of(case), **WISHES[wish])
        plain = expected_step(case, sandbox.session)
        ends = isinstance(plain, End) and (plain.reason != "stopped" or case.phase == "ending")
        is_over = case.deleted or case.target == "deleted" or case.expires in PAST
        step = next_step(sandbox, NOW, exited=case.exited, retention=RETENTION)
        if is_over and not case.deleted and case.phase is None and plain == Nothing():
            assert step == AbandonStorage(), case
        elif ends or is_over:
            assert step == plain, case
        elif wish != "restore" and case.phase != "starting":
            assert step == TakeCheckpoint("ckpt-1"), case
        elif wish == "restore":
            assert step == Restore("ckpt-2"), case
        else:
            assert step == plain, case  # a start goes on, or ends, first


@pytest.mark.parametrize("held", [None, 0, 2])
def test_a_network_is_held_to_its_policy_before_the_session_freezes_or_thaws(held: int | None) -> None:
    for case in CASES:
        sandbox = sandbox_of(case)
        if sandbox.session is None:
            continue
        session = replace(sandbox.session, network_version=held)
        plain = expected_step(case, session)
        step = next_step(replace(sandbox, network_version=1, session=session), NOW, exited=case.exited)
        is_held = (
            isinstance(plain, Nothing | Pause | Resume | Hibernate)
            and case.phase != "hibernated"
            and not case.deleted
        )
        assert step == (ApplyNetworkPolicy(session) if is_held else plain), case


def test_a_sandbox_never_begins_while_it_has_a_session() -> None:
    for case in CASES:
        step = next_step(sandbox_of(case), NOW, exited=case.exited, retention=RETENTION)
        assert not (case.phase and isinstance(step, Begin | Remove))


def test_what_is_wanted_is_reached_from_every_combination_in_a_few_steps() -> None:
    """Apply the steps to the facts alone: each path ends, in the state that the target names."""
    wishes: tuple[dict[str, str], ...] = ({}, *WISHES.values())
    for case, wish in product(CASES, wishes):
        sandbox, exited = replace(sandbox_of(case), **wish), case.exited
        for _ in range(7):
            step = next_step(sandbox, NOW, exited=exited, retention=RETENTION)
            if isinstance(step, Nothing):
                break
            sandbox, exited = apply(sandbox, step), exited and not isinstance(step, End)
        else:
            raise AssertionError(f"{case} never settles")
        settled_ok = {
            "running": sandbox.session is not None and sandbox.session.phase == "running",
            "paused": sandbox.session is not None and sandbox.session.phase == "paused",
            "hibernated": sandbox.session is None or sandbox.session.phase == "hibernated",
            "stopped": sandbox.session is None,
            "deleted": sandbox.deleted_at is not None,
        }[sandbox.target]
        assert settled_ok or case.deleted or case.expires in PAST, case
        is_over = case.deleted or sandbox.deleted_at is not None
        assert is_over or (sandbox.checkpoint_due, sandbox.restore_id) == (None, None), case


def apply(sandbox: SandboxRecord, step: Step) -> SandboxRecord:
    match step:
        case Begin() | ResumeStart() | Resume():
            return replace(sandbox, session=session_of(sandbox.id, "running"))
        case ApplyNetworkPolicy(session):
            return replace(sandbox, session=replace(session, network_version=sandbox.network_version))
        case ApplySizes(session):
            taken = {name: getattr(sandbox, name) for name in ("cpus", "memory_mb", "pids")}
            return replace(sandbox, session=replace(session, **taken))
        case Pause():
            return replace(sandbox, session=session_of(sandbox.id, "paused"))
        case Hibernate():
            return replace(sandbox, session=session_of(sandbox.id, "hibernated"))
        case WakeUp():
            return replace(sandbox, session=session_of(sandbox.id, "starting"))
        case End(reason=reason):
            return replace(sandbox, session=None, target="stopped" if reason == "exited" else sandbox.target)
        case TakeCheckpoint():
            return replace(sandbox, checkpoint_due=None)
        case Restore():
            return replace(sandbox, restore_id=None, session=None)
        case AbandonStorage():
            return replace(sandbox, restore_id=None, checkpoint_due=None)
        case Remove():
            return replace(sandbox, deleted_at=NOW)
        case Nothing():
            return sandbox


def test_an_end_that_was_interrupted_keeps_its_reason() -> None:
    case = Case("running", "ending", failed=False, expires="never", exited=True, deleted=False)
    sandbox = sandbox_of(case)
    assert sandbox.session is not None
    ending = replace(sandbox.session, end_reason="idle")
    assert next_step(replace(sandbox, session=ending), NOW, exited=True) == End(
        ending, "idle", graceful=False
    )


@pytest.mark.parametrize("phase", ["running", "paused"])
def test_a_live_session_of_other_sizes_is_resized_before_it_is_frozen_or_thawed(phase: Phase) -> None:
    target = "paused" if phase == "running" else "running"
    case = Case(target, phase, failed=False, expires="never", exited=False, deleted=False)
    sandbox = sandbox_of(case)
    assert sandbox.session is not None
    for sizes in ({"cpus": 2.0}, {"memory_mb": 64}, {"pids": 20}):
        assert next_step(replace(sandbox, **sizes), NOW) == ApplySizes(sandbox.session)
    assert not isinstance(next_step(replace(sandbox, disk_mb=99), NOW), ApplySizes)


@pytest.mark.parametrize("phase", ["starting", "ending", None])
def test_a_session_that_does_not_live_yet_or_any_more_is_not_resized(phase: Phase | None) -> None:
    case = Case("running", phase, failed=False, expires="never", exited=False, deleted=False)
    assert not isinstance(next_step(replace(sandbox_of(case), cpus=2.0), NOW), ApplySizes)


def test_the_view_shows_what_the_table_says() -> None:
    case = Case("running", "paused", failed=True, expires="never", exited=False, deleted=False)
    shown = view(sandbox_of(case), NOW, ("shell",), "allowlist", Sizes(cpus=0.5, pids=20))
    assert (shown.status, shown.compute, shown.capabilities) == ("ready", "warm", ("shell",))
    assert shown.network == "allowlist"
    assert (shown.cpus, shown.memory_mb, shown.disk_mb, shown.pids) == (0.5, None, None, 20)
    assert shown.error == FAILURE


@pytest.mark.anyio
async def test_sql_and_python_agree_on_every_combination(tmp_path: Path) -> None:
    store = Store(SqliteDatabase(tmp_path / "bay.db"))
    await store.open()
    records = [sandbox_of(case, number) for number, case in enumerate(CASES)]
    unused = [sandbox_of(case, len(CASES) + number) for number, case in enumerate(CASES)]
    records += [replace(record, last_active_at=None) for record in unused]
    async with store.write() as db:
        await cargos.add(
            db,
            {"id": "ws-1", "owner": "alice", "backend": "directory", "created_at": NOW, "last_accessed_at": NOW},
        )  # fmt: skip
        for record in records:
            await sandboxes.add(db, record)
            if record.error:
                await sandboxes.change_target(
                    db, record.id, old=(record.target,), new=record.target, error=record.error
                )
            if record.session:
                await sessions.add(db, record.session)
    joined = (
        select(sandboxes_table.c.id, status_expression(NOW), compute_expression())
        .outerjoin(sessions_table, sessions_table.c.sandbox_id == sandboxes_table.c.id)
        .order_by(sandboxes_table.c.seq)
    )
    async with store.read() as db:
        seen = [tuple(row) for row in await db.execute(joined)]
        assert await sandboxes.get(db, records[-1].id) == records[-1]
        for status in ("idle", "starting", "ready", "failed", "expired"):
            page = await sandboxes.page(db, "alice", Filters(status=status), now=NOW, after=0, limit=1000)
            assert page.items
            assert {status_of(record, NOW) for record in page.items} == {status}
    await store.aclose()
    assert seen == [(r.id, status_of(r, NOW), compute_of(r)) for r in records]
