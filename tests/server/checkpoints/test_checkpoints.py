"""Checkpoints, restores and forks through the API, on real files with the directory backend."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
from lost_answers import lose_answer
from server_harness import (
    Json,
    World,
    ask_for_checkpoints,
    assert_error,
    clear,
    create,
    eventually,
    settings_in,
    shell,
    until,
    within,
    world,
)

from bay.drivers.base import Handle, Running
from bay.errors import BadRequest, BayError, Conflict, DatabaseUnavailable, DriverUnavailable, StorageFull
from bay.server.checkpoints import policy as checkpoint_policy
from bay.server.checkpoints.requests import CheckpointRequests
from bay.server.checkpoints.service import Checkpoints
from bay.server.checkpoints.storage_steps import StorageSteps
from bay.server.reconciler.reconciler import Reconciler
from bay.server.sessions.waker import Waker
from bay.store import cargos, checkpoints, sandboxes
from bay.store.records import KEPT_FAILURES, KeptFailure, SandboxRecord

pytestmark = pytest.mark.anyio

POLICY = {"every": 60, "keep_last": 2, "before_stop": True}


async def checkpoint(client: httpx.AsyncClient, sandbox: str, **body: Any) -> Json:
    """A checkpoint as the create answers it."""
    answer = await client.post(f"/v1/sandboxes/{sandbox}/checkpoints", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient, sandbox: str, **params: Any) -> list[Json]:
    """The sandbox's checkpoints, oldest first."""
    answer = await client.get(f"/v1/sandboxes/{sandbox}/checkpoints", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def restore(client: httpx.AsyncClient, sandbox: str, ref: str) -> httpx.Response:
    return await client.post(f"/v1/sandboxes/{sandbox}/checkpoints/{ref}/restore")


async def events_of(client: httpx.AsyncClient, sandbox: str) -> list[str]:
    answer = await client.get(f"/v1/sandboxes/{sandbox}/events", params={"limit": 200})
    return [item["type"].removeprefix("sandbox.") for item in answer.json()["items"]]


async def text(client: httpx.AsyncClient, sandbox: str, path: str = "n") -> str | None:
    """A file of the workspace, None when it is not there."""
    answer = await client.get(f"/v1/sandboxes/{sandbox}/filesystem/files", params={"path": path})
    return answer.json()["content"] if answer.status_code == 200 else None


async def write(client: httpx.AsyncClient, sandbox: str, content: str, path: str = "n") -> None:
    body = {"path": path, "content": content}
    answer = await client.put(f"/v1/sandboxes/{sandbox}/filesystem/files", json=body)
    assert answer.status_code == 200, answer.text


async def test_checkpoints_have_numbers_of_which_none_comes_twice(
    alice: httpx.AsyncClient, bay: World
) -> None:
    box, other = (await create(alice))["id"], (await create(alice))["id"]
    numbers = [(await checkpoint(alice, box))["number"] for _ in range(2)]
    last = await checkpoint(alice, box)
    assert (*numbers, last["number"], (await checkpoint(alice, other))["number"]) == (1, 2, 3, 1)
    assert [kept["number"] for kept in await listed(alice, box)] == [1, 2, 3]
    await alice.delete(f"/v1/sandboxes/{box}/checkpoints/{last['id']}")
    async with bay.bay.store.write() as db:
        await checkpoints.change(db, last["id"], state="gone")
        assert await checkpoints.forget(db, bay.clock() + timedelta(days=1000), 100) == 0
    assert (await checkpoint(alice, box))["number"] == 4
    async with bay.bay.store.write() as db:
        assert await checkpoints.forget(db, bay.clock() + timedelta(days=1000), 100) == 1


async def test_a_restore_brings_back_files_ends_what_runs_and_starts_again(alice: httpx.AsyncClient) -> None:
    box = (await create(alice, wait=10))["id"]
    await write(alice, box, "one")
    first = await checkpoint(alice, box, name="first", comment="before the change")
    assert (first["name"], first["comment"], first["current"], first["auto"]) == (
        "first", "before the change", True, False,
    )  # fmt: skip
    await write(alice, box, "two")
    await write(alice, box, "new", path="added")
    started = await alice.post(f"/v1/sandboxes/{box}/execs", json={"command": "sleep 100"})
    answer = await restore(alice, box, "first")
    assert answer.status_code == 200, answer.text
    assert answer.json()["checkpoint_id"] == first["id"]
    assert await text(alice, box) == "one"
    assert await text(alice, box, "added") is None
    ended = (await alice.get(f"/v1/sandboxes/{box}/execs/{started.json()['id']}")).json()
    assert (ended["state"], ended["reason"]) == ("lost", "restored")
    assert (await alice.get(f"/v1/sandboxes/{box}")).json()["status"] == "ready"
    assert (await events_of(alice, box))[-4:] == ["stopped", "restored", "starting", "ready"]


async def test_a_checkpoint_of_a_fork_is_put_back_into_what_it_was_made_of(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=10))["id"]
    await write(alice, box, "one")
    fork = (await alice.post(f"/v1/sandboxes/{box}/fork", json={})).json()["items"][0]["id"]
    await write(alice, fork, "two")
    won = await checkpoint(alice, fork, name="won")
    assert_error(await restore(alice, box, "won"), 404, "not_found")  # a name is of its own sandbox
    answer = await restore(alice, box, won["id"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["checkpoint_id"] == won["id"]
    assert await text(alice, box) == "two"
    assert (await alice.delete(f"/v1/sandboxes/{fork}")).status_code == 204
    assert await text(alice, box) == "two"
    assert (await checkpoint(alice, box))["parent_id"] is None
    await eventually(lambda: _is_gone(bay, won["id"]))


async def _is_gone(bay: World, checkpoint_id: str) -> bool:
    return checkpoint_id not in await bay.checkpoints.list_checkpoints()


async def test_another_owners_checkpoint_is_none_to_put_back(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    made = (await checkpoint(alice, (await create(alice))["id"]))["id"]
    mine = (await create(bob))["id"]
    theirs = await restore(bob, mine, made)
    random = await restore(bob, mine, unknown := "ckpt-0123456789abcdef01234567")
    assert_error(theirs, 404, "not_found")
    said = [answer.json()["error"]["message"] for answer in (theirs, random)]
    assert said[0].replace(made, "") == said[1].replace(unknown, "")


async def test_what_is_made_of_a_checkpoint_keeps_the_network_policy_of_its_source(
    alice: httpx.AsyncClient,
) -> None:
    strict: Json = {"mode": "allowlist", "rules": [{"action": "allow", "domain": "example.com"}]}
    source = (await create(alice, network_policy=strict))["id"]
    made = (await checkpoint(alice, source))["id"]
    policies = [
        (await alice.get(f"/v1/sandboxes/{one['id']}/network-policy")).json()
        for one in (
            await create(alice, from_checkpoint=made),
            await create(alice, from_checkpoint=made, network_policy={"mode": "none"}),
            await create(alice),
        )
    ]
    assert [policy["mode"] for policy in policies] == ["allowlist", "none", "open"]
    assert policies[0]["rules"][0]["domain"] == "example.com"


@pytest.mark.parametrize("end", ["restore", "stop"])
async def test_whoever_waits_for_an_exec_hears_why_it_was_lost(
    bay: World, alice: httpx.AsyncClient, end: str
) -> None:
    box = (await create(alice, wait=10))["id"]
    made = (await checkpoint(alice, box))["id"]
    started = await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["sleep", "100"]})
    call = f"/v1/sandboxes/{box}/execs/{started.json()['id']}"
    waiting = asyncio.create_task(alice.get(call, params={"wait": 60}))
    await until(lambda: bay.bay.holds.any_here(box))
    if end == "restore":
        assert (await restore(alice, box, made)).status_code == 200
    else:
        assert (await alice.post(f"/v1/sandboxes/{box}/stop")).status_code == 200
    ended = (await within(waiting)).json()
    assert ended["state"] in ("lost", "killed"), ended  # a stop lets it end by itself
    assert ended["state"] == "killed" or ended["reason"] == {"restore": "restored", "stop": "stopped"}[end]


async def test_a_cold_sandbox_is_checkpointed_and_restored_without_being_started(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice))["id"]
    made = await checkpoint(alice, box)
    answer = await restore(alice, box, made["id"])
    assert (answer.status_code, answer.json()["compute"]) == (200, "cold")
    assert await bay.owned() == set()


