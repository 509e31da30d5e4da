"""What goes through to an app and comes back, over real connections: whole, as it comes, and in constant
memory.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from port_apps import App, Call, app
from server_harness import Served, clear, create, eventually, held_up, served, turns, until, within
from structlog.testing import capture_logs

from bay.server.ports import proxy
from bay.server.ports.ship_client import PortStream
from bay.server.ship.connection import Peer

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A Bay behind a real port, with a sandbox and an app."""

    live: Served
    client: httpx.AsyncClient
    app: App
    sandbox_id: str

    @property
    def host(self) -> str:
        return f"{self.app.port}-web.localhost:{self.live.port}"

    async def get(self, path: str = "/", **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={"Host": self.host, **headers})

    async def raw(self, *lines: str, body: bytes = b"") -> "Raw":
        """Send a request as it stands, with the key."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.live.port, limit=1 << 20)
        head = (lines[0], f"Host: {self.host}", f"Authorization: Bearer {self.live.key}", *lines[1:], "", "")
        writer.write("\r\n".join(head).encode() + body)
        return Raw(reader, writer)


@dataclass(frozen=True, slots=True)
class Raw:
    """A connection to Bay."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> bytes:
        return await within(self.reader.readuntil(b"\r\n\r\n"))


@pytest.fixture
async def place(live: Served) -> AsyncGenerator[Place]:
    async with place_in(live) as made:
        yield made


@asynccontextmanager
async def place_in(live: Served) -> AsyncGenerator[Place]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        box = await create(client, name="web", wait=20)
        async with app() as made:
            yield Place(live, client, made, box["id"])


async def test_the_app_sees_the_host_and_who_asks_and_not_what_the_client_says_of_that(place: Place) -> None:
    await place.get(
        "/a/%2e%2F?q=%20", **{"X-Forwarded-For": "6.6.6.6", "Forwarded": "for=6.6.6.6", "X-Other": "1"}
    )
    (call,) = place.app.calls
    assert call.line == "GET /a/%2e%2F?q=%20 HTTP/1.1"
    assert call.all("host") == [place.host]
    assert call.all("x-forwarded-for") == ["127.0.0.1"]
    assert call.all("x-forwarded-host") == [place.host]
    assert call.all("x-forwarded-port") == [str(place.live.port)]
    assert call.all("x-other") == ["1"]
    assert call.all("forwarded") == []


