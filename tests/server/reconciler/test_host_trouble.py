"""A host that does not do what it is told: nothing waits for ever, the row says why, and it is made good by
itself.
"""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import (
    WAIT_S,
    Json,
    World,
    assert_error,
    clear,
    create,
    eventually,
    shell,
    turns,
    until,
    within,
    world,
)

from bay.cargo.base import Fence
from bay.drivers.base import Exited, Handle, Observed, ShipSilent
from bay.drivers.fake import FakeDriver
from bay.errors import DatabaseUnavailable, DriverUnavailable
from bay.store import sandboxes, sessions
from bay.store.connection import StoreConnection
from bay.store.records import Failure, SessionRecord

pytestmark = pytest.mark.anyio


async def get(client: httpx.AsyncClient, sandbox: str) -> Json:
    answer = await client.get(f"/v1/sandboxes/{sandbox}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def cut_off(bay: World, sandbox: str) -> SessionRecord:
    """Take the socket of the sandbox's Ship away; the session, which goes on."""
    session = await bay.session(sandbox)
    assert session.handle is not None
    endpoint = Handle.from_json(session.handle).endpoint
    assert endpoint is not None
    Path(endpoint.place).unlink()
    return session


async def test_a_stop_that_the_host_refuses_says_why_at_once_and_is_done_later(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=WAIT_S)
    bay.driver.fail_at = "destroy"
    answer = await within(alice.post(f"/v1/sandboxes/{made['id']}/stop"))
    error = assert_error(answer, 503, "driver_unavailable")
    assert "told to fail at destroy" in error["message"]
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["error"]["code"]) == ("failed", "driver_unavailable")
    bay.driver.fail_at = None
    await bay.settled(made["id"], lambda r: r.session is None and r.error is None)
    assert (await get(alice, made["id"]))["status"] == "idle"
    assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"


async def test_a_delete_that_the_host_refuses_says_why_at_once_and_is_done_later(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=WAIT_S)
    bay.driver.refuse = True
    assert_error(await within(alice.delete(f"/v1/sandboxes/{made['id']}")), 503, "driver_unavailable")
    bay.driver.refuse = False
    await bay.settled(made["id"], lambda r: r.deleted_at is not None)
    assert await bay.owned() == set()


async def test_sandboxes_of_one_owner_that_do_not_end_keep_nobody_else_from_stopping(root: Path) -> None:
    async with world(root, start_concurrency=2) as bay, asyncio.TaskGroup() as group:
        mallory, alice = await bay.client("mallory"), await bay.client()
        hanging = [(await create(mallory, wait=WAIT_S))["id"] for _ in range(6)]
        bay.driver.hung = {(await bay.session(one)).id for one in hanging}
        stops = [group.create_task(mallory.post(f"/v1/sandboxes/{one}/stop")) for one in hanging]
        await within(bay.driver.held.wait())
        await stops_at_once(alice)
        bay.driver.let_go.set()  # those kills were in vain, and are tried again
        for stop in stops:
            assert_error(await within(stop), 503, "driver_unavailable")
        bay.driver.let_go.clear()
        bay.driver.held.clear()
        await within(bay.driver.held.wait())
        await stops_at_once(alice)
        bay.driver.hung.clear()
        bay.driver.let_go.set()
        for one in hanging:
            await bay.settled(one, lambda r: r.session is None)
    await clear(root)


async def stops_at_once(client: httpx.AsyncClient) -> None:
    """A sandbox of that caller stops while others hang, which they do until they are let go."""
    made = await create(client, wait=WAIT_S)
    answer = await within(client.post(f"/v1/sandboxes/{made['id']}/stop"))
    assert answer.status_code == 200, answer.text


async def test_a_start_whose_handle_cannot_be_written_goes_on_when_it_can(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, away = sessions.save_handle, [DatabaseUnavailable("Bay's database cannot be used just now")]

    async def saved(*of: Any) -> Any:
        if away:
            raise away.pop()
        return await save(*of)

    monkeypatch.setattr(sessions, "save_handle", saved)
    made = await create(alice, wait=WAIT_S)
    assert (away, made["status"]) == ([], "ready")
    kinds = await bay.sql(f"SELECT type FROM events WHERE sandbox_id = '{made['id']}'")  # noqa: S608
    assert ("sandbox.failed",) not in kinds
    assert len(await bay.owned()) == 1


async def test_why_a_start_failed_is_not_forgotten_when_its_remains_cannot_be_removed_either(
    bay: World, alice: httpx.AsyncClient
) -> None:
    bay.driver.fail_at = "launch"
    made = await create(alice, wait=WAIT_S)
    bay.driver.fail_at = "destroy"
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["error"]["message"]) == (
        "failed",
        "the fake driver was told to fail at launch",
    )
    bay.driver.fail_at = None
    await bay.settled(made["id"], lambda r: r.session is None)
    assert "launch" in (await get(alice, made["id"]))["error"]["message"]


