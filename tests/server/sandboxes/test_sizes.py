"""The sizes of a sandbox: at its create, within profile and quota, and changed while it lives."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, eventually, shell, within, world

from bay.drivers.fake import FakeDriver
from bay.models import Resources
from bay.units import MIB

pytestmark = pytest.mark.anyio

PROFILES: Json = {
    "python-default": {
        "start": "lazy",
        "cpus": 1,
        "memory_mb": 512,
        "pids": 100,
        "disk_mb": 64,
        "max_cpus": 4,
        "max_memory_mb": 2048,
        "max_pids": 400,
        "max_disk_mb": 256,
    },
    "fixed": {"start": "lazy", "cpus": 0.5, "memory_mb": 256, "pids": 64, "disk_mb": 32},
    "endless": {"start": "lazy", "disk_mb": None},
}
OWN: Json = {"cpus": 2.5, "memory_mb": 1024, "disk_mb": 128, "pids": 200}
DEFAULTS: Json = {"cpus": 1.0, "memory_mb": 512, "disk_mb": 64, "pids": 100}


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=PROFILES) as running:
            yield running
    finally:
        await clear(root)


async def held(bay: World, sandbox: Json) -> Resources | None:
    """What the driver holds its session to."""
    return bay.driver.sizes.get((await bay.session(sandbox["id"])).id)


def sizes(sandbox: Json) -> Json:
    return {name: sandbox[name] for name in OWN}


async def shown(client: httpx.AsyncClient, sandbox: Json) -> Json:
    return sizes((await client.get(f"/v1/sandboxes/{sandbox['id']}")).json())


async def change(client: httpx.AsyncClient, sandbox: Json, **body: Any) -> httpx.Response:
    return await within(client.patch(f"/v1/sandboxes/{sandbox['id']}", json=body))


async def test_a_sandbox_has_the_sizes_that_it_was_made_with(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15, **OWN)
    assert sizes(made) == OWN == await shown(alice, made)
    assert await held(bay, made) == Resources(cpus=2.5, memory=1024 * MIB, pids=200)
    assert (await alice.get(f"/v1/cargos/{made['cargo_id']}")).json()["size_limit_mb"] == 128
    plain = await create(alice, wait=15)
    assert sizes(plain) == DEFAULTS
    assert await held(bay, plain) == Resources(cpus=1, memory=512 * MIB, pids=100)


async def test_a_size_that_is_left_out_is_the_profiles(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15, cpus=0.25)
    assert sizes(made) == {**DEFAULTS, "cpus": 0.25}
    assert await held(bay, made) == Resources(cpus=0.25, memory=512 * MIB, pids=100)


async def test_no_limit_of_files_is_shown_as_null(bay: World, alice: httpx.AsyncClient) -> None:
    assert (await create(alice, profile="endless"))["disk_mb"] is None
    assert (await create(alice, profile="endless", disk_mb=77))["disk_mb"] == 77


@pytest.mark.parametrize(
    ("profile", "size", "asked", "most"),
    [
        ("python-default", "cpus", 4.5, 4),
        ("python-default", "memory_mb", 2049, 2048),
        ("python-default", "disk_mb", 257, 256),
        ("python-default", "pids", 401, 400),
        ("fixed", "cpus", 0.51, 0.5),
        ("fixed", "memory_mb", 257, 256),
        ("fixed", "disk_mb", 33, 32),
        ("fixed", "pids", 65, 64),
    ],
)
async def test_more_than_the_profile_allows_is_refused(
    alice: httpx.AsyncClient, profile: str, size: str, asked: float, most: float
) -> None:
    answer = await alice.post("/v1/sandboxes", json={"profile": profile, size: asked})
    error = assert_error(answer, 422, "validation_error")
    assert error["message"] == (
        f"{size} is {asked:g}, and profile {profile} allows {most:g} at most; ask for less, choose another "
        f"profile, or have its max_{size} raised"
    )
    assert error["details"] == {"field": f"body.{size}", "most": most}
    assert sizes(await create(alice, profile=profile, **{size: most}))[size] == most
    if size != "disk_mb":
        made = await create(alice, profile=profile)
        assert_error(await change(alice, made, **{size: asked}), 422, "validation_error")


@pytest.mark.parametrize(
    "body",
    [
        *({"cpus": value} for value in (0, -1, 0.001, 1025, "many")),
        *({"memory_mb": value} for value in (0, 63, 1.5, 1 << 40)),
        *({"disk_mb": value} for value in (0, 15)),
        *({"pids": value} for value in (0, 15, 1 << 30)),
    ],
)
async def test_sizes_that_are_none_are_refused(alice: httpx.AsyncClient, body: Json) -> None:
    assert_error(await alice.post("/v1/sandboxes", json=body), 422, "validation_error")
    if "disk_mb" not in body:
        assert_error(await change(alice, await create(alice), **body), 422, "validation_error")


async def test_an_external_cargo_keeps_its_own_limit(alice: httpx.AsyncClient) -> None:
    cargo = (await alice.post("/v1/cargos", json={"size_limit_mb": 40})).json()
    answer = await alice.post("/v1/sandboxes", json={"cargo_id": cargo["id"], "disk_mb": 50})
    assert_error(answer, 400, "validation_error")
    await create(alice, cargo_id=cargo["id"], cpus=2)


async def test_the_limit_of_the_cargo_is_the_size_of_its_sandbox(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    cargo = f"/v1/cargos/{made['cargo_id']}"
    assert (await alice.patch(cargo, json={"size_limit_mb": 200})).json()["size_limit_mb"] == 200
    assert (await shown(alice, made))["disk_mb"] == 200
    assert_error(await alice.patch(cargo, json={"size_limit_mb": 257}), 422, "validation_error")
    assert (await alice.patch(cargo, json={"size_limit_mb": None})).json()["size_limit_mb"] == 256
    await alice.patch(cargo, json={"size_limit_mb": 64})
    assert (await shown(alice, made))["disk_mb"] == 64


async def test_profiles_say_how_much_may_be_asked_for(alice: httpx.AsyncClient) -> None:
    items = {item["id"]: item for item in (await alice.get("/v1/profiles")).json()["items"]}
    most = ("max_cpus", "max_memory_mb", "max_disk_mb", "max_pids")
    assert [items["python-default"][name] for name in most] == [4, 2048, 256, 400]
    assert [items["fixed"][name] for name in most] == [0.5, 256, 32, 64]
    assert items["endless"]["max_disk_mb"] is None


async def test_a_running_sandbox_takes_other_sizes_at_once(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15)
    before = await bay.session(made["id"])
    answer = await change(alice, made, cpus=3, memory_mb=1500, pids=300)
    assert sizes(answer.json()) == {"cpus": 3.0, "memory_mb": 1500, "disk_mb": 64, "pids": 300}
    assert await held(bay, made) == Resources(cpus=3, memory=1500 * MIB, pids=300)
    assert (await change(alice, made, cpus=None)).json()["cpus"] == 1
    assert await held(bay, made) == Resources(cpus=1, memory=1500 * MIB, pids=300)
    assert (await bay.session(made["id"])).id == before.id


async def test_a_frozen_sandbox_takes_other_sizes_and_stays_frozen(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=15)
    await shell(alice, made["id"], "true")
    assert (await alice.post(f"/v1/sandboxes/{made['id']}/pause")).status_code == 200
    answer = await change(alice, made, memory_mb=700)
    assert (answer.json()["compute"], answer.json()["memory_mb"]) == ("warm", 700)
    assert await held(bay, made) == Resources(cpus=1, memory=700 * MIB, pids=100)


async def test_a_cold_sandbox_begins_with_the_sizes_that_it_was_given(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice)
    assert sizes((await change(alice, made, cpus=2, memory_mb=600)).json())["memory_mb"] == 600
    await shell(alice, made["id"], "true")
    assert await held(bay, made) == Resources(cpus=2, memory=600 * MIB, pids=100)


async def test_less_memory_than_is_in_use_is_refused_and_the_sizes_stay(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=15)
    hold = "x = b'x' * (150 << 20); open('held', 'w').close(); import time; time.sleep(600)"
    body = {"argv": ["python3", "-c", hold]}
    assert (await alice.post(f"/v1/sandboxes/{made['id']}/execs", json=body)).status_code == 201
    await eventually(lambda: _is_there(bay, made, "held"))
    error = assert_error(await change(alice, made, memory_mb=128, cpus=2), 409, "conflict")
    assert "MiB of memory, which leaves no way to give it 128 MiB" in error["message"]
    assert error["details"]["used_bytes"] > 150 * MIB
    assert await shown(alice, made) == DEFAULTS
    assert await held(bay, made) == Resources(cpus=1, memory=512 * MIB, pids=100)
    assert (await change(alice, made, cpus=2)).json()["cpus"] == 2
    assert (await alice.get(f"/v1/sandboxes/{made['id']}")).json()["error"] is None


async def _is_there(bay: World, sandbox: Json, name: str) -> bool:
    return (bay.workspace(sandbox) / name).exists()


async def test_a_host_that_refuses_is_asked_again(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15)
    bay.driver.fail_at = "resize"
    error = assert_error(await change(alice, made, cpus=2), 503, "driver_unavailable")
    assert error["message"].endswith("Bay tries again by itself")
    assert (await shown(alice, made))["cpus"] == 2
    bay.driver.fail_at = None
    await eventually(lambda: _holds(bay, made, 2))


async def _holds(bay: World, sandbox: Json, cpus: float) -> bool:
    found = await held(bay, sandbox)
    return found is not None and found.cpus == cpus


async def test_sizes_that_a_bay_died_over_are_applied_by_the_next(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run")
    try:
        async with world(root, driver, profiles=PROFILES) as bay:
            alice = await bay.client()
            made = await create(alice, wait=15)
            driver.hold_at = "resize"
            waiting = asyncio.create_task(change(alice, made, cpus=2))
            await within(driver.held.wait())
            waiting.cancel()
        driver.hold_at = None
        async with world(root, driver, profiles=PROFILES) as bay:
            await eventually(lambda: _holds(bay, made, 2))
    finally:
        await clear(root)


class Rigid(FakeDriver):
    """A driver that changes nothing of a session that lives."""

    resize = None  # pyright: ignore[reportAssignmentType]


async def test_a_driver_that_cannot_refuses_for_a_live_sandbox_alone(root: Path) -> None:
    try:
        async with world(root, Rigid(run_dir=root / "run"), profiles=PROFILES) as bay:
            alice = await bay.client()
            made = await create(alice, wait=15)
            assert_error(await change(alice, made, cpus=2), 400, "capability_not_supported")
            assert (await shown(alice, made))["cpus"] == 1
            await alice.post(f"/v1/sandboxes/{made['id']}/stop")
            assert (await change(alice, made, cpus=2)).json()["cpus"] == 2
            await shell(alice, made["id"], "true")
            assert await _holds(bay, made, 2)
    finally:
        await clear(root)


async def test_forks_are_as_large_as_their_source(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15, **OWN)
    forked = (await alice.post(f"/v1/sandboxes/{made['id']}/fork", json={"count": 2})).json()["items"]
    assert [sizes(one) for one in forked] == [OWN, OWN]
    cargo = (await alice.get(f"/v1/cargos/{forked[0]['cargo_id']}")).json()
    assert cargo["size_limit_mb"] == 128


async def test_what_the_operator_has_since_forbidden_is_cut_at_the_next_start(root: Path) -> None:
    tight = {"python-default": {**PROFILES["python-default"], "max_cpus": 2, "max_memory_mb": 600}}
    driver = FakeDriver(run_dir=root / "run")
    try:
        async with world(root, driver, profiles=PROFILES) as bay:
            alice = await bay.client()
            made = await create(alice, wait=15, **OWN)
            await alice.post(f"/v1/sandboxes/{made['id']}/stop")
        async with world(root, driver, profiles=tight) as bay:
            alice = await bay.open_client({"Authorization": alice.headers["authorization"]})
            assert await shown(alice, made) == {**OWN, "cpus": 2, "memory_mb": 600}
            await shell(alice, made["id"], "true")
            assert await held(bay, made) == Resources(cpus=2, memory=600 * MIB, pids=200)
    finally:
        await clear(root)


async def test_the_pool_serves_only_those_of_the_profiles_sizes(root: Path) -> None:
    pooled = {"python-default": {**PROFILES["python-default"], "start": "eager", "pool_size": 1}}
    try:
        async with world(root, profiles=pooled) as bay:
            alice = await bay.client()
            await eventually(lambda: _is_pooled(bay))
            other = await create(alice, cpus=2, wait=15)
            assert await held(bay, other) == Resources(cpus=2, memory=512 * MIB, pids=100)
            (state,) = await bay.bay.pool.state()
            assert (state.ready, state.hits) == (1, 0)
            same = await create(alice, cpus=1, memory_mb=512, disk_mb=64, pids=100)
            assert same["compute"] == "running"
            (state,) = await bay.bay.pool.state()
            assert state.hits == 1
            assert (await change(alice, same, cpus=2)).json()["cpus"] == 2
            assert await _holds(bay, same, 2)
    finally:
        await clear(root)


async def _is_pooled(bay: World) -> bool:
    return any(state.ready for state in await bay.bay.pool.state())


async def test_a_changed_size_says_so_in_an_event(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    await change(alice, made, cpus=2, memory_mb=600)
    found = (await alice.get(f"/v1/sandboxes/{made['id']}/events")).json()["items"]
    assert found[-1]["type"] == "sandbox.updated"
    assert found[-1]["data"]["fields"] == ["cpus", "memory_mb"]


async def test_another_owner_changes_nothing(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    assert_error(await change(await bay.client("bob"), made, cpus=2), 404, "not_found")


async def test_quotas_count_the_sizes_that_sandboxes_have(root: Path) -> None:
    try:
        async with world(root, profiles=PROFILES, quotas={"cpus": 4, "memory_mb": 2000}) as bay:
            alice = await bay.client()
            first = await create(alice, wait=15, cpus=2.5, memory_mb=600)
            answer = await alice.post("/v1/sandboxes", params={"wait": 15}, json={"cpus": 2})
            details = assert_error(answer, 429, "quota_exceeded")["details"]
            assert (details["quota"], details["used"]) == ("cpus", 2.5)
            second = await create(alice, wait=15, cpus=0.5, memory_mb=600)
            assert_error(await change(alice, second, cpus=1.6), 429, "quota_exceeded")
            assert_error(await change(alice, second, memory_mb=1500), 429, "quota_exceeded")
            assert await shown(alice, second) == {**DEFAULTS, "cpus": 0.5, "memory_mb": 600}
            assert (await change(alice, second, cpus=1.5, memory_mb=1400)).status_code == 200
            assert (await change(alice, first, cpus=0.5)).status_code == 200
            assert (await change(alice, second, cpus=3.5)).status_code == 200
            cold = await create(alice, cpus=4)
            answer = await alice.post(f"/v1/sandboxes/{cold['id']}/start")
            assert assert_error(answer, 429, "quota_exceeded")["details"]["quota"] == "cpus"
    finally:
        await clear(root)


async def test_sizes_on_their_way_count_with_what_is_held_still(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run")
    try:
        async with world(root, driver, profiles=PROFILES, quotas={"cpus": 4}) as bay:
            alice = await bay.client()
            first = await create(alice, wait=15, cpus=3)
            driver.hold_at = "resize"
            smaller = asyncio.create_task(change(alice, first, cpus=1))
            await within(driver.held.wait())
            answer = await alice.post("/v1/sandboxes", params={"wait": 15}, json={"cpus": 2})
            assert assert_error(answer, 429, "quota_exceeded")["details"]["used"] == 3
            driver.let_go.set()
            assert (await smaller).status_code == 200
            await create(alice, wait=15, cpus=2)
    finally:
        await clear(root)


async def test_a_session_that_ended_meanwhile_is_no_trouble(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15)
    session = await bay.session(made["id"])
    bay.driver.hold_at = "resize"
    changing = asyncio.create_task(change(alice, made, cpus=2))
    await within(bay.driver.held.wait())
    await bay.driver.crash(session.id)
    bay.driver.hold_at = None
    bay.driver.let_go.set()
    assert (await changing).json()["cpus"] == 2
    assert (await alice.post(f"/v1/sandboxes/{made['id']}/stop")).status_code == 200
    await shell(alice, made["id"], "true")
    assert await _holds(bay, made, 2)
