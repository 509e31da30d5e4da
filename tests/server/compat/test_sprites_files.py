"""Files, checkpoints, services and policies of sprites, by the routes that their clients call."""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, clear, create, eventually, until, within, world

from bay.models import NetworkPolicy, NetworkRule, ServiceSpec
from bay.server.compat.sprites.policies import DEFAULTS, policy_of, rules_of
from bay.server.managed_services.ship_client import ServiceClient, States
from bay.server.ship.answers import ShipMeta
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer

pytestmark = pytest.mark.anyio

SLEEPER = {"cmd": "sh", "args": ["-c", "echo ready; exec sleep 600"]}


@pytest.fixture
async def bay(tmp_path: Path) -> AsyncGenerator[World]:
    async with world(tmp_path) as bay:
        yield bay
    await clear(tmp_path)


@pytest.fixture
async def sprite(bay: World) -> httpx.AsyncClient:
    """A client whose paths begin at a sprite."""
    alice = await bay.client()
    await create(alice, name="box", wait=15)
    return alice


def at(path: str) -> str:
    return f"/v1/sprites/box/{path}"


def lines(answer: httpx.Response) -> list[Json]:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in answer.text.splitlines()]


async def put(client: httpx.AsyncClient, path: str, content: bytes = b"", **params: Any) -> Json:
    answer = await client.put(at("fs/write"), params={"path": path, **params}, content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient, path: str, **params: Any) -> Json:
    answer = await client.get(at("fs/list"), params={"path": path, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_file_is_written_read_listed_and_deleted(sprite: httpx.AsyncClient, bay: World) -> None:
    written = await put(sprite, "a/b.sh", b"echo", mode="0755", mkdirParents="true")
    assert (written["size"], written["mode"]) == (4, "0755")
    assert written["path"].endswith("/a/b.sh")
    read = await sprite.get(at("fs/read"), params={"path": "b.sh", "workingDir": "a/.."})
    assert read.status_code == 404
    for where in ({"path": "a/b.sh"}, {"path": written["path"]}, {"path": "a/b.sh", "workingDir": "."}):
        read = await sprite.get(at("fs/read"), params=where)
        assert (read.content, read.headers["content-length"]) == (b"echo", "4")
    found = await listed(sprite, "a")
    assert (found["count"], found["path"]) == (1, written["path"].removesuffix("/b.sh"))
    (entry,) = found["entries"]
    assert datetime.fromisoformat(entry.pop("modTime")).year > 2000
    assert entry == {
        "name": "b.sh", "path": written["path"], "type": "file", "size": 4, "mode": "0755", "isDir": False
    }  # fmt: skip
    assert (await listed(sprite, "a/b.sh"))["entries"][0]["name"] == "b.sh"
    assert [one["type"] for one in (await listed(sprite, ".", recursive="true"))["entries"]] == [
        "directory", "file",
    ]  # fmt: skip
    assert (await listed(sprite, ".", recursive="true", pattern="*.sh"))["count"] == 1
    gone = await sprite.delete(at("fs/delete"), params={"path": "a/b.sh"})
    assert gone.json() == {"deleted": [written["path"]], "count": 1}
    assert (await listed(sprite, "a"))["entries"] == []


async def test_a_directory_is_made_by_a_file_that_is_removed_again(sprite: httpx.AsyncClient) -> None:
    await put(sprite, "deep/er/.keep", mkdirParents="false")
    await sprite.delete(at("fs/delete"), params={"path": "deep/er/.keep"})
    assert (await listed(sprite, "deep"))["entries"][0]["isDir"] is True
    lacking = await sprite.put(at("fs/write"), params={"path": "none/f"}, content=b"")
    assert (lacking.status_code, lacking.json()["code"]) == (404, "ENOENT")


async def test_errors_of_files_have_the_code_of_an_errno_and_the_path(
    sprite: httpx.AsyncClient, bay: World
) -> None:
    await put(sprite, "d/f", b"1", mkdirParents="true")
    await put(sprite, "g", b"2")
    calls: list[tuple[str, str, dict[str, Any], int, str, str]] = [
        ("GET", "read", {"params": {"path": "none"}}, 404, "ENOENT", "none"),
        ("GET", "list", {"params": {"path": "none"}}, 404, "ENOENT", "none"),
        ("GET", "read", {"params": {"path": "d"}}, 400, "EISDIR", "d"),
        ("GET", "read", {"params": {"path": "g/h"}}, 404, "ENOTDIR", "g/h"),
        ("DELETE", "delete", {"params": {"path": "d"}}, 409, "ENOTEMPTY", "d"),
        ("POST", "rename", {"json": {"source": "g", "dest": "d"}}, 400, "EISDIR", "d"),
        ("POST", "rename", {"json": {"source": "d", "dest": "g"}}, 400, "ENOTDIR", "g"),
        ("POST", "rename", {"json": {"source": "none", "dest": "g"}}, 404, "ENOENT", "none"),
        ("POST", "copy", {"json": {"source": "d", "dest": "e"}}, 400, "EISDIR", "d"),
        ("POST", "chmod", {"json": {"path": "none", "mode": "0644"}}, 404, "ENOENT", "none"),
        ("POST", "chown", {"json": {"path": "g", "uid": 4242}}, 403, "EPERM", "g"),
        ("POST", "chown", {"json": {"path": "g"}}, 400, "EINVAL", "g"),
        ("POST", "chown", {"json": {"path": "g", "gid": "no-such"}}, 400, "EINVAL", "g"),
        ("POST", "chown", {"json": {"path": "none", "uid": str(os.geteuid())}}, 404, "ENOENT", "none"),
        ("GET", "read", {"params": {"path": "a\0b"}}, 400, "EINVAL", "a\0b"),
        ("GET", "read", {"params": {"path": "/etc/passwd"}}, 403, "EACCES", "/etc/passwd"),
    ]
    for method, call, given, status, code, path in calls:
        answer = await sprite.request(method, at(f"fs/{call}"), **given)
        told = answer.json()
        assert "code" in told, (call, given, told)
        assert (answer.status_code, told["code"], told["path"]) == (status, code, path), (call, given, told)
        assert isinstance(told["error"], str)
    assert (await sprite.get(at("fs/read"), params={"path": "g"})).content == b"2"


async def test_files_are_renamed_copied_and_given_other_modes(sprite: httpx.AsyncClient) -> None:
    await put(sprite, "d/f", b"12", mkdirParents="true")
    await put(sprite, "d/e/g", b"345", mkdirParents="true", mode="0600")
    copied = await sprite.post(at("fs/copy"), json={"source": "d", "dest": "copy", "recursive": True})
    assert (copied.json()["count"], copied.json()["totalBytes"]) == (4, 5)
    over = {"source": "d/f", "dest": "copy/f", "recursive": None, "preserveAttrs": True}
    assert (await sprite.post(at("fs/copy"), json=over)).json()["count"] == 1
    moved = await sprite.post(at("fs/rename"), json={"source": "f", "dest": "h", "workingDir": "copy"})
    assert moved.json()["source"] == "f"
    assert (await sprite.get(at("fs/read"), params={"path": "copy/h"})).content == b"12"
    changed = await sprite.post(at("fs/chmod"), json={"path": "copy", "mode": "700", "recursive": True})
    assert (changed.json()["mode"], changed.json()["count"]) == ("0700", 4)
    assert {one["mode"] for one in (await listed(sprite, "copy"))["entries"]} == {"0700"}
    own = (await sprite.get("/v1/sandboxes/box/files/stat", params={"path": "copy/h"})).json()
    same = {"path": "copy", "uid": own["uid"], "gid": str(own["gid"]), "recursive": True, "asRoot": True}
    given = (await sprite.post(at("fs/chown"), json=same)).json()
    assert (given["count"], given["uid"], given["affected"]) == (4, own["uid"], [given["path"]])


async def test_root_touches_files_where_the_profile_allows_it(bay: World, sprite: httpx.AsyncClient) -> None:
    await put(sprite, "d/f", b"1", mkdirParents="true", asRoot="true")
    carried = {"source": "d/f", "dest": "d/g", "asRoot": True}
    assert (await sprite.post(at("fs/rename"), json=carried)).status_code == 200
    assert (await listed(sprite, "d", asRoot="true"))["entries"][0]["name"] == "g"
    changed = {"path": "d", "mode": "0700", "recursive": True, "asRoot": True}
    assert (await sprite.post(at("fs/chmod"), json=changed)).json()["count"] == 2
    read = await sprite.get(at("fs/read"), params={"path": "d/g", "asRoot": "true"})
    assert read.content == b"1"
    await create(sprite, name="rootless", profile="rootless", wait=15)
    as_root: list[tuple[str, str, Json]] = [
        ("GET", "read", {"params": {"path": "x", "asRoot": "true"}}),
        ("PUT", "write", {"params": {"path": "x", "asRoot": "true"}, "content": b"1"}),
        ("GET", "list", {"params": {"path": "x", "asRoot": "true"}}),
        ("DELETE", "delete", {"params": {"path": "x", "asRoot": "true"}}),
        ("POST", "rename", {"json": {"source": "x", "dest": "y", "asRoot": True}}),
        ("POST", "copy", {"json": {"source": "x", "dest": "y", "asRoot": True}}),
        ("POST", "chmod", {"json": {"path": "x", "mode": "0600", "asRoot": True}}),
        ("POST", "chown", {"json": {"path": "x", "uid": 0}}),
    ]
    for method, call, body in as_root:
        answer = await sprite.request(method, f"/v1/sprites/rootless/fs/{call}", **body)
        told = answer.json()
        assert (answer.status_code, told.get("code"), told.get("path")) == (403, "EPERM", "x"), (call, told)
        assert "does not allow" in told["error"]


async def test_a_session_of_an_earlier_bay_is_not_asked_for_what_its_runtime_would_ignore(
    bay: World, sprite: httpx.AsyncClient
) -> None:
    await put(sprite, "mine", b"1")
    session = await bay.session((await sprite.get("/v1/sandboxes/box")).json()["id"])
    bay.bay.ship._metas[session.id] = ShipMeta(version="0", protocol=1, capabilities=[])
    as_root = {"path": "mine", "asRoot": "true"}
    refused = await sprite.get(at("fs/read"), params=as_root)
    assert (refused.status_code, "restart the sandbox" in refused.json()["error"]) == (400, True)
    assert (await sprite.get(at("fs/read"), params={"path": "mine"})).content == b"1"
    assert (await sprite.post("/v1/sprites/box/restart")).status_code == 200
    assert (await sprite.get(at("fs/read"), params=as_root)).content == b"1"


async def test_checkpoints_of_every_door_have_ids_by_their_number(sprite: httpx.AsyncClient) -> None:
    await put(sprite, "f", b"one")
    told = lines(await sprite.post(at("checkpoint"), json={"comment": "first"}))
    assert [one.get("data") for one in told[1:]] == [
        "  ID: v1", "Checkpoint v1 created successfully", "Checkpoint v1 created successfully",
    ]  # fmt: skip
    assert [one["type"] for one in told] == ["info", "info", "info", "complete"]
    assert all(datetime.fromisoformat(one["time"]) for one in told)
    await put(sprite, "f", b"two")
    native = await sprite.post("/v1/sandboxes/box/checkpoints", json={"name": "v1"})
    assert native.json()["number"] == 2
    found = (await sprite.get(at("checkpoints"))).json()
    assert [(one["id"], one["source_id"], one["comment"], one["history"]) for one in found] == [
        ("Current", "v2", "", ["v1", "v2"]), ("v2", "v1", "", ["v1"]), ("v1", "", "first", []),
    ]  # fmt: skip
    assert (await sprite.get(at("checkpoints"), params={"history": "v1"})).json()[1]["id"] == "v2"
    assert (await sprite.get(at("checkpoints/v1"))).json() == found[2]
    restored = lines(await sprite.post(at("checkpoints/v1/restore")))
    assert restored[-1]["type"] == "complete"
    assert (await sprite.get(at("fs/read"), params={"path": "f"})).content == b"one"
    assert (await sprite.get(at("checkpoints/Current"))).json()["source_id"] == "v1"
    assert (await sprite.delete(at("checkpoints/v1"))).status_code == 204
    for method, path in [("GET", "v1"), ("GET", "v9"), ("DELETE", "v9"), ("POST", "v1/restore")]:
        lost = await sprite.request(method, at(f"checkpoints/{path}"))
        assert lost.status_code == 404, (method, path)
        assert "there is no checkpoint" in lost.json()["error"]


async def test_a_restore_that_fails_is_an_error_among_the_lines(bay: World) -> None:
    alice = await bay.client()
    cargo = (await alice.post("/v1/cargos", json={})).json()["id"]
    await create(alice, name="box", cargo_id=cargo, wait=15)
    await put(alice, "f", b"one")
    lines(await alice.post(at("checkpoint"), json={}))
    await put(alice, "f", b"two")
    await create(alice, name="other", cargo_id=cargo, wait=15)
    running = (await alice.get("/v1/sandboxes/other")).json()["status"]
    assert running == "ready"
    *_, last = lines(await alice.post(at("checkpoints/v1/restore")))
    assert last["type"] == "error"
    assert "also in use" in last["error"]
    assert (await alice.get(at("fs/read"), params={"path": "f"})).content == b"two"


async def test_a_service_runs_at_once_and_is_told_of(sprite: httpx.AsyncClient) -> None:
    await put(sprite, "sub/.keep")
    body = {**SLEEPER, "env": {"A": "1"}, "dir": "sub", "needs": None, "http_port": 8081}
    told = lines(await sprite.put(at("services/web"), params={"duration": "0.0s"}, json=body))
    assert [one["type"] for one in told] == ["started", "complete"]
    assert told[1]["log_files"] == {}
    assert all(one["timestamp"] > 10**12 for one in told)
    found = (await sprite.get(at("services/web"))).json()
    state = found.pop("state")
    assert found == {
        "name": "web", "cmd": "sh", "args": SLEEPER["args"], "env": {"A": "1"}, "dir": "sub", "needs": [],
        "http_port": 8081,
    }  # fmt: skip
    assert (state["name"], state["status"], state["restart_count"]) == ("web", "running", 0)
    assert state["pid"] > 0
    assert (await sprite.get(at("services"))).json()[0]["name"] == "web"
    second = await sprite.put(at("services/other"), json={"cmd": "true", "http_port": 9090})
    assert (second.status_code, "http_port" in second.json()["error"]) == (409, True)
    assert (await sprite.get("/v1/sandboxes/box/services")).json()["items"][0]["http_port"] == 8081


async def test_the_url_leads_to_the_service_that_serves_http(sprite: httpx.AsyncClient) -> None:
    await sprite.put("/v1/sprites/box", json={"url_settings": {"auth": "public"}})

    async def url() -> tuple[int, str]:
        found = (await sprite.get("/v1/sandboxes/box")).json()["url"]
        return found["port"], found["access"]

    async def define(**body: Any) -> None:
        told = await sprite.put(at("services/web"), params={"duration": "0s"}, json={**SLEEPER, **body})
        lines(told)

    assert await url() == (8080, "public")
    await define(http_port=9000)
    assert await url() == (9000, "public")
    await define(http_port=None)
    assert await url() == (8080, "public")
    await define(http_port=9001)
    await sprite.delete(at("services/web"))
    assert await url() == (8080, "public")


async def test_lines_follow_what_a_service_prints_until_it_ends(sprite: httpx.AsyncClient) -> None:
    calling = sprite.put(at("services/web"), params={"duration": "1m"}, json=SLEEPER)
    told = await until_stopped(sprite, calling)
    assert [one["type"] for one in told] == ["started", "stdout", "exit", "complete"]
    assert (told[1]["data"], told[2]["exit_code"]) == ("ready\n", 143)


async def until_stopped(client: httpx.AsyncClient, call: Coroutine[Any, Any, httpx.Response]) -> list[Json]:
    """The lines of a call that makes the service `web`, which is stopped once it has printed."""
    calling = asyncio.create_task(call)

    async def is_up() -> bool:
        found = await client.get("/v1/sandboxes/box/services/web")
        return (
            found.status_code == 200
            and found.json()["state"] == "running"
            and found.json()["output_bytes"] > 0
        )

    await eventually(is_up)
    assert (await client.post("/v1/sandboxes/box/services/web/stop")).status_code == 200
    return lines(await calling)


async def test_a_stop_sticks_and_a_start_does_too(sprite: httpx.AsyncClient) -> None:
    now = {"duration": "0s"}
    lines(await sprite.put(at("services/web"), params=now, json=SLEEPER))
    stopped = lines(await sprite.post(at("services/web/stop"), params={"timeout": "10s"}))
    assert [one["type"] for one in stopped] == ["stopping", "stopped", "complete"]
    assert (await sprite.get(at("services/web"))).json()["state"]["status"] == "stopped"
    assert (await sprite.post(at("services/web/stop"))).status_code == 409
    assert (
        await sprite.post(at("services/signal"), json={"name": "web", "signal": "HUP"})
    ).status_code == 409
    started = lines(await sprite.post(at("services/web/start"), params=now))
    assert [one["type"] for one in started] == ["started", "complete"]
    again = lines(await sprite.post(at("services/web/restart"), params=now))
    assert [one["type"] for one in again] == ["stopping", "stopped", "started", "complete"]
    assert (await sprite.get(at("services/web"))).json()["state"]["status"] == "running"
    assert (await sprite.delete(at("services/web"))).status_code == 204
    for method, path in [("GET", "web"), ("DELETE", "web"), ("POST", "web/start"), ("GET", "web/logs")]:
        assert (await sprite.request(method, at(f"services/{path}"))).status_code == 404, path


async def test_a_signal_of_a_sprite_reaches_its_service(sprite: httpx.AsyncClient) -> None:
    body = {"cmd": "sh", "args": ["-c", "trap 'echo heard' HUP; echo ready; while :; do sleep 0.05; done"]}

    async def has_printed(text: str) -> bool:
        told = lines(await sprite.get(at("services/web/logs")))
        return any(text in one.get("data", "") for one in told)

    lines(await sprite.put(at("services/web"), params={"duration": "0s"}, json=body))
    await eventually(lambda: has_printed("ready"))
    sent = await sprite.post(at("services/signal"), json={"name": "web", "signal": "SIGHUP"})
    assert (sent.status_code, sent.content) == (204, b"")
    await eventually(lambda: has_printed("heard"))
    for signal, status in [("SIGNONE", 400), ("HUP", 204)]:
        answer = await sprite.post(at("services/signal"), json={"name": "web", "signal": signal})
        assert answer.status_code == status


async def test_a_service_that_ends_or_cannot_start_is_told_of(sprite: httpx.AsyncClient) -> None:
    none = lines(await sprite.put(at("services/none"), params={"duration": "0s"}, json={"cmd": "/no/such"}))
    assert [one["type"] for one in none] == ["started", "error", "complete"]
    state = (await sprite.get(at("services/none"))).json()["state"]
    assert (state["status"], state["pid"]) in (("starting", None), ("failed", None))
    assert state["error"]


async def test_logs_have_the_last_lines(sprite: httpx.AsyncClient) -> None:
    body = {"cmd": "sh", "args": ["-c", "for i in 1 2 3; do echo $i; done; echo bad >&2; exec sleep 600"]}
    lines(await sprite.put(at("services/web"), params={"duration": "0s"}, json=body))

    async def printed(**params: Any) -> str:
        told = lines(await sprite.get(at("services/web/logs"), params=params))
        assert told[-1]["type"] == "complete"
        return "".join(sorted(line for one in told[:-1] for line in one["data"].splitlines(keepends=True)))

    async def is_there() -> bool:
        return await printed() == "1\n2\n3\nbad\n"

    await eventually(is_there)
    assert len((await printed(lines=2)).splitlines()) == 2
    assert await printed(lines=0) == ""
    too_long = await sprite.get(at("services/web/logs"), params={"duration": "5h"})
    assert too_long.status_code == 400


async def test_a_service_of_a_cold_sprite_wakes_it(bay: World) -> None:
    alice = await bay.client()
    await create(alice, name="box")
    told = lines(await alice.put(at("services/web"), params={"duration": "0s"}, json=SLEEPER))
    assert [one["type"] for one in told] == ["started", "complete"]
    assert (await alice.get(at("services/web"))).json()["state"]["status"] == "running"
    refused = await alice.put(at("services/bad"), json={"cmd": "x", "needs": ["none"]})
    assert (refused.status_code, type(refused.json()["error"])) == (400, str)


class OneByOne(ServiceClient):
    """Tells Ships of services as often as a test has allowed it."""

    def __init__(self, ship: ShipClient) -> None:
        super().__init__(ship)
        self.asked = 0
        self.allowed = asyncio.Semaphore(0)

    async def put(self, peer: Peer, env: Mapping[str, str], specs: Sequence[ServiceSpec]) -> States:
        self.asked += 1
        await self.allowed.acquire()
        return await super().put(peer, env, specs)


async def test_a_service_that_is_put_into_a_start_is_told_of_once_the_runtime_knows(bay: World) -> None:
    alice = await bay.client()
    box = await create(alice, name="box")
    assert (await alice.put("/v1/sandboxes/box/services/first", json={"argv": ["true"]})).status_code == 201
    syncer = bay.bay.service_syncer
    link = syncer._ship = OneByOne(bay.bay.ship)
    starting = asyncio.create_task(alice.post("/v1/sandboxes/box/start", params={"wait": 15}))
    await until(lambda: link.asked == 1)
    none = {"cmd": "/no/such"}
    calling = asyncio.create_task(alice.put(at("services/none"), params={"duration": "0s"}, json=none))
    kept = syncer._kept[(await bay.session(box["id"])).id]
    await within(kept.dirty.wait())
    link.allowed.release()
    assert (await within(starting)).json()["status"] == "ready"
    await until(lambda: link.asked == 2)
    for _ in range(20):
        assert (await alice.get("/v1/sandboxes/box")).status_code == 200
    assert not calling.done()
    for _ in range(5):
        link.allowed.release()
    told = lines(await within(calling))
    assert [one["type"] for one in told] == ["started", "error", "complete"]


async def test_the_url_moves_in_one_step_with_the_service_that_serves_http(
    sprite: httpx.AsyncClient, bay: World
) -> None:
    link = bay.bay.service_syncer._ship = OneByOne(bay.bay.ship)

    async def leads_to(calls: int, port: int) -> None:
        await until(lambda: link.asked == calls)
        assert (await sprite.get("/v1/sandboxes/box")).json()["url"]["port"] == port
        link.allowed.release()

    web = {**SLEEPER, "http_port": 9000}
    putting = asyncio.create_task(sprite.put(at("services/web"), params={"duration": "0s"}, json=web))
    await leads_to(1, 9000)
    lines(await within(putting))
    deleting = asyncio.create_task(sprite.delete(at("services/web")))
    await leads_to(2, 8080)
    assert (await within(deleting)).status_code == 204


async def test_a_frozen_sprite_tells_no_old_output_anew(sprite: httpx.AsyncClient) -> None:
    lines(await sprite.put(at("services/web"), params={"duration": "0s"}, json=SLEEPER))

    async def has_printed() -> bool:
        return (await sprite.get("/v1/sandboxes/box/services/web")).json()["output_bytes"] > 0

    await eventually(has_printed)
    await sprite.post("/v1/sandboxes/box/pause")
    told = lines(await sprite.post(at("services/web/start"), params={"duration": "0.5s"}))
    assert [one["type"] for one in told] == ["started", "complete"]


async def test_a_network_policy_comes_back_as_it_was_set(sprite: httpx.AsyncClient) -> None:
    assert (await sprite.get(at("policy/network"))).json() == {"rules": []}
    allow, deny = {"domain": "*.example.com", "action": "allow"}, {"domain": "*", "action": "deny"}
    for rules in ([allow, {"include": "defaults"}, deny], [], [deny], [{"include": "defaults"}]):
        body = {"rules": [{"domain": None, "action": None, "include": None, **rule} for rule in rules]}
        assert (await sprite.post(at("policy/network"), json=body)).status_code == 204
        assert (await sprite.get(at("policy/network"))).json() == {"rules": rules}
        native = (await sprite.get("/v1/sandboxes/box/network-policy")).json()
        assert native["mode"] == ("allowlist" if rules else "open")
    bad: list[dict[str, Any]] = [
        {"domain": "x.com"}, {"domain": "x.com", "action": "maybe"}, {"include": "all"}, {"action": "deny"},
        {"domain": "10.0.0.1", "action": "allow"}, {"include": "defaults", "action": "deny"},
        {"domain": 7, "action": "deny"},
    ]  # fmt: skip
    for rule in bad:
        assert (await sprite.post(at("policy/network"), json={"rules": [rule]})).status_code == 400, rule
    assert (await sprite.get(at("policy/network"))).json() == {"rules": [{"include": "defaults"}]}


def test_every_policy_of_bay_reads_as_rules_on_names() -> None:
    deny = NetworkRule(action="deny", domain="x.com")
    addresses = NetworkRule(action="allow", cidr="192.0.2.0/24")
    shown: list[tuple[NetworkPolicy, list[tuple[str, str]]]] = [
        (NetworkPolicy(mode="none"), [("*", "deny")]),
        (NetworkPolicy(mode="allowlist"), [("*", "deny")]),
        (NetworkPolicy(mode="open"), []),
        (NetworkPolicy(mode="open", rules=(deny, addresses)), [("x.com", "deny"), ("*", "allow")]),
    ]
    for policy, rules in shown:
        assert [(rule["domain"], rule["action"]) for rule in rules_of(policy)] == rules
    assert len(policy_of([{"include": "defaults"}]).rules) == len(DEFAULTS) == len(set(DEFAULTS))


async def test_resources_are_the_memory_and_privileges_are_the_profiles(sprite: httpx.AsyncClient) -> None:
    before = (await sprite.get(at("policy/resources"))).json()["memory"]
    assert before["autoscale"] is False
    wanted = {"memory": {"limit_mb": 512, "autoscale": None}}
    assert (await sprite.post(at("policy/resources"), json=wanted)).status_code == 204
    assert (await sprite.get("/v1/sandboxes/box")).json()["memory_mb"] == 512
    grown = {"memory": {"limit_mb": 512, "autoscale": True}}
    assert (await sprite.post(at("policy/resources"), json=grown)).status_code == 400
    assert (await sprite.delete(at("policy/resources"))).status_code == 204
    assert (await sprite.get(at("policy/resources"))).json()["memory"] == before
    privileges = (await sprite.get(at("policy/privileges"))).json()
    assert privileges == {"profile": "standard", "devices": [], "noNewPrivileges": False}
    assert (await sprite.post(at("policy/privileges"), json=privileges)).status_code == 204
    assert (await sprite.post(at("policy/privileges"), json={"profile": "privileged"})).status_code == 400
    assert (await sprite.delete(at("policy/privileges"))).status_code == 204
