"""Started sandboxes that wait for a create."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import (
    PROFILES,
    WAIT_S,
    Json,
    World,
    assert_error,
    clear,
    create,
    eventually,
    shell,
    until,
    within,
    world,
)

from bay.clock import ManualClock
from bay.drivers.fake import FakeDriver
from bay.errors import StorageFull
from bay.models import Profile
from bay.server.sandboxes.pool_kinds import PoolKind, fingerprint_of
from bay.server.settings import ProfileSettings
from bay.store import events, sandboxes
from bay.store.records import NOBODY, SandboxRecord

pytestmark = pytest.mark.anyio


def pooled(size: int, **given: Any) -> dict[str, ProfileSettings]:
    return {**PROFILES, "pooled": ProfileSettings.model_validate({"pool_size": size, **given})}


async def get(client: httpx.AsyncClient, sandbox: str) -> Json:
    return (await client.get(f"/v1/sandboxes/{sandbox}")).json()


async def waiting(bay: World) -> list[SandboxRecord]:
    """What waits in the pool and runs."""
    async with bay.bay.store.read() as db:
        found = await sandboxes.pooled(db)
    return [
        r for r in found if r.session is not None and r.session.phase == "running" and r.target == "running"
    ]


async def full(bay: World, size: int) -> list[SandboxRecord]:
    async def is_full() -> bool:
        return len(await waiting(bay)) == size

    await eventually(is_full)
    return await waiting(bay)


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=pooled(2)) as running:
            await full(running, 2)
            yield running
    finally:
        await clear(root)


async def state(bay: World) -> Json:
    admin = await bay.client("root", "admin")
    answer = await admin.get("/v1/admin/pool")
    assert answer.status_code == 200, answer.text
    return answer.json()["items"][0]


async def test_a_create_takes_what_waits_and_another_takes_its_place(bay: World) -> None:
    alice = await bay.client()
    before = {r.id: r for r in await waiting(bay)}
    first = min(before.values(), key=lambda r: r.seq)
    made = await create(
        alice,
        profile="pooled",
        name="mine",
        labels={"a": "b"},
        env={"FROM_CREATE": "x"},
        ttl=50,
        idle_timeout=7,
    )
    assert (made["id"], made["status"], made["compute"]) == (first.id, "ready", "running")
    assert (made["name"], made["labels"], made["idle_timeout"]) == ("mine", {"a": "b"}, 7)
    assert made["expires_at"] == "2030-01-01T00:00:50.000000Z"
    assert first.session is not None
    assert (await bay.session(made["id"])).id == first.session.id
    assert (await shell(alice, "mine", "echo $FROM_CREATE"))["output"] == "x\n"
    after = await full(bay, 2)
    assert made["id"] not in {r.id for r in after}


async def test_what_waits_is_shown_to_nobody(bay: World) -> None:
    admin = await bay.client("root", "admin")
    for sandbox in await waiting(bay):
        assert sandbox.owner == NOBODY
        assert (await admin.get(f"/v1/sandboxes/{sandbox.id}")).status_code == 404
        assert (await admin.delete(f"/v1/sandboxes/{sandbox.id}")).status_code == 404
    assert (await admin.get("/v1/sandboxes")).json()["items"] == []


async def test_many_creates_at_once_share_no_sandbox(bay: World) -> None:
    alice = await bay.client()
    made = await asyncio.gather(*(create(alice, profile="pooled", wait=WAIT_S) for _ in range(8)))
    assert {m["status"] for m in made} == {"ready"}
    assert len({m["id"] for m in made}) == len({m["cargo_id"] for m in made}) == 8
    sessions = [(await bay.session(m["id"])).id for m in made]
    assert len(set(sessions)) == 8


async def test_a_claimed_sandbox_comes_last_in_the_lists(bay: World) -> None:
    alice = await bay.client()
    plain = await create(alice)
    taken = await create(alice, profile="pooled")
    later = await create(alice)
    listed = (await alice.get("/v1/sandboxes")).json()["items"]
    assert [i["id"] for i in listed] == [plain["id"], taken["id"], later["id"]]


async def test_a_name_that_is_taken_leaves_the_pool_as_it_was(bay: World) -> None:
    alice = await bay.client()
    await create(alice, name="box")
    before = {r.id for r in await waiting(bay)}
    assert_error(
        await alice.post("/v1/sandboxes", json={"profile": "pooled", "name": "box"}), 409, "conflict"
    )
    assert {r.id for r in await waiting(bay)} == before


async def test_one_key_takes_one(bay: World) -> None:
    alice = await bay.client()

    def call() -> Coroutine[Any, Any, httpx.Response]:
        return alice.post("/v1/sandboxes", json={"profile": "pooled"}, headers={"Idempotency-Key": "k"})

    answers = await asyncio.gather(*(call() for _ in range(5)))
    assert len({a.text for a in answers}) == 1
    assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 1


async def test_what_the_pool_does_not_hold_is_started_as_ever(bay: World) -> None:
    alice = await bay.client()
    made = await asyncio.gather(*(create(alice, profile="pooled") for _ in range(3)))
    statuses = sorted(m["compute"] for m in made)
    assert statuses[0] == "cold"
    for m in made:
        assert (await shell(alice, m["id"], "echo hi"))["output"] == "hi\n"


async def test_the_pool_is_seen_by_admins_alone(bay: World) -> None:
    assert_error(await (await bay.client()).get("/v1/admin/pool"), 403, "forbidden")
    shown = await state(bay)
    assert (shown["profile"], shown["size"], shown["ready"], shown["starting"]) == ("pooled", 2, 2, 0)
    assert (shown["hits"], shown["failures"], shown["last_error"]) == (0, 0, None)


async def test_what_waits_too_long_is_replaced_one_by_one(bay: World) -> None:
    old = {r.id for r in await waiting(bay)}
    bay.clock.advance(3601)
    await bay.bay.pool.tend()

    async def is_renewed() -> bool:
        await bay.bay.pool.tend()
        return not old & {r.id for r in await full(bay, 2)}

    await eventually(is_renewed)


async def test_one_that_dies_in_the_pool_is_replaced(bay: World) -> None:
    dead = (await waiting(bay))[0]
    assert dead.session is not None
    await bay.driver.crash(dead.session.id)

    async def is_replaced() -> bool:
        bay.clock.advance(10)
        bay.bay.pool.poke()
        found = {r.id for r in await waiting(bay)}
        return len(found) == 2 and dead.id not in found

    await eventually(is_replaced)


async def test_a_host_that_starts_nothing_is_asked_less_and_less_often(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", fail_at="launch")
    clock = ManualClock()
    async with world(root, driver, clock=clock, profiles=pooled(3)) as bay:
        waits: list[float] = []
        for failures in range(1, 5):

            async def has_failed(times: int = failures) -> bool:
                bay.bay.pool.poke()
                return (await state(bay))["failures"] == times

            await eventually(has_failed)
            assert "told to fail" in (await state(bay))["last_error"]
            due = (await bay.bay.pool.state())[0].refill_at
            assert due is not None
            waits.append((due - clock()).total_seconds())
            clock.advance(waits[-1])
        assert waits == [1, 2, 4, 8]
        driver.fail_at = None
        bay.bay.pool.poke()
        await full(bay, 3)

        async def is_forgiven() -> bool:
            bay.bay.pool.poke()
            return (await state(bay))["failures"] == 0

        await eventually(is_forgiven)
    await clear(root)


async def test_a_restarted_bay_keeps_what_waits_and_drains_what_no_profile_wants(root: Path) -> None:
    async with world(root, profiles=pooled(2)) as bay:
        first = {r.id for r in await full(bay, 2)}
    async with world(root, profiles=pooled(2)) as bay:
        assert {r.id for r in await full(bay, 2)} == first
    async with world(root, profiles=pooled(2, memory_mb=2048)) as bay:

        async def is_drained() -> bool:
            return not first & {r.id for r in await waiting(bay)}

        await eventually(is_drained)
        second = {r.id for r in await full(bay, 2)}
        assert not second & first
    async with world(root, profiles=pooled(1, memory_mb=2048)) as bay:
        assert {r.id for r in await full(bay, 1)} < second
    async with world(root) as bay:
        await full(bay, 0)
        await until(lambda: len(bay.bay.reconciler.queue) == 0)
        assert await bay.owned() == set()
    await clear(root)


async def test_a_bay_that_ends_leaves_no_pool_that_follows_demand_and_keeps_what_is_claimed(
    root: Path,
) -> None:
    async with world(root, profiles=pooled(2, pool_max=3)) as bay:
        await full(bay, 2)
        made = await create(await bay.client(), profile="pooled")
        session = (await bay.session(made["id"])).id
    assert [owned.session_id async for owned in bay.driver.list_owned()] == [session]
    async with world(root) as bay:
        assert await bay.sql("SELECT id FROM sandboxes WHERE deleted_at IS NULL") == [(made["id"],)]
    await clear(root)


async def test_owned_starts_come_before_the_pool(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="launch")
    async with world(root, driver, profiles=pooled(0), start_concurrency=1) as bay:
        alice = await bay.client()
        made = [await create(alice, profile="eager") for _ in range(3)]
        await within(driver.held.wait())
        await until(lambda: bay.bay.starter.slots.urgent() > 0)
        kind = replace(PoolKind.of_profile(bay.bay.profiles["pooled"]), pool_size=1)
        bay.bay.pool._kinds[kind.fingerprint] = kind
        await bay.bay.pool.tend()
        assert await waiting(bay) == []
        driver.let_go.set()
        for m in made:
            await bay.settled(m["id"], lambda r: r.session is not None and r.session.phase == "running")
    await clear(root)


async def test_a_host_short_of_memory_gives_up_what_waits(root: Path) -> None:
    memory = [1 << 40]
    async with world(root, profiles=pooled(2), available_memory=lambda: memory[0]) as bay:
        await full(bay, 2)
        memory[0] = 0
        for left in (1, 0):
            await bay.bay.sweep.sweep()
            await full(bay, left)
        await bay.bay.pool.tend()
        assert await waiting(bay) == []
        memory[0] = 1 << 40
        await bay.bay.sweep.sweep()
        bay.bay.pool.poke()
        await full(bay, 2)
    await clear(root)


async def test_a_pool_with_a_maximum_follows_the_creates_and_shrinks_when_they_end(root: Path) -> None:
    async with world(root, profiles=pooled(1, pool_max=4)) as bay:
        await full(bay, 1)
        alice = await bay.client()
        for taken in (1, 2, 3):
            await create(alice, profile="pooled", wait=WAIT_S)
            await full(bay, taken)
        shown = await state(bay)
        assert (shown["size"], shown["ready"], shown["hits"]) == (3, 3, 3)
        bay.clock.advance(300)
        await bay.bay.pool.tend()
        assert len(await waiting(bay)) == 3
        bay.clock.advance(301)
        await bay.bay.pool.tend()
        await full(bay, 1)
        assert (await state(bay))["size"] == 1
    await clear(root)


async def test_a_create_that_comes_to_nothing_is_no_demand(root: Path) -> None:
    async with world(root, profiles=pooled(1, pool_max=4), quotas={"sandboxes": 1}) as bay:
        await full(bay, 1)
        alice = await bay.client()
        await create(alice, profile="pooled", name="one")
        await full(bay, 1)
        for _ in range(5):
            answer = await alice.post("/v1/sandboxes", json={"profile": "pooled"})
            assert_error(answer, 429, "quota_exceeded")
        shown = await state(bay)
        assert (shown["size"], shown["hits"], shown["misses"]) == (1, 1, 0)
    await clear(root)


async def test_a_pool_that_follows_the_creates_needs_the_memory_of_one_at_work(root: Path) -> None:
    memory = [(512 << 20) + (1 << 30) - 1]
    profiles = {**pooled(1, pool_max=4), "fixed": ProfileSettings.model_validate({"pool_size": 1})}
    async with world(root, profiles=profiles, available_memory=lambda: memory[0]) as bay:
        assert [r.profile for r in await full(bay, 1)] == ["fixed"]
        await bay.bay.pool.tend()
        assert len(await waiting(bay)) == 1
        memory[0] += 1
        await bay.bay.sweep.sweep()
        bay.bay.pool.poke()
        await full(bay, 2)
    await clear(root)


async def test_a_pool_takes_nothing_of_the_disks_reserve(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def is_full(_what: str) -> None:
        raise StorageFull("the disk is full; delete something")

    async with world(root, profiles=pooled(0, pool_max=2)) as bay:
        alice = await bay.client()
        made = await create(alice, profile="pooled", wait=WAIT_S)
        assert made["id"] not in {r.id for r in await full(bay, 1)}
        await create(alice, profile="pooled", wait=WAIT_S)
        await full(bay, 2)
        monkeypatch.setattr(bay.bay.cargo, "check_room", is_full)
        await bay.bay.pool.shrink()

        async def has_failed() -> bool:
            bay.bay.pool.poke()
            return (await state(bay))["last_error"] is not None

        await eventually(has_failed)
        assert "full" in (await state(bay))["last_error"]
        (left,) = await full(bay, 1)
        assert (await create(alice, profile="pooled"))["id"] == left.id
        answer = await alice.post("/v1/sandboxes", json={"profile": "pooled"})
        assert_error(answer, 507, "storage_full")
        monkeypatch.undo()
        bay.clock.advance(61)
        bay.bay.pool.poke()
        await full(bay, 2)
    await clear(root)


async def test_a_create_that_wants_something_else_leaves_the_pool_alone(bay: World) -> None:
    alice: httpx.AsyncClient = await bay.client()
    before = {r.id for r in await waiting(bay)}
    assert (await create(alice, profile="eager"))["id"] not in before
    assert {r.id for r in await waiting(bay)} == before


async def test_a_create_with_variables_leaves_a_pool_alone_whose_files_lack_them(root: Path) -> None:
    async with world(root, profiles=pooled(1, env_file=True, env={"A": "1"})) as bay:
        (before,) = await full(bay, 1)
        alice = await bay.client()
        made = await create(alice, wait=15, profile="pooled", env={"B": "2"})
        assert made["id"] != before.id
        assert (bay.workspace(made) / ".bay_env.sh").read_text() == "export A=1\nexport B=2\n"
        plain = await create(alice, profile="pooled")
        assert plain["id"] == before.id
        assert (bay.workspace(plain) / ".bay_env.sh").read_text() == "export A=1\n"
        await full(bay, 1)
    await clear(root)


def test_the_files_that_a_start_brings_are_part_of_what_a_pool_holds() -> None:
    plain = Profile(id="p")
    kinds = [
        plain,
        replace(plain, skills=True),
        replace(plain, skills=True, capabilities=("python",)),
        replace(plain, env_file=True),
        replace(plain, env_file=True, env={"A": "1"}),
    ]
    assert len({fingerprint_of(kind) for kind in kinds}) == len(kinds)
    assert fingerprint_of(replace(plain, env={"A": "1"})) == fingerprint_of(plain)


async def test_a_lazy_sandbox_from_the_pool_is_idle_until_the_first_call(root: Path) -> None:
    async with world(root, profiles=pooled(1, start="lazy")) as bay:
        (before,) = await full(bay, 1)
        alice = await bay.client()
        made = await create(alice, profile="pooled")
        assert made["id"] == before.id
        for shown in (made, await get(alice, made["id"])):
            assert (shown["status"], shown["compute"], shown["containers"]) == ("idle", "running", None)
        listed = (await alice.get("/v1/sandboxes", params={"status": "idle"})).json()["items"]
        assert [item["id"] for item in listed] == [made["id"]]

        assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"
        shown = await get(alice, made["id"])
        assert (shown["status"], shown["compute"]) == ("ready", "running")
        assert shown["containers"][0]["healthy"]
        await full(bay, 1)
    await clear(root)


async def test_the_host_name_follows_the_sandboxs_name(root: Path) -> None:
    async with world(root, profiles=pooled(1)) as bay:
        (waits,) = await full(bay, 1)
        assert waits.session is not None
        alice = await bay.client()

        async def is_named(name: str) -> None:
            await until(lambda: bay.driver.hostnames[waits.session.id] == name)  # type: ignore[union-attr]

        await is_named("sandbox")
        made = await create(alice, profile="pooled", name="web")
        assert made["id"] == waits.id
        await is_named("web")
        await alice.patch(f"/v1/sandboxes/{made['id']}", json={"name": "api"})
        await is_named("api")
        await alice.post(f"/v1/sandboxes/{made['id']}/pause")
        await alice.patch(f"/v1/sandboxes/{made['id']}", json={"name": None})
        await is_named("sandbox")
        other = await create(alice, profile="eager", name="other", wait=WAIT_S)
        assert bay.driver.hostnames[(await bay.session(other["id"])).id] == "other"
        await full(bay, 1)
    await clear(root)


async def test_a_lazy_sandbox_from_the_pool_that_is_waited_for_or_started_is_ready(root: Path) -> None:
    async with world(root, profiles=pooled(2, start="lazy")) as bay:
        await full(bay, 2)
        alice = await bay.client()
        assert (await create(alice, profile="pooled", wait=WAIT_S))["status"] == "ready"
        made = await create(alice, profile="pooled")
        started = await alice.post(f"/v1/sandboxes/{made['id']}/start")
        assert started.json()["status"] == "ready"
        await full(bay, 2)
    await clear(root)


@pytest.mark.parametrize("start", ["eager", "lazy"])
async def test_what_is_taken_from_the_pool_counts_against_the_quota(root: Path, start: str) -> None:
    async with world(root, profiles=pooled(2, start=start), quotas={"running": 1}) as bay:
        await full(bay, 2)
        alice = await bay.client()
        await create(alice, profile="pooled")
        answer = await alice.post("/v1/sandboxes", json={"profile": "pooled"})
        assert_error(answer, 429, "quota_exceeded")
        assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 1
        await full(bay, 2)
    await clear(root)


async def test_what_happens_to_a_sandbox_just_taken_is_told_to_its_owner(bay: World) -> None:
    """The reconciler has read the row before the claim, and writes its event after it."""
    before = (await waiting(bay))[0]
    made = await create(await bay.client(), profile="pooled")
    assert made["id"] == before.id
    async with bay.bay.store.write() as db:
        await events.add(db, before, "sandbox.exited", bay.clock())
    told = await bay.sql("SELECT type FROM events WHERE owner = 'alice' ORDER BY seq")
    assert [row[0] for row in told] == ["sandbox.created", "sandbox.ready", "sandbox.exited"]