async def test_the_timeline_says_from_which_checkpoint_each_state_grew(alice: httpx.AsyncClient) -> None:
    box = (await create(alice))["id"]
    a, b = (await checkpoint(alice, box))["id"], (await checkpoint(alice, box))["id"]
    await restore(alice, box, a)
    c = (await checkpoint(alice, box))["id"]
    found = {item["id"]: (item["parent_id"], item["current"]) for item in await listed(alice, box)}
    assert found == {a: (None, False), b: (a, False), c: (a, True)}
    assert (await alice.delete(f"/v1/sandboxes/{box}/checkpoints/{a}")).status_code == 204
    found = {item["id"]: (item["parent_id"], item["current"]) for item in await listed(alice, box)}
    assert found == {b: (None, False), c: (None, True)}
    assert (await alice.get(f"/v1/sandboxes/{box}")).json()["checkpoint_id"] == c


async def test_a_deleted_checkpoint_is_gone_with_its_files_and_can_be_deleted_again(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice))["id"]
    made = (await checkpoint(alice, box, name="mine"))["id"]
    path = bay.checkpoint_path(made)
    assert path.is_dir()
    for _ in range(2):
        assert (await alice.delete(f"/v1/sandboxes/{box}/checkpoints/{made}")).status_code == 204
    await until(lambda: not path.exists())
    assert_error(await alice.get(f"/v1/sandboxes/{box}/checkpoints/{made}"), 404, "not_found")
    assert_error(await restore(alice, box, "mine"), 404, "not_found")
    assert (await checkpoint(alice, box, name="mine"))["name"] == "mine"


async def test_a_name_is_taken_only_once_in_a_sandbox(alice: httpx.AsyncClient) -> None:
    one, other = (await create(alice))["id"], (await create(alice))["id"]
    await checkpoint(alice, one, name="same")
    await checkpoint(alice, other, name="same")
    again = await alice.post(f"/v1/sandboxes/{one}/checkpoints", json={"name": "same"})
    assert_error(again, 409, "conflict")
    bad = await alice.post(f"/v1/sandboxes/{one}/checkpoints", json={"name": "No Name"})
    assert_error(bad, 422, "validation_error")
    assert len(await listed(alice, one)) == 1


async def test_equal_calls_with_one_idempotency_key_make_one_checkpoint(alice: httpx.AsyncClient) -> None:
    box = (await create(alice))["id"]
    path, headers = f"/v1/sandboxes/{box}/checkpoints", {"Idempotency-Key": "once"}
    answers = await asyncio.gather(*[alice.post(path, json={}, headers=headers) for _ in range(5)])
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == len(await listed(alice, box)) == 1
    other = await alice.post(path, json={"comment": "another"}, headers=headers)
    assert_error(other, 409, "conflict")


