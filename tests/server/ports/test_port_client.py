"""Ports between Bay and a Ship: an honest one, and ones that lie."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from lying_ship import Liar, Lie, Script, for_ever, head, peak_kib, request, saying, whole
from server_harness import Json, turns, until, within

from bay.errors import BadRequest, PortClosed, ShipError, Timeout
from bay.models import Port
from bay.server.ports.ship_client import PortClient, PortStream, ports_of
from bay.server.ship.client import ShipClient

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

ITEM: Json = {"port": 8000, "addresses": ["127.0.0.1", "::1"], "pid": 7, "process": "node"}
PORT = Port(port=8000, addresses=("127.0.0.1", "::1"), pid=7, process="node")
SWITCHED = head("101 Switching Protocols", None, "Upgrade: tcp", "Connection: Upgrade")
END = b"\0\0\0\0"
MEBIBYTE = 1 << 20
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both loops: `bay serve` runs on uvloop, whose transports are its own code."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def ports(link: ShipClient) -> PortClient:
    return PortClient(link)


def piece(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def line(items: list[Json], **more: Any) -> bytes:
    return json.dumps({"type": "ports", "items": items, **more}).encode() + b"\n"


def switched(talk: Talk) -> Script:
    """A Ship that says yes to a tunnel, and then talks so."""

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(SWITCHED)
        await talk(reader, writer)

    return script


def says(*pieces: bytes, close: bool = False) -> Script:
    return saying(SWITCHED + b"".join(pieces[:1]), *pieces[1:], close=close)


# What listens


async def test_what_listens_is_told_now_and_after_each_change(
    lie: Lie, link: ShipClient, ports: PortClient
) -> None:
    liar = await lie(saying(whole({"items": [ITEM]})))
    assert await within(ports.listening(liar.peer())) == (PORT,)
    link.close()
    liar.script = saying(whole(line([ITEM]) + line([]), "200 OK"))
    told = [ports_of(found) async for _, found in link.feed(liar.peer())]
    assert told == [(PORT,), ()]


@pytest.mark.silent_ship
async def test_a_feed_may_be_silent_and_is_no_call_that_somebody_waits_for(
    lie: Lie, link: ShipClient
) -> None:
    first = head("200 OK", None, "Transfer-Encoding: chunked")
    said = line([ITEM])
    liar = await lie(saying(first + f"{len(said):x}\r\n".encode() + said + b"\r\n"))
    feed = link.feed(liar.peer())
    assert await within(anext(feed)) == ("ports", said.strip())
    assert not link.busy("sess-1")
    waiting = asyncio.ensure_future(anext(feed))
    with pytest.raises(Timeout):  # a call that began later
        await within(link.processes((await lie(saying())).peer()))
    assert not waiting.done()
    waiting.cancel()
    await asyncio.wait({waiting})
    await feed.aclose()
    await within(liar.closed.wait())


@pytest.mark.parametrize(
    "items",
    [
        None,
        "no list",
        [{**ITEM, "port": 0}],
        [{**ITEM, "port": 65_536}],
        [{**ITEM, "port": "eighty"}],
        [{**ITEM, "addresses": ["x" * 65]}],
        [{**ITEM, "addresses": ["::"] * 17}],
        [{**ITEM, "pid": 2**31}],
        [{**ITEM, "process": "x" * 257}],
        [{"port": 80}],
        [ITEM] * 1001,
    ],
)
async def test_nonsense_about_ports_is_refused(
    lie: Lie, link: ShipClient, ports: PortClient, items: object
) -> None:
    liar = await lie(saying(whole(json.dumps({"items": items}).encode())))
    with pytest.raises(ShipError, match="unexpected answer"):
        await within(ports.listening(liar.peer()))
    link.close()
    liar.script = saying(whole(json.dumps({"type": "ports", "items": items}).encode() + b"\n"))
    with pytest.raises(ShipError, match="unexpected answer"):
        ports_of((await within(anext(link.feed(liar.peer()))))[1])


@pytest.mark.silent_ship
async def test_an_answer_and_a_line_without_end_are_given_up(
    lie: Lie, link: ShipClient, ports: PortClient
) -> None:
    liar = await lie(for_ever(head("200 OK", 1 << 40), b" " * 65536))
    with pytest.raises(ShipError, match="more than"):
        await within(ports.listening(liar.peer()))
    with pytest.raises(ShipError, match="line"):
        await within(anext(link.feed(liar.peer())))
    liar.script = saying()
    with pytest.raises(Timeout):
        await within(ports.listening(liar.peer()))


# Connections


async def test_what_listens_not_is_refused_with_what_does(lie: Lie, ports: PortClient) -> None:
    error: Json = {"code": "port_closed", "message": "nothing listens", "details": {"listening": [80, 443]}}
    liar = await lie(saying(whole({"error": error}, "502 Bad Gateway")))
    with pytest.raises(PortClosed, match="nothing listens") as caught:
        async with ports.open(liar.peer(), 8000):
            pytest.fail("it is closed")
    assert caught.value.details == {"listening": [80, 443]}


@pytest.mark.parametrize("listening", [list(range(1001)), [-1], [["a"]], {"a": 1}])
async def test_details_are_bounded(lie: Lie, ports: PortClient, listening: object) -> None:
    error = {"code": "port_closed", "message": "no", "details": {"listening": listening}}
    liar = await lie(saying(whole({"error": error}, "502 Bad Gateway")))
    with pytest.raises(ShipError, match="without a reason"):
        async with ports.open(liar.peer(), 8000):
            pytest.fail("it is closed")


@pytest.mark.parametrize(
    "answer",
    [
        head("101 Switching Protocols", None, "Upgrade: tcp", "Connection: Upgrade", proof="0" * 32),
        head("101 Switching Protocols", None, "Upgrade: websocket", "Connection: Upgrade"),
        head("101 Switching Protocols", None, "Connection: Upgrade"),
        head("100 Continue"),
        whole(b"ok"),
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\0" * 40_000,
    ],
)
async def test_whoever_is_not_ship_gets_nothing(lie: Lie, ports: PortClient, answer: bytes) -> None:
    liar = await lie(saying(answer))
    with pytest.raises(ShipError):
        async with ports.open(liar.peer(), 8000):
            pytest.fail("it was accepted")
    await within(liar.closed.wait())


@pytest.mark.silent_ship
async def test_an_answer_that_does_not_come_is_given_up(lie: Lie, ports: PortClient) -> None:
    liar = await lie(saying())
    with pytest.raises(Timeout):
        async with ports.open(liar.peer(), 8000):
            pytest.fail("it was accepted")


@pytest.mark.parametrize("port", [0, -1, 65_536])
async def test_what_is_no_port_is_not_asked_for(lie: Lie, ports: PortClient, port: int) -> None:
    liar = await lie(says())
    with pytest.raises(BadRequest):
        async with ports.open(liar.peer(), port):
            pytest.fail("it was accepted")
    assert liar.connections == 0


@pytest.mark.parametrize(
    "sent",
    [
        (piece(b"abc") + piece(b"defg") + END,),
        (piece(b"abc"), piece(b"defg"), END),
        tuple(bytes([byte]) for byte in piece(b"abcdefg") + END),
        (piece(b"abcdefg") + END + b"more that nobody reads",),
    ],
)
async def test_bytes_come_in_any_cut_to_the_end(lie: Lie, ports: PortClient, sent: tuple[bytes, ...]) -> None:
    liar = await lie(says(*sent))
    async with ports.open(liar.peer(), 8000) as stream:
        read = [await within(stream.read(2)) for _ in range(9)]
    assert b"".join(read) == b"abcdefg"
    assert max(map(len, read)) == 2
    assert read[-1] == b""


@pytest.mark.parametrize("sent", [b"", b"\0\0", piece(b"abc"), piece(b"abcdef")[:-3], b"\xff\xff\xff\xffabc"])
async def test_a_connection_that_closes_before_the_end_is_one_that_broke(
    lie: Lie, ports: PortClient, sent: bytes
) -> None:
    liar = await lie(says(sent, close=True))
    async with ports.open(liar.peer(), 8000) as stream:
        with pytest.raises(ConnectionResetError):
            await within(_read_all(stream))
        await within(stream.wait_closed())
        with pytest.raises(ConnectionError):
            await within(_write_for_ever(stream))


async def _read_all(stream: PortStream) -> None:
    while await stream.read(100):
        continue


async def _write_for_ever(stream: PortStream) -> None:
    while True:
        await stream.write(b"x")


async def test_what_is_written_goes_in_pieces_with_its_end(lie: Lie, ports: PortClient) -> None:
    seen = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        seen.set_result(await reader.read())

    liar = await lie(switched(talk))
    async with ports.open(liar.peer(), 8000) as stream:
        await stream.write(b"abc")
        await stream.write(bytearray(b"de"))
        await stream.write(b"")
        await stream.write_eof()
        await stream.write_eof()
        with pytest.raises(BrokenPipeError):
            await stream.write(b"f")
        await stream.aclose()
    assert await within(seen) == piece(b"abc") + piece(b"de") + END


@pytest.mark.parametrize("how", ["leave", "close", "abort"])
async def test_who_leaves_before_the_end_says_none(lie: Lie, ports: PortClient, how: str) -> None:
    seen = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        seen.set_result(await reader.read())

    liar = await lie(switched(talk))
    async with ports.open(liar.peer(), 8000) as stream:
        await stream.write(b"abc")
        if how == "close":
            await stream.aclose()
        elif how == "abort":
            stream.abort()
    assert await within(seen) == piece(b"abc")
    await within(liar.closed.wait())


async def test_a_reader_that_is_cancelled_has_lost_nothing(lie: Lie, ports: PortClient) -> None:
    go = asyncio.Event()

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go.wait()
        writer.write(piece(b"abc"))

    liar = await lie(switched(talk))
    async with ports.open(liar.peer(), 8000) as stream:
        for _ in range(3):
            waiting = asyncio.ensure_future(stream.read(10))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait({waiting})
        go.set()
        assert await within(stream.read(10)) == b"abc"


async def test_a_flood_that_nobody_reads_is_held_up(lie: Lie, ports: PortClient) -> None:
    sent = 0

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while True:
            writer.write(piece(bytes(65_536)))
            await writer.drain()
            sent += 65_536

    liar = await lie(switched(talk))
    before = peak_kib()
    async with ports.open(liar.peer(), 8000) as stream:
        await until(lambda: sent >= MEBIBYTE // 4)
        assert await within(stream.read(10)) == bytes(10)
        await turns()
        before_turns = sent
        await turns()
        assert sent == before_turns < 4 * MEBIBYTE
        taken = 0
        while taken < 32 * MEBIBYTE:
            taken += len(await within(stream.read(MEBIBYTE)))
    assert peak_kib() - before < 16 * 1024


async def test_a_writer_waits_for_who_does_not_read_until_it_is_broken_off(
    lie: Lie, ports: PortClient
) -> None:
    over = asyncio.Event()

    async def talk(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await over.wait()

    liar = await lie(switched(talk))
    async with ports.open(liar.peer(), 8000) as stream:
        writing = asyncio.ensure_future(stream.write(bytes(8 * MEBIBYTE)))
        await turns()
        assert not writing.done()
        stream.abort()
        with pytest.raises(ConnectionResetError):
            await within(writing)
    over.set()


async def test_a_flood_of_tiny_pieces_lets_others_have_their_turn(lie: Lie, ports: PortClient) -> None:
    liar = await lie(for_ever(SWITCHED, piece(b"x") * 10_000))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.ensure_future(others())
    async with ports.open(liar.peer(), 8000) as stream:
        for _ in range(20_000):
            assert await within(stream.read(10)) == b"x"
    other.cancel()
    assert turns > 200
