"""Freezing: by call and by idleness, woken by the next call, given back in the end or when
memory is short.
"""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import (
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

from bay.drivers.base import Handle, Paused, Running
from bay.drivers.fake import FakeDriver
from bay.server.execs.service import Execs
from bay.server.sessions.waker import is_frozen
from bay.store.records import SandboxRecord

pytestmark = pytest.mark.anyio


async def get(client: httpx.AsyncClient, sandbox: str) -> Json:
    answer = await client.get(f"/v1/sandboxes/{sandbox}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def post(client: httpx.AsyncClient, sandbox: str, verb: str, **params: Any) -> Json:
    answer = await client.post(f"/v1/sandboxes/{sandbox}/{verb}", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def states(shown: Json) -> tuple[str, str]:
    return shown["status"], shown["compute"]


async def observe(bay: World, sandbox: str) -> object:
    session = await bay.session(sandbox)
    assert session.handle is not None
    return type(await bay.driver.observe(Handle.from_json(session.handle)))


async def idle_out(bay: World, sandbox: str) -> SandboxRecord:
    bay.clock.advance(100)
    await bay.bay.sweep.sweep()
    return await bay.settled(sandbox, is_frozen)


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    return (await create(alice, idle_timeout=100, warm_timeout=1000, wait=15))["id"]


async def test_pause_freezes_what_runs_and_resume_lets_it_go_on(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    started = await alice.post(f"/v1/sandboxes/{box}/execs", json={"command": "read x < go; echo went"})
    assert states(await post(alice, box, "pause")) == ("ready", "warm")
    assert await observe(bay, box) is Paused
    session = (await bay.session(box)).id
    assert states(await post(alice, box, "resume")) == ("ready", "running")
    assert (await bay.session(box)).id == session
    assert await observe(bay, box) is Running
    await shell(alice, box, "mkfifo go 2>/dev/null; true")
    await alice.delete(f"/v1/sandboxes/{box}/execs/{started.json()['id']}")


async def test_pause_and_resume_are_idempotent(alice: httpx.AsyncClient, box: str) -> None:
    for _ in range(2):
        assert states(await post(alice, box, "pause")) == ("ready", "warm")
    for _ in range(2):
        assert states(await post(alice, box, "resume")) == ("ready", "running")


async def test_a_cold_sandbox_cannot_be_paused_but_resume_starts_it(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/pause")
    assert_error(answer, 409, "conflict")
    assert states(await post(alice, made["id"], "resume")) == ("ready", "running")
    await post(alice, made["id"], "stop")
    assert_error(await alice.post(f"/v1/sandboxes/{made['id']}/pause"), 409, "conflict")


@pytest.mark.parametrize("call", ["shell", "exec", "file", "list", "start"])
async def test_any_call_that_needs_compute_wakes_it(
    bay: World, alice: httpx.AsyncClient, box: str, call: str
) -> None:
    session = (await bay.session(box)).id
    await post(alice, box, "pause")
    match call:
        case "shell":
            assert (await shell(alice, box, "echo hi"))["output"] == "hi\n"
        case "exec":
            body = {"argv": ["echo", "hi"]}
            made = await alice.post(f"/v1/sandboxes/{box}/execs", params={"wait": 15}, json=body)
            assert made.json()["stdout"] == "hi\n"
        case "file":
            body = {"path": "a", "content": "b"}
            assert (await alice.put(f"/v1/sandboxes/{box}/filesystem/files", json=body)).status_code == 200
        case "list":
            answer = await alice.get(f"/v1/sandboxes/{box}/filesystem/directories")
            assert answer.status_code == 200
        case _:
            await post(alice, box, "start", wait=15)
    assert states(await get(alice, box)) == ("ready", "running")
    assert (await bay.session(box)).id == session


async def test_looking_at_it_wakes_nothing(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    made = (await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["sleep", "1000"]})).json()
    await post(alice, box, "pause")
    path = f"/v1/sandboxes/{box}"
    for looking in (path, f"{path}/execs", f"{path}/execs/{made['id']}"):
        assert (await alice.get(looking)).status_code == 200
    assert (await alice.get(f"{path}/execs/{made['id']}")).json()["state"] == "running"
    await post(alice, box, "keepalive")
    assert states(await get(alice, box)) == ("ready", "warm")


@pytest.mark.parametrize("call", ["wait", "output", "delete"])
async def test_what_only_a_frozen_ship_knows_thaws_it(
    bay: World, alice: httpx.AsyncClient, box: str, call: str
) -> None:
    path = f"/v1/sandboxes/{box}/execs"
    made = (await alice.post(path, json={"command": "echo hi; exec sleep 1000"})).json()
    await post(alice, box, "pause")
    match call:
        case "wait":
            await alice.get(f"{path}/{made['id']}", params={"wait": 0.01})
        case "output":
            assert (await alice.get(f"{path}/{made['id']}/output")).status_code == 200
        case _:
            assert (await alice.delete(f"{path}/{made['id']}")).json()["state"] == "killed"
    assert states(await get(alice, box)) == ("ready", "running")


async def test_an_idle_sandbox_is_frozen_then_given_back_and_answers_all_the_same(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await shell(alice, box, "echo kept > file")
    first = (await bay.session(box)).id
    frozen = await idle_out(bay, box)
    assert states(await get(alice, box)) == ("ready", "warm")
    assert (await shell(alice, box, "cat file"))["output"] == "kept\n"
    assert (await bay.session(box)).id == first
    await idle_out(bay, box)
    bay.clock.advance(999)
    await bay.bay.sweep.sweep()
    assert states(await get(alice, box)) == ("ready", "warm")
    bay.clock.advance(1)
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda r: r.session is None)
    shown = await get(alice, box)
    assert (*states(shown), shown["idle_expires_at"], shown["warm_expires_at"]) == (
        "idle",
        "cold",
        None,
        None,
    )
    assert (await shell(alice, box, "cat file"))["output"] == "kept\n"
    assert frozen.warm_expires_at is not None


async def test_a_warm_sandbox_without_a_warm_timeout_stays_so(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="forever", wait=15)
    await idle_out(bay, made["id"])
    bay.clock.advance(10**7)
    await bay.bay.sweep.sweep()
    assert states(await get(alice, made["id"])) == ("ready", "warm")


async def test_keepalive_pushes_the_warm_clock_of_a_frozen_sandbox(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await post(alice, box, "pause")
    bay.clock.advance(999)
    await post(alice, box, "keepalive")
    bay.clock.advance(2)
    await bay.bay.sweep.sweep()
    assert states(await get(alice, box)) == ("ready", "warm")


async def test_an_exec_without_keep_alive_is_frozen_with_its_sandbox_and_one_with_it_is_not(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    path = f"/v1/sandboxes/{box}/execs"
    body = {"argv": ["sleep", "1000"], "keep_alive": False}
    made = (await alice.post(path, json=body)).json()
    assert made["keep_alive"] is False
    await idle_out(bay, box)
    assert (await alice.get(f"{path}/{made['id']}")).json()["state"] == "running"
    waited = (await alice.get(f"{path}/{made['id']}", params={"wait": 0.01})).json()
    assert (waited["state"], waited["keep_alive"]) == ("running", False)
    await alice.post(path, json={"argv": ["sleep", "1000"]})
    bay.clock.advance(100)
    await bay.bay.sweep.sweep()
    assert states(await get(alice, box)) == ("ready", "running")


async def test_somebody_who_follows_output_keeps_a_sandbox_awake(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    path = f"/v1/sandboxes/{box}/execs"
    body = {"command": "echo hi; read x", "stdin": None, "keep_alive": False, "argv": None}
    made = (await alice.post(path, json={**body, "command": "echo hi; sleep 1000"})).json()
    caller = bay.bay.keys.authenticate(alice.headers["authorization"])
    async with bay.app.state.services[Execs].output(caller, box, made["id"], 0, follow=True) as chunks:
        await within(anext(aiter(chunks)))
        bay.clock.advance(1000)
        await bay.bay.sweep.sweep()
        assert states(await get(alice, box)) == ("ready", "running")
    await idle_out(bay, box)


async def test_a_call_that_comes_between_the_sweep_and_the_freezing_is_served(root: Path) -> None:
    """The row says paused already, the call has come before it: the freezing is called off."""
    async with world(root) as bay:
        alice = await bay.client()
        made = await create(alice, idle_timeout=100, wait=15)
        caller = bay.bay.keys.authenticate(alice.headers["authorization"])
        async with bay.bay.waker.awake(caller, made["id"], "shell"):
            bay.clock.advance(100)
            async with bay.bay.store.write() as db:  # as the sweep does when it saw nobody
                await db.exec_driver_sql("UPDATE sandboxes SET target = 'paused'")
            bay.bay.reconciler.queue.put(made["id"])
            await bay.settled(made["id"], lambda r: r.target == "running")
            assert await observe(bay, made["id"]) is Running
        assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"
    await clear(root)


async def test_a_call_that_comes_while_it_is_being_frozen_is_served(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="pause")
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, wait=15)
        pausing = asyncio.create_task(alice.post(f"/v1/sandboxes/{made['id']}/pause"))
        await within(driver.held.wait())
        call = asyncio.create_task(shell(alice, made["id"], "echo hi"))
        await bay.settled(made["id"], lambda r: r.target == "running")
        driver.let_go.set()
        assert (await within(call))["output"] == "hi\n"
        assert (await within(pausing)).status_code in (200, 409)  # frozen for a moment, or not at all
    await clear(root)


async def test_a_pause_is_answered_when_the_host_has_frozen_it_and_not_before(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="pause")
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, wait=15)
        pausing = asyncio.create_task(alice.post(f"/v1/sandboxes/{made['id']}/pause"))
        await within(driver.held.wait())
        await bay.settled(made["id"], is_frozen)
        for name in ("one", "two", "three"):  # those who wait for its row look again at each change
            await alice.patch(f"/v1/sandboxes/{made['id']}", json={"name": name})
        assert not pausing.done()
        driver.let_go.set()
        assert states((await within(pausing)).json()) == ("ready", "warm")
        assert await observe(bay, made["id"]) is Paused
    await clear(root)


async def test_stop_and_delete_turn_a_freezing_round(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="pause")
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, wait=15)
        pausing = asyncio.create_task(alice.post(f"/v1/sandboxes/{made['id']}/pause"))
        await within(driver.held.wait())
        deleting = asyncio.create_task(alice.delete(f"/v1/sandboxes/{made['id']}"))
        await bay.settled(made["id"], lambda r: r.target == "deleted")
        driver.let_go.set()
        assert (await within(deleting)).status_code == 204
        assert (await within(pausing)).status_code in (200, 404)
        assert await bay.owned() == set()
    await clear(root)


@pytest.mark.parametrize("verb", ["stop", "delete"])
async def test_a_frozen_sandbox_is_stopped_and_deleted_like_any_other(
    bay: World, alice: httpx.AsyncClient, box: str, verb: str
) -> None:
    await post(alice, box, "pause")
    if verb == "stop":
        await post(alice, box, "stop")
        assert states(await get(alice, box)) == ("idle", "cold")
    else:
        assert (await alice.delete(f"/v1/sandboxes/{box}")).status_code == 204
    assert await bay.owned() == set()


async def test_a_frozen_sandbox_that_dies_is_noticed_and_comes_back_with_the_next_call(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await shell(alice, box, "echo kept > file")
    await post(alice, box, "pause")
    await bay.driver.crash((await bay.session(box)).id)
    await bay.settled(box, lambda r: r.session is None)
    shown = await get(alice, box)
    assert (*states(shown), shown["error"]["code"]) == ("failed", "cold", "session_exited")
    assert (await shell(alice, box, "cat file"))["output"] == "kept\n"


async def test_a_driver_that_cannot_freeze_leaves_it_running(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    bay.driver.fail_at = "pause"
    shown = await post(alice, box, "pause")
    assert states(shown) == ("ready", "running")
    bay.driver.fail_at = None
    assert (await shell(alice, box, "echo hi"))["output"] == "hi\n"


async def test_a_sandbox_that_cannot_be_thawed_is_started_anew_by_the_next_call(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await shell(alice, box, "echo kept > file")
    await post(alice, box, "pause")
    bay.driver.fail_at = "resume"
    answer = await alice.post(f"/v1/sandboxes/{box}/shell/exec", json={"command": "true"})
    assert_error(answer, 503, "session_not_ready")
    shown = await get(alice, box)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "session_unreachable")
    bay.driver.fail_at = None
    assert (await shell(alice, box, "cat file"))["output"] == "kept\n"


async def test_a_sandbox_of_which_nothing_is_known_is_not_ended_by_a_call_that_would_thaw_it(
    root: Path,
) -> None:
    async with world(root, start_timeout=1) as bay:
        alice = await bay.client()
        box = (await create(alice, wait=15))["id"]
        await shell(alice, box, "echo kept > /tmp/of-this-session")
        await post(alice, box, "pause")
        session = await bay.session(box)
        bay.driver.refuse = True
        answer = await alice.post(f"/v1/sandboxes/{box}/shell/exec", json={"command": "true"})
        assert "told to refuse" in assert_error(answer, 503, "session_not_ready")["message"]
        bay.driver.refuse = False
        await bay.settled(box, lambda r: r.error is None)
        assert (await shell(alice, box, "cat /tmp/of-this-session"))["output"] == "kept\n"
        assert (await bay.session(box)).id == session.id
    await clear(root)


async def test_where_nothing_can_be_frozen_idle_means_cold_and_pause_says_so(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run")
    driver.capabilities = replace(driver.capabilities, pause=None)
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, idle_timeout=100, wait=15)
        answer = await alice.post(f"/v1/sandboxes/{made['id']}/pause")
        assert_error(answer, 400, "capability_not_supported")
        bay.clock.advance(100)
        await bay.bay.sweep.sweep()
        await bay.settled(made["id"], lambda r: r.session is None)
    await clear(root)


@pytest.mark.parametrize("told", [False, True])
async def test_a_bay_that_dies_while_freezing_leaves_a_sandbox_that_answers(root: Path, told: bool) -> None:
    """Killed after the host froze it, before or after its row was told: the next Bay serves it."""
    async with world(root) as bay:
        made = await create(await bay.client(), wait=15)
        session = await bay.session(made["id"])
        assert session.handle is not None
        await bay.driver.pause(Handle.from_json(session.handle))
        if told:
            async with bay.bay.store.write() as db:
                await db.exec_driver_sql("UPDATE sessions SET phase = 'paused'")
                await db.exec_driver_sql("UPDATE sandboxes SET target = 'paused'")
    async with world(root) as bay:
        alice = await bay.client()
        assert (await within(shell(alice, made["id"], "echo hi")))["output"] == "hi\n"
        assert (await bay.session(made["id"])).id == session.id
    await clear(root)


async def test_changed_timeouts_count_from_now(bay: World, alice: httpx.AsyncClient, box: str) -> None:
    path = f"/v1/sandboxes/{box}"
    bay.clock.advance(50)
    shown = (await alice.patch(path, json={"idle_timeout": 10})).json()
    assert (shown["idle_timeout"], shown["idle_expires_at"]) == (10, "2030-01-01T00:01:00.000000Z")
    shown = (
        await alice.patch(path, json={"idle_timeout": None, "name": "mine", "labels": {"a": "b"}})
    ).json()
    assert (shown["idle_expires_at"], shown["name"], shown["labels"]) == (None, "mine", {"a": "b"})
    await post(alice, "mine", "pause")
    shown = (await alice.patch("/v1/sandboxes/mine", json={"warm_timeout": 5})).json()
    assert shown["warm_expires_at"] == "2030-01-01T00:00:55.000000Z"
    assert (await alice.patch(path, json={})).json() == shown


async def test_a_change_to_a_name_that_is_taken_or_wrong_is_refused(
    alice: httpx.AsyncClient, box: str
) -> None:
    await create(alice, name="taken")
    assert_error(await alice.patch(f"/v1/sandboxes/{box}", json={"name": "taken"}), 409, "conflict")
    assert_error(await alice.patch(f"/v1/sandboxes/{box}", json={"name": "No"}), 422, "validation_error")


async def test_a_host_short_of_memory_takes_the_longest_idle_first(root: Path) -> None:
    memory = [10**9]
    async with world(root, available_memory=lambda: memory[0], memory_reserve_mb=100) as bay:
        alice = await bay.client()
        boxes: list[str] = []
        for _ in range(3):
            boxes.append((await create(alice, wait=15))["id"])
            bay.clock.advance(10)
        for box in boxes[:2]:
            await post(alice, box, "pause")
        await bay.bay.sweep.sweep()
        assert [(await get(alice, b))["compute"] for b in boxes] == ["warm", "warm", "running"]
        memory[0] = 1
        for gone in (1, 2, 2):  # the one that runs is never taken
            await bay.bay.sweep.sweep()
            await bay.settled(boxes[gone - 1], lambda r: r.session is None)
            computes = [(await get(alice, b))["compute"] for b in boxes]
            assert computes == ["cold"] * gone + ["warm"] * (2 - gone) + ["running"]
    await clear(root)


async def test_a_sandbox_frozen_behind_bays_back_is_thawed_by_the_call_that_waits(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    session = await bay.session(box)
    assert session.handle is not None
    await bay.driver.pause(Handle.from_json(session.handle))
    call = asyncio.create_task(shell(alice, box, "echo hi"))
    await until(lambda: bay.bay.ship.busy(session.id))
    bay.bay.reconciler.request_probe(box)
    assert (await within(call))["output"] == "hi\n"


async def test_a_bay_that_dies_between_the_row_and_the_freezing_freezes_it_after_its_restart(
    root: Path,
) -> None:
    async with world(root) as bay:
        made = await create(await bay.client(), wait=15)
        async with bay.bay.store.write() as db:
            await db.exec_driver_sql("UPDATE sessions SET phase = 'paused'")
            await db.exec_driver_sql("UPDATE sandboxes SET target = 'paused'")
    async with world(root) as bay:
        alice = await bay.client()
        await bay.settled(made["id"], is_frozen)

        async def is_really_frozen() -> bool:
            return await observe(bay, made["id"]) is Paused

        await eventually(is_really_frozen)
        assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"
    await clear(root)


async def test_a_sandbox_that_is_started_while_it_still_stops_keeps_its_idle_clock(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="destroy")
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, idle_timeout=100, wait=15)
        stopping = asyncio.create_task(alice.post(f"/v1/sandboxes/{made['id']}/stop"))
        await within(driver.held.wait())
        starting = asyncio.create_task(post(alice, made["id"], "start", wait=15))
        await bay.settled(made["id"], lambda r: r.target == "running")
        driver.let_go.set()
        assert (await within(stopping)).status_code == 200
        await within(starting)
        assert (await get(alice, made["id"]))["idle_expires_at"] == "2030-01-01T00:01:40.000000Z"
    await clear(root)


async def test_a_stop_or_delete_after_a_failed_start_succeeds(bay: World, alice: httpx.AsyncClient) -> None:
    bay.driver.fail_at = "launch"
    made = await create(alice, wait=15)
    assert made["status"] == "failed"
    assert (await alice.post(f"/v1/sandboxes/{made['id']}/stop")).status_code == 200
    assert (await alice.delete(f"/v1/sandboxes/{made['id']}")).status_code == 204


async def test_a_pause_while_a_call_is_under_way_is_refused_and_says_why(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    call = asyncio.create_task(shell(alice, box, "mkfifo go; cat go"))
    await until((bay.workspace(await get(alice, box)) / "go").exists)
    answer = await within(alice.post(f"/v1/sandboxes/{box}/pause"))
    assert "are in progress" in assert_error(answer, 409, "conflict")["message"]
    assert states(await get(alice, box)) == ("ready", "running")
    (bay.workspace(await get(alice, box)) / "go").write_text("went\n")
    assert (await within(call))["output"] == "went\n"


async def test_a_pause_while_somebody_follows_output_freezes_and_the_follower_goes_on_after_it(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    body = {"command": "echo one; until [ -e go ]; do sleep 0.01; done; echo two"}
    made = (await alice.post(f"/v1/sandboxes/{box}/execs", json=body)).json()
    caller = bay.bay.keys.authenticate(alice.headers["authorization"])
    async with bay.app.state.services[Execs].output(caller, box, made["id"], 0, follow=True) as chunks:
        follower = aiter(chunks)
        assert (await within(anext(follower))).data == b"one\n"
        assert states(await post(alice, box, "pause")) == ("ready", "warm")
        (bay.workspace(await get(alice, box)) / "go").touch()
        await post(alice, box, "resume")
        assert (await within(anext(follower))).data == b"two\n"


async def test_a_sandbox_that_is_only_about_to_start_is_paused_once_it_has(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="eager")
    assert states(await post(alice, made["id"], "pause")) == ("ready", "warm")
    assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"


async def test_a_sandbox_whose_freezing_and_start_meet_keeps_its_idle_clock(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="pause")
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, idle_timeout=100, wait=15)
        pausing = asyncio.create_task(alice.post(f"/v1/sandboxes/{made['id']}/pause"))
        await within(driver.held.wait())
        starting = asyncio.create_task(post(alice, made["id"], "start", wait=15))
        await bay.settled(made["id"], lambda r: r.target == "running")
        driver.let_go.set()
        await within(starting)
        await within(pausing)
        assert (await get(alice, made["id"]))["idle_expires_at"] == "2030-01-01T00:01:40.000000Z"
    await clear(root)


async def test_a_warm_timeout_of_0_takes_a_frozen_sandbox_at_once(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    await post(alice, box, "pause")
    await alice.patch(f"/v1/sandboxes/{box}", json={"warm_timeout": 0})
    await bay.bay.sweep.sweep()
    await bay.settled(box, lambda r: r.session is None)


async def test_a_timeout_that_is_changed_during_a_call_counts_from_its_end(
    bay: World, alice: httpx.AsyncClient, box: str
) -> None:
    caller = bay.bay.keys.authenticate(alice.headers["authorization"])
    async with bay.bay.waker.awake(caller, box, "shell"):
        bay.clock.advance(50)
        await alice.patch(f"/v1/sandboxes/{box}", json={"idle_timeout": 10})
    assert (await get(alice, box))["idle_expires_at"] == "2030-01-01T00:01:00.000000Z"
