"""`/v1/sandboxes`: handles, their life, and their limits of time."""

import asyncio
import json
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, until, within, world

from bay import __version__
from bay.clock import to_rfc3339
from bay.drivers.fake import FakeDriver
from bay.errors import StorageFull
from bay.server.files.service import Files
from bay.server.sessions.waker import is_frozen
from bay.store import cargos

pytestmark = pytest.mark.anyio

FIELDS = {
    "network", "url", "ports",
    "id", "name", "status", "compute", "profile", "image", "isolation", "cargo_id", "capabilities", "labels",
    "created_at", "expires_at", "idle_timeout", "idle_expires_at", "warm_timeout", "warm_expires_at", "containers", "error",
    "persist", "checkpoint_id", "checkpoint_policy", "image_id", "secrets", "cpus", "memory_mb", "disk_mb", "pids", "volumes",
    "on_expiry", "paused_at",
}  # fmt: skip
RANDOM = "sandbox-" + "0123456789ab" * 2


async def get(client: httpx.AsyncClient, sandbox: str) -> Json:
    answer = await client.get(f"/v1/sandboxes/{sandbox}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def page(client: httpx.AsyncClient, **params: Any) -> Json:
    answer = await client.get("/v1/sandboxes", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ids(client: httpx.AsyncClient, **params: Any) -> list[str]:
    return [item["id"] for item in (await page(client, **params))["items"]]


# Create


async def test_a_create_without_a_body_gives_an_idle_sandbox_with_every_field(
    alice: httpx.AsyncClient,
) -> None:
    answer = await alice.post("/v1/sandboxes")
    assert answer.status_code == 201
    made = answer.json()
    assert set(made) == FIELDS
    assert made == {
        **dict.fromkeys(("name", "expires_at", "idle_expires_at", "warm_expires_at", "containers", "error")),
        **dict.fromkeys(("checkpoint_id", "checkpoint_policy", "image_id", "url", "paused_at")),
        "on_expiry": "delete",
        "network": "open",
        "ports": [],
        "secrets": [],
        "volumes": [],
        "persist": "workspace",
        "id": made["id"],
        "cargo_id": made["cargo_id"],
        "status": "idle",
        "compute": "cold",
        "profile": "python-default",
        "image": "host",
        "isolation": "container",
        "capabilities": ["python", "shell", "filesystem", "exec"],
        "labels": {},
        "created_at": "2030-01-01T00:00:00.000000Z",
        "idle_timeout": 1800,
        "warm_timeout": 3600,
        "cpus": 1.0,
        "memory_mb": 1024,
        "disk_mb": 10_240,
        "pids": 512,
    }
    assert made["id"].startswith("sandbox-")
    assert made["cargo_id"].startswith("ws-")
    assert len(made["id"].partition("-")[2]) == 24
    assert await get(alice, made["id"]) == made


@pytest.mark.parametrize("ttl", [None, 0])
async def test_a_ttl_of_null_or_0_means_never(alice: httpx.AsyncClient, ttl: int | None) -> None:
    assert (await create(alice, ttl=ttl))["expires_at"] is None


async def test_a_ttl_is_seconds_from_the_create(alice: httpx.AsyncClient) -> None:
    assert (await create(alice, ttl=90))["expires_at"] == "2030-01-01T00:01:30.000000Z"


async def test_a_profile_may_limit_the_life_of_sandboxes_that_do_not_say(alice: httpx.AsyncClient) -> None:
    assert (await create(alice, profile="rootless"))["expires_at"] == "2030-01-01T00:01:40.000000Z"


async def test_what_only_bay_can_judge_is_refused_before_anything_is_made(alice: httpx.AsyncClient) -> None:
    for body, status, code in [
        ({"profile": "nope"}, 400, "validation_error"),
        ({"image": "debian"}, 403, "forbidden"),
        ({"image": "No Such"}, 422, "validation_error"),
        ({"isolation": "kata"}, 400, "validation_error"),
        ({"cargo_id": "ws-" + "0" * 24}, 404, "not_found"),
        ({"name": "Not-A-Name"}, 422, "validation_error"),
        ({"name": RANDOM}, 422, "validation_error"),
        ({"name": ""}, 422, "validation_error"),
    ]:
        assert_error(await alice.post("/v1/sandboxes", json=body), status, code)
    assert await ids(alice) == []


@pytest.mark.parametrize(
    "body",
    [
        {"ttl": -1}, {"ttl": "soon"}, {"ttl": 10**12}, {"idle_timeout": 0}, {"labels": {"": "x"}},
        {"labels": {"a": 1}}, {"labels": {"a": "x" * 257}}, {"env": {"1A": "x"}}, {"env": {"A": "a\0b"}},
        {"profile": 7}, {"wait": -1}, {"wait": 601}, [], "text", 1, {"name": "a" * 64},
        {"labels": {"\ud800": "x"}}, {"profile": "\ud800"}, {"env": {"A": "\ud800"}},
    ],
    ids=str,
)  # fmt: skip
async def test_fields_of_the_wrong_form_are_422(alice: httpx.AsyncClient, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await alice.post("/v1/sandboxes", content=json.dumps(body), headers=headers)
    assert_error(answer, 422, "validation_error")
    assert answer.json()["detail"]


async def test_an_external_cargo_is_used_and_outlives_the_sandbox(
    bay: World, alice: httpx.AsyncClient
) -> None:
    cargo_id = "ws-" + "e" * 24
    now = bay.clock()
    async with bay.bay.store.write() as db:
        await cargos.add(
            db,
            {"id": cargo_id, "owner": "alice", "backend": "directory", "created_at": now, "last_accessed_at": now},
        )  # fmt: skip
    first = await create(alice, cargo_id=cargo_id)
    await shell(alice, first["id"], "echo kept > file")
    assert (await alice.delete(f"/v1/sandboxes/{first['id']}")).status_code == 204
    second = await create(alice, cargo_id=cargo_id)
    assert (await shell(alice, second["id"], "cat file"))["output"] == "kept\n"


async def test_a_managed_cargo_cannot_be_used_by_another_sandbox(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    assert_error(await alice.post("/v1/sandboxes", json={"cargo_id": made["cargo_id"]}), 409, "conflict")


async def test_a_create_that_waits_answers_ready_with_compute(alice: httpx.AsyncClient) -> None:
    for answer in [
        await alice.post("/v1/sandboxes", params={"wait": 15}),
        await alice.post("/v1/sandboxes", json={"wait": 15}),
    ]:
        assert answer.status_code == 201
        assert (answer.json()["status"], answer.json()["compute"]) == ("ready", "running")


async def test_an_eager_profile_starts_without_being_asked(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="eager")
    assert made["status"] == "idle"
    await bay.settled(made["id"], lambda r: r.session is not None and r.session.phase == "running")
    assert (await get(alice, made["id"]))["status"] == "ready"


async def test_a_create_that_waits_too_short_answers_starting(bay: World, alice: httpx.AsyncClient) -> None:
    bay.driver.hold_at = "ready"
    assert (await create(alice, wait=0.3))["status"] == "starting"
    bay.driver.let_go.set()


# Names


async def test_a_name_stands_wherever_an_id_does(alice: httpx.AsyncClient) -> None:
    made = await create(alice, name="box", ttl=100)
    assert (await get(alice, "box"))["id"] == made["id"]
    assert (await shell(alice, "box", "echo hi"))["output"] == "hi\n"
    for call in ("keepalive", "stop", "start"):
        assert (await alice.post(f"/v1/sandboxes/box/{call}")).status_code == 200
    assert (await alice.post("/v1/sandboxes/box/extend_ttl", json={"extend_by": 5})).status_code == 200
    assert (await alice.delete("/v1/sandboxes/box")).status_code == 204
    assert_error(await alice.get("/v1/sandboxes/box"), 404, "not_found")


async def test_a_name_is_taken_while_its_sandbox_lives_and_for_its_owner_alone(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    made = await create(alice, name="box")
    assert_error(await alice.post("/v1/sandboxes", json={"name": "box"}), 409, "conflict")
    assert (await create(bob, name="box"))["id"] != made["id"]
    await alice.delete("/v1/sandboxes/box")
    assert (await create(alice, name="box"))["id"] != made["id"]


# Lists


async def test_a_list_pages_oldest_first_and_says_when_there_is_more(alice: httpx.AsyncClient) -> None:
    made = [(await create(alice))["id"] for _ in range(5)]
    first = await page(alice, limit=2)
    assert [i["id"] for i in first["items"]] == made[:2]
    assert (first["has_more"], type(first["next_cursor"])) == (True, str)
    second = await page(alice, limit=2, cursor=first["next_cursor"])
    third = await page(alice, limit=2, cursor=second["next_cursor"])
    assert [i["id"] for i in second["items"] + third["items"]] == made[2:]
    assert (third["has_more"], third["next_cursor"]) == (False, None)
    assert set(first["items"][0]) == FIELDS
    exact = await page(alice, limit=5)
    assert (len(exact["items"]), exact["has_more"], exact["next_cursor"]) == (5, False, None)


async def test_a_list_may_begin_with_the_newest(alice: httpx.AsyncClient) -> None:
    made = [(await create(alice))["id"] for _ in range(5)][::-1]
    first = await page(alice, limit=2, order="newest")
    assert [i["id"] for i in first["items"]] == made[:2]
    await alice.delete(f"/v1/sandboxes/{made[1]}")  # the very one the cursor stands at
    await create(alice)
    second = await page(alice, limit=2, order="newest", cursor=first["next_cursor"])
    assert ([i["id"] for i in second["items"]], second["has_more"]) == (made[2:4], True)
    assert await ids(alice, order="newest", cursor=second["next_cursor"]) == made[4:]
    assert_error(await alice.get("/v1/sandboxes", params={"order": "desc"}), 422, "validation_error")


async def test_a_list_is_stable_under_inserts_and_deletes(alice: httpx.AsyncClient) -> None:
    made = [(await create(alice))["id"] for _ in range(4)]
    first = await page(alice, limit=2)
    await alice.delete(f"/v1/sandboxes/{made[1]}")  # the very one the cursor stands at
    await alice.delete(f"/v1/sandboxes/{made[2]}")
    late = (await create(alice))["id"]
    assert await ids(alice, limit=50, cursor=first["next_cursor"]) == [made[3], late]


@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "1.5"])
async def test_a_limit_out_of_bounds_is_422(alice: httpx.AsyncClient, limit: str) -> None:
    assert_error(await alice.get("/v1/sandboxes", params={"limit": limit}), 422, "validation_error")


@pytest.mark.parametrize("cursor", ["x", "MTI", "é", "A" * 300, "MTI6eHg=", "-1", "%00"])
async def test_a_cursor_that_bay_did_not_give_is_422(alice: httpx.AsyncClient, cursor: str) -> None:
    assert_error(await alice.get("/v1/sandboxes", params={"cursor": cursor}), 422, "validation_error")


async def test_a_list_is_narrowed_by_every_filter(bay: World, alice: httpx.AsyncClient) -> None:
    plain = (await create(alice, name="job-1", labels={"team": "a", "a.b/c-d": "x:y"}))["id"]
    running = (await create(alice, name="job_2".replace("_", "-"), labels={"team": "b"}, wait=15))["id"]
    bare = (await create(alice, profile="bare", ttl=10))["id"]
    assert await ids(alice, status="idle") == [plain, bare]
    assert await ids(alice, status="ready") == await ids(alice, compute="running") == [running]
    assert await ids(alice, compute="cold") == [plain, bare]
    assert await ids(alice, profile="bare") == [bare]
    assert await ids(alice, name_prefix="job-") == [plain, running]
    assert await ids(alice, name_prefix="job_") == []  # no wildcard
    assert await ids(alice, name_prefix="%") == []
    assert await ids(alice, label="team:a") == await ids(alice, label="a.b/c-d:x:y") == [plain]
    assert await ids(alice, label=["team:a", "a.b/c-d:x:y"]) == [plain]
    assert await ids(alice, label=["team:a", "team:b"]) == []
    bay.clock.advance(10)
    assert await ids(alice, status="expired") == [bare]
    assert await ids(alice, status=["idle"], limit=1) == [plain]


async def test_filters_are_applied_before_the_limit(alice: httpx.AsyncClient) -> None:
    for _ in range(3):
        await create(alice)
    wanted = [(await create(alice, labels={"x": "1"}))["id"] for _ in range(2)]
    found = await page(alice, label="x:1", limit=2)
    assert ([i["id"] for i in found["items"]], found["has_more"]) == (wanted, False)


@pytest.mark.parametrize(
    "params",
    [
        {"status": "sleeping"}, {"compute": "hot"}, {"label": "novalue"}, {"label": ":x"}, {"status": ""},
        {"label": 'a"b:x'}, {"label": "a'b:x"}, {"label": "$[0]:x"}, {"name_prefix": "a" * 64},
    ],
    ids=str,
)  # fmt: skip
async def test_an_unknown_filter_value_is_422(alice: httpx.AsyncClient, params: dict[str, str]) -> None:
    assert_error(await alice.get("/v1/sandboxes", params=params), 422, "validation_error")


# The single sandbox


async def test_the_single_get_shows_the_container_of_a_live_session(alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15)
    shown = await get(alice, made["id"])
    (container,) = shown["containers"]
    assert set(container) == {"name", "runtime_type", "status", "version", "capabilities", "healthy"}
    assert (container["name"], container["runtime_type"], container["healthy"]) == ("ship", "ship", True)
    assert container["status"] == "running"
    assert "shell" in container["capabilities"]
    await alice.post(f"/v1/sandboxes/{made['id']}/stop")
    assert (await get(alice, made["id"]))["containers"] is None


@pytest.mark.parametrize("looked_at", [True, False])
async def test_the_container_of_a_frozen_sandbox_is_shown_as_it_was(
    alice: httpx.AsyncClient, looked_at: bool
) -> None:
    made = await create(alice, wait=15)
    if looked_at:
        await get(alice, made["id"])
    assert (await alice.post(f"/v1/sandboxes/{made['id']}/pause")).status_code == 200
    (container,) = (await get(alice, made["id"]))["containers"]
    assert (container["status"], container["healthy"]) == ("paused", True)
    assert container["version"] == __version__
    assert "shell" in container["capabilities"]


async def test_after_a_restart_of_bay_a_frozen_container_still_reads_as_sound(root: Path) -> None:
    async with world(root) as bay:
        alice = await bay.client()
        made = await create(alice, wait=15)
        await alice.post(f"/v1/sandboxes/{made['id']}/pause")
    async with world(root) as bay:
        (container,) = (await get(await bay.client(), made["id"]))["containers"]
        assert (container["status"], container["healthy"]) == ("paused", True)
        assert "shell" in container["capabilities"]
    await clear(root)


async def test_a_container_that_is_not_there_yet_is_not_shown(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", hold_at="ready")
    async with world(root, driver) as bay:
        alice = await bay.client()
        made = await create(alice, profile="eager")
        await within(driver.held.wait())
        shown = await get(alice, made["id"])
        assert (shown["status"], shown["compute"], shown["containers"]) == ("starting", "warming", None)
        driver.let_go.set()
        await bay.settled(made["id"], lambda r: r.session is not None and r.session.phase == "running")
        assert (await get(alice, made["id"]))["containers"][0]["healthy"]
    await clear(root)


async def test_a_method_that_a_route_does_not_take_is_405(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    assert_error(await alice.put(f"/v1/sandboxes/{made['id']}", json={}), 405, "method_not_allowed")


@pytest.mark.parametrize("ref", [RANDOM, "no-such-name", "%00", "a%2Fb", "\u6c99\u76d2", "x" * 5000])
async def test_a_sandbox_that_never_was_is_404(alice: httpx.AsyncClient, ref: str) -> None:
    assert_error(await alice.get(f"/v1/sandboxes/{ref}"), 404, "not_found")
    assert_error(await alice.delete(f"/v1/sandboxes/{ref}"), 404, "not_found")


# Start, stop, delete


async def test_stop_gives_compute_back_and_keeps_files(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    await shell(alice, made["id"], "echo kept > file; sleep 1000 > /dev/null 2>&1 &")
    first = (await bay.session(made["id"])).id
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/stop")
    assert (answer.status_code, answer.json()) == (200, {"status": "stopped"})
    assert await bay.owned() == set()
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["compute"], shown["error"]) == ("idle", "cold", None)
    again = await alice.post(f"/v1/sandboxes/{made['id']}/stop")
    assert (again.status_code, again.json()) == (200, {"status": "stopped"})
    assert (await shell(alice, made["id"], "cat file"))["output"] == "kept\n"
    assert (await bay.session(made["id"])).id != first


async def test_start_answers_at_once_or_when_it_is_there(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/start")
    assert answer.status_code == 200
    assert set(answer.json()) == FIELDS
    waited = await alice.post(f"/v1/sandboxes/{made['id']}/start", params={"wait": 15})
    assert waited.json()["status"] == "ready"
    assert len(await bay.owned()) == 1


async def test_delete_removes_session_and_files_and_may_be_repeated(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=15, env={"SECRET": "x"})
    assert bay.workspace(made).is_dir()
    for _ in range(2):
        answer = await alice.delete(f"/v1/sandboxes/{made['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
    assert await bay.owned() == set()
    assert not bay.workspace(made).exists()
    assert_error(await alice.get(f"/v1/sandboxes/{made['id']}"), 404, "not_found")
    assert_error(await alice.post(f"/v1/sandboxes/{made['id']}/stop"), 404, "not_found")
    assert await ids(alice) == []
    assert (await bay.record(made["id"])).env == {}


async def test_two_deletes_at_once_are_both_204(alice: httpx.AsyncClient) -> None:
    made = await create(alice, wait=15)
    answers = await asyncio.gather(*(alice.delete(f"/v1/sandboxes/{made['id']}") for _ in range(5)))
    assert {a.status_code for a in answers} == {204}


@pytest.mark.parametrize("step", ["claim", "launch", "ready"])
async def test_delete_while_starting_leaves_nothing(bay: World, alice: httpx.AsyncClient, step: str) -> None:
    bay.driver.hold_at = step
    made = await create(alice, profile="eager")
    await within(bay.driver.held.wait())
    assert (await within(alice.delete(f"/v1/sandboxes/{made['id']}"))).status_code == 204
    assert await bay.owned() == set()
    assert not bay.workspace(made).exists()


@pytest.mark.parametrize("step", ["claim", "launch", "ready"])
async def test_stop_while_starting_ends_the_start_and_the_next_call_begins_anew(
    bay: World, alice: httpx.AsyncClient, step: str
) -> None:
    bay.driver.hold_at = step
    made = await create(alice, profile="eager")
    await within(bay.driver.held.wait())
    assert (await get(alice, made["id"]))["status"] == "starting"
    assert (await within(alice.post(f"/v1/sandboxes/{made['id']}/stop"))).json() == {"status": "stopped"}
    assert await bay.owned() == set()
    bay.driver.hold_at = None
    assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"


async def test_a_call_that_waits_for_a_start_which_is_stopped_is_told_so(
    bay: World, alice: httpx.AsyncClient
) -> None:
    bay.driver.hold_at = "ready"
    made = await create(alice)
    waiting = asyncio.create_task(
        alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
    )
    await within(bay.driver.held.wait())
    await within(alice.post(f"/v1/sandboxes/{made['id']}/stop"))
    error = assert_error(await within(waiting), 503, "session_not_ready")
    assert "stopped" in error["message"]


async def test_limits_can_be_extended_during_a_slow_start(bay: World, alice: httpx.AsyncClient) -> None:
    bay.driver.hold_at = "ready"
    made = await create(alice, profile="eager", ttl=100)
    await within(bay.driver.held.wait())
    answer = await within(alice.post(f"/v1/sandboxes/{made['id']}/extend_ttl", json={"extend_by": 100}), 5)
    assert answer.status_code == 200
    bay.driver.let_go.set()


async def test_a_sandbox_wanted_again_while_it_stops_gets_a_new_session_and_never_the_dying_one(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=15)
    first = (await bay.session(made["id"])).id
    bay.driver.hold_at = "stop"
    stopping = asyncio.create_task(alice.post(f"/v1/sandboxes/{made['id']}/stop"))
    await within(bay.driver.held.wait())
    running = asyncio.create_task(shell(alice, made["id"], "echo alive"))
    await bay.settled(made["id"], lambda r: r.target == "running")
    assert (await within(stopping)).status_code == 200
    bay.driver.let_go.set()
    assert (await within(running))["output"] == "alive\n"
    assert (await bay.session(made["id"])).id != first
    assert len(await bay.owned()) == 1


@pytest.mark.parametrize("step", ["claim", "launch", "ready"])
async def test_a_start_that_fails_says_why_and_can_be_tried_again(
    bay: World, alice: httpx.AsyncClient, step: str
) -> None:
    bay.driver.fail_at = step
    made = await create(alice, wait=15)
    assert (made["status"], made["compute"]) == ("failed", "cold")
    assert made["error"]["code"] == "driver_unavailable"
    assert made["error"]["at"].endswith("Z")
    assert step in made["error"]["message"]
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
    error = assert_error(answer, 503, "session_not_ready")
    assert step in error["message"]
    await bay.settled(made["id"], lambda r: r.session is None)
    assert await bay.owned() == set()
    assert [s["id"] for s in (await page(alice, status="failed"))["items"]] == [made["id"]]
    bay.driver.fail_at = None
    assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"
    assert (await get(alice, made["id"]))["error"] is None


async def test_a_failed_start_whose_remains_cannot_be_removed_says_so_at_once_and_is_not_doubled(
    bay: World, alice: httpx.AsyncClient
) -> None:
    bay.driver.fail_at = "launch"
    bay.driver.hold_at = "destroy"
    made = await within(create(alice, wait=15))
    assert (made["status"], made["error"]["code"]) == ("failed", "driver_unavailable")
    await within(bay.driver.held.wait())
    bay.driver.fail_at = "destroy"
    bay.driver.let_go.set()
    call = asyncio.create_task(shell(alice, made["id"], "echo hi"))
    await bay.settled(made["id"], lambda r: r.target == "running")
    assert len(await bay.owned()) == 1
    bay.driver.fail_at = bay.driver.hold_at = None
    bay.bay.reconciler.queue.put(made["id"])  # the next try, without the wait for it
    assert (await within(call))["output"] == "hi\n"
    assert len(await bay.owned()) == 1


async def test_a_defect_in_the_start_ends_as_failed_and_not_as_starting_for_ever(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_spec: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bay.driver, "_claim", fail)
    made = await create(alice, profile="eager")
    await bay.settled(made["id"], lambda r: r.session is not None)
    async with asyncio.timeout(15):
        while (await get(alice, made["id"]))["status"] != "failed":
            bay.bay.reconciler.queue.put(made["id"])  # the next try, without the wait for it
            await asyncio.sleep(0)
    assert (await get(alice, made["id"]))["error"]["code"] == "internal_error"
    monkeypatch.undo()
    assert (await shell(alice, made["id"], "echo hi"))["output"] == "hi\n"


async def test_a_session_that_dies_is_noticed_and_the_next_call_starts_another_under_the_same_id(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice)
    await shell(alice, made["id"], "echo kept > file")
    first = (await bay.session(made["id"])).id
    await bay.driver.crash(first)
    await bay.settled(made["id"], lambda r: r.session is None)
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["error"]["code"]) == ("failed", "session_exited")
    assert (await shell(alice, made["id"], "cat file"))["output"] == "kept\n"
    assert (await get(alice, made["id"]))["error"] is None
    assert (await bay.session(made["id"])).generation == 2
    await bay.driver.vanish((await bay.session(made["id"])).id)
    await bay.settled(made["id"], lambda r: r.session is None)
    assert (await shell(alice, made["id"], "cat file"))["output"] == "kept\n"


async def test_a_call_that_comes_while_a_dead_session_is_cleared_away_starts_another(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, wait=15)
    bay.driver.hold_at = "destroy"
    await bay.driver.crash((await bay.session(made["id"])).id)
    await within(bay.driver.held.wait())
    call = asyncio.create_task(shell(alice, made["id"], "echo hi"))
    await bay.settled(made["id"], lambda r: r.target == "running")
    bay.driver.let_go.set()
    assert (await within(call))["output"] == "hi\n"


async def test_five_calls_on_a_cold_sandbox_start_one_session(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    answers = await asyncio.gather(*(shell(alice, made["id"], f"echo {n}") for n in range(5)))
    assert [a["output"] for a in answers] == [f"{n}\n" for n in range(5)]
    assert await bay.sql("SELECT count(*) FROM sessions") == [(1,)]


# Time


async def test_an_expired_sandbox_refuses_work_before_any_sweep(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, ttl=60, wait=15)
    path = f"/v1/sandboxes/{made['id']}"
    bay.clock.advance(59.999)
    assert (await alice.post(f"{path}/keepalive")).status_code == 200
    bay.clock.advance(0.001)
    assert (await get(alice, made["id"]))["status"] == "expired"
    for method, call, body in [
        ("POST", "shell/exec", {"command": "true"}), ("POST", "execs", {"command": "true"}), ("POST", "start", None),
        ("POST", "keepalive", None), ("POST", "extend_ttl", {"extend_by": 5}),
        ("GET", "filesystem/files?path=x", None), ("GET", "filesystem/directories", None),
        ("PUT", "filesystem/files", {"path": "x", "content": ""}), ("DELETE", "filesystem/files?path=x", None),
        ("GET", "filesystem/download?path=x", None),
    ]:  # fmt: skip
        assert_error(await alice.request(method, f"{path}/{call}", json=body), 409, "sandbox_expired")
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], lambda r: r.session is None)
    assert await bay.owned() == set()
    assert (await get(alice, made["id"]))["status"] == "expired"
    assert bay.workspace(made).exists()


async def test_an_expired_sandbox_is_removed_after_its_retention(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, ttl=60, wait=15)
    bay.clock.advance(60 + 60)
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], lambda r: r.deleted_at is not None)
    assert not bay.workspace(made).exists()
    assert_error(await alice.get(f"/v1/sandboxes/{made['id']}"), 404, "not_found")


async def test_extend_ttl_counts_from_the_later_of_old_and_now(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, ttl=60)
    bay.clock.advance(30)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/extend_ttl", json={"extend_by": 10})
    assert answer.status_code == 200
    assert answer.json() == {**made, "expires_at": "2030-01-01T00:01:10.000000Z"}
    assert (await get(alice, made["id"]))["expires_at"] == "2030-01-01T00:01:10.000000Z"


async def test_extend_ttl_refuses_what_it_must(bay: World, alice: httpx.AsyncClient) -> None:
    forever = await create(alice)
    answer = await alice.post(f"/v1/sandboxes/{forever['id']}/extend_ttl", json={"extend_by": 10})
    assert_error(answer, 409, "sandbox_ttl_infinite")
    made = await create(alice, ttl=60)
    for extend_by in (0, -1, "x", None, 1.5, 10**10):
        answer = await alice.post(f"/v1/sandboxes/{made['id']}/extend_ttl", json={"extend_by": extend_by})
        assert_error(answer, 422, "validation_error")
    most = await alice.post(f"/v1/sandboxes/{made['id']}/extend_ttl", json={"extend_by": 10 * 365 * 86400})
    assert_error(most, 422, "validation_error")


@pytest.mark.parametrize("idle_timeout", [3, 98])
async def test_keepalive_pushes_the_idle_clock_however_little_and_starts_nothing(
    bay: World, alice: httpx.AsyncClient, idle_timeout: int
) -> None:
    made = await create(alice, idle_timeout=idle_timeout, wait=15)
    bay.clock.advance(2)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/keepalive")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    shown = await get(alice, made["id"])
    pushed = to_rfc3339(bay.clock() + timedelta(seconds=idle_timeout))
    assert (shown["idle_expires_at"], shown["compute"]) == (pushed, "running")
    await alice.post(f"/v1/sandboxes/{made['id']}/stop")
    await alice.post(f"/v1/sandboxes/{made['id']}/keepalive")
    shown = await get(alice, made["id"])
    assert (shown["idle_expires_at"], shown["compute"]) == (None, "cold")


async def test_an_idle_sandbox_that_may_not_be_frozen_gives_its_compute_back(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, idle_timeout=100, warm_timeout=0)
    await shell(alice, made["id"], "echo kept > file")
    bay.clock.advance(99)
    await bay.bay.sweep.sweep()
    assert (await get(alice, made["id"]))["compute"] == "running"
    bay.clock.advance(1)
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], lambda r: r.session is None)
    assert (await get(alice, made["id"]))["status"] == "idle"
    assert (await shell(alice, made["id"], "cat file"))["output"] == "kept\n"


@pytest.mark.parametrize("idle_timeout", [4, 100])
async def test_calls_push_the_idle_clock(bay: World, alice: httpx.AsyncClient, idle_timeout: int) -> None:
    made = await create(alice, idle_timeout=idle_timeout, wait=15)
    for command in ("true", "true"):
        bay.clock.advance(idle_timeout * 0.9)
        await shell(alice, made["id"], command)
    bay.clock.advance(idle_timeout * 0.5)
    await bay.bay.sweep.sweep()
    shown = await get(alice, made["id"])
    assert (shown["status"], shown["compute"]) == ("ready", "running")


async def test_a_running_exec_keeps_its_sandbox_awake_until_it_ends(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, idle_timeout=100)
    path = f"/v1/sandboxes/{made['id']}/execs"
    started = (await alice.post(path, json={"command": "read line"})).json()
    sleeper = (await alice.post(path, json={"argv": ["sleep", "1000"]})).json()
    assert (await alice.get(f"{path}/{started['id']}", params={"wait": 15})).json()["state"] == "exited"
    for _ in range(3):
        bay.clock.advance(100)
        await bay.bay.sweep.sweep()
        assert (await get(alice, made["id"]))["compute"] == "running"
    await alice.delete(f"{path}/{sleeper['id']}")
    bay.clock.advance(100)
    await bay.bay.sweep.sweep()
    await bay.settled(made["id"], is_frozen)


async def test_a_call_under_way_keeps_its_sandbox_awake(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, idle_timeout=100, wait=15)
    call = asyncio.create_task(shell(alice, made["id"], "mkfifo go; touch begun; cat go"))
    await until((bay.workspace(made) / "begun").exists)
    bay.clock.advance(1000)
    await bay.bay.sweep.sweep()
    (bay.workspace(made) / "go").write_text("went\n")
    assert (await within(call))["output"] == "went\n"


async def test_an_upload_under_way_keeps_its_sandbox_awake(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, idle_timeout=100, wait=15)
    begun, go = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncGenerator[bytes]:
        yield b"one"
        begun.set()
        await go.wait()
        yield b"two"

    caller = bay.bay.keys.authenticate(alice.headers["authorization"])
    upload = asyncio.create_task(bay.app.state.services[Files].write(caller, made["id"], "file", body()))
    await within(begun.wait())
    bay.clock.advance(1000)
    await bay.bay.sweep.sweep()
    go.set()
    assert (await within(upload))[1] == 6
    assert (await get(alice, made["id"]))["compute"] == "running"


async def test_a_sandbox_without_idle_timeout_is_never_stopped(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, profile="bare")
    assert (await alice.get(f"/v1/sandboxes/{made['id']}/filesystem/directories")).status_code == 200
    assert (made["idle_timeout"], made["idle_expires_at"]) == (None, None)
    bay.clock.advance(10**7)
    await bay.bay.sweep.sweep()
    assert (await get(alice, made["id"]))["compute"] == "running"


async def test_a_call_that_comes_at_the_moment_of_idling_is_not_stopped_by_a_sweep_that_looked_before(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, idle_timeout=100, wait=15)
    bay.clock.advance(100)
    before = await bay.record(made["id"])
    await shell(alice, made["id"], "true")
    await bay.bay.sweep._idle_out(before, bay.clock())
    assert (await bay.record(made["id"])).target == "running"


# Idempotency


async def test_many_creates_with_one_key_make_one_sandbox_and_give_one_answer(
    bay: World, alice: httpx.AsyncClient
) -> None:
    def call() -> Any:
        return alice.post("/v1/sandboxes", json={"labels": {"a": "b"}}, headers={"Idempotency-Key": "k-1"})

    answers = await asyncio.gather(*(call() for _ in range(8)))
    assert {a.status_code for a in answers} == {201}
    assert len({a.text for a in answers}) == 1
    assert len(await ids(alice)) == 1
    bay.clock.advance(1000)
    assert (await call()).text == answers[0].text


async def test_a_repeated_create_is_answered_also_when_the_disk_is_full_by_now(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(_what: str) -> None:
        raise StorageFull("the pool is full; delete something")

    key = {"Idempotency-Key": "k"}
    made = await alice.post("/v1/sandboxes", headers=key)
    monkeypatch.setattr(bay.bay.cargo, "check_room", full)
    assert_error(await alice.post("/v1/sandboxes", headers={"Idempotency-Key": "other"}), 507, "storage_full")
    assert_error(await alice.post("/v1/sandboxes"), 507, "storage_full")
    assert (await alice.post("/v1/sandboxes", headers=key)).text == made.text
    assert_error(await alice.post("/v1/sandboxes", json={"ttl": 9}, headers=key), 409, "conflict")


async def test_a_key_used_for_another_call_is_409(alice: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    made = (await alice.post("/v1/sandboxes", json={"ttl": 50}, headers=key)).json()
    assert_error(await alice.post("/v1/sandboxes", json={"ttl": 51}, headers=key), 409, "conflict")
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/extend_ttl", json={"extend_by": 1}, headers=key)
    assert_error(answer, 409, "conflict")


@pytest.mark.parametrize("key", ["", "a b", "x" * 129, "a/b", "é", "a\tb"])
async def test_a_key_of_the_wrong_form_is_409(alice: httpx.AsyncClient, key: str) -> None:
    answer = await alice.post("/v1/sandboxes", headers={b"Idempotency-Key": key.encode()})
    assert_error(answer, 409, "conflict")
    assert await ids(alice) == []


async def test_an_extension_with_a_key_is_made_once(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice, ttl=60)
    answers = [
        await alice.post(
            f"/v1/sandboxes/{made['id']}/extend_ttl", json={"extend_by": 10}, headers={"Idempotency-Key": "e"}
        )
        for _ in range(3)
    ]
    assert len({a.text for a in answers}) == 1
    assert (await get(alice, made["id"]))["expires_at"] == "2030-01-01T00:01:10.000000Z"


async def test_a_create_that_is_refused_claims_no_key(alice: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    await create(alice, name="box")
    assert_error(await alice.post("/v1/sandboxes", json={"name": "box"}, headers=key), 409, "conflict")
    await alice.delete("/v1/sandboxes/box")
    assert (await alice.post("/v1/sandboxes", json={"name": "box"}, headers=key)).status_code == 201


async def test_a_key_is_forgotten_after_a_day(bay: World, alice: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k"}
    first = (await alice.post("/v1/sandboxes", headers=key)).json()
    bay.clock.advance(timedelta(hours=23, minutes=59).total_seconds())
    await bay.bay.housekeeping.housekeep()
    assert (await alice.post("/v1/sandboxes", headers=key)).json() == first
    bay.clock.advance(timedelta(hours=1, minutes=2).total_seconds())
    await bay.bay.housekeeping.housekeep()
    assert (await alice.post("/v1/sandboxes", headers=key)).json()["id"] != first["id"]


# Profiles and health


async def test_health_and_profiles_are_open(bay: World) -> None:
    anybody = await bay.open_client()
    health = await anybody.get("/health")
    assert health.json() == {"status": "ok", "version": bay.app.version}
    items = (await anybody.get("/v1/profiles")).json()["items"]
    assert [item["id"] for item in items] == ["python-default", "eager", "bare", "forever", "rootless"]
    assert set(items[0]) == {
        "id", "image", "resources", "capabilities", "idle_timeout", "description", "hibernate",
        "containers", "persist", "disk_mb", "max_cpus", "max_memory_mb", "max_disk_mb", "max_pids",
    }  # fmt: skip
    assert items[0]["resources"]["memory"] == "1024m"
    assert items[0]["resources"]["cpus"] == 1.0
    assert items[0]["containers"] is None
    detailed = (await anybody.get("/v1/profiles", params={"detail": "true"})).json()["items"]
    [container] = detailed[0]["containers"]
    assert (container["name"], container["resources"]) == ("ship", items[0]["resources"])


async def test_a_capability_the_profile_lacks_is_refused_before_anything_starts(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, profile="bare")
    for call, capability in (("shell/exec", "shell"), ("execs", "exec")):
        answer = await alice.post(f"/v1/sandboxes/{made['id']}/{call}", json={"command": "true"})
        error = assert_error(answer, 400, "capability_not_supported")
        assert error["details"] == {"capability": capability, "available": ["filesystem"]}
    assert (await bay.record(made["id"])).session is None


# Taking over


async def test_a_session_that_could_not_be_seen_at_the_start_is_watched_all_the_same(
    bay: World, alice: httpx.AsyncClient
) -> None:
    """Unknown is not dead, and not forgotten either."""
    made = await create(alice, wait=15)
    session = await bay.session(made["id"])
    assert session.handle is not None
    bay.driver.fail_at = "observe"
    await bay.bay.reconciler._live.end(session.id)
    await bay.bay.reconciler._adopt(await bay.record(made["id"]))
    bay.driver.fail_at = None
    await bay.driver.crash(session.id)
    await bay.settled(made["id"], lambda r: r.session is None)


@pytest.mark.parametrize("name", ["stdin", "upload", "files", "execs"])
async def test_a_name_opens_no_larger_body(alice: httpx.AsyncClient, name: str) -> None:
    body = {"labels": {"large": "x" * (2 << 20)}}
    for path in (f"/v1/sandboxes/{name}", f"/v1/sandboxes/box/history/{name}"):
        answer = await alice.patch(path, json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large"), path