async def test_a_start_that_does_not_end_is_given_up_with_a_reason(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="launch")
    async with world(root, driver, start_limit=0.3) as bay:
        alice = await bay.client()
        made = await create(alice, wait=WAIT_S)
        assert (made["status"], made["error"]["code"]) == ("failed", "timeout")
        driver.hold_at = None
    async with world(root) as bay:
        alice = await bay.client()
        assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"
    await clear(root)


async def test_the_call_that_finds_its_sandbox_unreachable_fails_and_the_next_one_is_served(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=WAIT_S)
    await shell(alice, made["id"], "echo kept > file")
    session = await cut_off(bay, made["id"])
    bay.bay.ship.forget(session.id)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
    assert_error(answer, 502, "ship_error")
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["error"]["code"]) == ("failed", "session_unreachable")
    assert (await shell(alice, made["id"], "cat file"))["output"] == "kept\n"
    assert (await bay.session(made["id"])).id != session.id


async def test_a_call_to_a_session_of_which_nothing_is_known_says_why_and_it_is_looked_at_again(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=WAIT_S)
    session = await cut_off(bay, made["id"])
    bay.bay.ship.forget(session.id)
    bay.driver.fail_at = "observe"
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
    assert "told to fail at observe" in assert_error(answer, 502, "ship_error")["message"]
    assert (await bay.session(made["id"])).id == session.id
    await bay.settled(made["id"], lambda r: r.error is not None and r.error.code == "driver_unavailable")
    bay.driver.fail_at = None
    await bay.settled(made["id"], lambda r: r.session is None)  # which no further call is needed for
    assert (await get(alice, made["id"]))["error"]["code"] == "session_unreachable"


async def test_a_call_waits_for_the_reason_also_when_something_else_happens_to_its_sandbox(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = sandboxes.change_error

    async def write_late(db: StoreConnection, sandbox_id: str, **change: Failure | None) -> bool:
        bay.bay.changes.announce(sandbox_id)
        await turns()
        return await write(db, sandbox_id, **change)

    made = await create(alice, wait=WAIT_S)
    session = await cut_off(bay, made["id"])
    bay.bay.ship.forget(session.id)
    monkeypatch.setattr(sandboxes, "change_error", write_late)
    bay.driver.fail_at = "observe"
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
    assert "told to fail at observe" in assert_error(answer, 502, "ship_error")["message"]


class AskingDriver(FakeDriver):
    """A driver that knows from Ship alone whether a session is paused."""

    is_silent = False

    async def observe(self, handle: Handle) -> Observed:
        if self.is_silent:
            raise ShipSilent("its Ship does not answer")
        return await super().observe(handle)


async def test_a_silent_ship_is_given_up_also_where_it_alone_could_tell_whether_it_is_paused(
    root: Path,
) -> None:
    driver = AskingDriver(run_dir=root / "run")
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, wait=WAIT_S)
        handle = Handle.from_json((await bay.session(made["id"])).handle or {})
        assert handle.endpoint is not None
        Path(handle.endpoint.place).unlink()
        driver.is_silent = True
        assert (await get(alice, made["id"]))["containers"][0]["healthy"] is False
        await bay.settled(made["id"], lambda r: r.session is None)
        assert (await get(alice, made["id"]))["error"]["code"] == "session_unreachable"
    await clear(root)


async def test_looking_at_a_sandbox_that_cannot_be_reached_is_enough_to_notice(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=WAIT_S)
    await cut_off(bay, made["id"])
    assert (await get(alice, made["id"]))["containers"][0]["healthy"] is False
    await bay.settled(made["id"], lambda r: r.session is None)
    assert (await get(alice, made["id"]))["error"]["code"] == "session_unreachable"


async def test_a_driver_that_says_it_is_gone_is_believed(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=WAIT_S)
    session = await bay.session(made["id"])
    bay.driver.lies[session.id] = Exited(137)
    bay.bay.reconciler.request_probe(made["id"])
    await bay.settled(made["id"], lambda r: r.session is None)
    assert (await get(alice, made["id"]))["error"]["code"] == "session_exited"


