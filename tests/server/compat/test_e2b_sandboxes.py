"""The control plane of E2B: sandboxes by the calls that its clients make."""

import asyncio
import base64
import hashlib
import json
import re
import threading
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from port_apps import app
from server_harness import World, clear, create, eventually, within, world

from bay.clock import from_rfc3339
from bay.errors import QuotaExceeded
from bay.ids import new_id
from bay.server.compat.e2b.signatures import MOST_WAITING, SignatureSearch
from bay.server.compat.e2b.tokens import SandboxTokens, Signed
from bay.server.sessions.waker import is_frozen
from bay.server.web.auth import Caller
from bay.store import templates
from bay.store.records import TemplateRecord

pytestmark = pytest.mark.anyio

OUT = (401, 502)
"""The answers of the entrance; others come from the files behind it."""


class HeldTokens(SandboxTokens):
    """Looks for no signer before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go = threading.Event(), threading.Event()

    def signer(self, signed: Signed, sandbox_id: str, owner: str, keys: Iterable[str]) -> Caller | None:
        """Says that it was asked."""
        self.asked.set()
        assert self.go.wait(60)
        return super().signer(signed, sandbox_id, owner, keys)


@dataclass(frozen=True, slots=True)
class E2b:
    """The client of alice."""

    bay: World
    http: httpx.AsyncClient

    async def make(self, **body: Any) -> dict[str, Any]:
        given = {"templateID": "python-default", "timeout": 300, **body}
        answer = await self.http.post("/e2b/v2/sandboxes", json=given)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def refused(self, **body: Any) -> tuple[int, str]:
        given = {"templateID": "python-default", **body}
        answer = await self.http.post("/e2b/v2/sandboxes", json=given)
        assert answer.json()["code"] == answer.status_code
        return answer.status_code, answer.json()["message"]

    async def ids(self, **query: str) -> list[str]:
        answer = await self.http.get("/e2b/v2/sandboxes", params=query)
        assert answer.status_code == 200, answer.text
        return [item["sandboxID"] for item in answer.json()]

    async def end_at(self, sandbox: str) -> float:
        shown = (await self.http.get(f"/e2b/sandboxes/{sandbox}")).json()
        return from_rfc3339(shown["endAt"]).timestamp() - self.bay.clock().timestamp()

    async def by_host(self, sandbox: str, port: int = 3000, /, **headers: str) -> httpx.Response:
        """The answer to a stranger at the host of a port."""
        stranger = await self.bay.open_client({"Host": f"{port}-{sandbox}.localhost:8700"})
        return await stranger.get("/", headers=headers)

    async def by_headers(
        self, sandbox: str, port: int | str = 3000, path: str = "/", /, **headers: str
    ) -> httpx.Response:
        """The same at Bay's own host."""
        stranger = await self.bay.open_client({"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": str(port)})
        return await stranger.get(path, headers=headers)

    async def metrics(self, sandbox: str, **query: int) -> list[dict[str, Any]]:
        answer = await self.http.get(f"/e2b/sandboxes/{sandbox}/metrics", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def health(self, sandbox: str) -> int:
        headers = {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": "49983"}
        return (await self.http.get("/health", headers=headers)).status_code


@pytest.fixture
async def e2b(tmp_path: Path) -> AsyncGenerator[E2b]:
    async with world(tmp_path, port_wait=0.1) as bay:
        key = await bay.key("alice")
        yield E2b(bay, await bay.open_client({"X-API-Key": key}))
    await clear(tmp_path)


@pytest.mark.parametrize("version", ["", "/v2"])
async def test_a_create_answers_with_tokens_that_open_the_sandbox(e2b: E2b, version: str) -> None:
    body = {"templateID": "base", "metadata": {}, "envVars": {"A": "1"}, "secure": True}
    answer = await e2b.http.post(f"/e2b{version}/sandboxes", json=body)
    assert answer.status_code == 201
    made = answer.json()
    assert made["templateID"] == "base"
    assert made["domain"].startswith("localhost:")
    assert made["clientID"]
    headers = {
        "E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49983",
        "X-Access-Token": made["envdAccessToken"],
    }  # fmt: skip
    answer = await e2b.http.post("/process.Process/List", json={}, headers=headers)
    assert answer.status_code == 200, answer.text
    traffic = {
        "E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49999",
        "E2b-Traffic-Access-Token": made["trafficAccessToken"],
    }  # fmt: skip
    assert (await e2b.http.get("/nowhere", headers=traffic)).status_code == 404


async def test_a_sandbox_shows_what_its_create_said(e2b: E2b) -> None:
    made = await e2b.make(metadata={"user name": "a b/c=&%"}, autoPause=True, autoResume={"enabled": True})
    shown = (await e2b.http.get(f"/e2b/sandboxes/{made['sandboxID']}")).json()
    assert shown["metadata"] == {"user name": "a b/c=&%"}
    assert shown["lifecycle"] == {"autoResume": True, "onTimeout": "pause"}
    assert (shown["state"], shown["templateID"]) == ("running", "python-default")
    assert shown["envdAccessToken"] == made["envdAccessToken"]
    assert None not in shown.values()
    native = await e2b.bay.client("alice")
    assert (await native.get(f"/v1/sandboxes/{made['sandboxID']}")).json()["labels"][
        "user name"
    ] == "a b/c=&%"


async def test_a_key_that_only_reads_is_given_no_token_that_writes(e2b: E2b) -> None:
    made = await e2b.make()
    reader = await e2b.bay.open_client({"X-API-Key": await e2b.bay.key("alice", "read")})
    shown = (await reader.get(f"/e2b/sandboxes/{made['sandboxID']}")).json()
    assert "envdAccessToken" not in shown
    assert (await reader.post("/e2b/v2/sandboxes", json={"templateID": "base"})).status_code == 403


async def test_a_repeated_create_makes_one_sandbox(e2b: E2b) -> None:
    body = {"templateID": "base", "metadata": {"k": "v"}}
    headers = {"Idempotency-Key": "once-1"}
    first = await e2b.http.post("/e2b/v2/sandboxes", json=body, headers=headers)
    again = await e2b.http.post("/e2b/v2/sandboxes", json=body, headers=headers)
    assert first.json() == again.json()
    assert await e2b.ids() == [first.json()["sandboxID"]]


async def test_options_that_are_not_served_are_refused_in_words(e2b: E2b) -> None:
    assert (await e2b.refused(templateID="ns/no-such"))[0] == 404
    bodies: tuple[dict[str, Any], ...] = (
        {"mcp": {"x": {}}},
        {"volumeMounts": [{"name": "a", "path": "/a"}]},
        {"network": {"rules": {"a.example": []}}},
        {"network": {"egressProxy": {"address": "x"}}},
        {"network": {"denyOut": ["example.com"]}},
        {"network": {"allowOut": ["example.com"]}},
        {"timeout": 0},
        {"autoResume": {"enabled": True}},
        {"autoPause": True, "autoPauseMemory": False},
        {"metadata": {"bay.e2b": "{}"}},
        {"metadata": {str(n): "" for n in range(100)}},
        {"metadata": {str(n): "x" * 8000 for n in range(9)}},
    )
    for body in bodies:
        assert (await e2b.refused(**body))[0] == 400, body
    assert await e2b.ids() == []


async def test_a_list_is_filtered_and_paged_newest_first(e2b: E2b) -> None:
    made = [(await e2b.make(metadata={"n": str(n % 2), "sp ace": "a b"}))["sandboxID"] for n in range(3)]
    await create(await e2b.bay.client("bob"), wait=15)
    assert await e2b.ids() == made[::-1]
    assert await e2b.ids(order="asc") == made
    assert await e2b.ids(metadata="n=0") == [made[2], made[0]]
    assert await e2b.ids(metadata="sp%2520ace=a%2520b&n=1") == [made[1]]
    assert await e2b.ids(metadata="n=7") == []
    assert (await e2b.http.post(f"/e2b/sandboxes/{made[1]}/pause")).status_code == 204
    assert await e2b.ids(state="paused") == [made[1]]
    assert await e2b.ids(state="running,paused") == made[::-1]
    for order, wanted in (("desc", made[::-1]), ("asc", made)):
        query = {"limit": "2", "order": order}
        page = await e2b.http.get("/e2b/v2/sandboxes", params=query)
        assert [item["sandboxID"] for item in page.json()] == wanted[:2]
        query["nextToken"] = page.headers["x-next-token"]
        assert await e2b.ids(**query) == wanted[2:]
    assert (await e2b.http.delete(f"/e2b/sandboxes/{made[1]}")).status_code == 204  # where the token stands
    assert await e2b.ids(**query) == made[2:]
    foreign = await e2b.http.get("/e2b/v2/sandboxes", params={"nextToken": "0" * 64, "state": "gone"})
    assert foreign.status_code == 400


async def test_a_list_may_begin_at_a_time(e2b: E2b) -> None:
    made = list[str]()
    for _ in range(3):
        made.append((await e2b.make())["sandboxID"])
        e2b.bay.clock.advance(10)
    shown = (await e2b.http.get(f"/e2b/sandboxes/{made[1]}")).json()["startedAt"]
    assert await e2b.ids(startedAfter=shown) == [made[2], made[1]]
    assert await e2b.ids(startedAfter=shown.removesuffix("Z")) == [made[2], made[1]]
    for wrong in ("yesterday", "0001-01-01T00:00:00+14:00"):
        answer = await e2b.http.get("/e2b/v2/sandboxes", params={"startedAfter": wrong})
        assert (answer.status_code, answer.json()["code"]) == (400, 400)


async def test_a_list_that_finds_little_says_where_it_goes_on(e2b: E2b) -> None:
    native = await e2b.bay.client("alice")
    made = [(await create(native, profile=profile))["id"] for profile in ("bare", *["python-default"] * 20)]
    query, found, pages = {"template": "bare", "limit": "1"}, list[str](), 0
    while True:
        page = await e2b.http.get("/e2b/v2/sandboxes", params=query)
        found += [item["sandboxID"] for item in page.json()]
        pages += 1
        if "x-next-token" not in page.headers:
            break
        query["nextToken"] = page.headers["x-next-token"]
    assert (found, pages) == (made[:1], 2)


async def test_a_timeout_is_set_from_now_and_a_connect_only_lengthens(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100))["sandboxID"]
    answer = await e2b.http.post(f"/e2b/sandboxes/{sandbox}/timeout", json={"timeout": 50})
    assert answer.status_code == 204
    assert await e2b.end_at(sandbox) == 50
    for timeout, then in ((20, 50), (400, 400)):
        url = f"/e2b/v2/sandboxes/{sandbox}/connect"
        assert (await e2b.http.post(url, json={"timeout": timeout})).status_code == 200
        assert await e2b.end_at(sandbox) == then
    assert (
        await e2b.http.post(f"/e2b/sandboxes/{sandbox}/refreshes", json={"duration": 500})
    ).status_code == 204
    assert await e2b.end_at(sandbox) == 500
    e2b.bay.clock.advance(501)
    assert (await e2b.http.get(f"/e2b/sandboxes/{sandbox}")).status_code == 404
    assert (await e2b.http.post(f"/e2b/sandboxes/{sandbox}/connect")).status_code == 404
    assert await e2b.ids() == []
    assert await e2b.health(sandbox) == 502


async def test_a_paused_sandbox_answers_again_after_a_connect(e2b: E2b) -> None:
    sandbox = (await e2b.make())["sandboxID"]
    for memory in (True, False):
        url = f"/e2b/sandboxes/{sandbox}/pause"
        assert (await e2b.http.post(url, json={"memory": memory})).status_code == 204
        again = await e2b.http.post(url)
        assert (again.status_code, again.json()["code"]) == (409, 409)
        assert await e2b.health(sandbox) == 502
        back = await e2b.http.post(f"/e2b/v2/sandboxes/{sandbox}/connect", json={"timeout": 77})
        assert (back.status_code, back.json()["sandboxID"]) == (201, sandbox)
        assert await e2b.end_at(sandbox) == 77
        assert await e2b.health(sandbox) == 204


async def test_a_paused_sandbox_is_kept_until_a_connect(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100))["sandboxID"]
    assert (await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")).status_code == 204
    e2b.bay.clock.advance(100_000)
    assert (await e2b.http.get(f"/e2b/sandboxes/{sandbox}")).json()["state"] == "paused"
    again = await e2b.http.post(f"/e2b/v2/sandboxes/{sandbox}/connect", json={"timeout": 77})
    assert (again.status_code, await e2b.end_at(sandbox)) == (201, 77)
    e2b.bay.clock.advance(78)
    assert (await e2b.http.get(f"/e2b/sandboxes/{sandbox}")).status_code == 404


async def test_a_pause_that_fails_leaves_the_time_out_as_it_was(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100))["sandboxID"]
    e2b.bay.driver.fail_at = "pause"
    answer = await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")
    assert (answer.status_code, answer.json()["code"]) == (503, 503)
    assert await e2b.end_at(sandbox) == 100


