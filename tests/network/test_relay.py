"""The relay between two sockets: framing, bounds, and what becomes of either side's faults."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import h11
import pytest

from bay.network.broker.relay import HttpRelay, RelayLimits
from bay.network.http_passage import HEAD_BYTES, PIECE, NotPassedOn, Stream

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

DOMAIN = "api.example.com"
KEY = (b"Authorization", b"Bearer the-key")
GET = f"GET / HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode()
WAIT_S = 10.0

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Wire:
    """A client's connection, what the relay refused, and the bytes that reached the host."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    refused: list[NotPassedOn] = field(default_factory=list[NotPassedOn])
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    came: bytearray = field(default_factory=bytearray)

    async def say(self, data: bytes) -> bytes:
        """All that comes back, to the end."""
        self.writer.write(data)
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read()


@asynccontextmanager
async def wire(serve: Serve, limits: RelayLimits | None = None) -> AsyncGenerator[Wire]:
    """A client, a relay and a host."""
    made: list[Wire] = []
    sides: list[asyncio.StreamWriter] = []

    async def host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sides.append(writer)
        with suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
        writer.close()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sides.append(writer)
        stream = Stream(reader, writer, h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES))
        relay = HttpRelay(stream, DOMAIN, 443, connect=connect, added=added, limits=limits or RelayLimits())
        try:
            await relay.run()
        except NotPassedOn as refusal:
            made[0].refused.append(refusal)
        except OSError:
            pass
        writer.close()
        made[0].ended.set()

    async def connect() -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", hosts.sockets[0].getsockname()[1])
        sides.append(writer)
        return Stream(reader, writer, h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES))

    async def added() -> tuple[tuple[bytes, bytes], ...]:
        return (KEY,)

    async with (
        await asyncio.start_server(host, "127.0.0.1", 0) as hosts,
        await asyncio.start_server(client, "127.0.0.1", 0) as clients,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", clients.sockets[0].getsockname()[1])
        made.append(Wire(reader, writer))
        try:
            yield made[0]
        finally:
            for side in (writer, *sides):
                side.transport.abort()


def answering(answer: bytes, heads: list[bytes] | None = None) -> Serve:
    """A host that answers each head with the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if heads is not None:
                heads.append(head)
            writer.write(answer)
            await writer.drain()

    return serve


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def test_one_header_replaces_all_of_its_name_in_any_spelling() -> None:
    heads: list[bytes] = []
    own = b"AUTHORIZATION: a\r\nauthorization: b\r\nConnection: close, X-Drop\r\nX-Drop: 1\r\nX-Keep: 2\r\n"
    async with wire(answering(OK, heads)) as made:
        said = await made.say(GET[:-2] + own + b"\r\n")
    assert said.endswith(b"ok")
    lines = heads[0].split(b"\r\n")
    assert [line for line in lines if line.lower().startswith(b"authorization")] == [
        b"Authorization: Bearer the-key"
    ]
    assert b"X-Drop" not in heads[0].replace(b"x-drop", b"X-Drop")
    assert b"x-keep: 2" in heads[0].lower()


async def test_pipelined_requests_are_carried_one_after_the_other_with_the_key_in_each() -> None:
    heads: list[bytes] = []
    async with wire(answering(OK, heads)) as made:
        said = await made.say(GET + GET + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert said.count(b"200") == 3
    assert [head.count(KEY[1]) for head in heads] == [1, 1, 1]


@pytest.mark.parametrize("size", [HEAD_BYTES + 2 * PIECE, 4 << 20])
async def test_a_head_without_end_is_refused_within_its_bound(size: int) -> None:
    heads: list[bytes] = []
    async with wire(answering(OK, heads)) as made:
        with suppress(ConnectionResetError):  # what was not read resets the connection, answer or not
            assert (await made.say(GET[:-2] + b"X: " + b"a" * size)).startswith(b"HTTP/1.1 431")
        async with asyncio.timeout(WAIT_S):
            await made.ended.wait()
        assert [one.status for one in made.refused] == [431]
    assert heads == []


async def test_a_client_that_drips_its_head_is_cut() -> None:
    async with wire(answering(OK), RelayLimits(idle_s=5, head_s=0.2)) as made:
        made.writer.write(GET[:10])
        async with asyncio.timeout(WAIT_S):
            assert await made.reader.read() == b""
            await made.ended.wait()


async def test_a_client_that_says_nothing_is_cut() -> None:
    async with wire(answering(OK), RelayLimits(idle_s=0.1)) as made:
        async with asyncio.timeout(WAIT_S):
            assert await made.reader.read() == b""


async def test_a_smuggled_request_in_a_body_stays_a_body() -> None:
    came = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"END" not in came:
            came.extend(await reader.read(4096))
        writer.write(OK)
        await writer.drain()

    inner = b"GET /inner HTTP/1.1\r\nHost: evil\r\n\r\nEND"
    head = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {len(inner)}\r\nConnection: close\r\n\r\n".encode()
    async with wire(serve) as made:
        assert (await made.say(head + inner)).count(b"HTTP/1.1 200") == 1
    assert bytes(came).count(KEY[1]) == 1
    assert bytes(came).endswith(inner)


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Content-Length: +4",
        "Content-Length: 4, 5",
        "Content-Length : 4",
        "Content-Length: 0x4",
        "Transfer-Encoding\x0b: chunked",
    ],
)
async def test_a_framing_that_servers_read_in_two_ways_is_refused(framing: str) -> None:
    heads: list[bytes] = []
    text = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\n{framing}\r\n\r\nabcd"
    async with wire(answering(OK, heads)) as made:
        said = await made.say(text.encode())
    assert said.split(b" ")[1] in (b"400", b"501")
    assert heads == []


async def test_a_bad_chunk_in_the_middle_ends_both_sides_and_is_no_whole_request() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            data = await reader.read()
            assert b"0\r\n\r\n" not in data
        ended.set()

    text = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\nzz\r\n"
    async with wire(serve) as made:
        await made.say(text.encode())
        async with asyncio.timeout(WAIT_S):
            await ended.wait()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", b"HTTP/1.1 502"),
        (b"nonsense\r\n\r\n", b"HTTP/1.1 502"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * (HEAD_BYTES + 2 * PIECE), b"HTTP/1.1 502"),
    ],
)
async def test_a_host_that_answers_no_http_is_told_as_a_bad_gateway(answer: bytes, told: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async with wire(serve) as made:
        said = await made.say(GET)
    assert said.startswith(told)
    assert KEY[1] not in said


async def test_an_answer_that_breaks_off_is_cut_and_never_looks_whole() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n")
        await writer.drain()

    async with wire(serve) as made:
        said = await made.say(GET)
    assert b"abcd" in said
    assert not said.endswith(b"0\r\n\r\n")


async def test_what_a_host_says_unasked_is_no_answer_to_the_next_request() -> None:
    heads: list[bytes] = []
    unasked = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
    async with wire(answering(OK + unasked, heads)) as made:
        said = await made.say(GET + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert (said.count(b"200"), said.count(b"408")) == (2, 0)
    assert len(heads) == 2


async def test_a_connection_is_quiet_until_its_peer_speaks_or_ends() -> None:
    async with wire(answering(OK)) as made:
        reader = asyncio.StreamReader()
        stream = Stream(reader, made.writer, h11.Connection(h11.CLIENT))
        assert await stream.is_quiet()
        assert await stream.is_quiet()
        reader.feed_data(b"HTTP/1.1 408 Request Timeout\r\n")
        assert not await stream.is_quiet()
        ended = asyncio.StreamReader()
        ended.feed_eof()
        assert not await Stream(ended, made.writer, h11.Connection(h11.CLIENT)).is_quiet()


async def test_a_response_reaches_the_client_piece_by_piece() -> None:
    more = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nfirst")
        await writer.drain()
        await more.wait()
        writer.write(b"second")
        await writer.drain()

    async with wire(serve) as made:
        made.writer.write(GET)
        async with asyncio.timeout(WAIT_S):
            assert b"first" in await made.reader.readuntil(b"first")
            more.set()
            assert b"second" in await made.reader.readuntil(b"second")


async def test_a_host_that_does_not_read_holds_the_client_back() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.Event().wait()

    head = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: {1 << 30}\r\n\r\n".encode()
    async with wire(serve) as made:
        made.writer.write(head)
        sent = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while sent < 1 << 28:
                    made.writer.write(bytes(PIECE))
                    await made.writer.drain()
                    sent += PIECE
        assert sent < 64 << 20


async def test_an_answer_before_the_end_of_the_body_ends_the_connection() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        await reader.read()

    head = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nContent-Length: 100\r\n\r\nabc".encode()
    async with wire(serve) as made:
        assert (await made.say(head)).startswith(b"HTTP/1.1 413")


async def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"expect" in (await reader.readuntil(b"\r\n\r\n")).lower()
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await reader.readexactly(4) == b"body"
        writer.write(OK)
        await writer.drain()

    head = f"POST / HTTP/1.1\r\nHost: {DOMAIN}\r\nExpect: 100-continue\r\nContent-Length: 4\r\nConnection: close\r\n\r\n"
    async with wire(serve) as made:
        made.writer.write(head.encode())
        async with asyncio.timeout(WAIT_S):
            assert b"100" in await made.reader.readuntil(b"\r\n\r\n")
        assert (await made.say(b"body")).endswith(b"ok")


async def test_no_upgrade_but_websocket_is_asked_for_and_bytes_pass_both_ways_after_it() -> None:
    heads: list[bytes] = []
    h2c = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAAA\r\n"
    async with wire(answering(OK, heads)) as made:
        await made.say(GET[:-2] + h2c + b"\r\n" + GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert b"upgrade" not in heads[0].lower()
    assert b"http2" not in heads[0].lower()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"Upgrade: websocket" in await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nearly"
        )
        while data := await reader.read(100):
            writer.write(data.upper())

    async with wire(serve) as made:
        made.writer.write(GET[:-2] + b"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n")
        async with asyncio.timeout(WAIT_S):
            assert b"101" in await made.reader.readuntil(b"early")
            made.writer.write(b"abc")
            assert await made.reader.readexactly(3) == b"ABC"
