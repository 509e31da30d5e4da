"""`WS …/tunnel`: bytes to and from a program in a sandbox, and every way in which that can end."""

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from attaching import refused
from server_harness import Served, clear, create, eventually, served, until, within
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.anyio

EOF = '{"type":"eof"}'
MEBIBYTE = 1 << 20
App = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def client(live: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        yield client


@pytest.fixture
async def box(client: httpx.AsyncClient) -> str:
    return (await create(client, wait=15))["id"]


@asynccontextmanager
async def app(serve: App) -> AsyncGenerator[int]:
    """A program that serves one connection so; its port.

    The `fake` driver's sandboxes share the loopback device with the tests.
    """
    served: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await within(serve(reader, writer))
            served.set_result(None)
        except (AssertionError, OSError) as error:
            served.set_exception(error)
        finally:
            writer.close()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]
        await within(served)


@asynccontextmanager
async def tunnel(live: Served, box: str, port: int, **options: Any) -> AsyncGenerator[ClientConnection]:
    url = f"{live.url.replace('http', 'ws', 1)}/v1/sandboxes/{box}/tunnel?port={port}"
    async with connect(url, additional_headers=live.headers, compression=None, **options) as opened:
        yield opened


async def read(opened: ClientConnection) -> tuple[bytes, bool]:
    """What comes, and whether to the end of the program's direction."""
    seen = bytearray()
    try:
        while isinstance(message := await within(opened.recv()), bytes):
            seen += message
    except ConnectionClosed:
        return bytes(seen), False
    assert message == EOF
    return bytes(seen), True


async def send_until_closed(opened: ClientConnection) -> None:
    with suppress(ConnectionClosed):
        while True:
            await opened.send(bytes(65536))


