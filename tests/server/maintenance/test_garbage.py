"""An operator has Bay collect what nobody needs: `/v1/admin/gc`."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, within, world

from bay.drivers.fake import FakeDriver
from bay.server.sessions.waker import is_frozen

pytestmark = pytest.mark.anyio


@pytest.fixture
async def admin(bay: World) -> httpx.AsyncClient:
    return await bay.client("root", "admin")


async def collect(admin: httpx.AsyncClient, *tasks: str) -> Json:
    answer = await within(admin.post("/v1/admin/gc/run", json={"tasks": list(tasks)}))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ready(client: httpx.AsyncClient, **given: Any) -> str:
    made = await create(client, **given)
    await shell(client, made["id"], "true")
    return made["id"]


async def states(client: httpx.AsyncClient, sandbox: str) -> tuple[str, str]:
    shown = (await client.get(f"/v1/sandboxes/{sandbox}")).json()
    return shown["status"], shown["compute"]


async def test_an_idle_sandbox_ends_in_idle(
    bay: World, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    idle = await ready(alice, idle_timeout=100)
    used = await ready(alice, idle_timeout=1000)
    bay.clock.advance(100)
    answer = await collect(admin, "idle_session")
    assert await states(alice, idle) == ("idle", "cold")
    assert await states(alice, used) == ("ready", "running")
    assert answer.pop("duration_ms") >= 0
    result: Json = {"task_name": "idle_session", "cleaned_count": 1, "skipped_count": 0, "errors": []}
    assert answer == {"results": [result], "total_cleaned": 1, "total_errors": 0}
    assert (await shell(alice, idle, "echo again"))["output"] == "again\n"


async def test_a_frozen_sandbox_ends_in_idle_too(
    bay: World, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    idle, paused = await ready(alice, idle_timeout=100), await ready(alice)
    bay.clock.advance(100)
    await bay.bay.sweep.sweep()
    await bay.settled(idle, is_frozen)
    await alice.post(f"/v1/sandboxes/{paused}/pause")
    assert (await collect(admin, "idle_session"))["total_cleaned"] == 2
    assert [await states(alice, one) for one in (idle, paused)] == [("idle", "cold")] * 2


async def test_a_sandbox_at_work_is_skipped(
    bay: World, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    busy = await ready(alice, idle_timeout=100)
    await alice.post(f"/v1/sandboxes/{busy}/execs", json={"command": "sleep 60"})
    bay.clock.advance(100)
    [result] = (await collect(admin, "idle_session"))["results"]
    assert (result["cleaned_count"], result["skipped_count"]) == (0, 1)
    assert await states(alice, busy) == ("ready", "running")


async def test_an_expired_sandbox_ends_and_goes_after_its_retention(
    bay: World, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    short = await ready(alice, ttl=10)
    bay.clock.advance(10)
    assert (await collect(admin, "expired_sandbox"))["total_cleaned"] == 1
    assert await states(alice, short) == ("expired", "cold")
    bay.clock.advance(60)
    await collect(admin, "expired_sandbox")
    assert (await alice.get(f"/v1/sandboxes/{short}")).status_code == 404


async def test_what_belongs_to_nobody_goes_and_what_belongs_to_somebody_stays(
    bay: World, alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    mine = await ready(alice)
    stray = "sess-" + "0" * 24
    await bay.bay.cargo.create("ws-" + "0" * 24)
    (bay.root / "run" / stray).mkdir()
    answer = await collect(admin, "orphan_cargo", "orphan_container")
    assert [result["task_name"] for result in answer["results"]] == ["orphan_cargo", "orphan_container"]
    assert [result["cleaned_count"] for result in answer["results"]] == [1, 1]
    assert answer["total_errors"] == 0
    assert stray not in await bay.owned()
    assert (await shell(alice, mine, "echo here"))["output"] == "here\n"


async def test_what_the_host_refuses_is_said(bay: World, admin: httpx.AsyncClient) -> None:
    bay.driver.refuse = True
    answer = await collect(admin, "orphan_container", "expired_sandbox")
    bay.driver.refuse = False
    assert answer["total_errors"] == 1
    assert "told to refuse" in answer["results"][1]["errors"][0]


async def test_sandboxes_that_start_meanwhile_are_nobodys_garbage(root: Path) -> None:
    try:
        async with world(root, FakeDriver(run_dir=root / "run")) as bay:
            admin, alice = await bay.client("root", "admin"), await bay.client()

            async def made(number: int) -> str:
                return await ready(alice, name=f"box-{number}")

            async with asyncio.TaskGroup() as group:
                boxes = [group.create_task(made(number)) for number in range(6)]
                runs = [
                    group.create_task(collect(admin, "orphan_cargo", "orphan_container")) for _ in range(6)
                ]
            assert [run.result()["total_cleaned"] for run in runs] == [0] * 6
            assert {await states(alice, box.result()) for box in boxes} == {("ready", "running")}
    finally:
        await clear(root)


async def test_without_tasks_all_are_done_and_the_status_has_the_last_run(admin: httpx.AsyncClient) -> None:
    before = (await admin.get("/v1/admin/gc/status")).json()
    assert before == {
        "enabled": True, "is_running": False, "interval_seconds": 1.0, "ran_at": None, "results": [], "total_cleaned": 0,
        "total_errors": 0, "duration_ms": 0, "tasks": ["idle_session", "expired_sandbox", "orphan_cargo", "orphan_container"],
    }  # fmt: skip
    ran = (await within(admin.post("/v1/admin/gc/run"))).json()
    assert [result["task_name"] for result in ran["results"]] == before["tasks"]
    after = (await admin.get("/v1/admin/gc/status")).json()
    assert after["results"] == ran["results"]
    assert after["ran_at"] is not None


async def test_only_admins_and_only_tasks_that_there_are(
    alice: httpx.AsyncClient, admin: httpx.AsyncClient
) -> None:
    assert_error(await alice.post("/v1/admin/gc/run"), 403, "forbidden")
    assert_error(await alice.get("/v1/admin/gc/status"), 403, "forbidden")
    for body in ({"tasks": ["nonsense"]}, {"task": ["idle_session"]}, {"tasks": "idle_session"}):
        assert_error(await admin.post("/v1/admin/gc/run", json=body), 422, "validation_error")
