"""Quotas: what a key and an owner may use at once, however many calls come at once, and after a
restart too.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, eventually, shell, world

from bay.cargo.base import DiskUsage, Weight
from bay.cargo.disk_usage import weigh
from bay.store import cargos

pytestmark = pytest.mark.anyio

PROFILES: Json = {
    "python-default": {"start": "lazy", "cpus": 0.5, "memory_mb": 256},
    "eager": {"start": "eager", "cpus": 2, "memory_mb": 512},
}


async def keyed(bay: World, **body: object) -> httpx.AsyncClient:
    """A client of alice's with a key made by the API."""
    admin = await bay.client("root", "admin")
    key = (await admin.post("/v1/keys", json={"name": "k", "owner": "alice", **body})).json()
    return await bay.open_client({"Authorization": f"Bearer {key['secret']}"})


def refused(answer: httpx.Response, quota: str, limit: float, used: float, of: str) -> Json:
    error = assert_error(answer, 429, "quota_exceeded")
    details = error["details"]
    assert (details["quota"], details["limit"], details["used"], details["of"]) == (quota, limit, used, of)
    assert int(answer.headers["retry-after"]) * 1000 == details["retry_after_ms"]
    assert error["retryable"] is True
    return error


async def test_the_refusal_says_the_limit_and_the_way_out(root: Path) -> None:
    async with world(root, quotas={"sandboxes": 1}) as bay:
        alice = await bay.client("alice")
        await create(alice)
        error = refused(await alice.post("/v1/sandboxes"), "sandboxes", 1, 1, "owner")
        assert error["message"] == (
            "owner alice may have 1 sandboxes and has 1, which leaves no room for 1 more; "
            "delete one, or have the quota sandboxes raised"
        )
        assert [
            (await (await bay.client(o)).post("/v1/sandboxes")).status_code for o in ("bob", "carol")
        ] == [201, 201]


@pytest.mark.parametrize("limit", [0, 1, 7])
async def test_creates_that_come_at_once_never_pass_the_limit(root: Path, limit: int) -> None:
    async with world(root, quotas={"sandboxes": limit}) as bay:
        alice = await bay.client("alice")
        answers = await asyncio.gather(*(alice.post("/v1/sandboxes") for _ in range(20)))
        assert sorted(a.status_code for a in answers) == [201] * limit + [429] * (20 - limit)
        assert len((await alice.get("/v1/sandboxes")).json()["items"]) == limit


async def test_two_keys_of_one_owner_share_what_is_the_owners(root: Path) -> None:
    async with world(root, quotas={"sandboxes": 3}) as bay:
        tight, wide = await keyed(bay, quotas={"sandboxes": 1}), await keyed(bay, quotas={"sandboxes": 9})
        await create(tight)
        refused(await tight.post("/v1/sandboxes"), "sandboxes", 1, 1, "key")
        for _ in range(2):
            await create(wide)
        refused(await wide.post("/v1/sandboxes"), "sandboxes", 3, 3, "owner")


async def test_one_owner_may_have_other_quotas_than_each(root: Path) -> None:
    quotas: Json = {"sandboxes": 1, "running": 0}
    owners: Json = {"alice": {"sandboxes": 2}, "bob": {"sandboxes": "none"}}
    async with world(root, quotas=quotas, owners=owners) as bay:
        for owner, expected in (
            ("alice", [201, 201, 429]),
            ("bob", [201, 201, 201]),
            ("carol", [201, 429, 429]),
        ):
            client = await bay.client(owner)
            assert [(await client.post("/v1/sandboxes")).status_code for _ in range(3)] == expected
        refused(await client.post("/v1/sandboxes", json={"profile": "eager"}), "sandboxes", 1, 1, "owner")
        bob = await bay.client("bob")
        refused(await bob.post("/v1/sandboxes", json={"profile": "eager"}), "running", 0, 0, "owner")


async def test_what_is_deleted_makes_room_at_once(root: Path) -> None:
    async with world(root, quotas={"sandboxes": 1}) as bay:
        alice = await bay.client("alice")
        for _ in range(3):
            made = await create(alice)
            assert (await alice.delete(f"/v1/sandboxes/{made['id']}")).status_code == 204


