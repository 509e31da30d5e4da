"""Services of sandboxes through the API: rows that say what runs, sessions that run it, and what is told of
it.
"""

import asyncio
import base64
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, eventually, ships, within, world

from bay.errors import DatabaseUnavailable, ShipError
from bay.models import ServiceSpec
from bay.server.managed_services.ship_client import ServiceClient, ServiceStatus, States
from bay.server.managed_services.syncer import news_of
from bay.server.ship.connection import Peer

pytestmark = pytest.mark.anyio

SLEEPER = ["sh", "-c", "echo started; exec sleep 600"]


class Refusing(ServiceClient):
    """Cannot tell a Ship anything, until it is told to."""

    refuses = True

    async def put(self, peer: Peer, env: Mapping[str, str], specs: Sequence[ServiceSpec]) -> States:
        if self.refuses:
            raise ShipError("the connection broke")
        return await super().put(peer, env, specs)


def body(argv: list[str] | None = None, **more: Any) -> Json:
    return {"argv": argv or SLEEPER, **more}


def path(box: Json, *rest: str) -> str:
    return "/".join((f"/v1/sandboxes/{box['id']}/services", *rest))


async def put(
    client: httpx.AsyncClient, box: Json, name: str, argv: list[str] | None = None, **more: Any
) -> Json:
    answer = await client.put(path(box, name), json=body(argv, **more))
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient, box: Json) -> dict[str, Json]:
    answer = await client.get(path(box))
    assert answer.status_code == 200, answer.text
    return {item["name"]: item for item in answer.json()["items"]}


async def get(client: httpx.AsyncClient, box: Json, name: str) -> Json:
    return (await listed(client, box))[name]


async def act(client: httpx.AsyncClient, box: Json, name: str, what: str) -> Json:
    answer = await client.post(path(box, name, what))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def wait_service(client: httpx.AsyncClient, box: Json, name: str, done: Callable[[Json], bool]) -> Json:
    """The service once `done` holds."""
    found: Json = {}

    async def look() -> bool:
        found.update(await get(client, box, name))
        return done(found)

    await eventually(look)
    return found


async def logs(client: httpx.AsyncClient, box: Json, name: str, **params: Any) -> list[Json]:
    answer = await client.get(path(box, name, "logs"), params=params)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def printed(lines: list[Json]) -> bytes:
    return b"".join(base64.b64decode(line["data"]) for line in lines if "data" in line)


async def types(bay: World, box: Json) -> list[tuple[str, Json]]:
    rows = await bay.sql(f"SELECT type, data FROM events WHERE sandbox_id = '{box['id']}' ORDER BY seq")  # noqa: S608
    return [(kind, json.loads(data)) for kind, data in rows]


async def stopped(client: httpx.AsyncClient, box: Json) -> None:
    assert (await client.post(f"/v1/sandboxes/{box['id']}/stop")).status_code == 200


async def started(client: httpx.AsyncClient, box: Json) -> Json:
    return (await client.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 15})).json()


async def test_services_of_a_create_run_when_it_is_ready(alice: httpx.AsyncClient) -> None:
    web = {"name": "web", **body(http_port=8000, needs=["db"])}
    box = await create(alice, wait=15, services=[web, {"name": "db", **body()}], env={"A": "1"})
    found = await listed(alice, box)
    assert list(found) == ["web", "db"]
    assert [one["state"] for one in found.values()] == ["running", "running"]
    assert (found["web"]["http_port"], found["web"]["needs"]) == (8000, ["db"])
    assert found["web"]["argv"] == SLEEPER
    assert found["web"]["started_at"] >= found["db"]["started_at"]
    assert (await alice.get(path(box, "db"))).json() == await get(alice, box, "db")


async def test_without_compute_services_are_rows_and_nothing_starts(
    alice: httpx.AsyncClient, bay: World
) -> None:
    box = await create(alice)
    answer = await alice.put(path(box, "web"), json=body())
    assert (answer.status_code, answer.json()["state"]) == (201, "stopped")
    assert (await alice.put(path(box, "web"), json=body(cwd="app/../x"))).status_code == 200
    assert (await get(alice, box, "web"))["cwd"] == "x"
    for what, enabled in (("stop", False), ("start", True), ("stop", False), ("restart", True)):
        service = await act(alice, box, "web", what)
        assert (service["state"], service["enabled"]) == ("stopped", enabled)
    assert printed(await logs(alice, box, "web", follow=True)) == b""
    assert_error(await alice.get(path(box, "web", "logs"), params={"since": 3}), 410, "output_gone")
    assert (await bay.record(box["id"])).session is None
    assert (await alice.delete(path(box, "web"))).status_code == 204
    assert await listed(alice, box) == {}