async def test_a_pause_while_a_call_is_under_way_is_no_answer_that_clients_take_for_a_pause(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100))["sandboxID"]
    path, command = f"/v1/sandboxes/{sandbox}/execs", new_id("exec")
    body = {"command": "sleep 1000", "id": command}
    own = {"Authorization": f"Bearer {e2b.http.headers['X-API-Key']}"}
    call = asyncio.create_task(e2b.http.post(path, json=body, params={"wait": 30}, headers=own))

    async def has_begun() -> bool:  # and not only its row is there: no signal reaches that
        found = await e2b.http.get(f"{path}/{command}", headers=own)
        return found.status_code == 200 and found.json()["pid"] is not None

    await eventually(has_begun)
    answer = await within(e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause"))
    assert (answer.status_code, answer.json()["code"]) == (503, 503)
    assert "are in progress" in answer.json()["message"]
    assert await e2b.end_at(sandbox) == 100
    await e2b.http.post(f"{path}/{command}/signal", json={"signal": "KILL"}, headers=own)
    assert (await within(call)).json()["state"] == "killed"


async def test_a_pause_that_the_client_did_not_wait_for_is_kept_too(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100))["sandboxID"]
    e2b.bay.driver.hold_at = "pause"
    pausing = asyncio.create_task(e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause"))
    await within(e2b.bay.driver.held.wait())
    pausing.cancel()
    e2b.bay.driver.let_go.set()
    record = await e2b.bay.settled(sandbox, is_frozen)
    assert (record.expires_at, record.paused_at) == (None, e2b.bay.clock())


async def test_a_time_out_of_a_paused_sandbox_is_refused(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100))["sandboxID"]
    assert (await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")).status_code == 204
    answer = await e2b.http.post(f"/e2b/sandboxes/{sandbox}/timeout", json={"timeout": 10})
    assert (answer.status_code, answer.json()["code"]) == (404, 404)
    e2b.bay.clock.advance(100)
    assert (await e2b.http.get(f"/e2b/sandboxes/{sandbox}")).json()["state"] == "paused"


async def test_a_sandbox_may_be_paused_by_the_end_of_its_time(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100, autoPause=True))["sandboxID"]
    e2b.bay.clock.advance(101)
    assert await e2b.health(sandbox) == 502
    await e2b.bay.settled(sandbox, lambda record: record.paused_at is not None)
    assert (await e2b.http.get(f"/e2b/sandboxes/{sandbox}")).json()["state"] == "paused"
    assert (await e2b.http.post(f"/e2b/v2/sandboxes/{sandbox}/connect")).status_code == 201
    assert await e2b.health(sandbox) == 204


