"""Hibernating: by call and in the place of a stop, woken by the next call with what ran, and never twice."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from savable_world import alice, bay, box, kinds, opened, root, shown
from server_harness import (
    World,
    assert_error,
    clear,
    create,
    shell,
    until,
    within,
)

from bay.server.sessions.memory import can_hibernate
from bay.server.sessions.rows import handle_of
from bay.store import sandboxes, sessions

pytestmark = pytest.mark.anyio

# Fixtures are found by their names here.
__all__ = ["alice", "bay", "box", "root"]


async def post(client: httpx.AsyncClient, sandbox: str, verb: str) -> httpx.Response:
    return await within(client.post(f"/v1/sandboxes/{sandbox}/{verb}"))


async def test_the_next_call_finds_what_ran(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    path = f"/v1/sandboxes/{box}/execs"
    made = (await alice.post(path, json={"argv": ["sleep", "1000"]})).json()
    before = await bay.session(box)
    for _ in range(2):  # again is no error
        answer = await post(alice, box, "hibernate")
        assert (answer.status_code, answer.json()["compute"]) == (200, "hibernated"), answer.text
    during = await bay.session(box)
    assert (during.id, during.phase, during.memory_bytes) == (before.id, "hibernated", 1 << 20)
    assert (await alice.get(f"{path}/{made['id']}")).json()["state"] == "running"  # looking wakes nothing
    assert (await shown(alice, box))["compute"] == "hibernated"
    assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"
    after = await bay.session(box)
    assert (after.id, after.phase, after.memory_bytes) == (before.id, "running", None)
    assert (await alice.get(f"{path}/{made['id']}")).json()["state"] == "running"
    found = await kinds(alice, box)
    assert found[-3:] == ["sandbox.hibernated", "sandbox.starting", "sandbox.ready"]


@pytest.mark.parametrize("is_woken", [False, True], ids=["asleep", "waking"])
async def test_a_call_to_what_runs_in_it_waits_for_the_wake(
    bay: World, alice: httpx.AsyncClient, box: str, is_woken: bool
) -> None:
    url = f"/v1/sandboxes/{box}"
    made = (await alice.post(f"{url}/execs", json={"command": "echo kept; exec sleep 1000"})).json()
    kernel = (await alice.post(f"{url}/kernels", json={})).json()
    exec_url, kernel_url = f"{url}/execs/{made['id']}", f"{url}/kernels/{kernel['id']}"

    async def call(verb: str, path: str, **given: Any) -> httpx.Response:
        """Its answer, of a sandbox that hibernates, or that another call is waking."""
        await post(alice, box, "hibernate")
        if not is_woken:
            return await within(alice.request(verb, path, **given))
        bay.driver.hold_at = "claim"
        bay.driver.held.clear()
        bay.driver.let_go.clear()
        await alice.post(f"{url}/start")
        await within(bay.driver.held.wait())
        asked = asyncio.create_task(alice.request(verb, path, **given))
        await until(lambda: asked.done() or bool(bay.bay.changes._waiters.get(box)))
        bay.driver.hold_at = None
        bay.driver.let_go.set()
        return await within(asked)

    assert (await call("GET", f"{exec_url}/output")).json()["data"] == base64.b64encode(b"kept\n").decode()
    assert "sleep" in (await call("GET", f"{url}/processes")).text
    assert [one["id"] for one in (await call("GET", f"{url}/kernels")).json()["items"]] == [kernel["id"]]
    assert (await call("GET", kernel_url)).status_code == 200
    await within(alice.put(f"{url}/services/web", json={"argv": ["sleep", "1000"]}))
    assert (await call("POST", f"{url}/services/web/restart")).json()["restarts"] == 1
    await post(alice, box, "hibernate")
    assert (await alice.get(f"{url}/services/web")).json()["state"] != "stopped"
    assert (await shown(alice, box))["compute"] == "hibernated"
    assert (await call("POST", f"{exec_url}/signal", json={"signal": "KILL"})).status_code == 200
    ended = (await call("GET", exec_url, params={"wait": 15})).json()
    assert (ended["state"], ended["signal"]) == ("killed", 9), ended


async def test_a_frozen_sandbox_hibernates_in_the_place_of_its_stop(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await post(alice, box, "pause")
    bay.clock.advance(1001)
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda record: record.phase == "hibernated")
    bay.clock.advance(10**6)
    await bay.bay.sweep.sweep()
    assert (await shown(alice, box))["compute"] == "hibernated"
    assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"


async def test_a_policy_that_it_is_given_meanwhile_holds_when_it_is_woken_and_sizes_follow(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await post(alice, box, "hibernate")
    session = (await bay.session(box)).id
    given = await within(alice.put(f"/v1/sandboxes/{box}/network-policy", json={"mode": "none"}))
    assert (given.status_code, given.json()["mode"]) == (200, "none"), given.text
    resized = await within(alice.patch(f"/v1/sandboxes/{box}", json={"memory_mb": 300}))
    assert resized.status_code == 200, resized.text
    assert (await shown(alice, box))["compute"] == "hibernated"
    assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"
    assert bay.driver.networks[session].mode == "none"
    await until(lambda: bay.driver.sizes[session].memory == 300 << 20)  # unless its programs hold more


async def test_one_that_cannot_be_saved_stays_frozen_and_the_answer_says_why(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    bay.driver.unsavable[(await bay.session(box)).id] = "process 7 in it is being traced"
    error = assert_error(await post(alice, box, "hibernate"), 409, "conflict")
    assert "process 7 in it is being traced" in error["message"]
    assert (await shown(alice, box))["compute"] == "warm"
    assert (await shell(alice, box, "echo goes on"))["output"] == "goes on\n"
    bay.driver.unsavable.clear()
    assert (await post(alice, box, "hibernate")).json()["compute"] == "hibernated"


async def test_one_that_cannot_be_saved_is_stopped_when_its_time_in_memory_is_over(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    bay.driver.unsavable[(await bay.session(box)).id] = "no"
    await post(alice, box, "pause")
    bay.clock.advance(1001)
    await bay.bay.sweep.sweep()
    await bay.settled(
        box,
        lambda record: (
            record.target == "paused"
            and record.session is not None
            and record.session.memory_refused is not None
        ),
    )
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda record: record.session is None)
    assert "sandbox.not_hibernated" in await kinds(alice, box)
    assert (await shown(alice, box))["compute"] == "cold"


async def test_a_memory_that_is_lost_costs_what_ran_and_no_file(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await shell(alice, box, "echo kept > file")
    made = (await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["sleep", "1000"]})).json()
    await post(alice, box, "hibernate")
    before = await bay.session(box)
    bay.driver.lost[before.id] = "it was altered, or cut short"
    assert (await shell(alice, box, "cat file"))["output"] == "kept\n"
    assert (await bay.session(box)).id != before.id
    assert (await alice.get(f"/v1/sandboxes/{box}/execs/{made['id']}")).json()["state"] == "lost"
    answer = await alice.get(f"/v1/sandboxes/{box}/events", params={"limit": 100})
    lost = next(event for event in answer.json()["items"] if event["type"] == "sandbox.memory_lost")
    assert lost["data"]["message"] == "it was altered, or cut short"


async def test_a_start_that_fails_before_anything_ran_keeps_the_memory(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await post(alice, box, "hibernate")
    before = await bay.session(box)
    bay.driver.fail_at = "claim"
    answer = await within(alice.post(f"/v1/sandboxes/{box}/shell/exec", json={"command": "true"}))
    assert answer.status_code == 503, answer.text
    assert (await shown(alice, box))["compute"] == "hibernated"
    bay.driver.fail_at = None
    assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"
    assert (await bay.session(box)).id == before.id


@pytest.mark.parametrize("verb", ["stop", "delete"])
async def test_a_stop_or_a_delete_throws_the_memory_away(
    bay: World, alice: httpx.AsyncClient, box: str, verb: str
) -> None:
    await post(alice, box, "hibernate")
    if verb == "stop":
        await post(alice, box, "stop")
    else:
        assert (await alice.delete(f"/v1/sandboxes/{box}")).status_code < 300
    await bay.settled(box, lambda record: record.session is None)
    assert await bay.owned() == set()


async def test_it_expires_like_any_other(bay: World, alice: httpx.AsyncClient) -> None:
    box = (await create(alice, profile="sleeps", ttl=500, wait=15))["id"]
    await post(alice, box, "hibernate")
    bay.clock.advance(501)
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda record: record.session is None)
    assert (await shown(alice, box))["status"] == "expired"


async def test_the_next_bay_wakes_it_with_what_ran(root: Path) -> None:
    async with opened(root) as bay:
        client = await bay.client()
        box = (await create(client, profile="sleeps", wait=15))["id"]
        await post(client, box, "hibernate")
        session, key = (await bay.session(box)).id, dict(bay.keys)
    async with opened(root) as bay:
        bay.keys.update(key)
        client = await bay.client()
        assert (await shown(client, box))["compute"] == "hibernated"
        assert (await shell(client, box, "echo awake"))["output"] == "awake\n"
        assert (await bay.session(box)).id == session
    await clear(root)


async def test_a_bay_that_died_before_the_row_was_written_finds_it_hibernating(root: Path) -> None:
    async with opened(root) as bay:
        client = await bay.client()
        box = (await create(client, profile="sleeps", wait=15))["id"]
        await post(client, box, "pause")
        session = await bay.session(box)
        await bay.driver.hibernate(handle_of(session), session.token)
        async with bay.bay.store.write() as db:
            await sandboxes.change_target(db, box, old=("paused",), new="hibernated")
        keys = dict(bay.keys)
    async with opened(root) as bay:
        bay.keys.update(keys)
        await bay.settled(box, lambda record: record.phase == "hibernated")
        assert (await bay.session(box)).memory_bytes == 1 << 20
        assert (await kinds(await bay.client(), box))[-1] == "sandbox.hibernated"
    await clear(root)


async def test_a_bay_learns_the_size_of_a_memory_that_its_row_lacks(root: Path) -> None:
    async with opened(root) as bay:
        client = await bay.client()
        box = (await create(client, profile="sleeps", wait=15))["id"]
        await post(client, box, "hibernate")
        async with bay.bay.store.write() as db:
            await sessions.change(db, (await bay.session(box)).id, memory_bytes=None)
    async with opened(root) as bay:
        assert (await bay.session(box)).memory_bytes == 1 << 20
    await clear(root)


async def test_its_memory_counts_neither_as_running_nor_as_memory(root: Path) -> None:
    async with opened(root, quotas={"running": 1, "memory_mb": 1024}) as bay:
        client = await bay.client()
        first = (await create(client, profile="sleeps", wait=15))["id"]
        await post(client, first, "hibernate")
        second = (await create(client, profile="sleeps", wait=15))["id"]
        answer = await client.post(f"/v1/sandboxes/{first}/shell/exec", json={"command": "true"})
        assert_error(answer, 429, "quota_exceeded")
        assert (await shown(client, first))["compute"] == "hibernated"
        await post(client, second, "hibernate")
        assert (await shell(client, first, "echo awake"))["output"] == "awake\n"
    await clear(root)


async def test_the_memory_of_one_that_wakes_counts_again(root: Path) -> None:
    async with opened(root, quotas={"memory_mb": 1024}) as bay:
        client = await bay.client()
        first = (await create(client, profile="sleeps", wait=15))["id"]
        await post(client, first, "hibernate")
        second = (await create(client, profile="sleeps", memory_mb=600, wait=15))["id"]
        answer = await client.post(f"/v1/sandboxes/{first}/shell/exec", json={"command": "true"})
        assert assert_error(answer, 429, "quota_exceeded")["details"]["quota"] == "memory_mb"
        assert (await shown(client, first))["compute"] == "hibernated"
        larger = await within(client.patch(f"/v1/sandboxes/{first}", json={"memory_mb": 1000}))
        assert larger.status_code == 200, larger.text  # it holds none
        await client.delete(f"/v1/sandboxes/{second}")
        assert (await shell(client, first, "echo awake"))["output"] == "awake\n"
    await clear(root)


async def test_a_lifetime_ends_while_it_hibernates_and_not_when_it_is_woken(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, profile="sleeps", ttl=500, on_expiry="pause", wait=15))["id"]
    await post(alice, box, "hibernate")
    bay.clock.advance(501)
    await bay.bay.sweep.sweep()
    seen = await shown(alice, box)
    assert (seen["compute"], seen["expires_at"]) == ("hibernated", None)
    assert (await shell(alice, box, "echo awake"))["output"] == "awake\n"
    await bay.bay.sweep.sweep()
    assert (await bay.record(box)).target == "running"


async def test_its_own_isolation_decides_and_not_that_of_its_profile(bay: World, box: str) -> None:
    record = await bay.record(box)
    assert can_hibernate(bay.bay.core, record)
    assert not can_hibernate(bay.bay.core, replace(record, isolation="gvisor"))


async def test_its_memory_on_disk_counts_as_files(root: Path) -> None:
    async with opened(root, quotas={"disk_mb": 1}) as bay:
        client = await bay.client()
        box = (await create(client, profile="sleeps", wait=15))["id"]
        await post(client, box, "hibernate")
        answer = await client.post("/v1/sandboxes", json={"profile": "sleeps"})
        assert_error(answer, 429, "quota_exceeded")
        await shell(client, box, "true")
        assert (await create(client, profile="sleeps", wait=15))["id"] != box
    await clear(root)


async def test_what_a_profile_or_a_host_cannot_is_refused_before_it_begins(
    bay: World, alice: httpx.AsyncClient
) -> None:
    plain = (await create(alice, wait=15))["id"]
    error = assert_error(await post(alice, plain, "hibernate"), 400, "capability_not_supported")
    assert "hibernate: true" in error["message"]
    cold = (await create(alice, profile="sleeps"))["id"]
    await post(alice, cold, "stop")
    assert_error(await post(alice, cold, "hibernate"), 409, "conflict")


async def test_a_host_without_criu_stops_it_and_says_what_is_missing(root: Path) -> None:
    async with opened(root, memory=False) as bay:
        client = await bay.client()
        box = (await create(client, profile="sleeps", wait=15))["id"]
        error = assert_error(await post(client, box, "hibernate"), 400, "capability_not_supported")
        assert "bay doctor" in error["message"]
        await post(client, box, "pause")
        bay.clock.advance(1001)
        await bay.bay.sweep.sweep()
        await bay.settled(box, lambda record: record.session is None)
    await clear(root)
