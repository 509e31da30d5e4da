"""WebSockets to apps: messages both ways, how they end, and who may open one."""

from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import httpx
import pytest
from server_harness import Served, create, held_up, until, within
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import CloseCode
from websockets.typing import Subprotocol

pytestmark = pytest.mark.anyio

Act = Callable[[ServerConnection], Awaitable[None]]


async def echo(socket: ServerConnection) -> None:
    async for message in socket:
        await socket.send(message)


@dataclass(slots=True)
class Place:
    """A Bay behind a real port, with a sandbox and an app that speaks WebSocket."""

    live: Served
    client: httpx.AsyncClient
    act: Act = echo
    port: int = 0
    sockets: list[ServerConnection] = field(default_factory=list[ServerConnection])
    closed: list[tuple[int | None, str | None]] = field(default_factory=list[tuple[int | None, str | None]])

    @property
    def host(self) -> str:
        return f"{self.port}-web.localhost:{self.live.port}"

    async def serve(self, socket: ServerConnection) -> None:
        self.sockets.append(socket)
        try:
            await self.act(socket)
        except ConnectionClosed:
            pass
        finally:
            await socket.wait_closed()
            self.closed.append((socket.close_code, socket.close_reason))

    def connect(self, path: str = "/", *, key: bool = True, **given: Any) -> connect:
        headers = dict(given.pop("headers", {})) | (self.live.headers if key else {})
        url = f"ws://{self.host}{path}"
        return connect(
            url,
            host="127.0.0.1",
            port=self.live.port,
            additional_headers=headers,
            proxy=None,
            max_size=None,
            **given,
        )

    def head(self) -> dict[str, str]:
        request = self.sockets[-1].request
        assert request is not None
        return {name.lower(): value for name, value in request.headers.raw_items()}


@pytest.fixture
async def place(live: Served) -> AsyncGenerator[Place]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        await create(client, name="web", wait=20)
        made = Place(live, client)

        async def refuse(connection: ServerConnection, request: Any) -> Any:
            return connection.respond(HTTPStatus.IM_A_TEAPOT, "no\n") if request.path == "/no" else None

        protocols = [Subprotocol("chat"), Subprotocol("vite-hmr")]

        def greet(_connection: ServerConnection, _request: Any, response: Any) -> None:
            response.headers["Set-Cookie"] = "a=1; Domain=localhost; Path=/"
            response.headers["Set-Cookie"] = "bay-port=evil"

        server = serve(
            made.serve, "127.0.0.1", 0, subprotocols=protocols, process_request=refuse, process_response=greet, max_size=None,
            select_subprotocol=lambda _, offered: next((name for name in protocols if name in offered), None),
        )  # fmt: skip
        async with server as listening:
            made.port = next(iter(listening.sockets)).getsockname()[1]
            yield made


async def closed(socket: ClientConnection) -> tuple[int | None, str | None]:
    await within(socket.wait_closed())
    return socket.close_code, socket.close_reason


async def test_messages_come_back_as_they_went(place: Place) -> None:
    messages = ["hello", "", "\u00e9\U0001f600", b"\x00\xff", b"", "x" * 1_000_000, bytes(1_000_000)]
    async with place.connect("/a?b=%20c") as socket:
        for message in messages:
            await socket.send(message)
            assert await within(socket.recv()) == message
        await socket.send(["a", "b", "c"])  # in fragments
        assert await within(socket.recv()) == "abc"
        await within(await socket.ping())
    request = place.sockets[0].request
    assert request is not None
    assert request.path == "/a?b=%20c"
    head = place.head()
    assert (head["host"], head["x-forwarded-for"], head["x-forwarded-proto"]) == (
        place.host,
        "127.0.0.1",
        "http",
    )
    assert not {"authorization", "sec-websocket-extensions"} & head.keys()


async def test_an_apps_messages_may_be_larger_than_a_clients_and_its_pings_are_answered(place: Place) -> None:
    async def act(socket: ServerConnection) -> None:
        await within(await socket.ping())
        await socket.send(bytes(3 << 20))
        await socket.send(["a"] * 100)

    place.act = act
    async with place.connect() as socket:
        assert await within(socket.recv()) == bytes(3 << 20)
        assert await within(socket.recv()) == "a" * 100