async def test_what_nobody_owns_and_cannot_be_removed_keeps_its_sandbox_from_starting(root: Path) -> None:
    """As after a restore: the host has a session that the database does not know."""
    async with world(root) as bay:
        alice = await bay.client()
        made = await create(alice, wait=WAIT_S)
        old = (await bay.session(made["id"])).id
    driver = FakeDriver(run_dir=root / "run", fail_at="destroy")
    async with world(root, driver) as bay:
        alice = await bay.client()
        async with bay.bay.store.write() as db:
            await db.exec_driver_sql("UPDATE sessions SET phase = 'ended', ended_at = created_at")
            await db.exec_driver_sql("UPDATE sandboxes SET target = 'stopped'")
    async with world(root, driver) as bay:
        alice = await bay.client()
        answer = await alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
        error = assert_error(answer, 503, "session_not_ready")
        assert old in error["message"]
        assert await bay.owned() == {old}
        driver.fail_at = None

        async def is_removed() -> bool:
            await bay.bay.reconciler.orphans.try_again()
            return old not in await bay.owned()

        await eventually(is_removed)
        assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"
    await clear(root)


async def test_a_database_older_than_the_host_goes_on_behind_what_the_cargo_has_seen(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice)
    await bay.bay.cargo.create(made["cargo_id"])
    await bay.bay.cargo.fence(made["cargo_id"], made["id"], 41, "sess-of-the-time-before")
    assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"
    session = await bay.session(made["id"])
    assert session.generation == 42
    assert await bay.bay.cargo.fenced(made["cargo_id"], made["id"]) == Fence(
        sandbox_id=made["id"], generation=42, session_id=session.id
    )


async def test_a_hundred_starts_do_not_keep_a_stop_or_a_delete_waiting(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run")
    async with world(root, driver, start_concurrency=2) as bay:
        alice = await bay.client()
        running = [await create(alice, wait=WAIT_S) for _ in range(2)]
        driver.hold_at = "launch"
        held = [await create(alice, profile="eager") for _ in range(100)]
        await within(driver.held.wait())
        assert (await within(alice.post(f"/v1/sandboxes/{running[0]['id']}/stop"))).status_code == 200
        assert (await within(alice.delete(f"/v1/sandboxes/{running[1]['id']}"))).status_code == 204
        for made in held:  # in the middle of its start, or waiting for it
            answer = await alice.post(f"/v1/sandboxes/{made['id']}/extend_ttl", json={"extend_by": 1})
            assert_error(answer, 409, "sandbox_ttl_infinite")
        assert (await within(alice.delete(f"/v1/sandboxes/{held[0]['id']}"))).status_code == 204
        assert (await within(alice.delete(f"/v1/sandboxes/{held[-1]['id']}"))).status_code == 204
        for made in held[1:-1]:
            async with bay.bay.store.write() as db:
                await db.exec_driver_sql("UPDATE sandboxes SET target = 'deleted'")
            bay.bay.reconciler.queue.put(made["id"])
        driver.let_go.set()
        for made in held[1:-1]:
            await bay.settled(made["id"], lambda r: r.deleted_at is not None)
    await clear(root)


async def test_starts_are_served_in_the_order_they_came(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="claim")
    async with world(root, driver, start_concurrency=1) as bay:
        alice = await bay.client()
        made = [(await create(alice, profile="eager"))["id"]]
        await within(
            driver.held.wait()
        )  # it has the turn, and each of the others has come when it waits for one
        for number in range(1, 6):
            made.append((await create(alice, profile="eager"))["id"])
            await until(lambda number=number: bay.bay.starter.slots.urgent() == number)
        driver.let_go.set()
        for sandbox in made:
            await bay.settled(sandbox, lambda r: r.session is not None and r.session.phase == "running")
        started = await bay.sql("SELECT sandbox_id FROM events WHERE type = 'sandbox.ready' ORDER BY seq")
        assert [row[0] for row in started] == made
    await clear(root)


@pytest.mark.sqlite
async def test_a_disk_that_is_full_while_trouble_is_written_down_ends_nothing(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=WAIT_S)
    other = await create(alice, wait=WAIT_S)
    bay.driver.fail_at = "destroy"
    async with bay.bay.store.write() as db:
        pages = (await db.exec_driver_sql("PRAGMA page_count")).scalar()
        await db.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        await db.exec_driver_sql("UPDATE sandboxes SET target = 'stopped' WHERE id = ?", (made["id"],))
    bay.bay.reconciler.queue.put(made["id"])
    await eventually(lambda: has_tried(bay, made["id"]))
    async with bay.bay.store.write() as db:
        await db.exec_driver_sql("PRAGMA max_page_count = 1000000")
    bay.driver.fail_at = None
    await bay.settled(made["id"], lambda r: r.session is None)
    assert (await shell(alice, other["id"], "echo hi"))["output"] == "hi\n"


async def has_tried(bay: World, sandbox_id: str) -> bool:
    return bay.bay.reconciler._attempts.get(sandbox_id, 0) > 0


async def test_a_step_that_has_failed_for_days_is_still_tried_and_ends_nothing(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=WAIT_S)
    bay.bay.reconciler._attempts[made["id"]] = 5000
    bay.driver.fail_at = "destroy"
    answer = await within(alice.post(f"/v1/sandboxes/{made['id']}/stop"))
    assert_error(answer, 503, "driver_unavailable")
    bay.driver.fail_at = None
    bay.bay.reconciler.queue.put(made["id"])
    await bay.settled(made["id"], lambda r: r.session is None)


async def test_a_chore_that_fails_keeps_no_time_limit_from_being_kept(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise OSError("no descriptor is left")

    monkeypatch.setattr(bay.bay.sweep, "chores", [fail])
    made = await create(alice, ttl=10, wait=WAIT_S)
    bay.clock.advance(11)
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], lambda r: r.session is None)


