"""What a WebSocket passes before a route sees it: identity, scope, one Host header, the audit; and how it is
refused.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from attaching import attached, refused
from server_harness import Served, assert_error, create, eventually, within
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from bay.server.web.uvicorn_websocket import BoundedWebSocket

pytestmark = pytest.mark.anyio


def as_subprotocol(key: str) -> Subprotocol:
    return Subprotocol("bay.bearer." + base64.urlsafe_b64encode(key.encode()).decode().rstrip("="))


V1 = Subprotocol("bay.v1")


@pytest.fixture
async def client(live: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        yield client


@pytest.fixture
async def path(client: httpx.AsyncClient) -> str:
    """Of an exec to attach to."""
    box = (await create(client, wait=15))["id"]
    made = await client.post(f"/v1/sandboxes/{box}/execs", json={"command": "sleep 1000"})
    return f"{box}/execs/{made.json()['id']}/attach"


async def test_a_browser_gives_its_key_as_a_subprotocol_and_is_answered_with_the_other(
    live: Served, path: str
) -> None:
    async with attached(live, path, headers={}, subprotocols=[as_subprotocol(live.key), V1]) as one:
        assert one.socket.subprotocol == "bay.v1"
    async with attached(live, path, subprotocols=[V1]) as one:
        assert one.socket.subprotocol == "bay.v1"
    async with attached(live, path) as one:
        assert one.socket.subprotocol is None
        assert one.socket.response is not None
        assert one.socket.response.headers["x-request-id"].startswith("req-")
        assert "sec-websocket-extensions" not in one.socket.response.headers


@pytest.mark.parametrize(
    "given", ["", "bay.bearer.", "bay.bearer.!!", "bay.bearer._w", "bay.bearer.YmF5X25vbmU", "x"]
)
async def test_who_has_no_key_is_refused_before_anything_else(live: Served, given: str) -> None:
    protocols = [Subprotocol(given)] if given else None
    status, error = await refused(live, "nothing/execs/none/attach", headers={}, subprotocols=protocols)
    assert (status, error["code"]) == (401, "unauthorized")


async def test_a_key_that_may_only_read_attaches_to_nothing(live: Served, path: str) -> None:
    reader = await live.bay.keys.add("alice", "reader", "read")
    for where in (path, f"{path.partition('/')[0]}/terminal"):
        status, error = await refused(live, where, headers={"Authorization": f"Bearer {reader}"})
        assert (status, error["code"]) == (403, "forbidden")


async def test_two_readers_cannot_read_two_hosts_or_two_keys(live: Served, path: str) -> None:
    url = f"ws://127.0.0.1:{live.port}/v1/sandboxes/{path}"
    for name, value in (("Host", "other"), ("Authorization", f"Bearer {live.key}")):
        headers = [("Authorization", f"Bearer {live.key}"), (name, value)]
        with pytest.raises(InvalidStatus) as refusal:
            async with connect(url, additional_headers=headers):
                pass
        assert refusal.value.response.status_code == 400


async def test_a_request_that_is_no_handshake_gets_an_answer(
    live: Served, client: httpx.AsyncClient, path: str
) -> None:
    assert (await client.get(f"/v1/sandboxes/{path}")).status_code == 404
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    assert (await client.get(f"/v1/sandboxes/{path}", headers=upgrade)).status_code in (400, 426)
    assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "body"),
    [({}, b"x"), ({"Cookie": "a=" + "x" * 9000}, b""), ({f"X-{n}": "1" for n in range(140)}, b"")],
    ids=["body", "long-line", "many-headers"],
)
async def test_so_does_one_that_cannot_be_read(
    live: Served, client: httpx.AsyncClient, path: str, headers: dict[str, str], body: bytes
) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", **headers}
    asked = client.request("GET", f"/v1/sandboxes/{path}", headers=upgrade, content=body)
    answer = await within(asked)
    assert answer.headers["connection"] == "close"
    assert "128 headers" in assert_error(answer, 400, "validation_error")["message"]


async def test_attaching_is_audited_once_when_it_begins_and_refusals_too(
    live: Served, client: httpx.AsyncClient, path: str
) -> None:
    async def rows() -> list[tuple[int | None, str | None, str | None]]:
        await live.bay.deferred.flush()
        answer = await client.get("/v1/audit", params={"method": "WEBSOCKET"})
        return [(r["status"], r["code"], r["resource_id"]) for r in answer.json()["items"]]

    async with attached(live, path) as one:

        async def is_there() -> bool:
            return await rows() == [(101, None, path.partition("/")[0])]

        await eventually(is_there)
        await one.socket.send(json.dumps({"type": "signal", "signal": "KILL"}))
        await one.rest()
    await refused(live, f"{path}?since=99")
    assert [row[:2] for row in await rows()] == [(101, None), (400, "validation_error")]


async def test_a_client_that_leaves_before_it_is_accepted_is_no_defect(
    live: Served, client: httpx.AsyncClient, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()
    attach, lost = live.bay.ship.attach, BoundedWebSocket.connection_lost

    def note(socket: BoundedWebSocket, exc: Exception | None) -> None:
        lost(socket, exc)
        left.set()

    @asynccontextmanager
    async def slow(*args: Any, **named: Any) -> AsyncGenerator[Any]:
        async with attach(*args, **named) as attachment:
            asked.set()
            await left.wait()
            yield attachment

    monkeypatch.setattr(live.bay.ship, "attach", slow)
    monkeypatch.setattr(BoundedWebSocket, "connection_lost", note)
    _, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(
        f"GET /v1/sandboxes/{path} HTTP/1.1\r\nHost: bay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {live.key}\r\n\r\n".encode()
    )
    await within(asked.wait())
    writer.transport.abort()

    async def is_noted() -> bool:
        await live.bay.deferred.flush()
        rows = (await client.get("/v1/audit", params={"method": "WEBSOCKET"})).json()["items"]
        return [row["code"] for row in rows] == [None]

    await eventually(is_noted)