async def test_a_request_with_the_token_wakes_a_sandbox_that_may_be_woken(e2b: E2b) -> None:
    made = await e2b.make(timeout=100, autoPause=True, autoResume={"enabled": True})
    sandbox = made["sandboxID"]
    assert (await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")).status_code == 204
    named = {"E2b-Sandbox-Id": sandbox, "E2b-Sandbox-Port": "49983"}
    stranger = await e2b.http.post("/process.Process/List", json={}, headers=named)
    assert stranger.status_code == 401
    assert await e2b.health(sandbox) == 502
    headers = {**named, "X-Access-Token": made["envdAccessToken"]}
    assert (await e2b.http.post("/process.Process/List", json={}, headers=headers)).status_code == 200
    assert await e2b.end_at(sandbox) == 300
    assert await e2b.health(sandbox) == 204


async def test_a_signed_url_without_a_name_finds_its_sandbox_alone(e2b: E2b) -> None:
    made = [await e2b.make() for _ in range(2)]
    wanted = made[0]

    def query(token: str) -> dict[str, str]:
        digest = hashlib.sha256(f"/tmp/x:read::{token}".encode()).digest()
        return {"path": "/tmp/x", "signature": "v1_" + base64.b64encode(digest).rstrip(b"=").decode()}

    async def status(token: str) -> int:
        return (await e2b.http.get("/files", params=query(token))).status_code

    assert await status(wanted["envdAccessToken"]) not in OUT
    assert await status(wanted["trafficAccessToken"]) == 401
    assert await status("") == 401
    assert (await e2b.http.post(f"/e2b/sandboxes/{wanted['sandboxID']}/pause")).status_code == 204
    assert await status(wanted["envdAccessToken"]) == 502
    assert (await e2b.http.delete(f"/e2b/sandboxes/{wanted['sandboxID']}")).status_code == 204
    assert await status(wanted["envdAccessToken"]) == 401
    assert await status(made[1]["envdAccessToken"]) not in OUT


async def test_ports_are_everybodys_unless_the_create_says_no(e2b: E2b) -> None:
    public = await e2b.make()
    private = await e2b.make(network={"allowPublicTraffic": False})
    native = await create(await e2b.bay.client("alice"), wait=15)

    async def status(sandbox: str, token: str = "") -> int:
        given = {"e2b-traffic-access-token": token} if token else {}
        answers = [await e2b.by_host(sandbox, **given), await e2b.by_headers(sandbox, **given)]
        assert len({(answer.status_code, answer.json().get("message")) for answer in answers}) == 1
        return answers[0].status_code

    assert await status(public["sandboxID"]) == 502  # let in, and nothing listens
    assert await status(private["sandboxID"]) == 403
    assert await status(native["id"]) == 401
    assert await status(private["sandboxID"], public["trafficAccessToken"]) == 403
    assert await status(private["sandboxID"], private["envdAccessToken"]) == 403
    assert await status(private["sandboxID"], private["trafficAccessToken"]) == 502


async def test_no_cache_keeps_what_an_app_answers_at_bays_own_host(e2b: E2b) -> None:
    sandbox = (await e2b.make())["sandboxID"]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCache-Control: public, max-age=99999\r\n"
            b"CDN-Cache-Control: public\r\nExpires: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\nhi"
        )
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        kept = await e2b.by_host(sandbox, port)
        answer = await e2b.by_headers(sandbox, port)
    assert (kept.text, kept.headers["cache-control"]) == ("hi", "public, max-age=99999")
    assert (answer.text, answer.headers["cache-control"]) == ("hi", "no-store")
    assert not {"cdn-cache-control", "expires"} & set(answer.headers)


