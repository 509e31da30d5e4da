"""An operator has the memory of sandboxes outlive a restart: `/v1/admin/host/prepare_restart`."""

import asyncio

import httpx
import pytest
from savable_world import alice, bay, box, kinds, root, shown
from server_harness import Json, World, assert_error, create, shell, until, within

from bay.server.maintenance import planned_restart

pytestmark = pytest.mark.anyio

# Fixtures are found by their names here.
__all__ = ["alice", "bay", "box", "root"]

PATH = "/v1/admin/host/prepare_restart"


@pytest.fixture
async def admin(bay: World) -> httpx.AsyncClient:
    return await bay.client("root", "admin")


async def prepared(admin: httpx.AsyncClient) -> dict[str, Json]:
    """The items of the answer by sandbox."""
    answer = await within(admin.post(PATH))
    assert answer.status_code == 200, answer.text
    body = answer.json()
    items = {item["sandbox_id"]: item for item in body["items"]}
    for fate in ("kept", "refused", "left"):
        assert body[fate] == [item["memory"] for item in body["items"]].count(fate)
    return items


async def test_what_may_hibernates_running_or_frozen_and_nothing_else_is_stopped(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient
) -> None:
    frozen = (await create(alice, profile="sleeps", name="cold-feet", wait=15))["id"]
    await alice.post(f"/v1/sandboxes/{frozen}/pause")
    asleep = (await create(alice, profile="sleeps", wait=15))["id"]
    await alice.post(f"/v1/sandboxes/{asleep}/hibernate")
    plain = (await create(alice, wait=15))["id"]
    cold = (await create(alice, profile="sleeps", wait=15))["id"]
    await alice.post(f"/v1/sandboxes/{cold}/stop")
    job = (await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["sleep", "1000"]})).json()["id"]
    for _ in range(2):  # again is no error
        items = await prepared(admin)
        assert items.keys() == {box, frozen, asleep, plain}
        for one in (box, frozen, asleep):
            assert (items[one]["memory"], items[one]["compute"]) == ("kept", "hibernated")
            assert (items[one]["reason"], items[one]["memory_bytes"]) == (None, 1 << 20)
        assert (items[frozen]["owner"], items[frozen]["name"]) == ("alice", "cold-feet")
        assert (items[plain]["memory"], items[plain]["compute"]) == ("left", "running")
        assert "hibernate: true" in items[plain]["reason"]
    assert (await shown(alice, plain))["status"] == "ready"
    assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"
    assert (await alice.get(f"/v1/sandboxes/{box}/execs/{job}")).json()["state"] == "running"
    events = await kinds(alice, box)
    assert events.count("sandbox.hibernated") == 1
    again = await prepared(admin)
    assert again[box]["memory"] == "kept"


async def test_one_that_cannot_be_saved_runs_on_and_is_named_with_the_reason(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient
) -> None:
    frozen = (await create(alice, profile="sleeps", wait=15))["id"]
    await alice.post(f"/v1/sandboxes/{frozen}/pause")
    for one in (box, frozen):
        bay.driver.unsavable[(await bay.session(one)).id] = "process 7 in it is being traced"
    items = await prepared(admin)
    assert {one["memory"] for one in items.values()} == {"refused"}
    assert "process 7 in it is being traced" in items[box]["reason"]
    assert (items[box]["compute"], items[frozen]["compute"]) == ("running", "warm")
    assert (await shown(alice, box))["status"] == "ready"


async def test_a_sandbox_with_a_call_under_way_goes_on_and_is_named(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient
) -> None:
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(shell(alice, box, "until [ -e go ]; do sleep 0.02; done; echo done"))
        await until(lambda: bay.bay.holds.any_here(box))
        items = await prepared(admin)
        assert items[box]["memory"] == "refused"
        assert "calls to sandbox" in items[box]["reason"]
        await alice.put(f"/v1/sandboxes/{box}/filesystem/files", json={"path": "go", "content": ""})
        assert (await call)["output"] == "done\n"
    assert (await prepared(admin))[box]["memory"] == "kept"


async def test_a_sandbox_that_a_call_wakes_during_it_runs_and_is_not_counted_as_kept(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient
) -> None:
    bay.driver.hold_at = "make_durable"
    async with asyncio.TaskGroup() as tasks:
        preparing = tasks.create_task(prepared(admin))
        await within(bay.driver.held.wait())
        assert (await shown(alice, box))["compute"] == "hibernated"
        assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"
        bay.driver.let_go.set()
        items = await preparing
    assert (items[box]["memory"], items[box]["compute"]) == ("refused", "running")
    assert "woken" in items[box]["reason"]


async def test_a_sandbox_that_its_owner_pauses_before_its_turn_is_saved_as_it_is_then(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planned_restart, "_AT_ONCE", 1)
    later = (await create(alice, profile="sleeps", wait=15))["id"]
    bay.driver.hold_at = "hibernate"
    async with asyncio.TaskGroup() as tasks:
        preparing = tasks.create_task(prepared(admin))
        await within(bay.driver.held.wait())
        await within(alice.post(f"/v1/sandboxes/{later}/pause"))
        bay.driver.hold_at = None
        bay.driver.let_go.set()
        items = await preparing
    assert [items[one]["memory"] for one in (box, later)] == ["kept", "kept"]
    assert "sandbox.starting" not in (await kinds(alice, later))[-3:]


async def test_a_failure_of_the_disk_leaves_what_hibernates_as_it_was(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient
) -> None:
    bay.driver.fail_at = "make_durable"
    assert_error(await within(admin.post(PATH)), 503, "driver_unavailable")
    bay.driver.fail_at = None
    assert (await shown(alice, box))["compute"] == "hibernated"
    assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"
    assert (await prepared(admin))[box]["memory"] == "kept"


async def test_memory_that_is_lost_already_is_not_counted_as_kept(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient
) -> None:
    await alice.post(f"/v1/sandboxes/{box}/hibernate")
    bay.driver.lost[(await bay.session(box)).id] = "this host differs from the one that saved it: boot"
    items = await prepared(admin)
    assert (items[box]["memory"], items[box]["compute"]) == ("refused", "hibernated")
    assert "files" in items[box]["reason"]


async def test_a_collection_of_idle_sessions_waits_for_their_memory(
    bay: World, alice: httpx.AsyncClient, box: str, admin: httpx.AsyncClient
) -> None:
    await alice.post(f"/v1/sandboxes/{box}/pause")
    bay.driver.hold_at = "hibernate"
    collecting = asyncio.create_task(admin.post("/v1/admin/gc/run", json={"tasks": ["idle_session"]}))
    await within(bay.driver.held.wait())
    answered, _ = await asyncio.wait([collecting], timeout=0.5)
    assert not answered
    bay.driver.let_go.set()
    assert (await within(collecting)).json()["total_cleaned"] == 1
    assert (await shown(alice, box))["compute"] == "hibernated"


async def test_others_than_admins_may_not(alice: httpx.AsyncClient) -> None:
    assert_error(await alice.post(PATH), 403, "forbidden")