async def test_of_two_restores_at_once_one_is_refused_and_the_files_are_whole(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=10))["id"]
    names = ("a", "b")
    for name in names:
        await write(alice, box, name)
        await checkpoint(alice, box, name=name)
    answers = await asyncio.gather(*(restore(alice, box, name) for name in names * 2))
    good = [name for name, answer in zip(names * 2, answers, strict=True) if answer.status_code == 200]
    assert good
    assert {answer.status_code for answer in answers} <= {200, 409}
    record = await bay.record(box)
    assert record.restore_id is None
    async with bay.bay.store.read() as db:
        current = await checkpoints.get(db, record.checkpoint_id or "")
    assert current is not None
    assert await text(alice, box) == current.name


async def test_a_restore_that_fails_leaves_files_and_compute_as_they_were(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice, wait=10))["id"]
    made = await checkpoint(alice, box)
    await write(alice, box, "newer")
    session = (await bay.session(box)).id

    async def full(*_args: object, **_options: object) -> None:
        raise StorageFull("the pool is full; delete something")

    for step, keeps_session in (("prepare_restore", True), ("restore", False)):
        monkeypatch.setattr(bay.bay.cargo, step, full)
        assert_error(await restore(alice, box, made["id"]), 507, "storage_full")
        monkeypatch.undo()
        assert await text(alice, box) == "newer"
        assert ((await bay.session(box)).id == session) is keeps_session
        assert (await events_of(alice, box)).count("restore_failed") == 1 + (not keeps_session)
    assert (await restore(alice, box, made["id"])).status_code == 200
    assert await text(alice, box) is None


def out_once(monkeypatch: pytest.MonkeyPatch, of: Any, name: str) -> list[BaseException]:
    """The database cannot be used when that is called for the first time; empty after that."""
    as_it_is, away = getattr(of, name), list[BaseException]()
    away.append(DatabaseUnavailable("Bay's database cannot be used just now"))

    async def called(*args: Any, **options: Any) -> Any:
        if away:
            raise away.pop()
        return await as_it_is(*args, **options)

    monkeypatch.setattr(of, name, called)
    return away


async def test_an_outage_of_the_database_gives_no_checkpoint_up(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice, wait=10))["id"]
    away = out_once(monkeypatch, cargos, "get")
    made = await checkpoint(alice, box, name="kept")
    assert (away, made["name"]) == ([], "kept")


@pytest.mark.parametrize(("of", "name"), [(sandboxes, "sharing"), (cargos, "get")])
async def test_an_outage_of_the_database_gives_no_restore_up(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, of: Any, name: str
) -> None:
    box = (await create(alice, wait=10))["id"]
    made = await checkpoint(alice, box)
    await write(alice, box, "newer")
    away = out_once(monkeypatch, of, name)
    answer = await restore(alice, box, made["id"])
    assert (away, answer.status_code) == ([], 200), answer.text
    assert await text(alice, box) is None
    assert "restore_failed" not in await events_of(alice, box)


async def test_a_checkpoint_on_a_full_disk_leaves_nothing_and_what_runs_goes_on(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice, wait=10))["id"]

    async def full(*_args: object, **_options: object) -> None:
        raise StorageFull("the pool is full; delete something")

    monkeypatch.setattr(bay.bay.cargo, "checkpoint", full)
    key = {"Idempotency-Key": "again"}
    path = f"/v1/sandboxes/{box}/checkpoints"
    assert_error(await alice.post(path, json={}, headers=key), 507, "storage_full")
    assert_error(await alice.post(f"/v1/sandboxes/{box}/fork", json={}), 507, "storage_full")
    monkeypatch.undo()
    assert await listed(alice, box) == []
    assert (await shell(alice, box, "echo alive"))["output"] == "alive\n"
    assert (await alice.post(path, json={}, headers=key)).status_code == 201


FULL = StorageFull("the pool is full; delete something", details={"free_bytes": 5, "total_bytes": 7})
INVALID = BadRequest("the copy is invalid", details={"reason": "of the test"})  # shares its code with another


async def dead(*_args: object, **_options: object) -> None:
    """In place of a step that another process takes."""
    await asyncio.Event().wait()


def steps_elsewhere(bay: World) -> StorageSteps:
    """Those of another process on the same database and files, which no request of this one knows."""
    return StorageSteps(
        store=bay.bay.store,
        driver=bay.driver,
        cargo=bay.bay.cargo,
        clock=bay.clock,
        notifier=bay.bay.changes,
        discard=lambda: None,
        ship=bay.bay.ship,
    )


def assert_told(answer: httpx.Response, error: BayError) -> None:
    """The answer is `error` with all that it says."""
    assert_error(answer, error.status, error.code)
    said = answer.json()["error"]
    assert (said["message"], said["details"], said["retryable"]) == (
        error.message, error.details, error.retryable,
    )  # fmt: skip