async def send_large(socket: ServerConnection) -> None:
    await socket.send(bytes((4 << 20) + 1))


async def send_many_parts(socket: ServerConnection) -> None:
    await socket.send([b"x" * 1024] * 5000)


async def send_tiny_parts(socket: ServerConnection) -> None:
    await socket.send([b"x"] * 2000)


@pytest.mark.parametrize("act", [send_large, send_many_parts, send_tiny_parts])
async def test_a_message_that_is_too_large_ends_it(place: Place, act: Act) -> None:
    place.act = act
    async with place.connect() as socket:
        assert (await closed(socket))[0] == CloseCode.MESSAGE_TOO_BIG


async def test_a_client_that_sends_too_much_at_once_is_told_and_the_app_too(place: Place) -> None:
    async with place.connect() as socket:
        await socket.send(bytes((1 << 20) + 1))
        assert (await closed(socket))[0] == CloseCode.MESSAGE_TOO_BIG
    await until(lambda: bool(place.closed))


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "away"), (4321, "because"), (3000, "\u00e9" * 60)]
)
async def test_how_one_side_closes_is_told_to_the_other(place: Place, code: int, reason: str) -> None:
    async with place.connect() as socket:
        await socket.close(code, reason)
    await until(lambda: place.closed == [(code, reason)])
    place.act = lambda socket: socket.close(code, reason)
    async with place.connect() as socket:
        assert await closed(socket) == (code, reason)


async def test_an_app_that_breaks_off_is_told_from_one_that_closes(place: Place) -> None:
    async def act(socket: ServerConnection) -> None:
        await socket.recv()
        socket.transport.abort()

    place.act = act
    async with place.connect() as socket:
        await socket.send("die")
        assert await closed(socket) == (1011, "the app broke off the connection")


async def test_a_client_that_breaks_off_leaves_nothing_open(place: Place) -> None:
    async with place.connect() as socket:
        await socket.send("x")
        await within(socket.recv())
        socket.transport.abort()
        await until(lambda: bool(place.closed))


async def test_text_that_is_none_ends_it(place: Place) -> None:
    async def act(socket: ServerConnection) -> None:
        await socket.send(b"\xff", text=True)

    place.act = act
    async with place.connect() as socket:
        assert (await closed(socket))[0] == CloseCode.INVALID_DATA


async def test_the_app_chooses_among_the_protocols_that_are_not_bays(place: Place) -> None:
    key = place.live.key.encode().hex()
    offered = [Subprotocol(name) for name in ("bay.v1", "vite-hmr", "other")]
    async with place.connect(subprotocols=offered) as socket:
        assert socket.subprotocol == "vite-hmr"
        assert place.head()["sec-websocket-protocol"] == "vite-hmr, other"
    async with place.connect(subprotocols=[Subprotocol("bay.v1")]) as socket:
        assert socket.subprotocol == "bay.v1"  # a browser that offers some wants one
        assert "sec-websocket-protocol" not in place.head()
    assert key not in str(place.head())


async def test_a_key_in_a_protocol_opens_and_is_not_shown(place: Place) -> None:
    secret = place.live.key.encode()
    bearer = "bay.bearer." + urlsafe_b64encode(secret).decode().rstrip("=")
    async with place.connect(key=False, subprotocols=[Subprotocol("bay.v1"), Subprotocol(bearer)]) as socket:
        assert socket.subprotocol == "bay.v1"
        assert bearer not in str(place.head())


async def test_cookies_that_are_set_on_opening_are_the_apps_own(place: Place) -> None:
    async with place.connect() as socket:
        assert socket.response is not None
        assert socket.response.headers.get_all("Set-Cookie") == ["a=1; Path=/"]


async def test_what_an_app_answers_instead_is_passed_on(place: Place) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with place.connect("/no"):
            pass
    assert refused.value.response.status_code == HTTPStatus.IM_A_TEAPOT
    assert refused.value.response.body == b"no\n"


