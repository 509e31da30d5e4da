"""The audit: a row for each call that was meant to change something, true also when Bay ended during it."""

import asyncio
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, within, world
from serving import WAIT_S, read_line

from bay.clock import to_rfc3339
from bay.server.web.audit import NAMELESS
from bay.store import audit

pytestmark = pytest.mark.anyio

FIELDS = {"at", "owner", "key_id", "method", "path", "resource_id", "request_id", "status", "code"}
SECRET = "correct-horse-battery"


@pytest.fixture
async def admin(bay: World) -> httpx.AsyncClient:
    """A client with an admin key."""
    return await bay.client("root", "admin")


async def rows(client: httpx.AsyncClient, **params: str) -> list[Json]:
    """What the audit says, oldest first."""
    answer = await client.get("/v1/audit", params={"limit": 200, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


async def test_a_create_leaves_one_row_that_says_who_what_which_and_how(
    bay: World, alice: httpx.AsyncClient
) -> None:
    answer = await alice.post("/v1/sandboxes", headers={"X-Request-Id": "mine"})
    (row,) = await rows(alice)
    assert set(row) == FIELDS
    caller = bay.bay.keys.authenticate(alice.headers["authorization"])
    assert row == {
        "at": to_rfc3339(bay.clock()), "owner": "alice", "key_id": caller.key_id, "method": "POST",
        "path": "/v1/sandboxes", "resource_id": answer.json()["id"], "request_id": "mine", "status": 201, "code": None,
    }  # fmt: skip


async def test_every_call_that_may_change_something_leaves_one_row_and_reading_leaves_none(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, name="box")
    path = f"/v1/sandboxes/{made['id']}"
    await shell(alice, "box", "true")
    await alice.post("/v1/sandboxes/box/execs", json={"command": "true"}, params={"wait": 10})
    await alice.put(f"{path}/filesystem/files", json={"path": "x", "content": "x"})
    await alice.post(f"{path}/keepalive")
    await alice.post("/v1/sandboxes/box/stop")
    await alice.get(path)
    await alice.get("/v1/sandboxes")
    await alice.delete("/v1/sandboxes/box")
    found = await rows(alice)
    assert sorted((r["method"], r["path"].removeprefix("/v1/sandboxes"), r["status"]) for r in found) == [
        ("DELETE", "/box", 204), ("POST", "", 201), ("POST", "/box/execs", 201), ("POST", "/box/shell/exec", 200),
        ("POST", "/box/stop", 200), ("POST", f"/{made['id']}/keepalive", 200),
        ("PUT", f"/{made['id']}/filesystem/files", 200),
    ]  # fmt: skip
    assert {r["resource_id"] for r in found} == {made["id"]}, "also where the call named it"


async def test_a_call_that_was_refused_leaves_its_code(bay: World, alice: httpx.AsyncClient) -> None:
    reader = await bay.client("alice", "read")
    gone = f"sandbox-{'0' * 24}"
    await reader.post("/v1/sandboxes")
    await alice.delete(f"/v1/sandboxes/{gone}")
    await alice.post("/v1/sandboxes", json={"ttl": -1})
    await alice.post("/v1/sandboxes", content=b"{not json")
    await alice.post("/v1/sandboxes", json={"profile": "none"})
    await alice.post("/v1/nothing")
    await alice.put("/v1/sandboxes")
    await create(alice, name="box")
    await alice.post("/v1/sandboxes", json={"name": "box"})
    await alice.post("/v1/sandboxes", content=b"x" * (2 << 20))
    found = [(r["status"], r["code"]) for r in await rows(alice)]
    assert sorted(found, key=lambda pair: pair[0]) == [
        (201, None), (400, "validation_error"), (403, "forbidden"), (404, "not_found"), (404, "not_found"),
        (405, "method_not_allowed"), (409, "conflict"), (413, "payload_too_large"), (422, "validation_error"),
        (422, "validation_error"),
    ]  # fmt: skip
    (never,) = await rows(alice, resource_id=gone)
    assert never["status"] == 404


async def test_the_newest_come_first_page_by_page_where_that_is_asked_for(alice: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c"):
        await alice.post("/v1/sandboxes", json={"name": name})
        await alice.delete(f"/v1/sandboxes/{name}")
    found: list[str] = []
    cursor = None
    while True:
        params = {"order": "newest", "limit": "4"} | ({"cursor": cursor} if cursor else {})
        page = (await alice.get("/v1/audit", params=params)).json()
        found += [row["request_id"] for row in page["items"]]
        if not page["has_more"]:
            break
        cursor = page["next_cursor"]
    assert found == [row["request_id"] for row in await rows(alice)][::-1]
    assert len(found) == 6


async def test_filters_choose_by_the_beginning_of_the_path_and_by_the_status(
    alice: httpx.AsyncClient,
) -> None:
    await alice.post("/v1/sandboxes", json={"name": "a"})
    await alice.post("/v1/sandboxes", json={"name": "a"})
    await alice.delete("/v1/sandboxes/no%25thing")
    await alice.post("/v1/SANDBOXES")

    async def calls(**params: str) -> list[int | None]:
        return [row["status"] for row in await rows(alice, **params)]

    assert await calls(path="/v1/sandboxes") == [201, 409, 404]
    assert await calls(path="/v1/sandboxes/") == [404]
    assert await calls(path="/v1/sandbox%s") == []
    assert await calls(status="4xx") == [409, 404, 404]
    assert await calls(status="409") == [409]
    assert await calls(status="2xx", path="/v1/sandboxes") == [201]
    for wrong in ("4x", "40x", "999", "x", ""):
        assert_error(await alice.get("/v1/audit", params={"status": wrong}), 422, "validation_error")


async def test_a_defect_is_in_the_audit_as_one(bay: World, alice: httpx.AsyncClient) -> None:
    async with bay.bay.store.write() as db:
        await db.exec_driver_sql("ALTER TABLE claims RENAME TO claims_gone")
    answer = await alice.post("/v1/sandboxes", headers={"Idempotency-Key": "x"})
    assert_error(answer, 500, "internal_error")
    (row,) = await rows(alice)
    assert (row["status"], row["code"], row["resource_id"]) == (500, "internal_error", None)


async def test_a_row_without_a_result_is_there_while_the_call_is_under_way(
    bay: World, alice: httpx.AsyncClient
) -> None:
    bay.driver.hold_at = "ready"
    async with asyncio.TaskGroup() as group:
        making = group.create_task(create(alice, profile="eager", wait=15))
        await within(bay.driver.held.wait())
        (row,) = await rows(alice)
        assert (row["status"], row["code"]) == (None, None)
        assert row["resource_id"].startswith("sandbox-")
        bay.driver.let_go.set()
    assert [(r["status"], r["resource_id"]) for r in await rows(alice)] == [(201, making.result()["id"])]


def killed_in_a_call(root: Path) -> str:
    """Let a Bay of its own be killed in the middle of a delete; gives the id of the sandbox."""
    program = Path(__file__).parents[2] / "support" / "auditing_bay.py"
    process = subprocess.Popen(
        [sys.executable, str(program), str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
    )
    assert process.stdout is not None
    with process.stdout:
        try:
            return read_line(process).strip()
        finally:
            process.kill()
            process.wait(WAIT_S)


@pytest.mark.sqlite
async def test_a_call_in_which_bay_was_killed_stays_without_a_result(root: Path) -> None:
    sandbox_id = await asyncio.to_thread(killed_in_a_call, root)
    try:
        async with world(root) as bay:
            found = await rows(await bay.client("root", "admin"), owner="alice")
            assert [(r["method"], r["status"], r["resource_id"]) for r in found] == [
                ("POST", 201, sandbox_id), ("DELETE", None, sandbox_id)
            ]  # fmt: skip
            assert found[1]["request_id"] == "cut-off"
            await bay.settled(sandbox_id, lambda r: r.deleted_at is not None)
    finally:
        await clear(root)


async def test_calls_at_once_have_their_own_results(alice: httpx.AsyncClient) -> None:
    wanted = {f"r-{i}": {"name": f"box-{i % 5}"} for i in range(30)}
    answers = await asyncio.gather(
        *(alice.post("/v1/sandboxes", json=body, headers={"X-Request-Id": r}) for r, body in wanted.items())
    )
    said = {a.headers["x-request-id"]: (a.status_code, a.json().get("id")) for a in answers}
    found = await rows(alice)
    assert {r["request_id"]: (r["status"], r["resource_id"]) for r in found} == said
    assert len(found) == 30


@pytest.mark.sqlite
async def test_a_transaction_that_is_rolled_back_takes_no_other_calls_row(bay: World) -> None:
    """The number of a row that was rolled back is given out again."""
    calls = [
        audit.AuditedCall(at=bay.clock(), method="POST", path=f"/{i}", request_id=f"r{i}", owner="alice")
        for i in range(2)
    ]
    with audit.during(calls[0]), suppress(ZeroDivisionError):
        async with bay.bay.store.write() as db:
            await audit.note(db)
            raise ZeroDivisionError
    with audit.during(calls[1]):
        async with bay.bay.store.write():
            pass
    assert (calls[0].seq, calls[1].seq) == (None, 1)
    for call, status in zip(calls, (500, 201), strict=True):
        call.status = status
        async with bay.bay.store.write() as db:
            await audit.finish(db, call)
    assert await bay.sql("SELECT path, status FROM audit ORDER BY seq") == [("/1", 201), ("/0", 500)]


async def test_what_a_call_leaves_running_is_not_the_calls_any_more(bay: World) -> None:
    call = audit.AuditedCall(at=bay.clock(), method="POST", path="/", request_id="r")
    go_on = asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        async with bay.bay.store.write():
            pass

    with audit.during(call):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    go_on.set()
    await within(task)
    assert call.seq is None
    assert await bay.sql("SELECT * FROM audit") == []


# Who sees what


async def test_an_owner_sees_its_own_calls_and_an_admin_everybodys(
    bay: World, admin: httpx.AsyncClient, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    for client in (alice, bob):
        await create(client)
    assert {r["owner"] for r in await rows(await bay.client("alice", "read"))} == {"alice"}
    assert {r["owner"] for r in await rows(bob, owner="bob")} == {"bob"}
    assert_error(await bob.get("/v1/audit", params={"owner": "alice"}), 403, "forbidden")
    assert {r["owner"] for r in await rows(admin)} == {"alice", "bob"}
    assert {r["owner"] for r in await rows(admin, owner="alice")} == {"alice"}


async def test_the_filters_narrow_and_the_pages_join(
    bay: World, admin: httpx.AsyncClient, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    made: list[Json] = []
    for index, client in enumerate((alice, bob, alice, bob)):
        made.append(await create(client))
        await client.delete(f"/v1/sandboxes/{made[index]['id']}", headers={"X-Request-Id": f"r{index}"})
        bay.clock.advance(60)
    begin = bay.clock() - timedelta(seconds=240)
    two = {
        "since": to_rfc3339(begin + timedelta(seconds=60)),
        "until": to_rfc3339(begin + timedelta(seconds=180)),
    }
    key_id = bay.bay.keys.authenticate(bob.headers["authorization"]).key_id
    for params, count in (
        ({}, 8), ({"method": "DELETE"}, 4), ({"request_id": "r1"}, 1), ({"key_id": key_id}, 4), (two, 4),
        ({"resource_id": made[2]["id"]}, 2), ({"resource_id": made[2]["id"], "owner": "bob"}, 0), ({"method": "PUT"}, 0),
    ):  # fmt: skip
        whole = await rows(admin, **params)
        assert len(whole) == count, params
        paged: list[Json] = []
        cursor = None
        while True:
            more = {"cursor": cursor} if cursor else {}
            page = (await admin.get("/v1/audit", params={**params, **more, "limit": 3})).json()
            paged += page["items"]
            cursor = page["next_cursor"]
            if not page["has_more"]:
                break
        assert paged == whole
    assert [r["at"] for r in await rows(admin)] == sorted(r["at"] for r in await rows(admin))


@pytest.mark.parametrize("params", [{"method": "GET"}, {"since": "yesterday"}, {"until": "2030-01-01T00:00:00"},
                                    {"limit": "0"}, {"limit": "201"}, {"cursor": "x"}, {"key_id": "x" * 129}], ids=str)  # fmt: skip
async def test_a_filter_that_means_nothing_is_refused(alice: httpx.AsyncClient, params: Json) -> None:
    assert_error(await alice.get("/v1/audit", params=params), 422, "validation_error")


# What an attacker may try


async def test_calls_without_a_key_are_bounded(root: Path) -> None:
    async with world(root) as bay:
        nobody = await bay.open_client({"Authorization": "Bearer wrong"})
        admin = await bay.client("root", "admin")
        for _ in range(NAMELESS + 15):
            assert_error(await nobody.post("/v1/sandboxes"), 401, "unauthorized")
        assert (await nobody.post("/health")).status_code == 405, "which needs no key, and is bounded too"
        found = await rows(admin)
        assert len(found) == NAMELESS
        assert {(r["owner"], r["key_id"], r["status"], r["code"]) for r in found} == {
            (None, None, 401, "unauthorized")
        }
        await create(admin)  # whoever has a key still leaves a row
        bay.clock.advance(60)
        await nobody.post("/v1/sandboxes")
        assert len(await rows(admin)) == NAMELESS + 2


async def test_no_secret_is_in_the_audit(
    bay: World, admin: httpx.AsyncClient, alice: httpx.AsyncClient
) -> None:
    made = await create(alice, env={"TOKEN": SECRET}, labels={"x": SECRET})
    path = f"/v1/sandboxes/{made['id']}"
    key = (await admin.post("/v1/keys", json={"name": SECRET, "owner": "alice"})).json()["secret"]
    await shell(alice, made["id"], f"echo {SECRET}")
    await alice.post(f"{path}/execs", json={"command": "cat", "stdin": SECRET, "env": {"A": SECRET}})
    await alice.put(f"{path}/filesystem/files", json={"path": SECRET, "content": SECRET})
    await alice.delete(f"{path}/filesystem/files", params={"path": SECRET})
    await alice.post(
        "/v1/sandboxes", params={"api_key": SECRET}, headers={"Authorization": f"Bearer {SECRET}"}
    )
    await alice.post("/v1/sandboxes", headers={"Idempotency-Key": SECRET, "Cookie": SECRET})
    await admin.delete(f"/v1/keys/{key}")
    await alice.post(f"/v1/{key}/x")
    text = str(await rows(admin)) + str(await bay.sql("SELECT * FROM audit"))
    assert SECRET not in text
    assert key not in text
    assert len(await rows(admin)) == 10


async def test_a_path_is_bounded_and_any_character_of_it_is_kept(alice: httpx.AsyncClient) -> None:
    for path in ("/v1/" + "x" * 5000, "/v1/%00%1b[31m%ff%ed%a0%80", "/v1/%E4%BD%A0"):
        await alice.post(path)
    found = [r["path"] for r in await rows(alice)]
    assert [len(found[0]), found[0][:6], found[2]] == [512, "/v1/xx", "/v1/\u4f60"]


async def test_a_call_that_was_cut_off_by_the_end_of_bay_says_so(root: Path) -> None:
    try:
        async with world(root) as bay:
            alice = await bay.client("alice")
            bay.driver.hold_at = "ready"
            making = asyncio.create_task(create(alice, profile="eager", wait=15))
            await within(bay.driver.held.wait())
            making.cancel()
            with suppress(asyncio.CancelledError):
                await making
            bay.driver.let_go.set()
            assert [(r["status"], r["code"]) for r in await rows(alice)] == [(None, None)]
    finally:
        await clear(root)


# Retention


async def test_old_rows_and_those_beyond_the_most_are_forgotten(bay: World, alice: httpx.AsyncClient) -> None:
    for _ in range(6):
        await create(alice)
        bay.clock.advance(60)
    await bay.bay.deferred.flush()
    async with bay.bay.store.write() as db:
        assert await audit.trim(db, bay.clock() - timedelta(seconds=240), 100) == 2
        assert await audit.trim(db, bay.clock() - timedelta(days=9), 3) == 1
        assert await audit.trim(db, bay.clock() - timedelta(days=9), 3) == 0
    assert len(await rows(alice)) == 3
    await create(alice)
    assert len(await rows(alice)) == 4