@pytest.mark.parametrize("error", [FULL, INVALID], ids=lambda error: error.code)
async def test_all_that_wait_for_a_checkpoint_are_told_why_another_process_could_not_make_it(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: BayError
) -> None:
    box = (await create(alice))["id"]
    monkeypatch.setattr(Reconciler, "_settle", dead)
    path, key = f"/v1/sandboxes/{box}/checkpoints", {"Idempotency-Key": "once"}
    calls = [asyncio.create_task(alice.post(path, json={}, headers=key)) for _ in range(3)]
    await until(lambda: len(bay.bay.changes._waiters.get(box, ())) == 3)
    record = await bay.record(box)
    await steps_elsewhere(bay).give_up_checkpoint(record, record.checkpoint_due or "", error)
    bay.bay.waker.poke(box)
    for call in calls:
        assert_told(await within(call), error)
    monkeypatch.undo()
    bay.bay.waker.poke(box)


@pytest.mark.parametrize("error", [FULL, INVALID], ids=lambda error: error.code)
async def test_a_restore_is_told_why_another_process_could_not_do_it(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, error: BayError
) -> None:
    box = (await create(alice))["id"]
    made = (await checkpoint(alice, box))["id"]
    monkeypatch.setattr(Reconciler, "_settle", dead)
    call = asyncio.create_task(restore(alice, box, made))
    record = await bay.settled(box, lambda r: r.restore_id is not None)
    await steps_elsewhere(bay).give_up_restore(record, error)
    bay.bay.waker.poke(box)
    assert_told(await within(call), error)


async def test_a_request_that_is_repeated_after_a_restart_is_told_why_its_checkpoint_failed(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice))["id"]
    path, key = f"/v1/sandboxes/{box}/checkpoints", {"Idempotency-Key": "once"}
    monkeypatch.setattr(Reconciler, "_settle", dead)
    lost = asyncio.create_task(alice.post(path, json={}, headers=key))
    asked = (await bay.settled(box, lambda r: r.checkpoint_due is not None)).checkpoint_due
    lost.cancel()
    await _stop(bay)
    async with world(bay.root, clock=bay.clock) as second:
        client = await second.client("alice")
        again = asyncio.create_task(client.post(path, json={}, headers=key))
        await until(lambda: box in second.bay.changes._waiters)
        await second.bay.storage_steps.give_up_checkpoint(await second.record(box), asked or "", FULL)
        second.bay.waker.poke(box)
        assert_told(await within(again), FULL)
        monkeypatch.undo()
    async with world(bay.root, clock=bay.clock) as third:
        async with third.bay.store.read() as db:
            row = await checkpoints.get(db, asked or "")
        assert row is not None
        assert row.failure == KeptFailure.of(FULL, bay.clock())
        client = await third.client("alice")
        assert (await client.post(path, json={}, headers=key)).status_code == 201
    await clear(bay.root)


@dataclass
class LateWaker:
    """Wakes those who wait for a sandbox once it is let go, however long ago its row has changed."""

    waker: Waker
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def poke(self, sandbox_id: str) -> None:
        self.waker.poke(sandbox_id)

    async def wait_until(self, sandbox_id: str, *rest: Any) -> SandboxRecord | None:
        await self.go.wait()
        return await self.waker.wait_until(sandbox_id, *rest)


async def _late_restore(bay: World, box: str, checkpoint_id: str, late: LateWaker) -> asyncio.Task[None]:
    """A restore whose request hears of nothing before `late` lets it go; it is over when this returns."""
    snapshots = CheckpointRequests(
        store=bay.bay.store, waker=cast("Waker", late), discard=lambda: None, clock=bay.clock
    )
    before = await bay.record(box)
    wanted = await snapshots.find(before, checkpoint_id)
    waiting = asyncio.create_task(snapshots.restore(before, wanted))
    await bay.settled(box, lambda r: r.restore_number > before.restore_number and r.restore_id is None)
    return waiting


@pytest.mark.parametrize("failed", [(True, False), (False, True), (True, True), (False, False)])
async def test_each_of_two_restores_in_a_row_hears_of_its_own_end_however_late(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, failed: tuple[bool, bool]
) -> None:
    box = (await create(alice))["id"]
    made = (await checkpoint(alice, box))["id"]
    late, waiting = LateWaker(bay.bay.waker), list[asyncio.Task[None]]()
    for number, fails in enumerate(failed):

        async def full(*_args: object, number: int = number, **_options: object) -> None:
            raise StorageFull(f"restore {number} has no room")

        if fails:
            monkeypatch.setattr(bay.bay.cargo, "prepare_restore", full)
        waiting.append(await _late_restore(bay, box, made, late))
        monkeypatch.undo()
    late.go.set()
    ends = await within(asyncio.gather(*waiting, return_exceptions=True))
    told = [f"restore {number} has no room" if fails else None for number, fails in enumerate(failed)]
    assert [end and str(end) for end in ends] == told


async def test_a_restore_that_failed_is_over_for_its_request_while_the_next_one_goes_on(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice))["id"]
    made = (await checkpoint(alice, box))["id"]
    late = LateWaker(bay.bay.waker)

    async def full(*_args: object, **_options: object) -> None:
        raise FULL

    monkeypatch.setattr(bay.bay.cargo, "prepare_restore", full)
    first = await _late_restore(bay, box, made, late)
    monkeypatch.setattr(bay.bay.cargo, "prepare_restore", dead)
    second = asyncio.create_task(restore(alice, box, made))
    await bay.settled(box, lambda r: r.restore_id is not None)
    late.go.set()
    with pytest.raises(StorageFull, match="the pool is full"):
        await within(first)
    assert not second.done()
    second.cancel()


