"""The lifetime of a sandbox: set anew while it lives, and ended by a deletion or by a pause."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, until, within, world

from bay.clock import ManualClock
from bay.server.reconciler.sweep import rest
from bay.store import sandboxes

pytestmark = pytest.mark.anyio

PROFILES: Json = {
    "python-default": {"start": "lazy"},
    "resting": {"start": "lazy", "ttl": 100, "on_expiry": "pause"},
    "never-frozen": {"start": "lazy", "ttl": 100, "on_expiry": "pause", "warm_timeout": 0},
}
AT_100, AT_110 = (f"2030-01-01T00:01:{seconds}.000000Z" for seconds in (40, 50))


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=PROFILES) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def alice(bay: World) -> httpx.AsyncClient:
    return await bay.client()


async def get(client: httpx.AsyncClient, sandbox_id: str) -> Json:
    return (await client.get(f"/v1/sandboxes/{sandbox_id}")).json()


async def change(client: httpx.AsyncClient, sandbox: Json, **body: Any) -> httpx.Response:
    return await within(client.patch(f"/v1/sandboxes/{sandbox['id']}", json=body))


async def pass_time(bay: World, seconds: float) -> None:
    bay.clock.advance(seconds)
    await bay.bay.sweep.sweep()


async def test_a_ttl_is_set_anew_from_now_also_to_a_shorter_one_and_to_none(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, ttl=1000)
    bay.clock.advance(10)
    assert (await change(alice, made, ttl=100)).json()["expires_at"] == AT_110
    for never in (None, 0):
        assert (await change(alice, made, ttl=never)).json()["expires_at"] is None
        assert (await change(alice, made, ttl=100)).json()["expires_at"] == AT_110
    assert (await change(alice, made, labels={})).json()["expires_at"] == AT_110


async def test_an_expired_sandbox_gets_no_other_ttl(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, ttl=100)
    bay.clock.advance(100)
    assert_error(await change(alice, made, ttl=100), 409, "sandbox_expired")
    assert_error(await change(alice, made, on_expiry="pause"), 409, "sandbox_expired")


@pytest.mark.parametrize("body", [{"ttl": -1}, {"ttl": "soon"}, {"on_expiry": "stop"}], ids=str)
async def test_a_lifetime_of_another_form_is_refused(alice: httpx.AsyncClient, body: Json) -> None:
    made = await create(alice)
    assert_error(await change(alice, made, **body), 422, "validation_error")


async def test_a_lifetime_ends_in_a_pause_that_a_call_ends(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="resting", wait=15)
    assert (made["on_expiry"], made["expires_at"], made["paused_at"]) == ("pause", AT_100, None)
    started = await alice.post(f"/v1/sandboxes/{made['id']}/execs", json={"argv": ["sleep", "1000"]})
    await pass_time(bay, 100)
    # The row says that it is frozen before it is, and its lifetime is over once it is.
    await bay.settled(made["id"], lambda r: r.phase == "paused" and r.expires_at is None)
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["compute"]) == ("ready", "warm")
    assert (shown["expires_at"], shown["paused_at"]) == (None, AT_100)
    await pass_time(bay, 3600)
    await bay.settled(made["id"], lambda r: r.session is None)
    assert (await get(alice, made["id"]))["paused_at"] == AT_100
    await pass_time(bay, 10_000)
    assert (await shell(alice, made["id"], "echo back"))["output"] == "back\n"
    shown = await get(alice, made["id"])
    assert (shown["expires_at"], shown["paused_at"]) == (None, None)
    ended = await alice.get(f"/v1/sandboxes/{made['id']}/execs/{started.json()['id']}")
    assert ended.json()["state"] == "lost"
    events = (await alice.get(f"/v1/sandboxes/{made['id']}/events")).text
    assert events.count("sandbox.rested") == 1


async def test_a_cold_sandbox_whose_lifetime_ends_stays_cold(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, ttl=100, on_expiry="pause")
    bay.clock.advance(100)
    assert (await get(alice, made["id"]))["status"] == "idle"
    listed = (await alice.get("/v1/sandboxes", params={"status": "expired"})).json()
    assert listed["items"] == []
    await bay.bay.sweep.sweep()
    shown = await get(alice, made["id"])
    assert (shown["compute"], shown["paused_at"], shown["expires_at"]) == ("cold", AT_100, None)
    assert bay.driver.sizes == {}


async def test_a_lifetime_that_ends_as_its_session_ends_is_over_at_once(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="resting", wait=15)
    bay.clock.advance(100)
    seen_running = await bay.record(made["id"])
    assert (await within(alice.post(f"/v1/sandboxes/{made['id']}/stop"))).status_code == 200
    await rest(bay.bay.core, seen_running, bay.clock(), "paused")
    assert (await get(alice, made["id"]))["expires_at"] is None


async def test_what_is_never_frozen_is_stopped_at_the_end_of_its_lifetime(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="never-frozen", wait=15)
    await pass_time(bay, 100)
    await bay.settled(made["id"], lambda r: r.session is None)
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["compute"], shown["paused_at"]) == ("idle", "cold", AT_100)


async def test_a_call_under_way_is_finished_before_its_sandbox_is_paused(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="resting", wait=15)
    call = asyncio.create_task(shell(alice, made["id"], "touch begun; until [ -e go ]; do sleep 0.01; done"))
    await until((bay.workspace(made) / "begun").exists)
    await pass_time(bay, 100)
    shown = await get(alice, made["id"])
    assert (shown["compute"], shown["expires_at"], shown["paused_at"]) == ("running", AT_100, None)
    (bay.workspace(made) / "go").touch()
    assert (await within(call))["success"]
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], lambda r: r.phase == "paused")


async def test_the_end_of_a_lifetime_is_an_event_also_of_a_sandbox_that_its_owner_paused_before(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="resting", wait=15)
    bay.clock.advance(50)
    assert (await within(alice.post(f"/v1/sandboxes/{made['id']}/pause"))).status_code == 200
    for _ in range(2):
        await pass_time(bay, 50)
        shown = await get(alice, made["id"])
        assert (shown["expires_at"], shown["paused_at"]) == (None, AT_100)
        events = (await alice.get(f"/v1/sandboxes/{made['id']}/events")).text
        assert events.count("sandbox.rested") == 1


async def test_a_sandbox_that_could_not_be_frozen_at_its_end_is_paused_later(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="resting", wait=15)
    bay.driver.fail_at = "pause"
    await pass_time(bay, 100)
    record = await bay.settled(made["id"], lambda r: r.target == "running" and r.paused_at is None)
    assert (record.phase, (await get(alice, made["id"]))["expires_at"]) == ("running", AT_100)
    bay.driver.fail_at = None
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], lambda r: r.phase == "paused" and r.expires_at is None)


async def test_a_call_that_comes_between_the_end_and_the_freezing_only_delays_the_pause(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="resting", wait=15)
    caller = bay.bay.keys.authenticate(alice.headers["authorization"])
    bay.clock.advance(100)
    async with bay.bay.waker.awake(caller, made["id"], "shell"):
        async with bay.bay.store.write() as db:  # as the sweep does when it saw nobody
            assert await sandboxes.rest(db, made["id"], bay.clock(), "paused")
        bay.bay.reconciler.queue.put(made["id"])
        record = await bay.settled(made["id"], lambda r: r.target == "running")
        assert (record.paused_at, record.phase) == (None, "running")
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], lambda r: r.phase == "paused" and r.expires_at is None)


async def test_a_sandbox_whose_lifetime_ended_while_bay_was_down_is_not_started(root: Path) -> None:
    async with world(root, profiles=PROFILES) as bay:
        made = await create(await bay.client(), profile="resting", wait=15)
        async with bay.bay.store.write() as db:  # as a Bay leaves it that found the host restarted
            await db.exec_driver_sql("UPDATE sessions SET phase = 'ended'")
    await clear(root)
    clock = ManualClock()
    clock.advance(100)
    async with world(root, clock=clock, profiles=PROFILES) as bay:
        record = await bay.settled(made["id"], lambda r: r.paused_at is not None)
        assert (record.target, record.session, record.expires_at) == ("stopped", None, None)
        assert bay.driver.sizes == {}
    await clear(root)


async def test_a_lifetime_that_was_set_anew_ends_then(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="resting", wait=15)
    bay.clock.advance(100)
    assert (await change(alice, made, ttl=10)).json()["expires_at"] == AT_110
    await bay.bay.sweep.sweep()
    assert (await get(alice, made["id"]))["paused_at"] is None
    await pass_time(bay, 10)
    await bay.settled(made["id"], lambda r: r.phase == "paused")


async def test_on_expiry_is_changed_and_null_is_the_profiles(alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="resting", on_expiry="delete")
    assert made["on_expiry"] == "delete"
    assert (await change(alice, made, on_expiry=None)).json()["on_expiry"] == "pause"
    assert (await change(alice, made, on_expiry="delete")).json()["on_expiry"] == "delete"


async def test_a_pause_says_since_when_and_a_resume_forgets_it(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, idle_timeout=50, wait=15)
    await pass_time(bay, 50)
    await bay.settled(made["id"], lambda r: r.phase == "paused")
    assert (await get(alice, made["id"]))["paused_at"] is None
    bay.clock.advance(50)
    for _ in range(2):
        assert (await alice.post(f"/v1/sandboxes/{made['id']}/pause")).json()["paused_at"] == AT_100
        bay.clock.advance(1)
    resumed = await within(alice.post(f"/v1/sandboxes/{made['id']}/resume"))
    assert (resumed.json()["compute"], resumed.json()["paused_at"]) == ("running", None)