async def test_only_a_trusted_proxy_says_who_asks_and_the_nearest_that_is_none_is_the_client(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")  # no setting of Bay's
    public = {"public_url": "https://bay.example.com", "trusted_proxies": ["127.0.0.2/32", "192.0.2.0/24"]}
    try:
        async with served(root, **public) as live, place_in(live) as place:
            for address, client in (("127.0.0.2", "6.6.6.6"), ("127.0.0.1", "127.0.0.1")):
                transport = httpx.AsyncHTTPTransport(local_address=address)
                async with httpx.AsyncClient(headers=live.headers, transport=transport, timeout=20) as proxy:
                    said = {"X-Forwarded-For": "1.1.1.1, 6.6.6.6, 192.0.2.9"}
                    await proxy.get(live.url, headers={"Host": place.host, **said})
                assert place.app.calls[-1].all("x-forwarded-for") == [client]
    finally:
        await clear(root)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_body_is_passed_on_as_it_comes_and_so_is_the_answer(place: Place, chunked: bool) -> None:
    parts: asyncio.Queue[bytes] = asyncio.Queue()

    async def echo(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        if chunked:
            assert call.all("transfer-encoding") == ["chunked"]
            while size := int(await call.reader.readline(), 16):
                data = await call.reader.readexactly(size)
                await call.reader.readline()
                call.writer.write(b"%x\r\n%b\r\n" % (size, data))
            await call.reader.readline()
        else:
            assert call.all("content-length") == ["2"]
            for _ in range(2):
                call.writer.write(b"1\r\n%b\r\n" % await call.reader.readexactly(1))
        call.writer.write(b"0\r\n\r\n")

    async def body() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield await parts.get()

    place.app.act = echo
    headers = {"Host": place.host} | ({} if chunked else {"Content-Length": "2"})
    raw = await place.raw(
        "POST / HTTP/1.1", *(["Transfer-Encoding: chunked"] if chunked else ["Content-Length: 2"])
    )
    for data in (b"a", b"b"):
        raw.writer.write(b"1\r\n%b\r\n" % data if chunked else data)
        if data == b"a":
            assert b"200 OK" in await raw.head()
        assert await within(raw.reader.readexactly(6)) == b"1\r\n%b\r\n" % data
    if chunked:
        raw.writer.write(b"0\r\n\r\n")
    assert await within(raw.reader.readexactly(5)) == b"0\r\n\r\n"
    raw.writer.close()
    parts.put_nowait(b"x")
    parts.put_nowait(b"y")
    answer = await within(place.client.post("/", content=body(), headers=headers))
    assert answer.content == b"xy"


async def test_events_of_a_server_arrive_one_by_one_and_its_end_is_the_clients_leaving(place: Place) -> None:
    more = asyncio.Queue[bytes]()

    async def stream(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            call.writer.write(await more.get())
            await call.writer.drain()

    place.app.act = stream
    async with place.client.stream("GET", "/", headers={"Host": place.host}) as answer:
        lines = answer.aiter_lines()
        for text in ("one", "two"):
            more.put_nowait(f"data: {text}\n\n".encode())
            assert await within(anext(lines)) == f"data: {text}"
            await within(anext(lines))
        assert place.live.bay.holds.any_here(place.sandbox_id, followers=False)  # so it is not idled away
    await until(lambda: not place.live.bay.holds.any_here(place.sandbox_id, followers=False))
    for _ in range(3):
        more.put_nowait(b"data: three\n\n")
    await within(gone(place))


def reset(writer: asyncio.StreamWriter) -> None:
    """Break a connection off, which without this would end it."""
    link: socket.socket = writer.get_extra_info("socket")
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def gone(place: Place) -> None:
    """Return once the app's connection is over."""
    await until(lambda: all(w.transport.is_closing() or place.app.gone.is_set() for w in place.app.writers))


async def test_a_client_that_waits_to_be_told_to_go_on_is_told(place: Place) -> None:
    async def act(call: Call) -> None:
        assert call.all("expect") == []
        await call.answer(await call.reader.readexactly(3))

    place.app.act = act
    raw = await place.raw("PUT / HTTP/1.1", "Content-Length: 3", "Expect: 100-continue")
    assert (await raw.head()).startswith(b"HTTP/1.1 100 ")
    raw.writer.write(b"abc")
    assert (await raw.head()).startswith(b"HTTP/1.1 200 ")
    assert await within(raw.reader.readexactly(3)) == b"abc"
    raw.writer.close()


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 2"],
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2", "Content-Length: 2"],
        ["Content-Length: +2"],
        ["Transfer-Encoding: identity", "Content-Length: 2"],
        ["Transfer-Encoding: xchunked"],
        ["Host: other"],
        ["X: a\r\n folded"],
        ["X : a"],
    ],
)
async def test_a_request_that_two_readers_may_read_in_two_ways_gets_to_no_app(
    place: Place, headers: list[str]
) -> None:
    raw = await place.raw(
        "POST / HTTP/1.1", *headers, body=b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert (await raw.head()).startswith(b"HTTP/1.1 4")
    raw.writer.close()
    assert [call.line for call in place.app.calls if "smuggled" in call.line] == []
    assert place.app.calls == []


async def test_trailers_are_no_headers(place: Place) -> None:
    trailers = "X-Late: 1", "X-Forwarded-For: 6.6.6.6", f"Authorization: Bearer {place.live.key}", "", ""
    body = b"1\r\nx\r\n0\r\n" + "\r\n".join(trailers).encode()
    head = f"POST / HTTP/1.1\r\nHost: {place.host}\r\nTransfer-Encoding: chunked\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", place.live.port)
    writer.write(head + b"\r\n" + body)
    assert (await within(reader.readuntil(b"\r\n\r\n"))).startswith(b"HTTP/1.1 401 ")
    writer.close()
    raw = await place.raw("POST / HTTP/1.1", "Transfer-Encoding: chunked", body=body)
    assert (await raw.head()).startswith(b"HTTP/1.1 200 ")
    raw.writer.close()
    assert not any(call.has("x-late") for call in place.app.calls)


async def test_what_stands_behind_a_request_is_the_next_request_and_is_let_in_by_itself(place: Place) -> None:
    behind = f"GET /second HTTP/1.1\r\nHost: {place.host}\r\n\r\n".encode()
    raw = await place.raw("POST /first HTTP/1.1", "Content-Length: 0", body=behind)
    assert (await raw.head()).startswith(b"HTTP/1.1 200 ")
    assert await within(raw.reader.readexactly(5)) == b"hello"
    assert (await raw.head()).startswith(b"HTTP/1.1 401 ")
    raw.writer.close()
    assert [call.line for call in place.app.calls] == ["POST /first HTTP/1.1"]


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\x00Y: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x01b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x1cb\r\nContent-Length: 0\r\n\r\n",
    ],
)
async def test_an_answer_that_is_no_http_is_a_502(place: Place, answer: bytes) -> None:
    async def act(call: Call) -> None:
        call.writer.write(answer)
        call.writer.close()

    place.app.act = act
    found = await place.get()
    assert (found.status_code, found.json()["error"]["code"]) == (502, "port_closed")
    assert (await place.get(Accept="text/html")).headers["content-type"].startswith("text/html")