async def test_one_orphan_that_stays_keeps_no_other_from_going(root: Path) -> None:
    async with world(root) as bay:
        alice = await bay.client()
        made = [await create(alice, wait=WAIT_S) for _ in range(2)]
        ended = [(await bay.session(m["id"])).id for m in made]
        async with bay.bay.store.write() as db:
            await db.exec_driver_sql("UPDATE sessions SET phase = 'ended', ended_at = created_at")
            await db.exec_driver_sql("UPDATE sandboxes SET target = 'stopped'")
    driver = Stubborn(root / "run", set(ended))
    async with world(root, driver) as bay:
        first = next(iter(bay.bay.reconciler.orphans._left))
        driver.stubborn = {first}
        for _ in range(2):
            await bay.bay.reconciler.orphans.try_again()
        assert await bay.owned() == {first}
        driver.stubborn = set()
    await clear(root)


class Stubborn(FakeDriver):
    """Cannot remove some sessions."""

    def __init__(self, run_dir: Path, stubborn: set[str]) -> None:
        super().__init__(run_dir=run_dir)
        self.stubborn = stubborn

    async def destroy(self, handle: Handle) -> None:
        if handle.session_id in self.stubborn:
            raise OSError("the host has no process left for it")
        await super().destroy(handle)


async def test_a_start_that_cannot_even_be_written_down_is_told_at_once(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_cargo_id: str, _sandbox_id: str) -> None:
        raise DriverUnavailable("the disk does not answer")

    made = await create(alice)
    with monkeypatch.context() as patch:
        patch.setattr(bay.bay.cargo, "fenced", fail)
        answer = await within(alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"}))
        assert "the disk does not answer" in assert_error(answer, 503, "session_not_ready")["message"]
        assert (await get(alice, made["id"]))["status"] == "failed"
    assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"


async def test_a_stop_that_is_answered_before_the_start_is_written_down_has_no_compute_after_it(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await create(alice)
    asked, go, fenced = asyncio.Event(), asyncio.Event(), bay.bay.cargo.fenced

    async def slow(cargo_id: str, sandbox_id: str) -> Fence | None:
        asked.set()
        await within(go.wait())
        return await fenced(cargo_id, sandbox_id)

    monkeypatch.setattr(bay.bay.cargo, "fenced", slow)
    assert (await alice.post(f"/v1/sandboxes/{made['id']}/start")).status_code == 200
    await within(asked.wait())
    assert (await within(alice.post(f"/v1/sandboxes/{made['id']}/stop"))).status_code == 200
    go.set()
    await within(alice.post(f"/v1/sandboxes/{made['id']}/stop"))
    history = (await alice.get(f"/v1/sandboxes/{made['id']}/events")).json()["items"]
    assert "sandbox.starting" not in [event["type"] for event in history]
    assert await bay.owned() == set()