async def test_a_sandbox_keeps_the_failures_of_its_last_restores_alone(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice))["id"]
    made = (await checkpoint(alice, box))["id"]

    async def full(*_args: object, **_options: object) -> None:
        raise FULL

    monkeypatch.setattr(bay.bay.cargo, "prepare_restore", full)
    late = LateWaker(bay.bay.waker)
    waiting = await _late_restore(bay, box, made, late)
    for _ in range(KEPT_FAILURES):
        assert_told(await restore(alice, box, made), FULL)
    kept = (await bay.record(box)).restore_failures
    assert [failure.number for failure in kept] == list(range(2, KEPT_FAILURES + 2))
    late.go.set()
    with pytest.raises(Conflict, match="no longer knows how this restore ended"):
        await within(waiting)


async def test_forks_have_files_of_their_own_and_are_starting(bay: World, alice: httpx.AsyncClient) -> None:
    source = await create(alice, wait=10, env={"WHO": "fork"}, labels={"team": "a"}, name="source")
    await write(alice, source["id"], "shared")
    answer = await alice.post("/v1/sandboxes/source/fork", json={"count": 3, "name": "child"})
    assert answer.status_code == 201, answer.text
    forks = answer.json()["items"]
    assert [fork["name"] for fork in forks] == ["child-1", "child-2", "child-3"]
    assert {(fork["status"], fork["labels"]["team"]) for fork in forks} <= {("idle", "a"), ("starting", "a")}
    await write(alice, source["id"], "changed")
    await write(alice, forks[0]["id"], "mine")
    assert await text(alice, forks[1]["id"]) == "shared"
    assert (await shell(alice, forks[2]["id"], "cat n; echo $WHO"))["output"] == "sharedfork\n"
    assert await text(alice, source["id"]) == "changed"
    assert await listed(alice, source["id"]) == []  # what the fork was made of is shown to nobody
    for fork in forks:
        assert (await bay.record(fork["id"])).target == "running"


async def test_what_a_fork_was_made_of_goes_when_all_are_made(bay: World, alice: httpx.AsyncClient) -> None:
    source = (await create(alice))["id"]
    forks = (await alice.post(f"/v1/sandboxes/{source}/fork", json={"count": 2})).json()["items"]
    for fork in forks:
        await shell(alice, fork["id"], "true")

    async def is_gone() -> bool:
        return await bay.checkpoints.list_checkpoints() == set()

    bay.bay.discards.poke()
    async with asyncio.timeout(20):
        while not await is_gone():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_fork_of_a_checkpoint_survives_its_deletion_and_that_of_its_source(
    bay: World, alice: httpx.AsyncClient
) -> None:
    source = (await create(alice))["id"]
    await write(alice, source, "kept")
    made = (await checkpoint(alice, source, name="base"))["id"]
    body = {"checkpoint": "base"}
    fork = (await alice.post(f"/v1/sandboxes/{source}/fork", json=body)).json()["items"][0]
    lazy = await create(alice, from_checkpoint=made)  # whose files are made when they are first needed
    assert fork["checkpoint_id"] == lazy["checkpoint_id"] == made
    assert (await alice.delete(f"/v1/sandboxes/{source}/checkpoints/{made}")).status_code == 204
    assert (await alice.delete(f"/v1/sandboxes/{source}")).status_code == 204
    assert await text(alice, fork["id"]) == "kept"
    assert await text(alice, lazy["id"]) == "kept"
    assert (await alice.get(f"/v1/sandboxes/{lazy['id']}")).json()["checkpoint_id"] is None
    path = bay.checkpoint_path(made)
    await until(lambda: not path.exists())


async def test_one_idempotency_key_makes_one_set_of_forks(alice: httpx.AsyncClient) -> None:
    source = (await create(alice))["id"]
    call, headers = f"/v1/sandboxes/{source}/fork", {"Idempotency-Key": "fork-once"}
    answers = await asyncio.gather(*[alice.post(call, json={"count": 2}, headers=headers) for _ in range(3)])
    sets = {tuple(item["id"] for item in answer.json()["items"]) for answer in answers}
    assert len(sets) == 1
    assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 3


async def test_forks_live_as_long_as_their_call_says(bay: World, alice: httpx.AsyncClient) -> None:
    source = (await create(alice, ttl=50))["id"]
    call, key = f"/v1/sandboxes/{source}/fork", {"Idempotency-Key": "fork-for-a-minute"}

    async def lives(body: dict[str, Any]) -> list[float | None]:
        answer = await alice.post(call, json=body, headers=key if body.get("ttl") == "1m" else {})
        assert answer.status_code == 201, answer.text
        records = [await bay.record(fork["id"]) for fork in answer.json()["items"]]
        ends = [record.expires_at for record in records]
        return [end and (end - bay.clock()).total_seconds() for end in ends]

    assert await lives({"count": 2, "ttl": "1m"}) == [60, 60]
    assert await lives({"ttl": None}) == await lives({"ttl": 0}) == await lives({}) == [None]
    other = await alice.post(call, json={"count": 2, "ttl": 70}, headers=key)
    assert_error(other, 409, "conflict")
    assert_error(await alice.post(call, json={"ttl": -1}), 422, "validation_error")


async def test_a_taken_name_or_a_bad_count_makes_no_fork(alice: httpx.AsyncClient) -> None:
    source = (await create(alice, name="taken-2"))["id"]
    call = f"/v1/sandboxes/{source}/fork"
    assert_error(await alice.post(call, json={"count": 3, "name": "taken"}), 409, "conflict")
    for body in ({"count": 0}, {"count": 101}):
        assert_error(await alice.post(call, json=body), 422, "validation_error")
    assert_error(await alice.post(call, json={"checkpoint": "ckpt-none"}), 404, "not_found")
    assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 1