async def test_a_client_that_leaves_before_its_websocket_is_refused_is_no_defect(place: Place) -> None:
    left = asyncio.Event()

    async def act(call: Call) -> None:
        await left.wait()
        await call.answer(b"no", status="404 Not Found")

    place.app.act = act
    with capture_logs() as logged:
        raw = await place.raw(
            "GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: websocket",
            "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )  # fmt: skip
        await until(lambda: len(place.app.calls) == 1)
        raw.writer.transport.abort()
        await turns()
        left.set()
        await within(place.app.gone.wait())
    assert [line for line in logged if line["event"] == "port.defect"] == []


async def test_an_answer_behind_an_answer_is_for_nobody(place: Place) -> None:
    async def act(call: Call) -> None:
        await call.answer(b"mine")
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    place.app.act = act
    for _ in range(4):
        assert (await place.get()).text == "mine"


async def test_interim_answers_are_left_out(place: Place) -> None:
    async def act(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        await call.answer()

    place.app.act = act
    assert (await place.get()).text == "hello"


@pytest.mark.parametrize(
    ("method", "status", "length"),
    [
        ("HEAD", "200 OK", "1000"),
        ("HEAD", "200 OK", str(64 * MIB)),
        ("GET", "304 Not Modified", "1000"),
        ("GET", "304 Not Modified", str(64 * MIB)),
        ("GET", "204 No Content", None),
    ],
)
async def test_answers_without_a_body_have_none(
    place: Place, method: str, status: str, length: str | None
) -> None:
    async def act(call: Call) -> None:
        said = f"Content-Length: {length}\r\n" if length else ""
        call.writer.write(f"HTTP/1.1 {status}\r\nETag: 1\r\n{said}\r\n".encode())

    place.app.act = act
    for _ in range(2):
        answer = await place.client.request(method, "/", headers={"Host": place.host})
        assert (str(answer.status_code), answer.headers["etag"], answer.content) == (status[:3], "1", b"")
    assert len(place.app.writers) == 1


async def test_nothing_behind_a_large_answer_is_taken_for_the_next(place: Place) -> None:
    body = bytes(range(256)) * (5 * MIB // 256)

    async def act(call: Call) -> None:
        call.writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")

    place.app.act = act
    for _ in range(2):
        assert (await place.get()).content == body
    place.app.act = Call.answer
    assert b"poison" not in (await place.get()).content


@pytest.mark.parametrize(
    "head",
    ["Content-Length: 10", "Content-Length: 10000000", "Transfer-Encoding: chunked", "X: close-delimited"],
)
async def test_an_app_that_dies_in_the_middle_of_its_answer_leaves_none_that_looks_whole(
    place: Place, head: str
) -> None:
    async def act(call: Call) -> None:
        body = b"5\r\nhello\r\n" if "chunked" in head else b"hello"
        call.writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body)
        await call.writer.drain()
        await call.reader.read(1)

    async def die() -> None:
        await until(lambda: bool(place.app.calls))
        reset(place.app.writers[0])

    place.app.act = act
    async with place.client.stream("GET", "/", headers={"Host": place.host}) as answer:
        parts = answer.aiter_bytes()
        assert await within(anext(parts)) == b"hello"
        await die()
        with pytest.raises(httpx.RemoteProtocolError):
            await within(anext(parts))
    place.app.act = Call.answer
    assert (await place.get()).status_code == 200


async def test_an_answer_that_ends_with_its_connection_is_whole(place: Place) -> None:
    async def act(call: Call) -> None:
        call.writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        call.writer.close()

    place.app.act = act
    assert (await place.get()).text == "hello"


async def test_a_body_that_is_cut_off_never_looks_whole_to_the_app(place: Place) -> None:
    ended = asyncio.get_running_loop().create_future()

    async def act(call: Call) -> None:
        try:
            ended.set_result(await call.reader.readexactly(10))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            ended.set_result(error)

    place.app.act = act
    raw = await place.raw("POST / HTTP/1.1", "Content-Length: 10", body=b"hello")
    await until(lambda: bool(place.app.calls))
    raw.writer.close()
    assert isinstance(await within(ended), Exception)


async def test_an_app_may_answer_before_it_has_read_all(place: Place) -> None:
    async def act(call: Call) -> None:
        await call.answer(b"too large", "Connection: close", status="413 Content Too Large")
        call.writer.close()

    place.app.act = act
    raw = await place.raw("POST / HTTP/1.1", f"Content-Length: {64 * MIB}", body=b"x" * 1000)
    assert (await raw.head()).startswith(b"HTTP/1.1 413 ")
    assert await within(raw.reader.readexactly(9)) == b"too large"
    raw.writer.close()


async def test_a_client_that_reads_nothing_holds_the_app_up_and_not_bays_memory(place: Place) -> None:
    sent = 0

    async def act(call: Call) -> None:
        nonlocal sent
        if "/small" in call.line:
            return await call.answer()
        call.writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {256 * MIB}\r\n\r\n".encode())
        for _ in range(1024):
            call.writer.write(bytes(MIB // 4))
            await call.writer.drain()
            sent += MIB // 4
        return None

    place.app.act = act
    raw = await place.raw("GET / HTTP/1.1")
    await raw.head()
    assert await held_up(lambda: sent, lambda: place.get("/small")) < 32 * MIB
    raw.writer.transport.abort()


async def test_an_app_that_reads_nothing_holds_the_client_up(place: Place) -> None:
    async def act(call: Call) -> None:
        if call.line.startswith("GET"):
            return await call.answer()
        await asyncio.Event().wait()
        return None

    place.app.act = act
    raw = await place.raw("POST / HTTP/1.1", f"Content-Length: {256 * MIB}")
    sent = 0

    async def pour() -> None:
        nonlocal sent
        while True:
            raw.writer.write(bytes(MIB // 4))
            await raw.writer.drain()
            sent += MIB // 4

    pouring = asyncio.create_task(pour())
    assert await held_up(lambda: sent, place.get) < 32 * MIB
    pouring.cancel()
    raw.writer.transport.abort()


async def test_large_bodies_go_through_whole_both_ways(place: Place) -> None:
    async def act(call: Call) -> None:
        size = int(call.all("content-length")[0])
        call.writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        while size:
            data = await call.reader.read(65536)
            size -= len(data)
            call.writer.write(data)
            await call.writer.drain()

    place.app.act = act
    body = bytes(range(256)) * (16 * MIB // 256)
    answer = await within(place.client.post("/", content=body, headers={"Host": place.host}))
    assert answer.content == body


async def test_a_connection_serves_request_after_request(place: Place) -> None:
    for _ in range(3):
        await place.get()
    assert (len(place.app.calls), len(place.app.writers)) == (3, 1)
    await place.client.post("/", content=b"", headers={"Host": place.host})  # which may not be sent twice
    assert len(place.app.writers) == 2


async def test_a_connection_that_the_app_has_closed_meanwhile_is_replaced(place: Place) -> None:
    await place.get()
    for _ in range(3):
        for writer in place.app.writers:
            writer.close()
        assert (await place.get()).text == "hello"


@pytest.mark.host
async def test_connections_that_wait_too_long_are_closed(place: Place) -> None:
    await place.get()
    await until(lambda: place.app.gone.is_set())


async def test_a_request_wakes_a_sandbox_that_is_frozen_or_stopped(place: Place) -> None:
    for what in ("pause", "stop"):
        assert (await place.client.post(f"/v1/sandboxes/web/{what}")).status_code == 200
        assert (await place.get()).text == "hello"


async def test_a_request_waits_until_something_listens(place: Place) -> None:
    async with app() as first:
        port = first.port
    asking = asyncio.create_task(
        place.client.get("/", headers={"Host": f"{port}-web.localhost:{place.live.port}"})
    )
    await until(lambda: place.live.bay.holds.any_here(place.sandbox_id, followers=False))
    async with app(port=port):
        assert (await within(asking)).text == "hello"


async def test_many_may_wait_until_something_listens_and_one_of_them_looks(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with app() as first:
        port = first.port
    link, tries = place.live.bay.port_client, 0
    opens = link.open

    def counted(peer: Peer, number: int) -> AbstractAsyncContextManager[PortStream]:
        nonlocal tries
        tries += 1
        return opens(peer, number)

    monkeypatch.setattr(link, "open", counted)
    headers = {"Host": f"{port}-web.localhost:{place.live.port}"}
    asking = [asyncio.create_task(place.client.get("/", headers=headers)) for _ in range(20)]
    await until(lambda: tries >= 23)  # each has tried once
    asking.pop(0).cancel()  # whoever looks may leave
    assert tries < 60
    async with app(port=port):
        for answer in await within(asyncio.gather(*asking)):
            assert answer.text == "hello"


async def test_where_nothing_listens_a_page_says_so_when_the_wait_is_over(root: Path) -> None:
    try:
        async with served(root, port_wait=0.2) as live, place_in(live) as place:
            async with app() as closed:
                port = closed.port
            host = f"{port}-web.localhost:{live.port}"
            answer = await place.client.get("/", headers={"Host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (502, "port_closed")
            await place.client.put(f"/v1/sandboxes/web/ports/{port}", json={"access": "public"})
            async with httpx.AsyncClient(base_url=live.url) as stranger:
                page = await stranger.get("/", headers={"Host": host, "Accept": "text/html"})
                assert (page.status_code, page.headers["cache-control"]) == (502, "no-store")
                assert "nothing answers here now" in page.text
                assert place.sandbox_id not in page.text
                error = (await stranger.get("/", headers={"Host": host})).json()["error"]
                assert "details" not in error
    finally:
        await clear(root)


async def test_an_app_that_never_answers_is_a_504(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(call: Call) -> None:
        await call.reader.read()

    place.app.act = act
    monkeypatch.setattr(proxy, "ANSWER_S", 0.2)
    answer = await place.get()
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    await within(place.app.gone.wait())


async def test_more_visitors_than_there_is_room_for_are_told(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(call: Call) -> None:
        await call.reader.read()

    place.app.act = act
    monkeypatch.setattr(proxy, "LIMIT", 2)
    waiting = [asyncio.create_task(place.get()) for _ in range(2)]
    await until(lambda: len(place.app.calls) == 2)
    answer = await place.get()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    await place.client.put(f"/v1/sandboxes/web/ports/{place.app.port}", json={"access": "public"})
    async with httpx.AsyncClient(base_url=place.live.url) as stranger:
        waiting.append(asyncio.create_task(stranger.get("/", headers={"Host": place.host})))
        await until(lambda: len(place.app.calls) == 3)  # who has room of their own
        waiting[-1].cancel()
        await asyncio.wait(waiting[-1:])
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    place.app.act = Call.answer

    async def has_room() -> bool:
        return (await place.get()).status_code == 200

    await eventually(has_room)


async def test_as_many_strangers_as_are_let_in_leave_their_owner_room(place: Place) -> None:
    async def act(call: Call) -> None:
        if call.line.startswith("GET /stay "):
            await call.reader.read()
        await call.answer()

    place.app.act = act
    await place.client.put(f"/v1/sandboxes/web/ports/{place.app.port}", json={"access": "public"})
    asked = f"GET /stay HTTP/1.1\r\nHost: {place.host}\r\n\r\n".encode()
    writers: list[asyncio.StreamWriter] = []
    try:
        for count in range(proxy.LIMIT):
            # Of one address there may be fewer.
            from_ = (f"127.0.0.{2 + count // 100}", 0)
            _, writer = await asyncio.open_connection("127.0.0.1", place.live.port, local_addr=from_)
            writers.append(writer)
            writer.write(asked)
            if count % 50 == 49:
                await until(lambda: len(place.app.calls) == len(writers))
        assert (await place.get()).status_code == 200
        run = {"argv": ["true"]}
        answer = await place.client.post("/v1/sandboxes/web/execs", params={"wait": "10"}, json=run)
        assert answer.status_code == 201, answer.text
    finally:
        for writer in writers:
            writer.transport.abort()


async def test_what_a_stranger_never_ends_does_not_keep_the_owner_from_pausing(place: Place) -> None:
    await place.client.put(f"/v1/sandboxes/web/ports/{place.app.port}", json={"access": "public"})
    _, writer = await asyncio.open_connection("127.0.0.1", place.live.port)
    writer.write(f"POST / HTTP/1.1\r\nHost: {place.host}\r\nContent-Length: 100\r\n\r\nx".encode())
    await within(until(lambda: bool(place.app.calls)))
    answer = await place.client.post("/v1/sandboxes/web/pause")
    writer.close()
    assert (answer.status_code, answer.json()["compute"]) == (200, "warm")


async def test_an_answer_ends_with_the_key_that_asked_for_it(place: Place) -> None:
    async def act(call: Call) -> None:
        call.writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await call.reader.read()

    place.app.act = act
    place.live.bay.connections._look_s = 0.02
    admin = await place.live.bay.keys.add("admin", "a", "admin")
    headers = {"Authorization": f"Bearer {admin}"}
    made = (await place.client.post("/v1/keys", json={"name": "k", "owner": "alice"}, headers=headers)).json()
    asked = {"Host": place.host, "Authorization": f"Bearer {made['secret']}"}
    async with place.client.stream("GET", "/", headers=asked) as answer:
        parts = answer.aiter_bytes()
        assert await within(anext(parts)) == b"hello"
        await place.client.delete(f"/v1/keys/{made['id']}", headers=headers)
        with pytest.raises(httpx.RemoteProtocolError):
            await within(anext(parts))
    await within(place.app.gone.wait())


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_methods_that_would_show_or_leave_http_get_to_no_app(place: Place, method: str) -> None:
    raw = await place.raw(f"{method} / HTTP/1.1")
    assert (await raw.head()).startswith(b"HTTP/1.1 4")
    raw.writer.close()
    assert place.app.calls == []


async def test_odd_methods_and_headers_go_through(place: Place) -> None:
    raw = await place.raw("PROPFIND /%ff HTTP/1.1", "X-Bytes: \u00e9", "Connection: close, X-Hop", "X-Hop: 1")
    assert (await raw.head()).startswith(b"HTTP/1.1 200 ")
    assert place.app.calls[0].line == "PROPFIND /%ff HTTP/1.1"
    assert not place.app.calls[0].has("x-hop")
    raw.writer.close()
