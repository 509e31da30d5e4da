"""Volumes of a sandbox: external cargos at paths of it, and who may write to them when."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, world

from bay.drivers.base import MountedVolume
from bay.drivers.fake import FakeDriver
from bay.store import cargos, tallies

pytestmark = pytest.mark.anyio

NEVER = "ws-0123456789abcdef01234567"


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, FakeDriver(run_dir=root / "run", volumes=True)) as running:
            yield running
    finally:
        await clear(root)


async def cargo(client: httpx.AsyncClient) -> str:
    return (await client.post("/v1/cargos", json={})).json()["id"]


def at(cargo_id: str, path: str = "/data", *, read_only: bool = False) -> Json:
    return {"cargo": cargo_id, "path": path, "read_only": read_only}


async def with_volumes(client: httpx.AsyncClient, *volumes: Json, **body: Any) -> Json:
    return await create(client, volumes=list(volumes), **body)


async def refusal(client: httpx.AsyncClient, *volumes: Any, **body: Any) -> httpx.Response:
    return await client.post("/v1/sandboxes", json={"volumes": list(volumes), **body})


async def test_a_session_has_the_volumes_that_the_create_named(bay: World, alice: httpx.AsyncClient) -> None:
    one, two = await cargo(alice), await cargo(alice)
    volumes = (at(one, "/data"), at(two, "/srv/models", read_only=True))
    made = await with_volumes(alice, *volumes, wait=15)
    assert made["volumes"] == list(volumes)
    assert (await alice.get(f"/v1/sandboxes/{made['id']}")).json()["volumes"] == list(volumes)
    path = bay.directory
    assert bay.driver.volumes[(await bay.session(made["id"])).id] == (
        MountedVolume(path="/data", source=path(one), read_only=False),
        MountedVolume(path="/srv/models", source=path(two), read_only=True),
    )
    assert (await create(alice))["volumes"] == []


@pytest.mark.parametrize(
    "path",
    [
        *("data", "", "/", "//data", "/data/", "/a//b", "/a/../b", "/a/./b", "/..", "/a\0b", "/a\nb", "/" + "x" * 256),
        *("/workspace", "/workspace/x", "/.ship", "/.ship/lib", "/.ship-run", "/proc", "/proc/1", "/sys/fs", "/dev/shm"),
        *("/etc", "/etc/x", "/tmp/x", "/run", "/run/secrets", "/usr", "/usr/bin", "/bin", "/lib64", "/var", "/var/run/x"),
    ],
)  # fmt: skip
async def test_a_path_that_may_not_be_one_is_refused(bay: World, alice: httpx.AsyncClient, path: str) -> None:
    error = assert_error(await refusal(alice, at(await cargo(alice), path)), 422, "validation_error")
    assert error["details"]["field"] == "body.volumes.0"


@pytest.mark.parametrize(
    "path", ["/data", "/usr/local/x", "/var/lib/db", "/opt/x/y", "/opt", "/mnt/a b", "/.shipping"]
)
async def test_other_paths_are_fine(bay: World, alice: httpx.AsyncClient, path: str) -> None:
    assert (await with_volumes(alice, at(await cargo(alice), path)))["volumes"][0]["path"] == path


async def test_paths_that_overlap_and_a_cargo_named_twice_are_refused(
    bay: World, alice: httpx.AsyncClient
) -> None:
    one, two = await cargo(alice), await cargo(alice)
    for first, second in (("/data", "/data"), ("/data", "/data/x"), ("/data/x", "/data")):
        error = assert_error(await refusal(alice, at(one, first), at(two, second)), 422, "validation_error")
        assert "overlaps" in error["message"]
    assert_error(await refusal(alice, at(one, "/a"), at(one, "/b")), 422, "validation_error")
    assert_error(await refusal(alice, at(one), cargo_id=one), 422, "validation_error")
    many = [at(await cargo(alice), f"/v{number}") for number in range(17)]
    assert_error(await refusal(alice, *many), 422, "validation_error")
    assert len((await with_volumes(alice, at(one, "/data"), at(two, "/data2")))["volumes"]) == 2


async def test_only_external_cargos_of_ones_own_are_mounted(bay: World, alice: httpx.AsyncClient) -> None:
    managed = (await create(alice))["cargo_id"]
    assert_error(await refusal(alice, at(managed)), 409, "conflict")
    theirs = await cargo(await bay.client("bob"))
    for missing in (NEVER, theirs):
        error = assert_error(await refusal(alice, at(missing)), 404, "not_found")
        assert error["message"] == f"there is no cargo {missing}"


async def test_a_driver_that_mounts_none_says_so(root: Path) -> None:
    try:
        async with world(root) as bay:
            alice = await bay.client()
            answer = await refusal(alice, at(await cargo(alice)))
            assert_error(answer, 400, "capability_not_supported")
    finally:
        await clear(root)


async def test_one_session_writes_and_many_read(bay: World, alice: httpx.AsyncClient) -> None:
    shared = await cargo(alice)
    writer = await with_volumes(alice, at(shared), wait=15)
    for _ in range(2):
        assert (await with_volumes(alice, at(shared, read_only=True), wait=15))["status"] == "ready"
    second = await with_volumes(alice, at(shared))
    answer = await alice.post(f"/v1/sandboxes/{second['id']}/shell/exec", json={"command": "true"})
    error = assert_error(answer, 503, "session_not_ready")
    assert f"cargo {shared} is written to by {writer['id']}" in error["message"]
    await alice.post(f"/v1/sandboxes/{writer['id']}/stop")
    await shell(alice, second["id"], "true")


async def test_a_workspace_of_a_live_session_counts_as_written(bay: World, alice: httpx.AsyncClient) -> None:
    shared = await cargo(alice)
    owner = await create(alice, cargo_id=shared, wait=15)
    both = await create(alice, cargo_id=shared, wait=15)  # as ever: those who share a workspace know it
    assert both["status"] == "ready"
    volume = await with_volumes(alice, at(shared))
    answer = await alice.post(f"/v1/sandboxes/{volume['id']}/shell/exec", json={"command": "true"})
    assert_error(answer, 503, "session_not_ready")
    for one in (owner, both):
        await alice.post(f"/v1/sandboxes/{one['id']}/stop")
    await shell(alice, volume["id"], "true")
    answer = await alice.post(f"/v1/sandboxes/{owner['id']}/shell/exec", json={"command": "true"})
    assert f"written to by {volume['id']}" in assert_error(answer, 503, "session_not_ready")["message"]


async def test_a_writer_has_a_fence_on_its_volumes(bay: World, alice: httpx.AsyncClient) -> None:
    written, read = await cargo(alice), await cargo(alice)
    made = await with_volumes(alice, at(written, "/w"), at(read, "/r", read_only=True), wait=15)
    fence = await bay.bay.cargo.fenced(written, made["id"])
    assert fence is not None
    assert fence.session_id == (await bay.session(made["id"])).id
    assert await bay.bay.cargo.fenced(read, made["id"]) is None


async def test_a_cargo_that_is_a_volume_is_not_deleted(bay: World, alice: httpx.AsyncClient) -> None:
    one, other = await cargo(alice), await cargo(alice)
    made = await with_volumes(alice, at(one, read_only=True))
    error = assert_error(await alice.delete(f"/v1/cargos/{one}"), 409, "conflict")
    assert error["details"] == {"active_sandbox_ids": [made["id"]]}
    assert (await alice.get(f"/v1/cargos/{one}")).json()["sandbox_ids"] == [made["id"]]
    listed = {item["id"]: item["sandbox_ids"] for item in (await alice.get("/v1/cargos")).json()["items"]}
    assert listed == {one: [made["id"]], other: []}
    assert (await alice.delete(f"/v1/sandboxes/{made['id']}")).status_code == 204
    assert bay.directory(one).is_dir()
    assert (await alice.delete(f"/v1/cargos/{one}")).status_code == 204


async def test_a_volume_cannot_become_the_workspace_of_the_same_sandbox(
    bay: World, alice: httpx.AsyncClient
) -> None:
    one = await cargo(alice)
    made = await with_volumes(alice, at(one))
    answer = await alice.post(f"/v1/cargos/{one}/move", json={"sandbox": made["id"]})
    assert "is a volume of" in assert_error(answer, 409, "conflict")["message"]


async def test_forks_read_what_their_source_writes(bay: World, alice: httpx.AsyncClient) -> None:
    one = await cargo(alice)
    made = await with_volumes(alice, at(one), wait=15)
    (forked,) = (await alice.post(f"/v1/sandboxes/{made['id']}/fork")).json()["items"]
    assert forked["volumes"] == [at(one, read_only=True)]
    await shell(alice, forked["id"], "true")


async def test_nothing_is_put_back_into_a_cargo_that_is_mounted(bay: World, alice: httpx.AsyncClient) -> None:
    shared = await cargo(alice)
    owner = await create(alice, cargo_id=shared, wait=15)
    kept = (await alice.post(f"/v1/sandboxes/{owner['id']}/checkpoints", json={})).json()
    reader = await with_volumes(alice, at(shared, read_only=True), wait=15)
    restore = f"/v1/sandboxes/{owner['id']}/checkpoints/{kept['id']}/restore"
    error = assert_error(await alice.post(restore), 409, "conflict")
    assert error["details"]["active_sandbox_ids"] == [reader["id"]]


async def test_the_pool_has_no_volumes_to_give(root: Path) -> None:
    profiles = {"python-default": {"pool_size": 1}}
    driver = FakeDriver(run_dir=root / "run", volumes=True)
    try:
        async with world(root, driver, profiles=profiles) as bay:
            alice = await bay.client()
            await bay.bay.pool.tend()
            await with_volumes(alice, at(await cargo(alice)), wait=15)
            (state,) = await bay.bay.pool.state()
            assert state.hits == 0
    finally:
        await clear(root)


async def test_a_volume_is_measured_when_it_was_used(bay: World, alice: httpx.AsyncClient) -> None:
    one, unused = await cargo(alice), await cargo(alice)
    made = await with_volumes(alice, at(one), wait=15)
    async with bay.bay.store.write() as db:
        for measured in (one, unused):
            await cargos.change(db, measured, measured_at=bay.clock())
    bay.clock.advance(60)
    await shell(alice, made["id"], "true")
    await bay.bay.deferred.flush()
    async with bay.bay.store.read() as db:
        found = await tallies.unmeasured(db, bay.clock())
    assert one in found
    assert unused not in found
