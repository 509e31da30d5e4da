"""What is forgotten and when; and what never is."""

from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import World, add_event, assert_error, clear, create, shell, until, world

from bay.ids import new_id
from bay.store import claims, history
from bay.store.connection import StoreConnection
from bay.store.history import Kind
from bay.store.records import Claim, Keep
from bay.store.schema import audit, sessions
from bay.store.schema import events as events_table
from bay.store.schema import execs as execs_table

pytestmark = pytest.mark.anyio

DAY = 86400


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    """A Bay that keeps little."""
    try:
        async with world(
            root,
            history_max_count=3,
            history_max_mb=1,
            history_max_age=30,
            event_max_count=1000,
            audit_max_count=1000,
        ) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    """A sandbox with a session."""
    return (await create(alice, wait=15))["id"]


async def ran(bay: World, box: str, *codes: str, **values: Any) -> None:
    """Write down that `codes` were executed; a success unless `values` says otherwise."""
    session = await bay.session(box)
    row: dict[str, Any] = {
        "sandbox_id": box, "session_id": session.id, "argv": [], "tty": False, "state": "exited", "exit_code": 0,
        "timed_out": False, "output_bytes": 0, "first_offset": 0, "started_at": bay.clock(), "exec_type": "shell",
        "success": True, "execution_time_ms": 1, "output": "", **values,
    }  # fmt: skip
    async with bay.bay.store.write() as db:
        rows = [{**row, "id": new_id("exec"), "code": code} for code in codes]
        await db.execute(execs_table.insert(), rows)


async def kept(bay: World) -> list[str]:
    """The codes of what is left, oldest first."""
    await bay.bay.housekeeping.housekeep()
    return [code for (code,) in await bay.sql("SELECT code FROM execs ORDER BY seq")]


FAILED: dict[str, Any] = {"success": False, "exit_code": 1}


async def test_the_oldest_successes_go_first_and_failures_never_for_them(bay: World, box: str) -> None:
    await ran(bay, box, "f1", **FAILED)
    await ran(bay, box, "f2", success=None, timed_out=True, state="killed", exit_code=None)
    await ran(bay, box, "f3", success=None, state="lost", exit_code=None)
    await ran(bay, box, "s1", "s2", "s3", "s4")
    await ran(bay, box, "f4", **FAILED)
    await ran(bay, box, "s5")
    assert await kept(bay) == ["f1", "f2", "f3", "s3", "s4", "f4", "s5"]


async def test_a_loop_of_failures_has_a_ceiling_of_its_own(bay: World, box: str) -> None:
    await ran(bay, box, "s1")
    await ran(bay, box, *(f"f{n}" for n in range(40)), **FAILED)
    assert await kept(bay) == ["s1", *(f"f{n}" for n in range(10, 40))]


async def test_large_entries_are_kept_for_as_long_as_there_is_room(bay: World, box: str) -> None:
    await ran(bay, box, "s1", "s2", "s3", output="é" * 200_000)
    assert await kept(bay) == ["s2", "s3"]
    await ran(bay, box, *(f"f{n}" for n in range(30)), output="x" * 400_000, **FAILED)
    assert len(await kept(bay)) == 2 + 26


async def test_successes_leave_by_their_age_and_failures_stay(bay: World, box: str) -> None:
    await ran(bay, box, "s1")
    await ran(bay, box, "f1", **FAILED)
    await ran(bay, box, "p1", exec_type=None)
    bay.clock.advance(29 * DAY)
    await ran(bay, box, "s2")
    assert await kept(bay) == ["s1", "f1", "p1", "s2"]
    bay.clock.advance(2 * DAY)
    assert await kept(bay) == ["f1", "s2"]
    bay.clock.advance(400 * DAY)
    assert await kept(bay) == ["f1"]


async def test_a_command_that_runs_stays_however_old_it_is(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["sleep", "1000"]})
    await bay.bay.deferred.flush()
    async with bay.bay.store.write() as db:
        await db.exec_driver_sql("UPDATE execs SET code = 'r1', started_at = '2000-01-01 00:00:00'")
    assert await kept(bay) == ["r1"]


async def test_other_commands_have_limits_of_their_own(bay: World, box: str) -> None:
    await ran(bay, box, "s1")
    await ran(bay, box, *(f"p{n}" for n in range(1300)), exec_type=None)
    found = await kept(bay)
    assert (len(found), found[:2], found[-1]) == (1001, ["s1", "p300"], "p1299")