async def closed(opened: ClientConnection) -> tuple[int | None, str | None]:
    await within(opened.wait_closed())
    return opened.close_code, opened.close_reason


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def wait_reset(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    with pytest.raises(ConnectionResetError):
        await reader.read()


def reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def test_bytes_go_both_ways_and_each_direction_ends_by_itself(live: Served, box: str) -> None:
    async with app(echo) as port, tunnel(live, box, port) as opened:
        await opened.send(b"one")
        assert await within(opened.recv()) == b"one"
        await opened.send(b"")
        await opened.send(b"two")
        await opened.send(EOF)
        assert await read(opened) == (b"two", True)
        assert await closed(opened) == (1000, "")


async def test_much_goes_both_ways_at_once_unharmed(live: Served, box: str) -> None:
    sent = os.urandom(MEBIBYTE) * 8

    async def send(opened: ClientConnection) -> None:
        for at in range(0, len(sent), MEBIBYTE):
            await opened.send(sent[at : at + MEBIBYTE])
        await opened.send(EOF)

    async with app(echo) as port, tunnel(live, box, port) as opened, asyncio.TaskGroup() as group:
        group.create_task(send(opened))
        assert await read(opened) == (sent, True)


async def test_more_can_be_sent_after_the_program_has_ended_its_direction(live: Served, box: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.write_eof()
        assert await reader.read() == b"thanks"

    async with app(serve) as port, tunnel(live, box, port) as opened:
        assert await read(opened) == (b"hello", True)
        await opened.send(b"thanks")
        await opened.send(EOF)
        assert await closed(opened) == (1000, "")


async def test_a_program_that_has_closed_its_connection_ends_the_tunnel_in_good_order(
    live: Served, box: str
) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")

    async with app(serve) as port, tunnel(live, box, port) as opened:
        assert await read(opened) == (b"bye", True)
        await within(send_until_closed(opened))
        assert await closed(opened) == (1000, "")


@pytest.mark.parametrize("after_our_end", [False, True])
async def test_a_program_that_resets_is_no_end(live: Served, box: str, after_our_end: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (reader.read() if after_our_end else reader.read(1))
        reset(writer)

    async with app(serve) as port, tunnel(live, box, port) as opened:
        await opened.send(EOF if after_our_end else b"x")
        assert await read(opened) == (b"", False)
        assert await closed(opened) == (4502, "the program reset the connection")


async def test_a_client_that_leaves_resets_the_connection_of_the_program(live: Served, box: str) -> None:
    async with app(wait_reset) as port, tunnel(live, box, port) as opened:
        await opened.send(b"half")
        await opened.close()


async def test_a_client_that_leaves_after_its_end_has_given_the_program_all(live: Served, box: str) -> None:
    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        assert len(await reader.read()) == 3 * MEBIBYTE

    async with app(serve) as port, tunnel(live, box, port) as opened:
        for _ in range(3):
            await opened.send(bytes(MEBIBYTE))
        await opened.send(EOF)
        await opened.close()


async def test_a_client_that_reads_nothing_holds_the_program_up(live: Served, box: str) -> None:
    given = 0
    held_up = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal given
        for _ in range(64):
            writer.write(bytes(MEBIBYTE))
            try:
                async with asyncio.timeout(0.5):
                    await writer.drain()
            except TimeoutError:
                held_up.set()
                return
            given += 1

    async with app(serve) as port, tunnel(live, box, port, max_queue=1, close_timeout=1):
        await within(held_up.wait())
    assert given < 32


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (["nonsense"], 4400),
        (['{"type":"weather"}'], 4400),
        (["[]"], 4400),
        (["1" * 5000], 4400),
        ([EOF, b"more"], 4400),
        ([bytes(MEBIBYTE + 1)], 1009),
    ],
)
async def test_what_a_client_may_not_send_ends_the_tunnel(
    live: Served, box: str, frames: list[str | bytes], code: int
) -> None:
    async def serve(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
            await asyncio.Event().wait() if EOF not in frames else None
        except ConnectionResetError:
            return

    async with app(serve) as port, tunnel(live, box, port) as opened:
        for frame in frames:
            await opened.send(frame)
        assert (await closed(opened))[0] == code


async def test_a_port_on_which_nothing_listens_is_refused_before_the_upgrade(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    listen = "python3 -u -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); print(s.getsockname()[1]); input()'"
    answer = await client.post(
        f"/v1/sandboxes/{box}/execs", json={"command": listen, "stdin_open": True, "tty": True}
    )
    output = f"/v1/sandboxes/{box}/execs/{answer.json()['id']}/screen"

    async def says_its_port() -> bool:
        return (await client.get(output)).json()["lines"][0].strip().isdigit()

    await eventually(says_its_port)
    port = int((await client.get(output)).json()["lines"][0])
    status, error = await refused(live, f"{box}/tunnel?port=1")
    assert (status, error["code"]) == (502, "port_closed")
    assert port in error["details"]["listening"]


@pytest.mark.parametrize("query", ["", "?port=0", "?port=65536", "?port=http"])
async def test_what_is_no_port_is_refused(live: Served, box: str, query: str) -> None:
    status, error = await refused(live, f"{box}/tunnel{query}")
    assert (status, error["code"]) == (422, "validation_error")


async def test_a_key_that_only_reads_gets_no_tunnel(live: Served, box: str) -> None:
    key = await live.bay.keys.add("alice", "reader", "read")
    status, error = await refused(live, f"{box}/tunnel?port=80", headers={"Authorization": f"Bearer {key}"})
    assert (status, error["code"]) == (403, "forbidden")


async def test_a_tunnel_starts_the_sandbox_and_keeps_it_in_use(
    live: Served, client: httpx.AsyncClient
) -> None:
    cold = (await create(client, profile="python-default"))["id"]
    async with app(echo) as port, tunnel(live, cold, port) as opened:
        assert (await client.get(f"/v1/sandboxes/{cold}")).json()["compute"] == "running"
        assert live.bay.holds.any_here(cold)
        await opened.send(EOF)
        assert await read(opened) == (b"", True)
    await until(lambda: not live.bay.holds.any_here(cold))
    assert live.bay.connections._places == {}


async def test_a_paused_sandbox_keeps_its_tunnel_and_bytes_wake_it(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async with app(echo) as port, tunnel(live, box, port) as opened:
        assert (await client.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
        await opened.send(b"one")
        assert await within(opened.recv()) == b"one"
        assert (await client.get(f"/v1/sandboxes/{box}")).json()["compute"] == "running"
        await opened.send(EOF)
        assert await read(opened) == (b"", True)


@pytest.mark.parametrize(
    ("how", "said"), [("stop", (4502, "the sandbox was stopped")), ("delete", (4404, None))]
)
async def test_a_tunnel_ends_with_its_sandbox(
    live: Served, client: httpx.AsyncClient, box: str, how: str, said: tuple[int, str | None]
) -> None:
    async with app(wait_reset) as port, tunnel(live, box, port) as opened:
        if how == "stop":
            await client.post(f"/v1/sandboxes/{box}/stop")
        else:
            await client.delete(f"/v1/sandboxes/{box}")
        code, reason = await closed(opened)
    assert (code, reason if said[1] else None) == said


async def test_a_tunnel_ends_with_its_key(live: Served, box: str) -> None:
    live.bay.connections._look_s = 0.05
    async with app(wait_reset) as port, tunnel(live, box, port) as opened:
        live.bay.keys._by_hash.clear()
        assert (await closed(opened))[0] == 4403


async def test_a_tunnel_ends_with_bay(root: Path) -> None:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(clear, root)
        port = await stack.enter_async_context(app(wait_reset))
        async with served(root) as live:
            client = httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20)
            await stack.enter_async_context(client)
            box = (await create(client, wait=15))["id"]
            opened = await stack.enter_async_context(tunnel(live, box, port))
        assert await closed(opened) == (1012, "Bay is shutting down")


async def test_tunnels_count_as_connections_of_their_owner(
    live: Served, box: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.server.web.open_connections.LIMIT", 1)
    async with app(echo) as port, tunnel(live, box, port) as opened:
        status, error = await refused(live, f"{box}/tunnel?port={port}")
        assert (status, error["code"]) == (429, "quota_exceeded")
        await opened.send(EOF)
        assert json.loads(str(await within(opened.recv()))) == {"type": "eof"}