async def test_another_owners_checkpoint_is_none_to_begin_with(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    source = (await create(alice))["id"]
    made = (await checkpoint(alice, source))["id"]
    theirs = await bob.post("/v1/sandboxes", json={"from_checkpoint": made})
    random = await bob.post("/v1/sandboxes", json={"from_checkpoint": "ckpt-0123456789abcdef01234567"})
    assert_error(theirs, 404, "not_found")
    assert theirs.json()["error"]["message"].replace(made, "") == random.json()["error"]["message"].replace(
        "ckpt-0123456789abcdef01234567", ""
    )
    assert_error(await bob.post("/v1/cargos", json={"from_checkpoint": made}), 404, "not_found")
    mine = (await create(bob))["id"]
    assert_error(await restore(bob, mine, made), 404, "not_found")


async def test_a_policy_makes_checkpoints_while_there_is_activity_and_keeps_the_newest(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, checkpoint_policy=POLICY))["id"]
    await checkpoint(alice, box, name="by-hand")
    for _ in range(3):
        await shell(alice, box, "true")
        bay.clock.advance(61)
        before = len(await listed(alice, box, auto=True))
        await bay.bay.sweep.sweep()
        await bay.settled(box, lambda r: r.checkpoint_due is None)
        assert len(await listed(alice, box, auto=True)) == min(2, before + 1)
    assert [item["name"] for item in await listed(alice, box, auto=False)] == ["by-hand"]


async def test_a_policy_makes_none_of_a_sandbox_that_nobody_used(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, checkpoint_policy={"every": 60}))["id"]
    bay.clock.advance(61)
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda r: r.checkpoint_due is None)
    assert len(await listed(alice, box)) == 1  # its create was an activity
    bay.clock.advance(61)
    await bay.bay.sweep.sweep()
    assert (await bay.record(box)).checkpoint_due is None
    assert len(await listed(alice, box)) == 1


async def test_a_policy_makes_one_before_each_stop_and_can_be_taken_away(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=10, checkpoint_policy={"before_stop": True}))["id"]
    await write(alice, box, "last words")
    await alice.post(f"/v1/sandboxes/{box}/stop")
    await bay.settled(box, lambda r: r.checkpoint_due is None and r.checkpoint_id is not None)
    (only,) = await listed(alice, box, auto=True)
    path = bay.checkpoint_path(only["id"]) / "workspace" / "n"
    assert path.read_text() == "last words"
    answer = await alice.patch(f"/v1/sandboxes/{box}", json={"checkpoint_policy": None})
    assert answer.json()["checkpoint_policy"] is None
    await shell(alice, box, "true")
    await alice.post(f"/v1/sandboxes/{box}/stop")
    assert len(await listed(alice, box)) == 1


async def test_an_export_comes_back_as_a_checkpoint_of_another_sandbox(alice: httpx.AsyncClient) -> None:
    source, target = (await create(alice))["id"], (await create(alice))["id"]
    await write(alice, source, "travelled", path="dir/n")
    made = await checkpoint(alice, source, name="out", comment="to travel")
    answer = await alice.get(f"/v1/sandboxes/{source}/checkpoints/out/export")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zstd")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''out.tar.zst"
    call = f"/v1/sandboxes/{target}/checkpoints/import"
    came = await alice.post(call, content=answer.content, params={"name": "in"})
    assert came.status_code == 201, came.text
    assert (came.json()["name"], came.json()["comment"], came.json()["parent_id"]) == (
        "in",
        "to travel",
        None,
    )
    assert came.json()["id"] != made["id"]
    assert (await restore(alice, target, "in")).status_code == 200
    assert await text(alice, target, "dir/n") == "travelled"


@pytest.mark.parametrize("harm", ["cut", "flipped", "nonsense", "empty"])
async def test_an_archive_that_is_not_whole_is_refused_and_leaves_nothing(
    bay: World, alice: httpx.AsyncClient, harm: str
) -> None:
    box = (await create(alice))["id"]
    await write(alice, box, "x" * 5000)
    await checkpoint(alice, box, name="out")
    good = (await alice.get(f"/v1/sandboxes/{box}/checkpoints/out/export")).content
    bad = {
        "cut": good[:-20],
        "flipped": good[:60] + bytes([good[60] ^ 1]) + good[61:],
        "nonsense": b"x" * 99,
        "empty": b"",
    }
    there = await bay.checkpoints.list_checkpoints()
    answer = await alice.post(f"/v1/sandboxes/{box}/checkpoints/import", content=bad[harm])
    assert_error(answer, 400, "validation_error")
    assert await bay.checkpoints.list_checkpoints() == there
    assert len(await listed(alice, box)) == 1


async def test_checkpoints_go_with_their_sandbox(bay: World, alice: httpx.AsyncClient) -> None:
    box = (await create(alice))["id"]
    made = [(await checkpoint(alice, box))["id"] for _ in range(2)]
    assert (await alice.delete(f"/v1/sandboxes/{box}")).status_code == 204
    for path in map(bay.checkpoint_path, made):
        await until(lambda path=path: not path.exists())


async def test_an_expired_sandbox_is_not_checkpointed_restored_or_forked(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, ttl=5))["id"]
    made = (await checkpoint(alice, box))["id"]
    bay.clock.advance(6)
    for call in ("checkpoints", f"checkpoints/{made}/restore", "fork", "checkpoints/import"):
        assert_error(await alice.post(f"/v1/sandboxes/{box}/{call}"), 409, "sandbox_expired")