async def test_a_service_starts_with_every_session(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15)
    first = await put(alice, box, "web")
    assert (first["state"], first["restarts"]) == ("running", 0)
    await put(alice, box, "off", enabled=False)
    await stopped(alice, box)
    assert (await get(alice, box, "web"))["state"] == "stopped"
    assert ships(bay.root) == []
    await started(alice, box)
    again = await listed(alice, box)
    assert (again["web"]["state"], again["off"]["state"]) == ("running", "stopped")
    assert again["web"]["pid"] != first["pid"]
    assert printed(await logs(alice, box, "web")) == b"started\n"


async def test_what_is_changed_is_begun_anew_and_the_rest_runs_on(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    web, other = await put(alice, box, "web"), await put(alice, box, "other")
    assert (await put(alice, box, "web"))["pid"] == web["pid"]
    assert (await put(alice, box, "web", env={"A": "1"}))["pid"] != web["pid"]
    assert (await get(alice, box, "other"))["pid"] == other["pid"]


async def test_stop_start_and_restart(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    first = await put(alice, box, "web")
    stopped = await act(alice, box, "web", "stop")
    assert (stopped["state"], stopped["enabled"], stopped["pid"]) == ("stopped", False, None)
    second = await act(alice, box, "web", "start")
    assert (second["state"], second["enabled"]) == ("running", True)
    assert (await act(alice, box, "web", "start"))["pid"] == second["pid"]
    third = await act(alice, box, "web", "restart")
    assert (third["state"], third["restarts"]) == ("running", 1)
    assert len({first["pid"], second["pid"], third["pid"]}) == 3
    await act(alice, box, "web", "stop")
    assert (await act(alice, box, "web", "restart"))["state"] == "running"


async def test_start_begins_anew_what_had_ended_for_good(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    await put(alice, box, "task", ["sh", "-c", "echo ran; exit 4"], restart="never")
    await wait_service(alice, box, "task", lambda s: s["state"] == "exited")
    assert (await act(alice, box, "task", "start"))["restarts"] == 1
    lines = await logs(alice, box, "task", follow=True)
    assert printed(lines) == b"ran\nran\n"
    assert lines[-1] == {"exit_code": 4, "signal": None, "state": "exited", "timed_out": False}


async def test_variables_of_profile_sandbox_and_service(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15, env={"A": "box", "B": "box"})
    show = ["sh", "-c", "echo $FROM_PROFILE $A $B"]
    await put(alice, box, "web", show, env={"B": "own"}, restart="never")
    assert printed(await logs(alice, box, "web", follow=True)) == b"yes box own\n"


async def test_a_frozen_sandbox_has_its_services_as_they_were(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15)
    web = await put(alice, box, "web")

    async def heard() -> bool:
        return (
            "web" in (await bay.bay.service_syncer.report(box["id"], (await bay.session(box["id"])).id)).seen
        )

    await eventually(heard)
    assert (await alice.post(f"/v1/sandboxes/{box['id']}/pause")).status_code == 200
    frozen = await get(alice, box, "web")
    assert (frozen["state"], frozen["pid"]) == ("running", web["pid"])
    assert (await bay.session(box["id"])).phase == "paused"
    await alice.put(path(box, "other"), json=body())
    assert (await get(alice, box, "other"))["state"] == "waiting"
    assert (await bay.session(box["id"])).phase == "paused"
    await alice.post(f"/v1/sandboxes/{box['id']}/resume")
    await wait_service(alice, box, "other", lambda s: s["state"] == "running")
    assert (await get(alice, box, "web"))["pid"] == web["pid"]


async def test_a_bay_that_begins_anew_leaves_a_frozen_sandbox_alone(root: Path) -> None:
    async with world(root) as bay:
        alice = await bay.client()
        box = await create(alice, wait=15)
        web = await put(alice, box, "web")
        await alice.post(f"/v1/sandboxes/{box['id']}/pause")
    try:
        async with world(root, clock=bay.clock) as again:
            alice = await again.client()
            frozen = await get(alice, box, "web")
            assert (frozen["state"], frozen["message"]) == (
                "waiting",
                "not known until the sandbox is woken",
            )
            assert (await again.session(box["id"])).phase == "paused"
            await alice.put(path(box, "other"), json=body())
            await alice.post(f"/v1/sandboxes/{box['id']}/resume")
            await wait_service(alice, box, "other", lambda s: s["state"] == "running")
            assert (await get(alice, box, "web"))["pid"] == web["pid"]
    finally:
        await clear(root)


async def test_a_restart_thaws(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15)
    await put(alice, box, "web")
    await alice.post(f"/v1/sandboxes/{box['id']}/pause")
    assert (await act(alice, box, "web", "restart"))["restarts"] == 1
    assert (await bay.session(box["id"])).phase == "running"


async def test_a_signal_thaws_and_reaches_a_service_that_runs(alice: httpx.AsyncClient, bay: World) -> None:
    box, cold = await create(alice, wait=15), await create(alice)
    await put(alice, cold, "web")
    await put(
        alice, box, "web", ["sh", "-c", "trap 'echo heard' HUP; echo ready; while :; do sleep 0.05; done"]
    )

    async def printed_so_far(text: bytes) -> bool:
        return text in printed(await logs(alice, box, "web"))

    await eventually(lambda: printed_so_far(b"ready"))
    await alice.post(f"/v1/sandboxes/{box['id']}/pause")
    answer = await alice.post(path(box, "web", "signal"), json={"signal": "SIGHUP"})
    assert (answer.status_code, answer.json()["state"]) == (200, "running"), answer.text
    assert (await bay.session(box["id"])).phase == "running"
    await eventually(lambda: printed_so_far(b"heard"))
    asleep = await alice.post(path(cold, "web", "signal"), json={"signal": "HUP"})
    assert_error(asleep, 409, "conflict")
    assert_error(await alice.post(path(box, "none", "signal"), json={"signal": "HUP"}), 404, "not_found")


async def test_a_failure_for_good_is_an_event(alice: httpx.AsyncClient, bay: World) -> None:
    task = {"name": "task", **body(["sh", "-c", "exit 3"], restart="never")}
    box = await create(alice, wait=15, services=[task])

    async def told() -> bool:
        return "service.failed" in [kind for kind, _ in await types(bay, box)]

    await eventually(told)
    found = [data for kind, data in await types(bay, box) if kind == "service.failed"]
    assert found == [{"service": "task", "exit_code": 3, "signal": None, "message": "ended with exit code 3"}]


async def test_the_health_of_a_service_may_be_a_command(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    made = await put(alice, box, "web", health={"argv": ["sh", "-c", "true"], "interval_s": 0.1})
    assert made["health"]["argv"] == ["sh", "-c", "true"]
    assert made["health"]["port"] is None
    await wait_service(alice, box, "web", lambda one: one["healthy"] is True)


async def test_one_that_answers_no_more_is_an_event(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15)
    health = {"port": 1, "interval_s": 0.1, "retries": 2}
    await put(alice, box, "web", health=health)

    async def told() -> bool:
        return "service.unhealthy" in [kind for kind, _ in await types(bay, box)]

    await eventually(told)
    assert (await get(alice, box, "web"))["healthy"] is False


async def test_a_service_whose_removal_a_bay_did_not_live_to_tell_is_ended_by_the_next(root: Path) -> None:
    async with world(root) as bay:
        alice = await bay.client()
        box = await create(alice, wait=15)
        pid = (await put(alice, box, "web"))["pid"]
        async with bay.bay.store.write() as db:
            await db.exec_driver_sql("DELETE FROM services")

    async def ended() -> bool:
        return not Path(f"/proc/{pid}").exists()

    try:
        async with world(root, clock=bay.clock):
            await eventually(ended)
    finally:
        await clear(root)


async def test_a_bay_that_begins_anew_finds_the_services_running(root: Path) -> None:
    async with world(root) as bay:
        alice = await bay.client()
        box = await create(alice, wait=15)
        web = await put(alice, box, "web")
    try:
        async with world(root, clock=bay.clock) as again:
            alice = await again.client()
            found = await get(alice, box, "web")
            assert (found["state"], found["pid"]) == ("running", web["pid"])
            await put(alice, box, "task", ["sh", "-c", "exit 1"], restart="never")

            async def told() -> bool:
                return "service.failed" in [kind for kind, _ in await types(again, box)]

            await eventually(told)
    finally:
        await clear(root)


async def test_what_ship_could_not_be_told_is_told_later(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15)
    link = bay.bay.service_syncer._ship = Refusing(bay.bay.ship)
    found = await put(alice, box, "web")
    assert found["state"] == "waiting"
    assert "could not be informed" in found["message"]
    link.refuses = False
    await wait_service(alice, box, "web", lambda s: s["state"] == "running" and s["message"] is None)


class Away:
    """A store whose database cannot be used."""

    def read(self) -> Any:
        raise DatabaseUnavailable("Bay's database cannot be used just now")


async def test_services_whose_rows_could_not_be_read_are_told_later(
    alice: httpx.AsyncClient, bay: World
) -> None:
    box = await create(alice, wait=15)
    syncer: Any = bay.bay.service_syncer
    store, syncer._store = syncer._store, Away()
    assert "could not be informed" in (await put(alice, box, "web"))["message"]
    syncer._store = store
    await wait_service(alice, box, "web", lambda s: s["state"] == "running" and s["message"] is None)


async def test_a_fork_has_the_services_of_its_source(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    await put(alice, box, "web")
    await put(alice, box, "off", enabled=False)
    fork = (await alice.post(f"/v1/sandboxes/{box['id']}/fork")).json()["items"][0]
    await started(alice, fork)
    found = await listed(alice, fork)
    assert {name: one["state"] for name, one in found.items()} == {"web": "running", "off": "stopped"}
    await alice.delete(path(fork, "web"))
    assert "web" in await listed(alice, box)


async def test_the_name_of_a_sandbox_leads_to_what_a_service_serves(
    alice: httpx.AsyncClient, bay: World
) -> None:
    box = await create(alice, name="shop")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    await put(alice, box, "other")
    host = {"Host": "shop.localhost:8700"}
    assert (await alice.get("/", headers=host)).status_code != 200
    serve = ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    await put(alice, box, "web", serve, http_port=port)
    await put(alice, box, "off", http_port=1, enabled=False)
    answer = await alice.get("/", headers=host)  # which wakes it, and waits until the service listens
    assert (answer.status_code, "Directory listing" in answer.text) == (200, True)
    stranger = await bay.open_client(host)
    assert (await stranger.get("/")).status_code == 401
    await alice.put(f"/v1/sandboxes/shop/ports/{port}", json={"access": "public"})
    assert (await stranger.get("/")).status_code == 200
    await alice.patch("/v1/sandboxes/shop", json={"url": {"port": port, "access": "owner"}})
    assert (await stranger.get("/")).status_code == 401


async def test_services_go_with_their_sandbox(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, wait=15, services=[{"name": "web", **body()}])
    assert (await alice.delete(f"/v1/sandboxes/{box['id']}")).status_code == 204
    assert await bay.sql("SELECT * FROM services") == []
    assert ships(bay.root) == []


async def test_one_that_is_needed_is_not_deleted(alice: httpx.AsyncClient) -> None:
    box = await create(alice)
    await put(alice, box, "db")
    await put(alice, box, "web", needs=["db"])
    assert_error(await alice.delete(path(box, "db")), 409, "conflict")
    assert (await alice.delete(path(box, "web"))).status_code == 204
    assert (await alice.delete(path(box, "db"))).status_code == 204
    for answer in (
        await alice.delete(path(box, "db")), await alice.get(path(box, "db")), await alice.post(path(box, "db", "start")),
        await alice.post(path(box, "db", "stop")), await alice.post(path(box, "db", "restart")), await alice.get(path(box, "db", "logs")),
    ):  # fmt: skip
        assert_error(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("name", "fields", "status", "says"),
    [
        ("Web", {}, 422, "name"),
        ("web-", {}, 422, "name"),
        ("web", {"argv": []}, 422, "argv"),
        ("web", {"argv": [""]}, 422, "program"),
        ("web", {"needs": ["none"]}, 422, "needs none"),
        ("web", {"needs": ["web"]}, 422, "need each other"),
        ("a", {"needs": ["b"]}, 422, "need each other"),
        ("web", {"restart": "often"}, 422, "restart"),
        ("web", {"http_port": 0}, 422, "http_port"),
        ("web", {"health": {"port": 70_000}}, 422, "port"),
        ("web", {"health": {"port": 1, "path": "x"}}, 422, "path"),
        ("web", {"health": {"port": 1, "every": 1}}, 422, "every"),
        ("web", {"user": "no body"}, 400, "user"),
        ("web", {"user": "1000:0"}, 403, "root"),
        ("web", {"user": "root"}, 403, "root"),
        ("web", {"cwd": "../x"}, 400, "cwd"),
        ("web", {"env": {"A": "x" * 32_000, "B": "x" * 32_000, "C": "x" * 2000}}, 422, "characters"),
        ("web", {"health": {"argv": ["x" * 40_000, "x" * 30_000]}}, 422, "characters"),
        ("web", {"health": {"argv": [""]}}, 422, "program"),
        ("web", {"env": {"A=": ""}}, 422, "env"),
        ("web", {"commnd": "x"}, 422, "commnd"),
    ],
)
async def test_what_cannot_be_is_refused(
    alice: httpx.AsyncClient, name: str, fields: Json, status: int, says: str
) -> None:
    box = await create(alice, profile="rootless")
    await put(alice, box, "a")
    await put(alice, box, "b", needs=["a"])
    answer = await alice.put(path(box, name), json={**body(), **fields})
    assert answer.status_code == status, answer.text
    assert says in answer.text
    assert list(await listed(alice, box)) == ["a", "b"]
    named = {"name": name, **body(), **fields}
    others = [{"name": "a", **body()}] if name != "a" else []
    made = {"profile": "rootless", "services": [*others, {"name": "b", **body(needs=["a"])}, named]}
    refused = await alice.post("/v1/sandboxes", json=made)
    assert refused.status_code == status, refused.text


async def test_there_are_32_services_at_most(alice: httpx.AsyncClient) -> None:
    box = await create(alice, services=[{"name": f"s{n}", **body()} for n in range(32)])
    assert_error(await alice.put(path(box, "more"), json=body()), 422, "validation_error")
    assert (await alice.put(path(box, "s3"), json=body(env={"A": "1"}))).status_code == 200


async def test_who_may_only_read_changes_nothing(alice: httpx.AsyncClient, bay: World) -> None:
    box = await create(alice, services=[{"name": "web", **body()}])
    reader = await bay.client("alice", "read")
    assert list(await listed(reader, box)) == ["web"]
    await put(alice, box, "web", env={"TOKEN": "secret"})
    assert (await listed(reader, box))["web"]["env"] == {"TOKEN": "***"}
    assert (await listed(alice, box))["web"]["env"] == {"TOKEN": "secret"}
    assert (await reader.put(path(box, "x"), json=body())).status_code == 403
    for what in ("start", "stop", "restart"):
        assert (await reader.post(path(box, "web", what))).status_code == 403
    assert (await reader.delete(path(box, "web"))).status_code == 403


async def test_followed_logs_end_with_the_session(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    await put(alice, box, "web")
    following = asyncio.create_task(logs(alice, box, "web", follow=True))
    await wait_service(alice, box, "web", lambda s: s["output_bytes"] == 8)
    await stopped(alice, box)
    lines = await within(following)
    assert printed(lines) == b"started\n"
    assert lines[-1]["state"] in ("killed", "lost")


async def test_logs_as_events(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    await put(alice, box, "task", ["sh", "-c", "echo hi"], restart="never")
    headers = {"Accept": "text/event-stream"}
    answer = await alice.get(path(box, "task", "logs"), params={"follow": True}, headers=headers)
    assert answer.text.startswith("id: 3\nevent: output\n")
    assert "event: end" in answer.text


async def test_concurrent_changes_all_hold(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=15)
    await asyncio.gather(*(put(alice, box, f"s{n}") for n in range(8)))
    found = await listed(alice, box)
    assert {one["state"] for one in found.values()} == {"running"}
    assert len(found) == 8


async def test_a_create_with_services_takes_nothing_from_the_pool(root: Path) -> None:
    profiles = {"python-default": {"start": "lazy", "pool_size": 1}}
    async with world(root, profiles=profiles) as bay:
        alice = await bay.client()

        async def ready() -> bool:
            return (await bay.sql("SELECT phase FROM sessions WHERE phase = 'running'")) != []

        await eventually(ready)
        box = await create(alice, wait=15, services=[{"name": "web", **body()}])
        assert (await get(alice, box, "web"))["state"] == "running"
        pooled = await create(alice, wait=15)
        assert (await put(alice, pooled, "web"))["state"] == "running"
    await clear(root)


def status(**fields: Any) -> ServiceStatus:
    return ServiceStatus.model_validate({"name": "web", "state": "running", **fields})


def test_what_changes_are_news() -> None:
    failed, sick = status(state="failed", restarts=9), status(healthy=False)
    cases: list[tuple[ServiceStatus | None, ServiceStatus, tuple[int, int]]] = [
        (None, failed, (1, 0)),
        (status(), failed, (1, 0)),
        (failed, failed, (0, 0)),
        (failed, status(state="failed", restarts=10), (1, 0)),
        (status(), status(state="exited", exit_code=0), (0, 0)),
        (status(), status(state="backoff", exit_code=1), (0, 0)),
        (status(), sick, (0, 1)),
        (sick, sick, (0, 0)),
        (sick, status(healthy=True), (0, 0)),
        (sick, status(healthy=False, restarts=1), (0, 1)),
    ]
    for before, now, counts in cases:
        news = news_of({"web": before} if before else {}, {"web": now})
        assert (len(news.failed), len(news.unhealthy)) == counts
