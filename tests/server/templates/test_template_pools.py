"""Pools of templates: started sandboxes that wait with a template's files, sizes and service."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, eventually, shell, within, world

from bay.store import cargos, sandboxes
from bay.store.records import NOBODY, SandboxRecord

pytestmark = pytest.mark.anyio

PROFILES: Json = {
    "machine": {"persist": "machine", "start": "eager", "cpus": 1, "memory_mb": 256, "max_memory_mb": 4096},
    "python-default": {"start": "eager"},
}


@asynccontextmanager
async def machines(
    root: Path, earlier: World | None = None, *, profiles: Json = PROFILES, **settings: Any
) -> AsyncGenerator[World]:
    """A Bay whose sandboxes keep their root file system, on the host of an `earlier` one if given."""
    driver, library = (earlier.driver, earlier.library) if earlier else (None, None)
    async with world(root, driver, library=library, profiles=profiles, **settings) as running:
        running.driver.capabilities = replace(running.driver.capabilities, persist=("workspace", "machine"))
        yield running


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with machines(root) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def root_client(bay: World) -> httpx.AsyncClient:
    return await bay.client("root", "admin")


async def source(client: httpx.AsyncClient) -> Json:
    """A sandbox with a file, to make templates of."""
    box = await create(client, wait=10, image="debian:13", profile="machine")
    await shell(client, box["id"], "echo hello > file")
    return box


async def ask(client: httpx.AsyncClient, sandbox: str, **body: Any) -> httpx.Response:
    return await client.post(
        "/v1/templates", json={"name": "web", "sandbox": sandbox, **body}, params={"wait": 10}
    )


async def make(client: httpx.AsyncClient, sandbox: str, **body: Any) -> Json:
    answer = await ask(client, sandbox, **body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["state"] == "ready"
    return answer.json()


async def shown(client: httpx.AsyncClient, ref: str = "web") -> Json:
    answer = await client.get(f"/v1/templates/{ref}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def waiting(bay: World) -> list[SandboxRecord]:
    """The sandboxes that wait in a pool, and run."""
    async with bay.bay.store.read() as db:
        found = await sandboxes.pooled(db)
    return [r for r in found if r.phase == "running" and r.target == "running"]


async def full(bay: World, size: int) -> list[SandboxRecord]:
    async def is_full() -> bool:
        bay.bay.pool.poke()
        return len(await waiting(bay)) == size

    await eventually(is_full)
    return await waiting(bay)


async def seen(bay: World, client: httpx.AsyncClient, size: int, ref: str = "web") -> list[SandboxRecord]:
    """The sandboxes that wait, once the template shows so many."""
    found = await full(bay, size)

    async def is_seen() -> bool:
        bay.bay.pool.poke()
        return (await shown(client, ref))["pool_ready"] == size

    await eventually(is_seen)
    return found


async def from_pool(bay: World, client: httpx.AsyncClient, body: Json | None = None) -> bool:
    """Whether a create was given a sandbox that waited."""
    before = {r.id for r in await waiting(bay)}
    wanted: Json = {"template": "web", **(body or {})}
    made = await create(client, **wanted)
    return made["id"] in before


async def test_a_create_takes_a_sandbox_that_waits_with_the_files_the_sizes_and_the_service(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    box = await source(root_client)
    made = await make(
        root_client, box["id"], pool_size=2, start_command="touch up; sleep 1000", ready_command="test -e up",
        env={"A": "template"}, memory_mb=512, pids=100,
    )  # fmt: skip
    assert (made["pool_size"], made["pool_max"]) == (2, None)
    first = (await seen(bay, root_client, 2))[0]
    assert (first.owner, first.image_id, first.memory_mb, first.env) == (
        NOBODY,
        made["image_id"],
        512,
        {"A": "template"},
    )
    one = await create(root_client, template="web", name="mine", labels={"a": "b"})
    assert (one["id"], one["status"], one["compute"]) == (first.id, "ready", "running")
    assert (one["image_id"], one["memory_mb"], one["pids"]) == (made["image_id"], 512, 100)
    assert (one["name"], one["checkpoint_id"]) == ("mine", None)
    assert first.session is not None
    assert (await bay.session(one["id"])).id == first.session.id
    assert (await shell(root_client, "mine", "cat file; echo $A"))["output"] == "hello\ntemplate\n"
    two = await create(root_client, template="web:latest", wait=10)
    [main] = (await root_client.get(f"/v1/sandboxes/{two['id']}/services")).json()["items"]
    assert (main["name"], main["state"], main["healthy"]) == ("main", "running", True)
    assert (await shell(root_client, two["id"], "ls"))["output"] == "file\nup\n"
    assert not {one["id"], two["id"]} & {r.id for r in await full(bay, 2)}
    told = await bay.sql(
        "SELECT type, CAST(data AS TEXT) FROM events WHERE owner = 'root' AND type = 'sandbox.ready'"
    )
    assert sum('"pooled": true' in data for _, data in told) == 2


async def test_many_creates_at_once_share_no_sandbox(bay: World, root_client: httpx.AsyncClient) -> None:
    await make(root_client, (await source(root_client))["id"], pool_size=3)
    await full(bay, 3)
    made = await asyncio.gather(*(create(root_client, template="web", wait=10) for _ in range(9)))
    assert {one["status"] for one in made} == {"ready"}
    assert len({one["id"] for one in made}) == len({one["cargo_id"] for one in made}) == 9
    for one in made:
        assert (await shell(root_client, one["id"], "cat file"))["output"] == "hello\n"


async def test_a_create_that_wants_something_else_starts_its_own(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    await make(root_client, (await source(root_client))["id"], pool_size=1)
    box = await create(root_client)
    kept = (await root_client.post(f"/v1/sandboxes/{box['id']}/checkpoints", json={})).json()["id"]
    others: list[Json] = [
        {"memory_mb": 512},
        {"profile": "python-default"},
        {"services": [{"name": "x", "argv": ["true"]}]},
        {"from_checkpoint": kept, "profile": "python-default"},
        {"network_policy": {"mode": "none"}},
        {"template": None, "profile": "machine"},
    ]
    for other in others:
        await full(bay, 1)
        assert not await from_pool(bay, root_client, other), other
    for same in ({"profile": "machine"}, {"memory_mb": 256}, {"env": {"B": "c"}}, {"ttl": 50}):
        await full(bay, 1)
        assert await from_pool(bay, root_client, same), same


async def test_variables_of_the_create_come_too_late_for_a_service_that_runs(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    await root_client.put("/v1/secrets/token", json={"value": "x"})
    box = await source(root_client)
    await make(root_client, box["id"], pool_size=1, start_command="sleep 1000", env={"A": "b"})
    for other in ({"env": {"B": "c"}}, {"env": {"A": "c"}}, {"secrets": [{"name": "token"}]}):
        await full(bay, 1)
        assert not await from_pool(bay, root_client, other), other
    for same in ({}, {"env": {"A": "b"}}):
        await full(bay, 1)
        assert await from_pool(bay, root_client, same), same


async def test_a_pool_is_given_and_taken_later(bay: World, root_client: httpx.AsyncClient) -> None:
    await make(root_client, (await source(root_client))["id"])
    answer = await root_client.patch("/v1/templates/web", json={"pool_size": 2})
    assert (answer.status_code, answer.json()["pool_size"]) == (200, 2)
    before = {r.id for r in await seen(bay, root_client, 2)}
    [state] = [s for s in (await root_client.get("/v1/admin/pool")).json()["items"] if s["template_id"]]
    assert (state["profile"], state["size"], state["ready"]) == ("machine", 2, 2)
    assert (await root_client.patch("/v1/templates/web", json={"pool_size": 1})).json()["pool_size"] == 1
    assert {r.id for r in await full(bay, 1)} < before
    assert (await root_client.patch("/v1/templates/web", json={"pool_size": 0})).status_code == 200
    await seen(bay, root_client, 0)
    assert (await create(root_client, template="web", wait=10))["status"] == "ready"
    assert (await root_client.get("/v1/admin/pool")).json()["items"] == []


async def test_a_pool_with_a_maximum_follows_the_creates_and_goes_with_bay(root: Path) -> None:
    try:
        async with machines(root) as bay:
            client = await bay.client("root", "admin")
            await make(client, (await source(client))["id"], pool_size=1, pool_max=3)
            await full(bay, 1)
            for taken in (1, 2, 3):
                assert await from_pool(bay, client)
                await full(bay, taken)
            bay.clock.advance(601)
            [last] = await full(bay, 1)
            answer = await client.patch("/v1/templates/web", json={"pool_size": 5})
            assert "less than pool_size" in assert_error(answer, 422, "validation_error")["message"]
            before = bay
        async with machines(root, before) as bay:
            assert (await bay.record(last.id)).deleted_at is not None
            await full(bay, 1)
    finally:
        await clear(root)


async def test_a_restarted_bay_keeps_what_waits_and_replaces_what_would_start_otherwise(root: Path) -> None:
    try:
        async with machines(root) as bay:
            client = await bay.client("root", "admin")
            box = await source(client)
            await make(client, box["id"], pool_size=2, start_command="sleep 1000")
            first = {r.id for r in await full(bay, 2)}
            before = bay
        async with machines(root, before) as bay:
            client = await bay.client("root", "admin")
            assert {r.id for r in await seen(bay, client, 2)} == first
            assert await from_pool(bay, client)
            await full(bay, 2)
        changed: Json = {**PROFILES, "machine": {**PROFILES["machine"], "pids": 77}}
        async with machines(root, before, profiles=changed) as bay:

            async def is_replaced() -> bool:
                bay.bay.pool.poke()
                found = {r.id for r in await waiting(bay)}
                return len(found) == 2 and not found & first

            await eventually(is_replaced)
        async with machines(root, before, profiles={"python-default": {}}) as bay:
            await full(bay, 0)
    finally:
        await clear(root)


async def test_a_tag_that_moves_takes_the_pool_of_the_older_away(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    box = await source(root_client)
    old = await make(root_client, box["id"], pool_size=2)
    before = await full(bay, 2)
    new = await make(root_client, box["id"], pool_size=1)
    [waits] = await full(bay, 1)
    assert (before[0].image_id, waits.image_id) == (old["image_id"], new["image_id"])

    async def is_collected() -> bool:
        await bay.bay.template_maker.collect()
        return (await root_client.get(f"/v1/templates/{old['id']}")).status_code == 404

    await eventually(is_collected)
    assert await from_pool(bay, root_client)
    answer = await root_client.patch(f"/v1/templates/{new['id']}", json={"tag": "v2", "pool_size": 2})
    assert answer.json()["tag"] == "v2"
    await full(bay, 2)


async def test_a_pool_stays_while_its_template_has_a_name(bay: World, root_client: httpx.AsyncClient) -> None:
    box = await source(root_client)
    old = await make(root_client, box["id"], pool_size=1)
    answer = await root_client.post("/v1/templates/web/aliases", json={"name": "stable"})
    assert answer.status_code == 200, answer.text
    [before] = await full(bay, 1)
    await make(root_client, box["id"])
    await bay.bay.pool.tend()
    assert (await shown(root_client, "stable"))["pool_size"] == 1
    made = await create(root_client, template="stable")
    assert (made["id"], made["image_id"]) == (before.id, old["image_id"])
    await full(bay, 1)
    answer = await root_client.post("/v1/templates/web/aliases", json={"name": "stable"})
    assert answer.status_code == 200, answer.text
    await full(bay, 0)


async def test_a_template_that_only_its_pool_uses_can_be_deleted(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    box = await source(root_client)
    made = await make(root_client, box["id"], pool_size=2)
    await full(bay, 2)
    user = await create(root_client, template="web")
    error = assert_error(await root_client.delete("/v1/templates/web"), 409, "conflict")
    assert error["details"]["users"] == [user["id"]]
    await full(bay, 2)
    await within(root_client.delete(f"/v1/sandboxes/{user['id']}"))
    assert (await within(root_client.delete("/v1/templates/web"))).status_code == 204
    assert await bay.sql("SELECT count(*) FROM sandboxes WHERE owner = '' AND deleted_at IS NULL") == [(0,)]
    assert not await bay.library.is_whole(made["image_id"], ())
    assert_error(await root_client.get(f"/v1/templates/{made['id']}"), 404, "not_found")
    assert (await root_client.delete(f"/v1/templates/{made['id']}")).status_code == 204


async def test_others_take_from_the_pool_of_a_shared_template_alone(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    made = await make(root_client, (await source(root_client))["id"], pool_size=1)
    await full(bay, 1)
    alice = await bay.client("alice")
    for body in ({"template": made["id"]}, {"image": made["image_id"], "profile": "machine"}):
        assert (await alice.post("/v1/sandboxes", json=body)).status_code == 404
    assert len(await waiting(bay)) == 1
    assert (await root_client.patch("/v1/templates/web", json={"shared": True})).status_code == 200
    assert await from_pool(bay, alice)
    assert_error(await alice.patch("/v1/templates/web", json={"pool_size": 9}), 403, "forbidden")
    await full(bay, 1)
    assert (await root_client.patch("/v1/templates/web", json={"shared": False})).status_code == 200
    assert (await alice.post("/v1/sandboxes", json={"template": made["id"]})).status_code == 404
    assert await from_pool(bay, root_client)


async def test_a_pool_counts_in_its_owners_quotas_as_if_it_were_full(root: Path) -> None:
    quotas: Json = {"root": {"running": 5, "memory_mb": 2048}}
    try:
        async with machines(root, owners=quotas) as bay:
            client = await bay.client("root", "admin")
            box = await source(client)
            details = assert_error(await ask(client, box["id"], pool_size=5), 429, "quota_exceeded")[
                "details"
            ]
            assert (details["quota"], details["limit"], details["used"]) == ("running", 5, 1)
            await make(client, box["id"], pool_size=2)
            await full(bay, 2)
            answer = await client.patch("/v1/templates/web", json={"pool_size": 5})
            details = assert_error(answer, 429, "quota_exceeded")["details"]
            assert (details["quota"], details["used"]) == ("running", 1)
            for _ in range(2):
                assert await from_pool(bay, client)
                await full(bay, 2)
            answer = await client.post("/v1/sandboxes", json={"template": "web"})
            details = assert_error(answer, 429, "quota_exceeded")["details"]
            assert (details["quota"], details["used"]) == ("running", 5)
            await full(bay, 2)
            assert (await client.patch("/v1/templates/web", json={"pool_size": 1})).status_code == 200
            await full(bay, 1)
            assert await from_pool(bay, client)
    finally:
        await clear(root)


async def test_a_pool_counts_in_the_quotas_of_the_key_that_asked_for_it(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    box = await source(root_client)
    body = {"name": "k", "owner": "root", "quotas": {"cpus": 3}}
    key = (await root_client.post("/v1/keys", json=body)).json()["secret"]
    tight = await bay.open_client({"Authorization": f"Bearer {key}"})
    details = assert_error(await ask(tight, box["id"], pool_size=4), 429, "quota_exceeded")["details"]
    assert (details["quota"], details["of"], details["used"]) == ("cpus", "key", 0)
    await make(tight, box["id"], pool_size=3)
    answer = await tight.post("/v1/sandboxes", json={"template": "web"})
    assert assert_error(answer, 429, "quota_exceeded")["details"]["used"] == 3
    assert (await root_client.patch("/v1/templates/web", json={"pool_size": 10})).status_code == 200
    assert (await tight.post("/v1/sandboxes", json={"template": "web"})).status_code == 201


async def test_a_pool_is_bounded_and_refused_where_it_would_be_of_no_use(root: Path) -> None:
    inject: Json = {"header": "X-Key", "secret": "token"}
    header: Json = {"action": "allow", "domain": "example.com", "inject": inject}
    policy: Json = {"mode": "allowlist", "rules": [header]}
    profiles: Json = {**PROFILES, "keyed": {"persist": "machine", "network_policy": policy}}
    try:
        async with machines(root, profiles=profiles) as bay:
            client = await bay.client("root", "admin")
            box = await source(client)
            for wrong in (
                {"pool_size": -1},
                {"pool_size": 101},
                {"pool_max": 101},
                {"pool_size": 2, "pool_max": 1},
            ):
                answer = await ask(client, box["id"], **wrong)
                assert_error(answer, 422, "validation_error")
            answer = await ask(client, box["id"], pool_size=1, profile="keyed")
            assert "belongs to nobody" in assert_error(answer, 409, "conflict")["message"]
            old = await make(client, box["id"])
            await make(client, box["id"])
            answer = await client.patch(f"/v1/templates/{old['id']}", json={"pool_size": 1})
            assert answer.status_code in (404, 409)  # it may have gone already
    finally:
        await clear(root)


async def test_a_host_short_of_memory_gives_up_what_waits_and_leaves_room_for_one_at_work(root: Path) -> None:
    reserve, memory = 512 << 20, [1 << 40]
    try:
        async with machines(root, available_memory=lambda: memory[0]) as bay:
            client = await bay.client("root", "admin")
            await make(client, (await source(client))["id"], pool_size=2)
            await full(bay, 2)
            memory[0] = 0
            for left in (1, 0):
                await bay.bay.sweep.sweep()
                await full(bay, left)
            memory[0] = reserve + (256 << 20) - 1
            await bay.bay.sweep.sweep()
            await bay.bay.pool.tend()
            assert await waiting(bay) == []
            memory[0] = 1 << 40
            await bay.bay.sweep.sweep()
            await full(bay, 2)
    finally:
        await clear(root)


async def test_the_owner_sees_what_keeps_the_pool_from_being_full(
    bay: World, root_client: httpx.AsyncClient
) -> None:
    box = await source(root_client)
    bay.driver.fail_at = "launch"
    await make(root_client, box["id"], pool_size=1)

    async def has_failed() -> bool:
        bay.bay.pool.poke()
        return "told to fail" in ((await shown(root_client))["pool_error"] or "")

    await eventually(has_failed)
    bay.driver.fail_at = None
    bay.clock.advance(61)
    await seen(bay, root_client, 1)

    async def is_forgiven() -> bool:
        bay.bay.pool.poke()
        return (await shown(root_client))["pool_error"] is None

    await eventually(is_forgiven)


async def test_the_files_of_a_pool_count_and_it_does_not_grow_beyond_the_quota(root: Path) -> None:
    try:
        async with machines(root, owners={"root": {"disk_mb": 2}}) as bay:
            client = await bay.client("root", "admin")
            await make(client, (await source(client))["id"], pool_size=1)
            [waits] = await full(bay, 1)
            async with bay.bay.store.write() as db:
                await cargos.change(db, waits.cargo_id, used_bytes=2 << 20)
            answer = await client.post("/v1/sandboxes", json={"template": "web"})
            assert assert_error(answer, 429, "quota_exceeded")["details"]["quota"] == "disk_mb"
            assert (await client.patch("/v1/templates/web", json={"pool_size": 2})).status_code == 200

            async def is_told() -> bool:
                bay.bay.pool.poke()
                return "MiB of files" in ((await shown(client))["pool_error"] or "")

            await eventually(is_told)
            assert len(await waiting(bay)) == 1
    finally:
        await clear(root)