async def test_a_repeated_create_at_the_limit_gets_the_first_ones_answer(root: Path) -> None:
    async with world(root, quotas={"sandboxes": 1, "creates_per_minute": 1}) as bay:
        alice = await bay.client("alice")
        headers = {"Idempotency-Key": "again"}
        answers = await asyncio.gather(*(alice.post("/v1/sandboxes", headers=headers) for _ in range(8)))
        assert {a.status_code for a in answers} == {201}
        assert len({a.json()["id"] for a in answers}) == 1


async def test_a_refused_create_leaves_nothing_and_its_key_may_be_used_again(root: Path) -> None:
    async with world(root, quotas={"sandboxes": 1}) as bay:
        alice = await bay.client("alice")
        made = await create(alice)
        headers = {"Idempotency-Key": "again"}
        assert_error(await alice.post("/v1/sandboxes", headers=headers), 429, "quota_exceeded")
        for table in ("sandboxes", "cargos", "claims"):
            assert await bay.sql(f"SELECT count(*) FROM {table}") == [(int(table != "claims"),)]  # noqa: S608
        await alice.delete(f"/v1/sandboxes/{made['id']}")
        assert (await alice.post("/v1/sandboxes", headers=headers)).status_code == 201


# Compute


async def test_a_sandbox_beyond_the_running_ones_is_made_but_not_woken(root: Path) -> None:
    try:
        async with world(root, quotas={"running": 1}) as bay:
            alice = await bay.client("alice")
            first, second = await create(alice), await create(alice)
            await shell(alice, first["id"], "true")
            await shell(alice, first["id"], "true")
            path = f"/v1/sandboxes/{second['id']}"
            command = {"command": "true"}
            for call, body in (("shell/exec", command), ("start", None), ("execs", command)):
                refused(await alice.post(f"{path}/{call}", json=body), "running", 1, 1, "owner")
            refused(await alice.post("/v1/sandboxes", params={"wait": 5}), "running", 1, 1, "owner")
            assert (await alice.post(f"/v1/sandboxes/{first['id']}/stop")).status_code == 200
            await shell(alice, second["id"], "true")
    finally:
        await clear(root)


async def test_wakes_that_come_at_once_never_pass_the_limit(root: Path) -> None:
    try:
        async with world(root, quotas={"running": 2}) as bay:
            alice = await bay.client("alice")
            made = [await create(alice) for _ in range(6)]
            answers = await asyncio.gather(*(alice.post(f"/v1/sandboxes/{m['id']}/start") for m in made))
            assert sorted(a.status_code for a in answers) == [200, 200, 429, 429, 429, 429]
            assert await bay.sql("SELECT count(*) FROM sandboxes WHERE target = 'running'") == [(2,)]
    finally:
        await clear(root)


async def test_a_create_that_waits_takes_its_place_before_another_can(root: Path) -> None:
    try:
        async with world(root, quotas={"running": 2}) as bay:
            alice = await bay.client("alice")
            answers = await asyncio.gather(
                *(alice.post("/v1/sandboxes", params={"wait": 15}) for _ in range(5))
            )
            assert sorted(a.status_code for a in answers) == [201, 201, 429, 429, 429]
            assert {a.json()["status"] for a in answers if a.status_code == 201} == {"ready"}
            assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 2
    finally:
        await clear(root)


@pytest.mark.parametrize(
    ("quotas", "quota", "limit", "used"),
    [({"cpus": 3}, "cpus", 3, 2.0), ({"memory_mb": 1000}, "memory_mb", 1000, 512)],
)
async def test_cores_and_memory_are_what_the_profiles_grant(
    root: Path, quotas: Json, quota: str, limit: float, used: float
) -> None:
    try:
        async with world(root, quotas=quotas, profiles=PROFILES) as bay:
            alice = await bay.client("alice")
            await create(alice, profile="eager")
            refused(await alice.post("/v1/sandboxes", json={"profile": "eager"}), quota, limit, used, "owner")
            small = await create(alice)
            await shell(alice, small["id"], "true")
    finally:
        await clear(root)


async def test_a_frozen_sandbox_holds_memory_and_no_core(root: Path) -> None:
    try:
        async with world(root, quotas={"running": 1, "memory_mb": 512}, profiles=PROFILES) as bay:
            alice = await bay.client("alice")
            first, second, third = [await create(alice) for _ in range(3)]
            for one in (first, second):
                await shell(alice, one["id"], "true")
                assert (await alice.post(f"/v1/sandboxes/{one['id']}/pause")).status_code == 200
            refused(await alice.post(f"/v1/sandboxes/{third['id']}/start"), "memory_mb", 512, 512, "owner")
            assert (await alice.post(f"/v1/sandboxes/{first['id']}/resume")).status_code == 200
            refused(await alice.post(f"/v1/sandboxes/{second['id']}/resume"), "running", 1, 1, "owner")
            await alice.post(f"/v1/sandboxes/{first['id']}/stop")
            await shell(alice, third["id"], "true")
    finally:
        await clear(root)