async def test_a_restart_finishes_what_was_asked_for_and_forgets_what_nobody_waits_for(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Bay that died between the wish and the act: the next one acts; a restore goes on from any step."""
    box = (await create(alice, wait=10))["id"]
    await write(alice, box, "old")
    base = await checkpoint(alice, box)
    await write(alice, box, "new")

    monkeypatch.setattr(Reconciler, "_settle", dead)
    record = await bay.record(box)
    pending = bay.bay.snapshots.make(record, _asked(bay, record))
    waiting = asyncio.create_task(pending)
    await bay.settled(box, lambda r: r.checkpoint_due is not None)
    hidden = _asked(bay, record, hidden=True)
    async with bay.bay.store.write() as db:
        await sandboxes.change(db, box, restore_id=base["id"])
        await checkpoints.add(db, hidden)
    waiting.cancel()
    root = bay.root
    monkeypatch.undo()
    await _stop(bay)
    async with world(root, clock=bay.clock) as second:
        client = await second.client("alice")
        after = await second.settled(box, lambda r: r.restore_id is None and r.checkpoint_due is None)
        assert after.checkpoint_id == base["id"]
        assert await text(client, box) == "old"
        assert len(await listed(client, box)) == 2
        async with second.bay.store.read() as db:
            found = await checkpoints.get(db, hidden.id)
        assert found is not None
        assert found.deleted_at is not None
    await clear(root)


def _asked(bay: World, record: Any, *, hidden: bool = False) -> Any:
    return checkpoint_policy.asked(record, bay.clock(), hidden=hidden)


async def _stop(bay: World) -> None:
    await within(bay.stack.aclose())


async def test_a_sandbox_that_cannot_be_thawed_at_once_is_thawed_after_all_and_has_its_checkpoint(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice, wait=10))["id"]
    thaw, times = bay.driver.resume, [0]

    async def late(handle: Any) -> None:
        times[0] += 1
        if times[0] == 1:
            raise DriverUnavailable("the freezer does not answer")
        await thaw(handle)

    monkeypatch.setattr(bay.driver, "resume", late)
    assert (await checkpoint(alice, box))["current"] is True
    handle = Handle.from_json((await bay.session(box)).handle or {})
    await eventually(lambda: _is_running(bay, handle))
    assert (await shell(alice, box, "echo on"))["output"] == "on\n"


async def _is_running(bay: World, handle: Handle) -> bool:
    return isinstance(await bay.driver.observe(handle), Running)


async def test_a_defect_while_a_checkpoint_is_made_is_told_and_does_not_keep_the_sandbox_from_anything(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice))["id"]

    async def defect(*_args: object, **_options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bay.bay.cargo, "checkpoint", defect)
    assert_error(await alice.post(f"/v1/sandboxes/{box}/checkpoints"), 500, "internal_error")
    monkeypatch.undo()
    assert (await shell(alice, box, "echo on"))["output"] == "on\n"
    assert await listed(alice, box) == []


async def test_what_waits_when_the_sandbox_expires_is_told(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = (await create(alice, ttl=5))["id"]
    made = (await checkpoint(alice, box))["id"]

    settle = Reconciler._settle
    monkeypatch.setattr(Reconciler, "_settle", dead)
    calls = [asyncio.create_task(alice.post(f"/v1/sandboxes/{box}/checkpoints"))]
    await bay.settled(box, lambda r: r.checkpoint_due is not None)
    calls.append(asyncio.create_task(restore(alice, box, made)))
    await bay.settled(box, lambda r: r.restore_id is not None)
    bay.clock.advance(6)
    monkeypatch.undo()
    await settle(bay.bay.reconciler, box)
    for call in calls:
        assert_error(await within(call), 409, "sandbox_expired")
    assert (await bay.record(box)).restore_id is None


async def test_a_policy_does_not_ask_again_while_its_last_checkpoint_is_made(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(alice, wait=10, checkpoint_policy={"every": 60})

    monkeypatch.setattr(Reconciler, "_settle", dead)
    for _ in range(3):
        bay.clock.advance(61)
        await ask_for_checkpoints(bay)
    assert await bay.sql("SELECT count(*) FROM checkpoints WHERE state = 'making'") == [(1,)]


async def test_policies_that_are_all_due_are_served_some_at_a_time_the_longest_due_first(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes: list[str] = []
    for _ in range(18):
        boxes.append((await create(alice, checkpoint_policy={"every": 60}))["id"])
        bay.clock.advance(1)

    async def due() -> list[str]:
        rows = await bay.sql("SELECT sandbox_id FROM checkpoints WHERE state = 'making' ORDER BY seq")
        return [str(row[0]) for row in rows]

    monkeypatch.setattr(Reconciler, "_settle", dead)
    bay.clock.advance(61)
    for _ in range(2):
        await ask_for_checkpoints(bay)
        assert await due() == boxes[:16]
    async with bay.bay.store.write() as db:
        for (made,) in await bay.sql("SELECT id FROM checkpoints"):
            await checkpoints.change(db, made, state="ready")
    await ask_for_checkpoints(bay)
    assert await due() == boxes[16:]


async def test_a_name_that_no_sandbox_may_have_is_no_name_of_a_fork(alice: httpx.AsyncClient) -> None:
    source = (await create(alice))["id"]
    for count, name in ((1, "No Such Name"), (1, ""), (2, "x" * 62), (1, source)):
        answer = await alice.post(f"/v1/sandboxes/{source}/fork", json={"count": count, "name": name})
        assert_error(answer, 422, "validation_error")
    assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 1


async def test_an_owner_has_four_exports_and_imports_at_once(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    box, other = (await create(alice))["id"], (await create(bob))["id"]
    await checkpoint(alice, box, name="out")
    go = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        await go.wait()
        yield b"nonsense"

    call = f"/v1/sandboxes/{box}/checkpoints/import"
    calls = [asyncio.create_task(alice.post(call, content=slow())) for _ in range(4)]
    transfers = bay.app.state.services[Checkpoints]._transfers
    await until(lambda: transfers["alice"] == 4)
    assert_error(await alice.get(f"/v1/sandboxes/{box}/checkpoints/out/export"), 429, "quota_exceeded")
    theirs = await bob.post(f"/v1/sandboxes/{other}/checkpoints/import", content=b"x")
    assert_error(theirs, 400, "validation_error")
    go.set()
    for answer in await asyncio.gather(*calls):
        assert_error(answer, 400, "validation_error")
    assert (await alice.get(f"/v1/sandboxes/{box}/checkpoints/out/export")).status_code == 200


@pytest.mark.parametrize(("committed", "then_away"), [(True, 0), (True, 1), (False, 0), (False, 1)])
async def test_an_import_whose_last_answer_is_lost_keeps_the_files_that_a_row_may_name(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, committed: bool, then_away: int
) -> None:
    box = (await create(alice, wait=10))["id"]
    await write(alice, box, "kept")
    made = await checkpoint(alice, box)
    archive = (await alice.get(f"/v1/sandboxes/{box}/checkpoints/{made['id']}/export")).content
    left = lose_answer(
        monkeypatch, bay.bay.store, checkpoints, "add", committed=committed, then_away=then_away
    )
    path = f"/v1/sandboxes/{box}/checkpoints/import"
    assert_error(await alice.post(path, content=archive), 503, "database_unavailable")
    assert left == []
    found = await listed(alice, box)
    assert len(found) == 1 + committed
    there = await bay.checkpoints.list_checkpoints()
    assert len(there) == 1 + (committed or then_away)
    await bay.bay.discards.take_over()
    assert await bay.checkpoints.list_checkpoints() == {one["id"] for one in found}
    await write(alice, box, "newer")
    assert (await restore(alice, box, found[-1]["id"])).status_code == 200
    assert await text(alice, box) == "kept"


async def test_an_import_is_refused_before_its_body_when_its_name_is_taken(alice: httpx.AsyncClient) -> None:
    box = (await create(alice))["id"]
    await checkpoint(alice, box, name="mine")
    call = f"/v1/sandboxes/{box}/checkpoints/import"
    answer = await alice.post(call, params={"name": "mine"}, content=b"not even an archive")
    assert_error(answer, 409, "conflict")


async def test_a_row_without_files_and_files_without_a_row_are_noticed_at_the_start(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice))["id"]
    lost, kept = [(await checkpoint(alice, box))["id"] for _ in range(2)]
    store = bay.checkpoints
    await store.remove_checkpoint(lost)
    await store.checkpoint((await bay.record(box)).cargo_id, "ckpt-0123456789abcdef01234567")
    await bay.bay.discards.take_over()
    assert [item["id"] for item in await listed(alice, box)] == [kept]
    assert await store.list_checkpoints() == {kept}


async def test_a_persistent_machine_is_refused_where_the_driver_has_none(root: Any) -> None:
    profiles = {"machine": {"persist": "machine", "start": "lazy"}}
    async with world(root, profiles=profiles) as bay:
        client = await bay.client()
        answer = await client.post("/v1/sandboxes", json={"profile": "machine"})
        assert_error(answer, 400, "validation_error")
        assert answer.json()["error"]["details"] == {"available": ["workspace"]}
    assert settings_in(root).profiles["eager"].persist == "workspace"


@pytest.mark.sqlite
async def test_a_sandbox_has_a_thousand_checkpoints_at_most(bay: World, alice: httpx.AsyncClient) -> None:
    box = (await create(alice))["id"]
    made = (await checkpoint(alice, box))["id"]
    async with bay.bay.store.write() as db:
        await db.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 998) INSERT INTO checkpoints"
            " (id, owner, sandbox_id, kind, auto, hidden, persist, image, state, created_at)"
            " SELECT printf('ckpt-%024x', i), owner, sandbox_id, kind, auto, hidden, persist, image, state, created_at"
            " FROM checkpoints, n WHERE id = ?", (made,),
        )  # fmt: skip
    last = (await checkpoint(alice, box))["id"]
    full = await alice.post(f"/v1/sandboxes/{box}/checkpoints", json={})
    assert "1000 checkpoints, the limit" in assert_error(full, 409, "conflict")["message"]
    assert (await alice.delete(f"/v1/sandboxes/{box}/checkpoints/{last}")).status_code == 204
    await checkpoint(alice, box)


@pytest.mark.parametrize(("given", "code"), [({"comment": "a\0b"}, 400), ({"name": "No Name"}, 422)])
async def test_an_import_is_refused_for_its_words_before_its_body_is_read(
    alice: httpx.AsyncClient, given: dict[str, str], code: int
) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield pytest.fail("it is not read")

    box = (await create(alice))["id"]
    call = f"/v1/sandboxes/{box}/checkpoints/import"
    assert_error(await alice.post(call, params=given, content=body()), code, "validation_error")
    assert await listed(alice, box) == []