async def test_a_port_is_refused_in_the_shape_that_clients_parse(e2b: E2b) -> None:
    private = await e2b.make(network={"allowPublicTraffic": False})
    sandbox = private["sandboxID"]
    refused = await e2b.by_host(sandbox)
    assert (refused.status_code, refused.json()["sandboxId"], refused.json()["code"]) == (403, sandbox, 403)
    shut = await e2b.by_host(sandbox, **{"e2b-traffic-access-token": private["trafficAccessToken"]})
    message = "The sandbox is running but port is not open"
    body = {"sandboxId": sandbox, "port": 3000, "message": message, "code": 502}
    assert (shut.status_code, shut.json()) == (502, body)
    page = await e2b.by_host(sandbox, accept="text/html")
    assert (page.status_code, page.headers["content-type"][:9]) == (403, "text/html")


async def test_a_request_to_a_port_wakes_a_sandbox_that_may_be_woken(e2b: E2b) -> None:
    sandbox = (await e2b.make(timeout=100, autoPause=True, autoResume={"enabled": True}))["sandboxID"]
    assert (await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")).status_code == 204
    assert (await e2b.by_host(sandbox)).json()["port"] == 3000
    assert await e2b.health(sandbox) == 204
    e2b.bay.clock.advance(301)
    await e2b.bay.settled(sandbox, lambda record: record.paused_at is not None)
    assert (await e2b.by_host(sandbox)).json()["port"] == 3000
    assert await e2b.end_at(sandbox) == 300


async def test_ports_of_what_is_paused_ended_or_unknown_look_the_same(e2b: E2b) -> None:
    paused, ended = (await e2b.make())["sandboxID"], await e2b.make()
    unknown = "sandbox-0123456789abcdef01234567"
    assert (await e2b.http.post(f"/e2b/sandboxes/{paused}/pause")).status_code == 204
    assert (await e2b.http.delete(f"/e2b/sandboxes/{ended['sandboxID']}")).status_code == 204
    token = {"e2b-traffic-access-token": ended["trafficAccessToken"]}
    for sandbox in (paused, ended["sandboxID"], unknown):
        body = {"sandboxId": sandbox, "message": "The sandbox was not found", "code": 502}
        for answer in (
            await e2b.by_host(sandbox),
            await e2b.by_headers(sandbox),
            await e2b.by_host(sandbox, **token),
        ):
            assert (answer.status_code, answer.json()) == (502, body)
    named = await create(await e2b.bay.client("alice"), name="web", wait=15)
    answers = [await e2b.by_host(name) for name in ("web", "nobody", named["id"])]
    assert [answer.status_code for answer in answers] == [401] * 3  # names can be guessed, and are not told


async def test_headers_at_bays_own_host_lead_to_an_app(e2b: E2b) -> None:
    private = await e2b.make(network={"allowPublicTraffic": False})
    sandbox, token = private["sandboxID"], {"e2b-traffic-access-token": private["trafficAccessToken"]}
    async with app() as made:
        answer = await e2b.by_headers(sandbox, made.port, "/v1/sandboxes?a=b", **token)
        assert (answer.status_code, answer.text) == (200, "hello")
        assert (await e2b.by_headers(sandbox, made.port, "/.bay/open?token=x", **token)).status_code == 404
        assert (await e2b.by_headers(sandbox, made.port)).status_code == 403
        (call,) = made.calls
    assert call.line == "GET /v1/sandboxes?a=b HTTP/1.1"
    assert not call.has(private["trafficAccessToken"])


async def test_a_port_that_is_none_is_refused_in_words(e2b: E2b) -> None:
    sandbox = (await e2b.make())["sandboxID"]
    for port in ("0", "65536", "99999999", "-1", "http", "08000", ""):
        answer = await e2b.by_headers(sandbox, port)
        assert answer.status_code == 400, port
        assert "give a number from 1 to 65535" in answer.json()["message"]
    assert (await e2b.by_host(sandbox, 65536)).status_code == 400


async def test_network_options_are_the_native_policy(e2b: E2b) -> None:
    native = await e2b.bay.client("alice")

    async def policy(sandbox: str) -> tuple[str, list[dict[str, Any]]]:
        shown = (await native.get(f"/v1/sandboxes/{sandbox}/network-policy")).json()
        rules = [{name: value for name, value in rule.items() if value} for rule in shown["rules"]]
        return shown["mode"], rules

    shut = await e2b.make(allow_internet_access=False)
    assert await policy(shut["sandboxID"]) == ("none", [])
    listed = {"allowOut": ["example.com", "1.1.1.1"], "denyOut": ["0.0.0.0/0"]}
    sandbox = (await e2b.make(network=listed))["sandboxID"]
    mode, rules = await policy(sandbox)
    assert (mode, [rule["action"] for rule in rules]) == ("allowlist", ["allow", "allow"])
    assert (rules[0]["domain"], rules[1]["cidr"]) == ("example.com", "1.1.1.1/32")

    url = f"/e2b/sandboxes/{sandbox}/network"
    denied = {"denyOut": ["9.9.9.0/24", "1.1.1.1"], "allowOut": ["1.1.1.1"]}
    assert (await e2b.http.put(url, json=denied)).status_code == 204
    mode, rules = await policy(sandbox)
    assert mode == "open"  # an allow beats a deny of the same
    assert [(rule["action"], rule["cidr"]) for rule in rules] == [
        ("allow", "1.1.1.1/32"),
        ("deny", "9.9.9.0/24"),
    ]
    assert (await e2b.http.put(url, json={"allow_internet_access": False})).status_code == 204
    assert await policy(sandbox) == ("none", [])
    before = await policy((await e2b.make())["sandboxID"])
    assert (await e2b.http.put(url, json={})).status_code == 204
    assert await policy(sandbox) == before


async def test_older_clients_resume_a_paused_sandbox(e2b: E2b) -> None:
    made = await e2b.make()
    sandbox = made["sandboxID"]
    assert (await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")).status_code == 204
    back = await e2b.http.post(f"/e2b/sandboxes/{sandbox}/resume", json={"timeout": 77, "autoPause": False})
    assert back.status_code == 201
    assert back.json()["envdAccessToken"] == made["envdAccessToken"]
    assert await e2b.end_at(sandbox) == 77
    assert await e2b.health(sandbox) == 204
    gone = await e2b.http.post("/e2b/sandboxes/sandbox-0123456789abcdef01234567/resume")
    assert (gone.status_code, gone.json()["code"]) == (404, 404)


async def test_bodies_may_come_in_chunks(e2b: E2b) -> None:
    async def chunks(body: dict[str, Any]) -> AsyncGenerator[bytes]:
        for byte in json.dumps(body).encode():
            yield bytes([byte])

    json_too = {"Content-Type": "application/json"}
    body = {"templateID": "python-default", "metadata": {"k": "v"}}
    made = await e2b.http.post("/e2b/v2/sandboxes", content=chunks(body), headers=json_too)
    assert made.status_code == 201, made.text
    assert made.request.headers["transfer-encoding"] == "chunked"
    url = f"/e2b/sandboxes/{made.json()['sandboxID']}/timeout"
    assert (await e2b.http.post(url, content=chunks({"timeout": 50}), headers=json_too)).status_code == 204
    assert await e2b.end_at(made.json()["sandboxID"]) == 50


async def test_of_signed_urls_without_a_name_few_wait_for_their_turn(e2b: E2b, tmp_path: Path) -> None:
    await e2b.make()
    tokens = HeldTokens()
    await asyncio.to_thread(tokens.open, tmp_path / "held.key")
    search = SignatureSearch(store=e2b.bay.bay.store, keys=e2b.bay.bay.keys, tokens=tokens)
    signed = Signed(signature="v1_x", path="/a", operation="read", user="", expiration=None)
    waiting = [asyncio.create_task(search.sandbox_of(signed)) for _ in range(MOST_WAITING)]
    try:
        assert await asyncio.to_thread(tokens.asked.wait, 30)
        with pytest.raises(QuotaExceeded, match="too many signed URLs") as refused:
            await search.sandbox_of(signed)
        assert refused.value.status == 429
    finally:
        tokens.go.set()
        found = await asyncio.wait_for(asyncio.gather(*waiting), 30)
    assert found == [None] * MOST_WAITING
    assert await search.sandbox_of(signed) is None


async def test_a_second_kill_finds_nothing(e2b: E2b) -> None:
    sandbox = (await e2b.make())["sandboxID"]
    answers = [await e2b.http.delete(f"/e2b/sandboxes/{sandbox}") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [204, 404]
    assert answers[1].json()["code"] == 404
    assert await e2b.health(sandbox) == 502


async def test_a_snapshot_is_a_checkpoint_that_a_create_may_name(e2b: E2b) -> None:
    sandbox = (await e2b.make())["sandboxID"]
    made = await e2b.http.post(f"/e2b/sandboxes/{sandbox}/snapshots", json={"name": "one"})
    assert (made.status_code, made.json()["names"]) == (201, ["one"])
    snapshot = made.json()["snapshotID"]
    found = await e2b.http.get("/e2b/snapshots", params={"sandboxID": sandbox})
    assert found.json() == [{"snapshotID": snapshot, "names": ["one"]}]
    assert (await e2b.make(templateID=snapshot))["templateID"] == snapshot
    bob = await e2b.bay.open_client({"X-API-Key": await e2b.bay.key("bob")})
    assert (await bob.post("/e2b/v2/sandboxes", json={"templateID": snapshot})).status_code == 404
    assert (await bob.delete(f"/e2b/templates/{snapshot}")).status_code == 404
    answers = [await e2b.http.delete(f"/e2b/templates/{snapshot}") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [204, 404]


async def test_snapshots_of_all_sandboxes_are_listed_page_by_page(e2b: E2b) -> None:
    boxes = [(await e2b.make())["sandboxID"] for _ in range(2)]
    bob = await e2b.bay.client("bob")
    await bob.post(f"/v1/sandboxes/{(await create(bob, wait=15))['id']}/checkpoints", json={"name": "one"})
    made = list[str]()
    for box, name in ((boxes[0], "one"), (boxes[1], "one"), (boxes[0], None)):
        answer = await e2b.http.post(f"/e2b/sandboxes/{box}/snapshots", json={"name": name} if name else {})
        made.append(answer.json()["snapshotID"])

    async def ids(**query: str) -> tuple[list[str], str | None]:
        answer = await e2b.http.get("/e2b/snapshots", params=query)
        assert answer.status_code == 200, answer.text
        return [item["snapshotID"] for item in answer.json()], answer.headers.get("x-next-token")

    assert await ids() == (made, None)
    first, token = await ids(limit="2")
    assert (first, await ids(limit="2", nextToken=token or "")) == (made[:2], (made[2:], None))
    assert await ids(name="one") == (made[:2], None)
    assert await ids(sandboxID=boxes[0], name="one") == (made[:1], None)
    assert await ids(name=made[2]) == (made[2:], None)
    assert await ids(name="one:v1") == ([], None)
    assert await ids(sandboxID=boxes[0]) == ([made[0], made[2]], None)
    assert (await e2b.http.delete(f"/e2b/sandboxes/{boxes[0]}")).status_code == 204
    assert await ids() == (made[1:2], None)
    for wrong, status in (({"nextToken": "1"}, 400), ({"sandboxID": boxes[0]}, 404)):
        assert (await e2b.http.get("/e2b/snapshots", params=wrong)).status_code == status


async def test_forks_have_a_lifetime_of_their_own(e2b: E2b) -> None:
    sandbox = (await e2b.make(metadata={"a": "b"}))["sandboxID"]
    made = await e2b.http.post(f"/e2b/sandboxes/{sandbox}/fork", json={"count": 2, "timeout": 60})
    assert made.status_code == 201
    for item in made.json():
        assert await e2b.end_at(item["sandbox"]["sandboxID"]) == 60
        assert await e2b.health(item["sandbox"]["sandboxID"]) == 204


async def test_a_fork_is_as_open_as_its_source_and_a_native_one_is_not(e2b: E2b) -> None:
    source = (await e2b.make(metadata={"a": "b"}))["sandboxID"]
    answer = await e2b.http.post(f"/e2b/sandboxes/{source}/fork")
    theirs = answer.json()[0]["sandbox"]
    assert theirs["templateID"] == "python-default"
    assert (await e2b.by_host(theirs["sandboxID"])).status_code == 502  # let in, and nothing listens
    native = await e2b.bay.client("alice")
    answer = await native.post(f"/v1/sandboxes/{source}/fork", json={})
    own = answer.json()["items"][0]
    assert own["labels"] == {"a": "b"}
    await e2b.bay.settled(own["id"], lambda record: record.phase == "running")
    assert (await e2b.by_host(own["id"])).status_code == 401
    assert (await e2b.by_headers(own["id"])).status_code == 401


async def test_other_operations_are_refused_in_the_shape_that_clients_parse(e2b: E2b) -> None:
    for method, path in (
        ("POST", "/volumes"),
        ("GET", "/secrets"),
        ("POST", "/v3/templates"),
        ("GET", "/templates/a%2Fb/tags"),
        ("GET", "/sandboxes/x/logs"),
    ):
        answer = await e2b.http.request(method, f"/e2b{path}")
        assert (answer.status_code, answer.json()["code"]) == (501, 501), path
        assert "Bay does not serve" in answer.json()["message"]
    answer = await e2b.http.get("/e2b/v9/nothing")
    assert (answer.status_code, answer.json()["code"]) == (404, 404)


async def test_a_template_is_there_when_a_create_may_name_it(e2b: E2b) -> None:
    async def found(client: httpx.AsyncClient, alias: str) -> tuple[int, str | None]:
        answer = await client.get(f"/e2b/templates/aliases/{alias}")
        return answer.status_code, answer.json().get("templateID")

    for alias in ("base", "eager"):
        assert await found(e2b.http, alias) == (200, alias)
    assert await found(e2b.http, "no%2Fsuch") == (404, None)
    bob = await e2b.bay.open_client({"X-API-Key": await e2b.bay.key("bob")})
    like = TemplateRecord(
        id=new_id("tmpl"), owner="alice", name="own", tag="latest", state="ready", profile="python-default",
        created_at=e2b.bay.clock(),
    )  # fmt: skip
    made = [like, replace(like, id=new_id("tmpl"), name="all", shared=True)]
    async with e2b.bay.bay.store.write() as db:
        for one in (*made, replace(like, id=new_id("tmpl"), name="late", state="failed")):
            await templates.add(db, one)
    for alias in ("own", "own%3Alatest", made[0].id):
        assert await found(e2b.http, alias) == (200, made[0].id)
        assert await found(bob, alias) == (404, None)
    assert await found(bob, "all") == (200, made[1].id)
    assert (await e2b.http.get("/e2b/templates/aliases/all")).json()["public"] is True
    assert await found(e2b.http, "late") == (404, None)  # no create may name it


async def test_the_metrics_of_a_sandbox_are_its_samples_and_one_of_now(e2b: E2b) -> None:
    sandbox, begun = (await e2b.make())["sandboxID"], int(e2b.bay.clock().timestamp())
    for _ in range(3):
        e2b.bay.clock.advance(60)
        await e2b.bay.bay.sampler.sample()
    e2b.bay.clock.advance(7)
    now = begun + 187
    found = await e2b.metrics(sandbox)
    # The first sample has none before it, and so no rate.
    assert [one["timestampUnix"] for one in found] == [begun + 60, begun + 120, now]
    assert all(one.keys() == found[-1].keys() and one["memUsed"] > 0 for one in found)
    assert {(one["cpuCount"], one["memTotal"]) for one in found} == {(1, found[-1]["memTotal"])}
    for start, end, count in (
        (begun + 60, begun + 119, 1),
        (begun + 121, now, 1),
        (0, begun, 0),
        (now + 1, 1 << 61, 0),
    ):
        assert len(await e2b.metrics(sandbox, start=start, end=end)) == count, (start, end)
    await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")
    assert await e2b.metrics(sandbox) == found[:-1]


async def test_the_metrics_of_a_sandbox_without_samples_are_one_of_now(e2b: E2b) -> None:
    sandbox = (await e2b.make())["sandboxID"]
    usage = (await (await e2b.bay.client()).get(f"/v1/sandboxes/{sandbox}/usage")).json()
    [sample] = await e2b.metrics(sandbox)
    assert sample["memTotal"] == usage["memory_limit_bytes"]
    assert sample["diskTotal"] == usage["disk_limit_bytes"]
    assert sample["memUsed"] + sample["memCache"] > 0
    assert 0 <= sample["cpuUsedPct"] <= 100
    assert (sample["cpuCount"], sample["diskUsed"]) == (1, 0)
    now = e2b.bay.clock()
    assert (from_rfc3339(sample["timestamp"]), sample["timestampUnix"]) == (now, int(now.timestamp()))


async def test_a_busy_sandbox_uses_its_processors(e2b: E2b) -> None:
    sandbox = (await e2b.make())["sandboxID"]
    native = await e2b.bay.client()
    await native.post(f"/v1/sandboxes/{sandbox}/execs", json={"command": "while :; do :; done"})

    async def is_seen() -> bool:
        [sample] = await e2b.metrics(sandbox)
        return sample["cpuUsedPct"] > 0

    await eventually(is_seen)


async def test_another_time_and_a_paused_sandbox_have_no_metrics(e2b: E2b) -> None:
    sandbox, now = (await e2b.make())["sandboxID"], int(e2b.bay.clock().timestamp())
    for start, end, count in ((now, now, 1), (now - 9, now + 9, 1), (now + 1, now + 9, 0), (1, now - 1, 0)):
        assert len(await e2b.metrics(sandbox, start=start, end=end)) == count, (start, end)
    assert (await e2b.http.get(f"/e2b/sandboxes/{sandbox}/metrics?start=soon")).status_code == 400
    await e2b.http.post(f"/e2b/sandboxes/{sandbox}/pause")
    assert await e2b.metrics(sandbox) == []
    assert (await e2b.http.get(f"/e2b/sandboxes/{sandbox}")).json()["state"] == "paused"


async def test_envd_has_the_metrics_of_its_sandbox(e2b: E2b) -> None:
    made = await e2b.make()
    headers = {"E2b-Sandbox-Id": made["sandboxID"], "E2b-Sandbox-Port": "49983"}
    stranger = await e2b.bay.open_client(headers)
    assert (await stranger.get("/metrics")).status_code == 401
    found = (await stranger.get("/metrics", headers={"X-Access-Token": made["envdAccessToken"]})).json()
    [sample] = await e2b.metrics(made["sandboxID"])
    same = {
        "ts": "timestampUnix",
        "cpu_count": "cpuCount",
        "mem_total": "memTotal",
        "disk_total": "diskTotal",
    }
    assert {name: found[name] for name in same} == {name: sample[of] for name, of in same.items()}
    assert found["mem_used"] > 0
    assert found.keys() - same.keys() == {"cpu_used_pct", "mem_used", "mem_cache", "disk_used"}
    await e2b.http.post(f"/e2b/sandboxes/{made['sandboxID']}/pause")
    by_key = await e2b.http.get(f"/e2b/sandboxes/{made['sandboxID']}/envd/metrics")
    assert by_key.status_code == 502


async def test_a_key_may_have_the_form_that_clients_of_e2b_know(e2b: E2b) -> None:
    admin = await e2b.bay.client("root", "admin")
    made = (await admin.post("/v1/keys", json={"name": "ci", "owner": "alice", "e2b": True})).json()
    assert re.fullmatch("e2b_[0-9a-f]{40}", made["secret"])
    http = await e2b.bay.open_client({"X-API-Key": made["secret"]})
    assert (await http.get("/e2b/v2/sandboxes")).status_code == 200
    assert e2b.bay.bay.keys.hide(f"/v1/{made['secret']}/x") == "/v1/e2b_…/x"