async def test_a_limit_that_was_lowered_stops_nothing_that_runs(root: Path) -> None:
    try:
        async with world(root) as bay:
            alice = await bay.client("alice")
            made = [await create(alice, wait=15) for _ in range(2)]
        async with world(root, quotas={"running": 1, "sandboxes": 1}) as bay:
            alice = await bay.open_client({"Authorization": alice.headers["authorization"]})
            for one in made:
                await shell(alice, one["id"], "true")
                assert (await alice.post(f"/v1/sandboxes/{one['id']}/start")).status_code == 200
            await alice.post(f"/v1/sandboxes/{made[0]['id']}/stop")
            refused(await alice.post(f"/v1/sandboxes/{made[0]['id']}/start"), "running", 1, 1, "owner")
    finally:
        await clear(root)


async def test_what_a_revoked_key_made_is_still_bound_by_its_quotas(root: Path) -> None:
    try:
        async with world(root) as bay:
            brief = await keyed(bay, quotas={"running": 1})
            made = [await create(brief) for _ in range(2)]
            admin = await bay.client("root", "admin")
            (key,) = (await admin.get("/v1/keys", params={"owner": "alice"})).json()["items"]
            await admin.delete(f"/v1/keys/{key['id']}")
            alice = await bay.client("alice")
            await shell(alice, made[0]["id"], "true")
            refused(await alice.post(f"/v1/sandboxes/{made[1]['id']}/start"), "running", 1, 1, "key")
            await shell(alice, (await create(alice))["id"], "true")
    finally:
        await clear(root)


async def test_a_restart_forgets_nothing_of_what_is_used(root: Path) -> None:
    quotas = {"sandboxes": 5, "running": 1, "creates_per_minute": 2}
    try:
        async with world(root, quotas=quotas) as bay:
            alice = await bay.client("alice")
            await create(alice, wait=15)
            idle = await create(alice)
        async with world(root, quotas=quotas) as bay:
            alice = await bay.open_client({"Authorization": alice.headers["authorization"]})
            refused(await alice.post(f"/v1/sandboxes/{idle['id']}/start"), "running", 1, 1, "owner")
            refused(await alice.post("/v1/sandboxes"), "creates_per_minute", 2, 2, "owner")
    finally:
        await clear(root)


async def test_what_waits_in_the_pool_counts_for_nobody_until_it_is_taken(root: Path) -> None:
    profiles = {"python-default": {"start": "eager", "pool_size": 2}}
    try:
        async with world(root, quotas={"running": 1}, profiles=profiles) as bay:

            async def is_full() -> bool:
                return [s.ready for s in await bay.bay.pool.state()] == [2]

            await eventually(is_full)
            alice = await bay.client("alice")
            made = await create(alice)
            assert made["compute"] == "running"
            refused(await alice.post("/v1/sandboxes"), "running", 1, 1, "owner")
            assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 1
            await create(await bay.client("bob"))
            key_id = bay.bay.keys.authenticate(alice.headers["authorization"]).key_id
            assert (await bay.record(made["id"])).key_id == key_id
    finally:
        await clear(root)


# Creates per minute


async def test_creates_per_minute_says_to_the_second_when_there_is_room(root: Path) -> None:
    async with world(root, quotas={"creates_per_minute": 2}) as bay:
        alice = await bay.client("alice")
        first = await create(alice)
        bay.clock.advance(20.5)
        await create(alice)
        await alice.delete(f"/v1/sandboxes/{first['id']}")
        answer = await alice.post("/v1/sandboxes")
        error = refused(answer, "creates_per_minute", 2, 2, "owner")
        assert answer.headers["retry-after"] == "40"
        assert "wait 40 s" in error["message"]
        bay.clock.advance(39)
        assert (await alice.post("/v1/sandboxes")).headers["retry-after"] == "1"
        bay.clock.advance(1)
        await create(alice)
        assert (await alice.post("/v1/sandboxes")).headers["retry-after"] == "20"