async def test_by_path_a_key_reaches_an_app_too(place: Place) -> None:
    url = f"{place.live.url}/v1/sandboxes/web/ports/{place.port}/x?y".replace("http", "ws")
    async with connect(url, additional_headers=place.live.headers, proxy=None) as socket:
        await socket.send("x")
        assert await within(socket.recv()) == "x"
    request = place.sockets[0].request
    assert request is not None
    assert request.path == "/x?y"
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {await place.live.bay.keys.add('bob', 'b', 'write')}"}, 404),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(url, additional_headers=headers, proxy=None):
                pass
        assert refused.value.response.status_code == status


@pytest.mark.parametrize(
    ("origin", "opens"),
    [
        ("http://OWN", True),
        (None, False),
        ("http://evil.example", False),
        ("null", False),
        ("http://1-other.localhost", False),
    ],
)
async def test_a_cookie_opens_one_for_the_hosts_own_pages_alone(
    place: Place, origin: str | None, opens: bool
) -> None:
    made = await place.client.post(f"/v1/sandboxes/web/ports/{place.port}/links")
    link = made.json()["url"].partition(str(place.live.port))[2]
    async with httpx.AsyncClient(base_url=place.live.url) as browser:
        answer = await browser.get(link, headers={"Host": place.host})
    cookie = answer.headers["set-cookie"].partition(";")[0]
    headers = {"Cookie": cookie} | ({"Origin": origin.replace("OWN", place.host)} if origin else {})
    if opens:
        async with place.connect(key=False, headers=headers):
            assert "cookie" not in place.head()
            assert place.head()["origin"] == f"http://{place.host}"
        return
    with pytest.raises(InvalidStatus) as refused:
        async with place.connect(key=False, headers=headers):
            pass
    assert refused.value.response.status_code == 403
    assert place.sockets == []


async def test_nobody_comes_in_without_a_key(place: Place) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with place.connect(key=False):
            pass
    assert refused.value.response.status_code == 401


async def test_one_that_is_open_keeps_the_sandbox_and_ends_with_its_key(place: Place) -> None:
    place.live.bay.connections._look_s = 0.02
    admin = {"Authorization": f"Bearer {await place.live.bay.keys.add('admin', 'a', 'admin')}"}
    made = (await place.client.post("/v1/keys", json={"name": "k", "owner": "alice"}, headers=admin)).json()
    key = {"Authorization": f"Bearer {made['secret']}"}
    box = (await place.client.get("/v1/sandboxes/web")).json()["id"]
    async with place.connect(key=False, headers=key) as socket:
        assert place.live.bay.holds.any_here(box)
        await place.client.delete(f"/v1/keys/{made['id']}", headers=admin)
        assert await closed(socket) == (4403, "the key was revoked or has expired")
    await until(lambda: bool(place.closed))
    await until(lambda: not place.live.bay.holds.any_here(box))


async def test_strangers_leave_once_the_port_is_everybodys_no_more(place: Place) -> None:
    place.live.bay.connections._look_s = 0.02
    access = f"/v1/sandboxes/web/ports/{place.port}"
    await place.client.put(access, json={"access": "public"})
    async with place.connect(key=False) as stranger, place.connect() as owner:
        await place.client.patch("/v1/sandboxes/web", json={"name": "other"})
        await stranger.send("x")
        assert await within(stranger.recv()) == "x"
        await place.client.delete(access.replace("web", "other"))
        assert (await closed(stranger))[0] == 4403
        await owner.send("x")
        assert await within(owner.recv()) == "x"


async def test_one_ends_with_bay(place: Place) -> None:
    await place.client.put(f"/v1/sandboxes/web/ports/{place.port}", json={"access": "public"})
    async with place.connect(key=False) as socket:
        place.live.bay.connections.close()
        assert (await closed(socket))[0] == 1012
    await until(lambda: bool(place.closed))


async def test_a_client_that_reads_nothing_holds_the_app_up(place: Place) -> None:
    sent: list[int] = []

    async def act(socket: ServerConnection) -> None:
        while True:
            await socket.send(bytes(1 << 18))
            sent.append(1 << 18)

    place.act = act
    async with place.connect(max_queue=1) as socket:
        refused = f"http://127.0.0.1:{place.live.port}/no"
        async with httpx.AsyncClient(headers={**place.live.headers, "Host": place.host}) as beside:
            assert await held_up(lambda: sum(sent), lambda: beside.get(refused)) < 32 << 20
        socket.transport.abort()