async def test_each_sandbox_has_its_own_room(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    other = (await create(alice, wait=15))["id"]
    await ran(bay, box, "a1")
    await ran(bay, other, "b1", "b2", "b3", "b4")
    assert await kept(bay) == ["a1", "b2", "b3", "b4"]


async def test_sandboxes_within_all_limits_are_seen_at_one_glance(
    bay: World, alice: httpx.AsyncClient, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand sandboxes with a command each took four queries each, every minute."""
    looked: list[str] = []
    surplus = history.surplus

    async def seen(db: StoreConnection, sandbox_id: str, kind: Kind, keep: Keep) -> list[int]:
        looked.append(sandbox_id)
        return await surplus(db, sandbox_id, kind, keep)

    monkeypatch.setattr(history, "surplus", seen)
    others = [(await create(alice, wait=15))["id"] for _ in range(2)]
    await ran(bay, box, "a1", "a2", "a3")
    await ran(bay, others[0], "b1", "b2", output="x" * 600_000)
    await ran(bay, others[1], "c1", "c2", "c3", "c4")
    assert await kept(bay) == ["a1", "a2", "a3", "b2", "c2", "c3", "c4"]
    assert set(looked) == set(others)


async def test_the_end_of_a_command_that_nobody_asked_for_is_found_out(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    stays = (await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["sleep", "1000"]})).json()
    ended = (await alice.post(f"/v1/sandboxes/{box}/execs", json={"command": "touch done; exit 3"})).json()
    await until((bay.workspace((await alice.get(f"/v1/sandboxes/{box}")).json()) / "done").exists)
    await alice.get(f"/v1/sandboxes/{box}/execs/{ended['id']}", params={"wait": 15})
    await bay.bay.deferred.flush()
    async with bay.bay.store.write() as db:  # as if nobody had
        await db.exec_driver_sql("UPDATE execs SET state = 'running', exit_code = NULL")
    bay.clock.advance(60)
    await (
        bay.bay.outcomes.learn()
    )  # of which the rest would take them for years old: they began by Ship's clock
    await bay.bay.deferred.flush()
    rows = dict(await bay.sql("SELECT id, state || coalesce(CAST(exit_code AS TEXT), '') FROM execs"))  # type: ignore[arg-type]
    assert rows == {stays["id"]: "running", ended["id"]: "exited3"}


async def test_idempotency_keys_are_kept_for_a_day(bay: World, alice: httpx.AsyncClient) -> None:
    first = await alice.post("/v1/sandboxes", headers={"Idempotency-Key": "k"})
    bay.clock.advance(DAY - 1)
    await bay.bay.housekeeping.housekeep()
    again = await alice.post("/v1/sandboxes", headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == first.json()["id"]
    bay.clock.advance(2)
    await bay.bay.housekeeping.housekeep()
    later = await alice.post("/v1/sandboxes", headers={"Idempotency-Key": "k"})
    assert later.json()["id"] != first.json()["id"]


async def test_many_old_rows_go_in_several_small_transactions(bay: World) -> None:
    old = bay.clock() - timedelta(days=2)
    async with bay.bay.store.write() as db:
        for number in range(1201):
            claim = Claim(
                owner="a", key=f"k{number}", request_hash="", resource_id="", answer=None, created_at=old
            )
            await claims.add(db, claim)
    changed: list[set[str]] = []
    bay.bay.store.on_change.append(changed.append)
    await bay.bay.housekeeping.housekeep()
    assert await bay.sql("SELECT count(*) FROM claims") == [(0,)]
    assert changed == []  # nothing that was read of sandboxes was made stale for it


async def test_events_leave_by_their_age_and_their_number(bay: World) -> None:
    now = bay.clock()
    async with bay.bay.store.write() as db:
        await add_event(db, "alice", "sandbox-1", "sandbox.created", now - timedelta(days=8))
        await add_event(db, "alice", "sandbox-1", "sandbox.ready", now - timedelta(days=6))
    await bay.bay.housekeeping.housekeep()
    assert await bay.sql("SELECT type FROM events") == [("sandbox.ready",)]
    row: dict[str, Any] = {"owner": "bob", "sandbox_id": "sandbox-2", "type": "t", "data": {}}
    async with bay.bay.store.write() as db:
        rows = [{**row, "at": now + timedelta(seconds=n)} for n in range(1500)]
        await db.execute(events_table.insert(), rows)
    await bay.bay.housekeeping.housekeep()
    [(count, oldest)] = await bay.sql("SELECT count(*), min(seq) FROM events")
    assert 1000 <= count <= 1001
    assert oldest > 500


async def test_the_audit_leaves_by_its_age_and_its_number(bay: World) -> None:
    row = {"method": "POST", "path": "/", "request_id": "r"}
    now = bay.clock()
    async with bay.bay.store.write() as db:
        ages = [timedelta(days=91), *(timedelta(seconds=2000 - n) for n in range(1100))]
        await db.execute(audit.insert(), [{**row, "at": now - age} for age in ages])
    await bay.bay.housekeeping.housekeep()
    [(count, oldest)] = await bay.sql("SELECT count(*), min(at) FROM audit")
    assert count == 1000
    assert str(oldest) > str(now - timedelta(days=1))[:19]


async def test_a_removed_sandbox_is_remembered_for_a_week(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    stays = await create(alice, wait=15)
    await shell(alice, box, "true")
    assert (await alice.delete(f"/v1/sandboxes/{box}")).status_code == 204
    bay.clock.advance(7 * DAY - 1)
    await bay.bay.housekeeping.housekeep()
    assert (await alice.delete(f"/v1/sandboxes/{box}")).status_code == 204
    bay.clock.advance(2)
    await bay.bay.housekeeping.housekeep()
    assert_error(await alice.delete(f"/v1/sandboxes/{box}"), 404, "not_found")
    for table in ("sandboxes", "sessions", "cargos"):
        assert await bay.sql(f"SELECT count(*) FROM {table}") == [(1,)]  # noqa: S608
    assert (await alice.get(f"/v1/sandboxes/{stays['id']}")).status_code == 200


async def test_a_removed_sandbox_that_nobody_had_is_remembered_for_an_hour(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await alice.delete(f"/v1/sandboxes/{box}")
    async with bay.bay.store.write() as db:
        for table in ("sandboxes", "cargos"):
            await db.exec_driver_sql(f"UPDATE {table} SET owner = ''")  # noqa: S608
    for seconds, left in ((3599, 1), (2, 0)):
        bay.clock.advance(seconds)
        await bay.bay.housekeeping.housekeep()
        for table in ("sandboxes", "sessions", "cargos"):
            assert await bay.sql(f"SELECT count(*) FROM {table}") == [(left,)]  # noqa: S608


async def test_a_removed_cargo_stays_while_a_sandbox_refers_to_it(bay: World, box: str) -> None:
    async with bay.bay.store.write() as db:
        await db.exec_driver_sql("UPDATE cargos SET deleted_at = '2000-01-01 00:00:00'")
    await bay.bay.housekeeping.housekeep()
    assert await bay.sql("SELECT count(*) FROM cargos") == [(1,)]


async def test_ended_sessions_are_kept_while_they_are_new_or_a_command_refers_to_them(
    bay: World, box: str
) -> None:
    live = await bay.session(box)
    row = {
        "sandbox_id": box, "generation": 1, "driver": "fake", "phase": "ended", "token": "t",
        "created_at": bay.clock(), "ended_at": bay.clock(),
    }  # fmt: skip
    async with bay.bay.store.write() as db:
        await db.execute(sessions.insert(), [{**row, "id": f"sess-{n}"} for n in range(30)])
    await ran(bay, box, "old", session_id="sess-2")
    await bay.bay.housekeeping.housekeep()
    left = [session_id for (session_id,) in await bay.sql("SELECT id FROM sessions ORDER BY seq")]
    assert left == [live.id, "sess-2", *(f"sess-{n}" for n in range(10, 30))]


async def test_a_part_that_fails_keeps_no_other_from_its_work(bay: World, box: str) -> None:
    await ran(bay, box, "s1", "s2", "s3", "s4")
    async with bay.bay.store.write() as db:
        await db.exec_driver_sql("ALTER TABLE claims RENAME TO lost")
    try:
        assert await kept(bay) == ["s2", "s3", "s4"]
    finally:
        async with bay.bay.store.write() as db:
            await db.exec_driver_sql("ALTER TABLE lost RENAME TO claims")


async def test_a_rush_of_commands_is_trimmed_before_the_minute_is_over(bay: World, box: str) -> None:
    await kept(bay)
    await ran(bay, box, *(f"s{n}" for n in range(499)))
    await bay.bay.housekeeping.look()
    assert await bay.sql("SELECT count(*) FROM execs") == [(499,)]
    await ran(bay, box, "one more")
    await bay.bay.housekeeping.look()
    assert await bay.sql("SELECT count(*) FROM execs") == [(3,)]