async def test_creates_of_no_size_are_refused_for_a_minute_at_a_time(root: Path) -> None:
    async with world(root, quotas={"creates_per_minute": 0}) as bay:
        alice = await bay.client("alice")
        assert (await alice.post("/v1/sandboxes")).headers["retry-after"] == "60"


async def test_a_clock_that_was_put_back_asks_for_a_minute_at_most(root: Path) -> None:
    async with world(root, quotas={"creates_per_minute": 1}) as bay:
        alice = await bay.client("alice")
        await create(alice)
        bay.clock.advance(-3600)
        assert (await alice.post("/v1/sandboxes")).headers["retry-after"] == "60"


# Disk


async def measured(bay: World, sandbox: Json) -> int | None:
    await bay.bay.usage.measure()
    await bay.bay.deferred.flush()
    async with bay.bay.store.read() as db:
        return (await cargos.get(db, sandbox["cargo_id"])).used_bytes


async def test_checkpoints_that_cannot_be_weighed_do_not_keep_others_from_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.server.cargos.usage._MAX_CHECKPOINTS", 2)
    async with world(root) as bay:
        alice = await bay.client("alice")
        there = f"/v1/sandboxes/{(await create(alice))['id']}/checkpoints"
        heavy = [(await alice.post(there)).json()["id"] for _ in range(2)]
        light = (await alice.post(there)).json()["id"]
        assert isinstance(bay.bay.cargo, DiskUsage)
        whole = bay.bay.cargo.weigh

        async def weigh_most(ids: Sequence[str]) -> dict[str, Weight]:
            return await whole([one for one in ids if one not in heavy])

        monkeypatch.setattr(bay.bay.cargo, "weigh", weigh_most)
        for _ in range(2):
            await bay.bay.usage.measure()
        await bay.bay.deferred.flush()
        seen = {one["id"]: one["measured_at"] for one in (await alice.get(there)).json()["items"]}
        assert seen[light] is not None
        assert [seen[one] for one in heavy] == [None, None]


async def test_files_are_measured_when_something_was_done_with_them(root: Path) -> None:
    try:
        async with world(root, quotas={"disk_mb": 3}) as bay:
            alice = await bay.client("alice")
            made = await create(alice)
            await shell(alice, made["id"], "head -c 1048576 /dev/zero > one")
            assert (await measured(bay, made) or 0) >= 1 << 20
            await create(alice)
            bay.clock.advance(100)
            await shell(alice, made["id"], "head -c 2097152 /dev/zero > two")
            assert (await measured(bay, made) or 0) >= 3 << 20
            answer = await alice.post("/v1/sandboxes")
            assert_error(answer, 429, "quota_exceeded")
            assert answer.json()["error"]["details"]["quota"] == "disk_mb"
            bay.clock.advance(100)
            await shell(alice, made["id"], "rm two")  # which its owner must be able to do
            bay.clock.advance(100)
            await alice.post(f"/v1/sandboxes/{made['id']}/stop")
            assert (await measured(bay, made) or 0) < 2 << 20
            await create(alice)
    finally:
        await clear(root)


async def test_what_nobody_touched_is_not_measured_again(root: Path) -> None:
    async with world(root) as bay:
        alice = await bay.client("alice")
        made = await create(alice)
        bay.workspace(made).mkdir(parents=True, exist_ok=True)
        bay.clock.advance(1)
        await measured(bay, made)
        (bay.workspace(made) / "x").write_bytes(bytes(1 << 20))
        bay.clock.advance(3600)
        assert (await measured(bay, made) or 0) < 1 << 20


@pytest.mark.host
async def test_a_measurement_follows_no_link_and_survives_a_deep_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "large").write_bytes(bytes(8 << 20))
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(outside)
    (inside / "large").symlink_to(outside / "large")
    (inside / "loop").symlink_to(inside)
    os.mkfifo(inside / "pipe")
    before = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    os.chdir(inside)
    try:
        for _ in range(1500):  # past any path that the kernel takes whole
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
    finally:
        os.chdir(before)
        os.close(before)
    try:
        found = await weigh([tmp_path / "nowhere", inside])
        assert list(found) == [inside]
        assert 0 < found[inside].used_bytes < 8 << 20
    finally:
        process = await asyncio.create_subprocess_exec("rm", "-rf", "--", str(inside))
        await process.wait()
