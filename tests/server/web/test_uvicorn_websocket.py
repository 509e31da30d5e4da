"""The WebSocket under the edge: what a client may do to it, and what that costs Bay."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from server_harness import until, within
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.frames import Frame, Opcode

from bay.server import main
from bay.server.web.uvicorn_websocket import BoundedWebSocket

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: bay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


@dataclass
class Small:
    """An application that accepts, and does as it is told; and the connections it got."""

    act: Callable[[Receive, Send], Awaitable[None]]
    port: int = 0
    sockets: list[BoundedWebSocket] = field(default_factory=list[BoundedWebSocket])
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    admit: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await self.admit.wait()
        await receive()
        await send({"type": "websocket.accept"})
        try:
            await self.act(receive, send)
        finally:
            self.ended.set()


@asynccontextmanager
async def running(
    act: Callable[[Receive, Send], Awaitable[None]], *, ping_s: float = 20.0, admit: bool = True
) -> AsyncGenerator[Small]:
    app = Small(act)
    if admit:
        app.admit.set()

    class Known(BoundedWebSocket):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            app.sockets.append(self)

    config = uvicorn.Config(
        app, port=0, lifespan="off", ws=Known, log_config=None, ws_max_size=1 << 20,
        ws_ping_interval=ping_s, ws_ping_timeout=ping_s, ws_per_message_deflate=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = main._Server(config)
    started = asyncio.Event()
    server.on_started = started.set
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve())
        await within(started.wait())
        app.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield app
        finally:
            server.end()


async def read_all(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "websocket.disconnect":
        pass


async def read_nothing(receive: Receive, send: Send) -> None:
    await asyncio.Event().wait()


async def flood(receive: Receive, send: Send) -> None:
    while True:
        await send({"type": "websocket.send", "bytes": b"x" * 65536})


def frame(opcode: Opcode, data: bytes = b"", *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=True)


@asynccontextmanager
async def raw(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that reads only when the test does."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    writer.write(HANDSHAKE)
    head = await within(reader.readuntil(b"\r\n\r\n"))
    assert b" 101 " in head
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_pings_of_a_client_that_does_not_read_cost_no_memory() -> None:
    async with running(read_all) as app, raw(app.port) as (_, writer):
        pings = frame(Opcode.PING, b"p" * 125) * 1000
        for _ in range(300):
            writer.write(pings)
            await writer.drain()
        writer.write(frame(Opcode.BINARY, b"end"))
        await within(writer.drain())
        assert app.sockets[0].transport.get_write_buffer_size() < 1 << 20


async def test_fragments_without_end_are_refused() -> None:
    async with running(read_all) as app, raw(app.port) as (reader, writer):
        writer.write(frame(Opcode.BINARY, b"", fin=False))
        for _ in range(100):
            writer.write(frame(Opcode.CONT, b"", fin=False) * 20)
        close = await within(reader.read(1000))
        assert close[2:4] == (1009).to_bytes(2, "big")
        await within(app.ended.wait())


async def test_tiny_messages_that_nobody_takes_do_not_pile_up_in_memory() -> None:
    async with running(read_nothing) as app, raw(app.port) as (_, writer):
        writer.transport.set_write_buffer_limits(high=1 << 16)
        writer.write(frame(Opcode.BINARY) * 100_000)
        await until(lambda: bool(app.sockets) and app.sockets[0].read_paused)
        assert app.sockets[0].queue.qsize() < 5000


async def test_what_comes_before_the_client_is_accepted_does_not_pile_up_in_memory() -> None:
    async with running(read_all, admit=False) as app:
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(HANDSHAKE + frame(Opcode.BINARY, b"x" * 65536) * 500)
        await until(lambda: bool(app.sockets) and app.sockets[0].read_paused)
        assert sum(map(len, app.sockets[0]._unread)) < 1 << 20
        writer.write(frame(Opcode.CLOSE, (1000).to_bytes(2, "big")))
        app.admit.set()
        await within(app.ended.wait())
        writer.transport.abort()


async def test_messages_come_whole_and_in_order_however_small() -> None:
    taken: list[bytes] = []

    async def take(receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "websocket.receive":
            taken.append(message["bytes"])
            if len(taken) == 50_001:
                await send({"type": "websocket.close", "code": 1000})

    async with running(take) as app, connect(f"ws://127.0.0.1:{app.port}", compression=None) as client:
        for number in range(50_000):
            await client.send(b"%d" % number)
        await client.send(b"x" * (1 << 20))
        await within(client.wait_closed())
    assert taken == [b"%d" % number for number in range(50_000)] + [b"x" * (1 << 20)]


async def test_a_client_whose_input_is_not_taken_is_not_dropped_for_its_silence() -> None:
    go = asyncio.Event()

    async def wait_then_read(receive: Receive, send: Send) -> None:
        await go.wait()
        await read_all(receive, send)

    async with (
        running(wait_then_read, ping_s=0.05) as app,
        connect(f"ws://127.0.0.1:{app.port}", ping_interval=None) as client,
    ):
        await client.send(b"1")
        pings: set[bytes | None] = set()

        def many_pings() -> bool:
            pings.add(app.sockets[0].pending_ping_payload)
            return len(pings) > 5

        await until(many_pings)
        go.set()
        await within(await client.ping())
        assert not app.sockets[0].disconnected


async def test_a_client_that_takes_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bay.server.web.uvicorn_websocket._LAST_S", 0.1)
    async with running(flood, ping_s=0.1) as app, raw(app.port):
        await within(app.ended.wait())
        assert app.sockets[0].disconnected


async def test_a_client_that_closes_without_reading_on_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bay.server.web.uvicorn_websocket._LAST_S", 0.1)
    async with running(flood, ping_s=0.1) as app, raw(app.port) as (_, writer):
        writer.write(frame(Opcode.CLOSE, (1000).to_bytes(2, "big")))
        await until(lambda: app.sockets[0].disconnected)


async def test_shutdown_does_not_wait_for_a_client_that_takes_nothing() -> None:
    async with running(flood) as app, raw(app.port):
        await until(lambda: bool(app.sockets) and not app.sockets[0].writable.is_set())
    assert app.sockets[0].disconnected


async def test_a_message_too_large_closes_with_1009() -> None:
    async with running(read_all) as app, connect(f"ws://127.0.0.1:{app.port}", compression=None) as client:
        await client.send(b"x" * ((1 << 20) + 1))
        with pytest.raises((ConnectionClosed, ConnectionClosedError)):
            await within(client.recv())
        assert client.close_code == 1009
