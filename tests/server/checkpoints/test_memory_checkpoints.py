"""Checkpoints with memory by the API: made, restored, forked, removed; the driver's part is a note."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from savable_world import alice, bay, box, kinds, opened, root, shown
from server_harness import (
    Json,
    World,
    assert_error,
    clear,
    create,
    eventually,
    shell,
    short_dir,
    within,
)

from bay.models import Exec
from bay.server.sessions.rows import peer_of
from bay.server.ship.connection import Peer
from bay.store import sandboxes
from bay.store.records import SessionRecord

pytestmark = pytest.mark.anyio

# Fixtures are found by their names here.
__all__ = ["alice", "bay", "box", "root"]


@pytest.fixture
def other_root() -> Generator[Path]:
    with short_dir() as directory:
        yield directory


@pytest.fixture
async def elsewhere(other_root: Path) -> AsyncGenerator[World]:
    """A Bay on a host that cannot save memory."""
    async with opened(other_root, memory=False) as found:
        yield found
    await clear(other_root)


async def post(client: httpx.AsyncClient, path: str, **body: Any) -> httpx.Response:
    return await within(client.post(f"/v1/sandboxes/{path}", json=body))


async def kept(client: httpx.AsyncClient, box: str, **body: Any) -> Json:
    answer = await post(client, f"{box}/checkpoints", memory=True, **body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def begun(bay: World, sandbox: str) -> str | None:
    """The checkpoint whose memory the present session began with."""
    return bay.driver.begun.get((await bay.session(sandbox)).id)


async def nothing_kept(bay: World) -> None:
    """Return once no checkpoint has memory on the host."""

    async def is_gone() -> bool:
        return await bay.driver.list_memories() == set()

    await eventually(is_gone)


async def test_a_checkpoint_has_the_memory_and_the_sandbox_goes_on(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    before = await bay.session(box)
    made = await kept(alice, box, name="trained")
    assert (made["kind"], made["memory_bytes"], made["name"]) == ("memory", 1 << 20, "trained")
    after = await bay.session(box)
    assert (after.id, after.phase) == (before.id, "running")
    assert (await shell(alice, box, "echo on"))["output"] == "on\n"
    plain = (await post(alice, f"{box}/checkpoints")).json()
    assert (plain["kind"], plain["memory_bytes"]) == ("files", None)


@pytest.mark.parametrize("memory", [None, True, False])
async def test_a_restore_brings_the_memory_back_unless_it_is_left_out(
    bay: World, alice: httpx.AsyncClient, box: str, memory: bool | None
) -> None:
    made = await kept(alice, box)
    answer = await post(alice, f"{box}/checkpoints/{made['id']}/restore", memory=memory)
    assert answer.status_code == 200, answer.text
    await bay.settled(box, lambda record: record.phase == "running")
    assert await begun(bay, box) == (None if memory is False else made["id"])
    await post(alice, f"{box}/stop")
    await shell(alice, box, "echo again")
    assert await begun(bay, box) is None  # a stop lets go of memory


async def test_execs_of_the_memory_are_listed_in_each_fork(
    bay: World, alice: httpx.AsyncClient, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = (await post(alice, f"{box}/execs", argv=["sleep", "1000"], labels={"a": "b"})).json()
    ship = bay.bay.ship
    listed = await ship.list_execs(peer_of_live(await bay.session(box)))

    async def as_inherited(_peer: Peer) -> list[Exec]:
        return [*listed, replace(listed[0], id="exec-\0"), replace(listed[0], id="x" * 128)]

    monkeypatch.setattr(ship, "list_execs", as_inherited)
    forks = (await post(alice, f"{box}/fork", count=2, memory=True)).json()["items"]
    for fork in forks:
        await bay.settled(fork["id"], lambda record: record.phase == "running")
        found = (await alice.get(f"/v1/sandboxes/{fork['id']}/execs")).json()["items"]
        assert [(item["id"], item["labels"]) for item in found] == [(made["id"], {"a": "b"})]
    origin = (await alice.get(f"/v1/sandboxes/{box}/execs")).json()["items"]
    assert [(item["id"], item["state"]) for item in origin] == [(made["id"], "running")]


def peer_of_live(session: SessionRecord) -> Peer:
    peer = peer_of(session)
    assert peer is not None
    return peer


async def test_forks_begin_with_the_memory_and_the_copy_goes_once_they_have(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    answer = await post(alice, f"{box}/fork", count=3, memory=True, name="try")
    assert answer.status_code == 201, answer.text
    forks = answer.json()["items"]
    assert [fork["name"] for fork in forks] == ["try-1", "try-2", "try-3"]
    origins = set[str | None]()
    tokens = {(await bay.session(box)).token}
    for fork in forks:
        await bay.settled(fork["id"], lambda record: record.phase == "running")
        origins.add(await begun(bay, fork["id"]))
        tokens.add((await bay.session(fork["id"])).token)
    assert len(origins) == 1
    assert None not in origins
    assert len(tokens) == 4
    assert (await alice.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"] == []
    await nothing_kept(bay)


async def test_the_copy_goes_when_a_fork_has_lost_its_memory(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    bay.driver.hold_at = "claim"
    await post(alice, f"{box}/fork", memory=True)
    await within(bay.driver.held.wait())
    (copy,) = await bay.driver.list_memories()
    bay.driver.lost[copy] = "CRIU cannot make it again"
    bay.driver.hold_at = None
    bay.driver.let_go.set()
    await nothing_kept(bay)


async def test_the_copy_goes_when_the_start_of_a_fork_is_stopped(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    bay.driver.hold_at = "ready"
    (fork,) = (await post(alice, f"{box}/fork", memory=True)).json()["items"]
    await within(bay.driver.held.wait())
    await post(alice, f"{fork['id']}/stop")
    bay.driver.hold_at = None
    bay.driver.let_go.set()
    await nothing_kept(bay)


async def test_a_fork_of_a_checkpoint_begins_with_its_memory(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    made = await kept(alice, box, name="trained")
    await post(alice, f"{box}/stop")
    fork = (await post(alice, f"{box}/fork", checkpoint="trained", memory=True)).json()["items"][0]
    await bay.settled(fork["id"], lambda record: record.phase == "running")
    assert await begun(bay, fork["id"]) == made["id"]
    plain = (await post(alice, f"{box}/fork", checkpoint="trained")).json()["items"][0]
    await bay.settled(plain["id"], lambda record: record.phase == "running")
    assert await begun(bay, plain["id"]) is None


async def test_memory_that_cannot_be_had_leaves_the_files_and_says_so(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    made = await kept(alice, box, name="trained")
    bay.driver.lost[made["id"]] = "this host differs from the one that saved it: kernel"
    refused = await post(alice, f"{box}/checkpoints/trained/restore")
    error = assert_error(refused, 409, "conflict")
    assert "kernel" in error["message"]
    assert "memory: false" in error["message"]
    refused = await post(alice, f"{box}/fork", checkpoint="trained", memory=True)
    assert_error(refused, 409, "conflict")
    assert (await post(alice, f"{box}/checkpoints/trained/restore", memory=False)).status_code == 200


async def test_memory_of_another_profile_is_refused_and_its_files_are_not(
    alice: httpx.AsyncClient, box: str
) -> None:
    """Its Ship would have the rights of that profile."""
    made = await kept(alice, box)
    same, other = [(await create(alice, profile=name, wait=15))["id"] for name in ("sleeps", "also")]
    assert (await post(alice, f"{same}/checkpoints/{made['id']}/restore")).status_code == 200
    error = assert_error(await post(alice, f"{other}/checkpoints/{made['id']}/restore"), 409, "conflict")
    assert "another profile" in error["message"]
    answer = await post(alice, f"{other}/checkpoints/{made['id']}/restore", memory=False)
    assert answer.status_code == 200


async def test_memory_of_another_isolation_is_refused_before_anything_ends(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    made = await kept(alice, box)
    other = (await create(alice, profile="sleeps", wait=15))["id"]
    before = await bay.session(other)
    async with bay.bay.store.write() as db:
        await sandboxes.change(db, box, isolation="gvisor")
    error = assert_error(await post(alice, f"{other}/checkpoints/{made['id']}/restore"), 409, "conflict")
    assert "another isolation" in error["message"]
    assert (await bay.session(other)).id == before.id


async def test_a_fork_whose_memory_is_lost_on_the_way_begins_with_its_files(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    made = await kept(alice, box, name="trained")
    bay.driver.hold_at = "claim"
    fork = (await post(alice, f"{box}/fork", checkpoint="trained", memory=True)).json()["items"][0]
    await within(bay.driver.held.wait())
    bay.driver.lost[made["id"]] = "CRIU cannot make it again"
    bay.driver.hold_at = None
    bay.driver.let_go.set()
    await bay.settled(fork["id"], lambda record: record.phase == "running")
    assert (await kinds(alice, fork["id"]))[-4:] == [
        "sandbox.memory_lost",
        "sandbox.stopped",
        "sandbox.starting",
        "sandbox.ready",
    ]
    assert await begun(bay, fork["id"]) is None


async def test_one_that_cannot_be_saved_is_refused_and_goes_on(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    bay.driver.unsavable[(await bay.session(box)).id] = "process 7 in it is being traced"
    for answer in (
        await post(alice, f"{box}/checkpoints", memory=True),
        await post(alice, f"{box}/fork", memory=True),
    ):
        error = assert_error(answer, 409, "conflict")
        assert "process 7" in error["message"]
    assert (await alice.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"] == []
    assert (await shell(alice, box, "echo on"))["output"] == "on\n"


async def test_a_cold_one_has_no_memory_to_save(alice: httpx.AsyncClient, box: str) -> None:
    await post(alice, f"{box}/stop")
    for path in (f"{box}/checkpoints", f"{box}/fork"):
        error = assert_error(await post(alice, path, memory=True), 409, "conflict")
        assert "cold" in error["message"]


async def test_a_profile_without_it_refuses_before_anything_is_begun(alice: httpx.AsyncClient) -> None:
    plain = (await create(alice, wait=15))["id"]
    for path in (f"{plain}/checkpoints", f"{plain}/fork"):
        error = assert_error(await post(alice, path, memory=True), 400, "capability_not_supported")
        assert "hibernate: true" in error["message"]


async def test_a_host_without_it_refuses_and_says_who_knows_more(elsewhere: World) -> None:
    client = await elsewhere.client()
    box = (await create(client, profile="sleeps", wait=15))["id"]
    answer = await post(client, f"{box}/checkpoints", memory=True)
    assert "bay doctor" in assert_error(answer, 400, "capability_not_supported")["message"]


async def test_a_policy_saves_the_memory_of_one_that_has_compute(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    policy = {"every": 60, "memory": True}
    answer = await within(alice.patch(f"/v1/sandboxes/{box}", json={"checkpoint_policy": policy}))
    assert answer.json()["checkpoint_policy"]["memory"] is True
    for expected in ("memory", "files"):
        bay.clock.advance(61)
        await shell(alice, box, "echo active")
        if expected == "files":  # it cannot be saved now: a checkpoint of files is better than none
            bay.driver.unsavable[(await bay.session(box)).id] = "traced"
        await bay.bay.sweep.sweep()
        await bay.settled(box, lambda record: record.checkpoint_due is None)
        found = (await alice.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"]
        assert found[-1]["kind"] == expected
        assert found[-1]["auto"]


async def test_a_policy_makes_none_of_one_that_hibernates_since_its_last(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    policy = {"every": 60, "memory": True}
    await within(alice.patch(f"/v1/sandboxes/{box}", json={"checkpoint_policy": policy}))
    await post(alice, f"{box}/hibernate")
    for _ in range(4):
        bay.clock.advance(61)
        await bay.bay.sweep.sweep()
        await bay.settled(box, lambda record: record.checkpoint_due is None)
    assert len((await alice.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"]) == 1


async def test_memory_of_a_policy_is_bounded_by_the_quota(other_root: Path) -> None:
    async with opened(other_root, quotas={"disk_mb": 1}) as bay:
        client = await bay.client()
        policy = {"every": 60, "memory": True}
        box = (await create(client, profile="sleeps", checkpoint_policy=policy, wait=15))["id"]
        for expected in ("memory", "files"):  # the note of the driver takes all that there is
            bay.clock.advance(61)
            await shell(client, box, "echo active")
            await bay.bay.sweep.sweep()
            await bay.settled(box, lambda record: record.checkpoint_due is None)
            found = (await client.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"]
            assert found[-1]["kind"] == expected
        answer = await post(client, f"{box}/fork", memory=True)
        assert_error(answer, 429, "quota_exceeded")
    await clear(other_root)


async def test_a_frozen_and_a_hibernated_one_are_saved_as_they_are(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    for verb, compute in (("pause", "warm"), ("hibernate", "hibernated")):
        await post(alice, f"{box}/{verb}")
        await kept(alice, box)
        assert (await shown(alice, box))["compute"] == compute


async def test_the_memory_goes_with_its_checkpoint_and_unknown_memory_at_the_next_start(
    bay: World, root: Path, alice: httpx.AsyncClient, box: str
) -> None:
    made = await kept(alice, box)
    assert await bay.driver.list_memories() == {made["id"]}
    await within(alice.delete(f"/v1/sandboxes/{box}/checkpoints/{made['id']}"))
    await bay.bay.discards.discard()
    assert await bay.driver.list_memories() == set()
    (root / "run" / ".memories" / "ckpt-stranger").touch()
    await bay.bay.discards.take_over()
    assert await bay.driver.list_memories() == set()


async def test_memory_counts_for_as_long_as_a_sandbox_is_to_begin_with_it(other_root: Path) -> None:
    async with opened(other_root, quotas={"disk_mb": 1}) as bay:
        client = await bay.client()
        box = (await create(client, profile="sleeps", wait=15))["id"]
        made = await kept(client, box)
        await post(client, f"{box}/stop")
        assert (await post(client, f"{box}/checkpoints/{made['id']}/restore")).status_code == 200
        await within(client.delete(f"/v1/sandboxes/{box}/checkpoints/{made['id']}"))
        await bay.bay.discards.discard()
        assert await bay.driver.list_memories() == {made["id"]}
        assert_error(await client.post("/v1/sandboxes", json={}), 429, "quota_exceeded")
    await clear(other_root)


async def test_memory_counts_as_files(other_root: Path) -> None:
    async with opened(other_root, quotas={"disk_mb": 1}) as bay:
        client = await bay.client()
        box = (await create(client, profile="sleeps", wait=15))["id"]
        made = await kept(client, box)
        answer = await client.post("/v1/sandboxes", json={"profile": "sleeps"})
        assert_error(answer, 429, "quota_exceeded")
        assert_error(await post(client, f"{box}/checkpoints", memory=True), 429, "quota_exceeded")
        await within(client.delete(f"/v1/sandboxes/{box}/checkpoints/{made['id']}"))
        assert (await create(client, profile="sleeps", wait=15))["id"] != box
    await clear(other_root)


async def test_calls_meanwhile_wait_and_succeed(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    bay.driver.hold_at = "save_memory"
    making = asyncio.create_task(post(alice, f"{box}/checkpoints", memory=True))
    await within(bay.driver.held.wait())
    bay.bay.ship.forget((await bay.session(box)).id)  # no idle connection
    calling = asyncio.create_task(alice.get(f"/v1/sandboxes/{box}/files/list", params={"path": "."}))
    bay.driver.hold_at = None
    bay.driver.let_go.set()
    assert (await within(making)).status_code == 201
    assert (await within(calling)).status_code == 200


async def test_a_memory_that_a_stopped_start_may_have_used_is_not_used_again(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    made = await kept(alice, box)
    bay.driver.hold_at = "ready"
    await post(alice, f"{box}/checkpoints/{made['id']}/restore")
    await within(bay.driver.held.wait())
    await post(alice, f"{box}/stop")
    bay.driver.hold_at = None
    bay.driver.let_go.set()
    await bay.settled(box, lambda record: record.session is None)
    assert (await kinds(alice, box)).count("sandbox.memory_lost") == 1
    await shell(alice, box, "echo files")
    assert await begun(bay, box) is None


async def test_a_start_that_fails_before_anything_began_keeps_the_memory_for_the_next(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    made = await kept(alice, box, name="trained")
    bay.driver.fail_at = "claim"
    fork = (await post(alice, f"{box}/fork", checkpoint="trained", memory=True)).json()["items"][0]
    await bay.settled(fork["id"], lambda record: record.session is None and record.error is not None)
    bay.driver.fail_at = None
    await shell(alice, fork["id"], "echo on")
    assert await begun(bay, fork["id"]) == made["id"]
    assert "sandbox.memory_lost" not in await kinds(alice, fork["id"])


async def test_a_fork_that_may_only_read_what_its_original_writes_has_no_memory(
    alice: httpx.AsyncClient,
) -> None:
    """A program has it open to write, and a fork has it to read alone."""
    cargo = (await alice.post("/v1/cargos", json={})).json()["id"]
    for read_only, status in ((True, 201), (False, 409)):
        volume = {"cargo": cargo, "path": "/data", "read_only": read_only}
        box = (await create(alice, profile="sleeps", wait=15, volumes=[volume]))["id"]
        answer = await post(alice, f"{box}/fork", memory=True)
        assert answer.status_code == status, answer.text
        assert (await post(alice, f"{box}/fork")).status_code == 201
        await within(alice.delete(f"/v1/sandboxes/{box}"))
    assert "other volumes" in answer.json()["error"]["message"]


async def test_memory_with_other_volumes_or_secret_files_is_refused(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    bay.driver.capabilities = replace(bay.driver.capabilities, secret_files=True)  # a claim, and no start
    made = await kept(alice, box)
    cargo = (await alice.post("/v1/cargos", json={})).json()["id"]
    await alice.put("/v1/secrets/token", json={"value": "x"})
    volume = {"cargo": cargo, "path": "/data", "read_only": True}
    cases: dict[str, dict[str, Any]] = {
        "other volumes": {"volumes": [volume]},
        "secrets as files": {"secrets": [{"name": "token", "file": "/run/secrets/token"}]},
    }
    for word, given in cases.items():
        other = await create(alice, profile="sleeps", **given)
        answer = await post(alice, f"{other['id']}/checkpoints/{made['id']}/restore")
        assert word in assert_error(answer, 409, "conflict")["message"]


async def test_memory_does_not_come_back_to_a_workspace_that_others_may_change(
    alice: httpx.AsyncClient,
) -> None:
    cargo = (await alice.post("/v1/cargos", json={})).json()["id"]
    box = (await create(alice, profile="sleeps", wait=15, cargo_id=cargo))["id"]
    made = await kept(alice, box)
    error = assert_error(await post(alice, f"{box}/checkpoints/{made['id']}/restore"), 409, "conflict")
    assert "others may change it" in error["message"]
    assert (await post(alice, f"{box}/fork", memory=True)).status_code == 201


async def test_memory_is_left_where_the_files_are_newer_than_the_database(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    """As after a backup of the database was put back: a session that it does not know has run since."""
    made = await kept(alice, box)
    await post(alice, f"{box}/stop")
    await post(alice, f"{box}/checkpoints/{made['id']}/restore")
    record = await bay.record(box)
    await bay.bay.cargo.fence(record.cargo_id, box, record.generation + 5, "sess-" + "0" * 24)
    await shell(alice, box, "echo on")
    assert await begun(bay, box) is None
    assert "sandbox.memory_lost" in await kinds(alice, box)


async def test_a_repeated_call_gets_its_checkpoint_also_of_a_sandbox_that_has_stopped(
    alice: httpx.AsyncClient, box: str
) -> None:
    headers = {"Idempotency-Key": "once"}
    path = f"/v1/sandboxes/{box}/checkpoints"
    made = await within(alice.post(path, json={"memory": True}, headers=headers))
    await post(alice, f"{box}/stop")
    again = await within(alice.post(path, json={"memory": True}, headers=headers))
    assert (again.status_code, again.json()["id"]) == (201, made.json()["id"])


async def test_an_automatic_one_has_files_alone_whatever_keeps_its_memory_from_being_saved(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    policy = {"every": 60, "memory": True}
    await within(alice.patch(f"/v1/sandboxes/{box}", json={"checkpoint_policy": policy}))
    bay.driver.fail_at = "save_memory"
    bay.clock.advance(61)
    await shell(alice, box, "echo active")
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda record: record.checkpoint_due is None)
    [found] = (await alice.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"]
    assert (found["kind"], found["auto"]) == ("files", True)


async def test_one_without_memory_has_the_files_of_its_own_moment(
    bay: World, alice: httpx.AsyncClient, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not those of the moment at which its memory was to be saved."""
    policy = {"every": 60, "memory": True}
    await within(alice.patch(f"/v1/sandboxes/{box}", json={"checkpoint_policy": policy}))
    await shell(alice, box, "echo early > early")
    [early] = (bay.root / "data/cargo").rglob("early")
    bay.driver.unsavable[(await bay.session(box)).id] = "traced"
    save = bay.driver.save_memory

    async def refused(*given: Any) -> int:
        try:
            return await save(*given)
        finally:
            early.with_name("later").touch()

    monkeypatch.setattr(bay.driver, "save_memory", refused)
    bay.clock.advance(61)
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda record: record.checkpoint_due is None)
    [found] = (await alice.get(f"/v1/sandboxes/{box}/checkpoints")).json()["items"]
    early.with_name("later").unlink()
    assert (await post(alice, f"{box}/checkpoints/{found['id']}/restore")).status_code == 200
    assert (await shell(alice, box, "ls"))["output"] == "early\nlater\n"
