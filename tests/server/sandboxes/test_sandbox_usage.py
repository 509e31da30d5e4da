"""The present use of resources by a sandbox: measured while it runs or is frozen, and never by waking it."""

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, eventually, within, world

from bay.clock import from_rfc3339
from bay.drivers.base import Handle, SessionUsage
from bay.drivers.fake import FakeDriver
from bay.units import MIB

pytestmark = pytest.mark.anyio

PROFILES: Json = {
    "python-default": {"start": "lazy", "cpus": 1.5, "memory_mb": 512, "pids": 100, "disk_mb": 64},
    "endless": {"start": "lazy", "disk_mb": None},
}
COMPUTE = ("cpu_usec", "cpus_used", "memory_bytes", "memory_cache_bytes", "pids")
LIMITS: Json = {
    "cpus": 1.5,
    "memory_limit_bytes": 512 * MIB,
    "pids_limit": 100,
    "disk_limit_bytes": 64 * MIB,
}


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=PROFILES) as running:
            yield running
    finally:
        await clear(root)


async def usage(client: httpx.AsyncClient, sandbox: Json, **query: float | str) -> Json:
    answer = await within(client.get(f"/v1/sandboxes/{sandbox['id']}/usage", params=dict(query)))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def shown(client: httpx.AsyncClient, sandbox: Json) -> Json:
    return (await client.get(f"/v1/sandboxes/{sandbox['id']}")).json()


def limits(found: Json) -> Json:
    return {name: found[name] for name in LIMITS}


async def test_a_running_sandbox_has_figures_and_limits(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15)
    await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    found = await usage(alice, made)
    assert limits(found) == LIMITS
    assert found["pids"] >= 1
    assert found["memory_bytes"] > 0
    assert found["cpu_usec"] >= 0
    assert found["cpus_used"] is None
    assert from_rfc3339(found["at"]) == bay.clock()


async def test_new_sizes_are_its_limits(alice: httpx.AsyncClient) -> None:
    made = await create(alice, cpus=1, pids=50)
    assert (await usage(alice, made))["pids_limit"] == 50
    await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    await alice.patch(f"/v1/sandboxes/{made['id']}", json={"pids": 60})
    found = await usage(alice, made)
    assert (found["cpus"], found["pids_limit"]) == (1, 60)


async def test_cores_in_use_are_measured_over_the_time_that_is_asked_for(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    busy = {"command": "while :; do :; done"}
    assert (await alice.post(f"/v1/sandboxes/{made['id']}/execs", json=busy)).status_code == 201

    async def is_seen() -> bool:
        return (await usage(alice, made, over=0.2))["cpus_used"] > 0

    await eventually(is_seen)


async def test_a_frozen_sandbox_is_measured_and_stays_frozen(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    await alice.post(f"/v1/sandboxes/{made['id']}/pause")
    before = await shown(alice, made)

    async def is_still() -> bool:
        found = await usage(alice, made, over=0.05)
        return found["memory_bytes"] > 0 and found["cpus_used"] == 0

    await eventually(is_still)
    after = await shown(alice, made)
    clocks = ("compute", "idle_expires_at", "warm_expires_at", "paused_at")
    assert [after[name] for name in clocks] == [before[name] for name in clocks]
    assert after["compute"] == "warm"


async def test_a_cold_sandbox_has_limits_and_disk_and_is_not_started(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice)
    found = await usage(alice, made, over="10s")  # which is no time to wait where nothing can be measured
    assert limits(found) == LIMITS
    assert {name: found[name] for name in COMPUTE} == dict.fromkeys(COMPUTE)
    assert (found["disk_bytes"], found["disk_measured_at"]) == (None, None)
    await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    content = b"x" * MIB
    path = f"/v1/sandboxes/{made['id']}/files/content"
    assert (await alice.put(path, params={"path": "big"}, content=content)).status_code < 300
    await alice.post(f"/v1/sandboxes/{made['id']}/stop")
    await bay.bay.usage.measure()
    await bay.bay.deferred.flush()
    found = await usage(alice, made)
    assert found["disk_bytes"] >= MIB
    assert from_rfc3339(found["disk_measured_at"]) == bay.clock()
    assert found["pids"] is None
    assert (await shown(alice, made))["compute"] == "cold"


async def test_a_sandbox_without_a_limit_of_files_has_none(alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="endless")
    assert (await usage(alice, made))["disk_limit_bytes"] is None


async def test_looking_is_no_activity(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, idle_timeout=1000)
    await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    before = await shown(alice, made)
    bay.clock.advance(500)
    await usage(alice, made, over=0.05)
    await bay.bay.deferred.flush()
    after = await shown(alice, made)
    assert after["idle_expires_at"] == before["idle_expires_at"]
    assert from_rfc3339(after["idle_expires_at"]) - bay.clock() == timedelta(seconds=500)


class Unmetered(FakeDriver):
    """A driver that measures nothing."""

    usage = None  # pyright: ignore[reportAssignmentType]


async def test_a_driver_that_measures_nothing_leaves_the_limits(root: Path) -> None:
    try:
        async with world(root, Unmetered(run_dir=root / "run"), profiles=PROFILES) as bay:
            alice = await bay.client()
            made = await create(alice)
            await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
            found = await usage(alice, made, over=10)
            assert limits(found) == LIMITS
            assert {name: found[name] for name in COMPUTE} == dict.fromkeys(COMPUTE)
    finally:
        await clear(root)


class Vanishing(FakeDriver):
    """A driver whose sessions are lost after they were measured once."""

    async def usage(self, handle: Handle) -> SessionUsage | None:
        found = await super().usage(handle)
        await self.vanish(handle.session_id)
        return found


async def test_a_session_that_ends_under_the_measurement_has_no_figures(root: Path) -> None:
    try:
        async with world(root, Vanishing(run_dir=root / "run"), profiles=PROFILES) as bay:
            alice = await bay.client()
            made = await create(alice)
            await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
            found = await usage(alice, made, over=0.05)
            assert limits(found) == LIMITS
            assert {name: found[name] for name in COMPUTE} == dict.fromkeys(COMPUTE)
    finally:
        await clear(root)


async def test_a_host_that_cannot_be_asked_is_said(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    bay.driver.fail_at = "usage"
    answer = await alice.get(f"/v1/sandboxes/{made['id']}/usage")
    bay.driver.fail_at = None
    assert_error(answer, 503, "driver_unavailable")


@pytest.mark.parametrize("over", ["0", "10.1", "nan", "-1", "soon"])
async def test_a_time_out_of_bounds_is_refused(alice: httpx.AsyncClient, over: str) -> None:
    made = await create(alice)
    answer = await alice.get(f"/v1/sandboxes/{made['id']}/usage", params={"over": over})
    assert assert_error(answer, 422, "validation_error")["details"]["field"] == "query.over"


async def test_the_waiting_of_many_measurements_is_done_at_once(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(usage(alice, made, over=0.05)) for _ in range(20)]
    assert all(task.result()["cpus_used"] is not None for task in asked)
