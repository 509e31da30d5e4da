"""Bay and a Ship over TCP: who may be at the other end, and that each kind of call works there."""

import asyncio
import hashlib
import json
import os
import re
import secrets
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from server_harness import until, within
from ship_harness import (
    BOOTSTRAP_TOKEN,
    PATIENCE_S,
    TOKEN,
    Ship,
    any_certificate,
    configure,
    connect_tls,
    running,
    waiting,
)

from bay.drivers.base import Endpoint, Handle
from bay.drivers.bootstrap import bootstrap, introduce
from bay.drivers.health import check_health
from bay.drivers.ship_socket import open_connection
from bay.errors import Conflict, NotFound, PortClosed, SandboxNotReady, ShipError
from bay.server.files.ship_client import FileClient, Wanted
from bay.server.kernels.ship_client import KernelClient
from bay.server.ports.ship_client import PortClient, PortStream
from bay.server.ship.answers import OutputEnd
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer
from ship import tls
from ship_protocol import BOOTSTRAP_SETTINGS, bootstrap_token, hello_proof

MEBIBYTE = 1 << 20

Work = Callable[[], Awaitable[None]]
Loop = Callable[[Work], None]


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """A Ship that has its settings."""
    with running(pod=True) as found:
        yield found


@pytest.fixture
def peer(ship: Ship) -> Peer:
    return Peer(session_id="sess-1", endpoint=endpoint(ship.address), token=TOKEN)


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Loop:
    """Runs work on an event loop, as tests have it or as the server has it."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run(work: Work) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(_bounded(work))

    return run


async def _bounded(work: Work) -> None:
    before = sockets()
    try:
        await within(work(), 2 * PATIENCE_S)
    finally:
        while _made:
            _made.pop().close()
    await until(lambda: sockets() <= before)  # Bay's close once Ship has closed


def sockets() -> int:
    """How many this process has open."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
    return found


def certificate_of(address: str) -> str:
    with connect_tls(address) as link:
        der = link.getpeercert(binary_form=True)
    assert der is not None
    return hashlib.sha256(der).hexdigest()


def endpoint(address: str) -> Endpoint:
    return Endpoint(address=address, certificate=certificate_of(address))


_made: list[ShipClient] = []


def client() -> ShipClient:
    """A client that is closed after the work."""
    _made.append(ShipClient(deadline_s=PATIENCE_S))
    return _made[-1]


# Endpoints


def test_an_endpoint_is_a_socket_or_an_address_with_a_certificate() -> None:
    several: tuple[dict[str, Any], ...] = (
        {},
        {"socket_path": "/x", "address": "10.0.0.1:1", "certificate": "00"},
        {"address": "10.0.0.1:1"},
        {"socket_path": "/x", "certificate": "00"},
    )
    for wrong in several:
        with pytest.raises(ValueError, match="an endpoint has"):
            Endpoint(**wrong)


def test_handles_of_earlier_bays_are_read_and_those_of_sockets_are_as_they_were() -> None:
    old = {
        "driver": "oci", "session_id": "sess-1", "version": 1, "data": {},
        "endpoint": {"socket_path": "/run/x.sock", "peer_uid": 65536, "peer_pid": None},
    }  # fmt: skip
    assert Handle.from_json(old).to_json() == old
    new = Handle(driver="k", session_id="s", endpoint=Endpoint(address="[fd00::1]:8124", certificate="ab"))
    assert Handle.from_json(json.loads(json.dumps(new.to_json()))) == new


# Introduction and bootstrap


def test_a_ship_is_introduced_and_given_its_settings_once_and_again(run: Loop) -> None:
    async def work() -> None:
        settings = {"SHIP_TOKEN": TOKEN, "SHIP_WORKSPACE": "/tmp"}
        found = Endpoint(address=address, certificate=await introduce(address, BOOTSTRAP_TOKEN, PATIENCE_S))
        await bootstrap(found, BOOTSTRAP_TOKEN, settings)
        await bootstrap(found, BOOTSTRAP_TOKEN, settings)
        await check_health(found, TOKEN, PATIENCE_S)
        with pytest.raises(SandboxNotReady, match="no Ship that waits for settings"):
            await introduce(address, BOOTSTRAP_TOKEN, PATIENCE_S)

    with waiting() as (_, address):
        run(work)


def test_a_ship_with_the_settings_of_somebody_else_is_told_from_ones_own(run: Loop) -> None:
    async def work() -> None:
        found = Endpoint(address=address, certificate=await introduce(address, BOOTSTRAP_TOKEN, PATIENCE_S))
        answer = await asyncio.to_thread(
            configure, address, {"SHIP_TOKEN": "theirs", "SHIP_WORKSPACE": "/tmp"}
        )
        assert answer.status_code == 200
        with pytest.raises(SandboxNotReady, match="the settings of somebody else"):
            await bootstrap(found, BOOTSTRAP_TOKEN, {"SHIP_TOKEN": TOKEN})

    with waiting() as (_, address):
        run(work)


def test_a_refused_setting_is_named(run: Loop) -> None:
    async def work() -> None:
        found = Endpoint(address=address, certificate=await introduce(address, BOOTSTRAP_TOKEN, PATIENCE_S))
        with pytest.raises(SandboxNotReady, match="there is no setting 'SHIP_FUTURE'"):
            await bootstrap(found, BOOTSTRAP_TOKEN, {"SHIP_TOKEN": TOKEN, "SHIP_FUTURE": "1"})

    with waiting() as (_, address):
        run(work)


def test_a_ship_of_another_session_is_not_introduced(run: Loop) -> None:
    async def work() -> None:
        with pytest.raises(SandboxNotReady, match="is not the Ship that was started there"):
            await introduce(address, bootstrap_token("another session's token"), PATIENCE_S)

    with waiting() as (_, address):
        run(work)


def test_the_bootstrap_token_tells_nothing_of_the_session_token() -> None:
    assert bootstrap_token(TOKEN) == bootstrap_token(TOKEN)
    assert bootstrap_token(TOKEN) != bootstrap_token(f"{TOKEN}.")
    assert TOKEN not in bootstrap_token(TOKEN)


# Others at the address


@asynccontextmanager
async def in_the_middle(
    answer: Callable[[bytes], Awaitable[bytes]],
) -> AsyncGenerator[tuple[str, list[bytes]]]:
    """A TLS server with a certificate of its own; what it is sent before it closes, and its address."""
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError as error:
            asked = error.partial
        seen.append(asked)
        if asked:
            writer.write(await answer(asked))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls.make_identity().context)
    try:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}", seen
    finally:
        server.close()


def as_answer(proof: str) -> bytes:
    body = json.dumps({"proof": proof}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def relayed(address: str, asked: bytes) -> bytes:
    """The true Ship's answer to the same request."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=any_certificate())
    writer.write(asked)
    answer = await reader.readuntil(b"}")
    writer.close()
    return answer


def test_one_in_the_middle_that_relays_the_hello_proves_nothing(run: Loop) -> None:
    async def work() -> None:
        async with in_the_middle(partial(relayed, address)) as (middle, seen):
            with pytest.raises(SandboxNotReady, match="is not the Ship that was started there"):
                await introduce(middle, BOOTSTRAP_TOKEN, PATIENCE_S)
            assert len(seen) == 1
            assert BOOTSTRAP_TOKEN.encode() not in seen[0]
        assert await introduce(address, BOOTSTRAP_TOKEN, PATIENCE_S) == certificate_of(address)

    with waiting() as (_, address):
        run(work)


def test_a_proof_is_good_for_one_nonce(run: Loop) -> None:
    async def replay(asked: bytes) -> bytes:
        nonces.append(asked.partition(b"nonce=")[2].split()[0].decode())
        return as_answer(hello_proof(BOOTSTRAP_TOKEN, nonces[0], "00"))

    async def work() -> None:
        async with in_the_middle(replay) as (address, _):
            for _ in range(2):
                with pytest.raises(SandboxNotReady, match="is not the Ship"):
                    await introduce(address, BOOTSTRAP_TOKEN, PATIENCE_S)
        assert len(set(nonces)) == 2

    nonces: list[str] = []
    run(work)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"proof": 1}', b'{"proof": "\xc3\xa9"}'])
def test_an_answer_without_a_proof_is_none(run: Loop, body: bytes) -> None:
    async def answer(_asked: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def work() -> None:
        async with in_the_middle(answer) as (address, _):
            with pytest.raises(SandboxNotReady, match="is not the Ship"):
                await introduce(address, BOOTSTRAP_TOKEN, PATIENCE_S)

    run(work)


def test_nothing_is_sent_to_a_peer_with_another_certificate(run: Loop, ship: Ship) -> None:
    async def never(_asked: bytes) -> bytes:
        raise AssertionError

    async def work() -> None:
        async with in_the_middle(never) as (address, seen):
            wrong = Endpoint(address=address, certificate=certificate)
            peer = Peer(session_id="sess-1", endpoint=wrong, token=TOKEN)
            ship_client = client()
            with pytest.raises(ShipError, match="is not its Ship"):
                await ship_client.meta(peer)
            assert not await ship_client.can_connect(peer)
            with pytest.raises(SandboxNotReady, match="is not its Ship"):
                await check_health(wrong, TOKEN)
            with pytest.raises(SandboxNotReady, match="is not its Ship"):
                await bootstrap(wrong, BOOTSTRAP_TOKEN, {"SHIP_TOKEN": TOKEN})
            await until(lambda: len(seen) >= 4)
            assert set(seen) == {b""}

    certificate = certificate_of(ship.address)
    run(work)


def test_a_peer_that_speaks_no_tls_is_not_ship(run: Loop) -> None:
    async def work() -> None:
        async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        found = Endpoint(address=address, certificate="00")
        peer = Peer(session_id="sess-1", endpoint=found, token=TOKEN)
        with pytest.raises(ShipError, match=r"does not speak TLS 1\.3"):
            await open_connection(found, 1024)
        assert not await client().can_connect(peer)
        server.close()
        await server.wait_closed()
        assert not await client().can_connect(peer)
        with pytest.raises(ShipError, match="not reachable"):
            await client().meta(peer)

    run(work)


def test_a_peer_of_an_older_tls_is_not_ship(run: Loop) -> None:
    async def work() -> None:
        context = tls.make_identity().context
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2

        async def serve(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
            raise AssertionError

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            with pytest.raises((ShipError, ConnectionResetError)):
                await open_connection(Endpoint(address=address, certificate="00"), 1024)
        finally:
            server.close()

    run(work)


# Each kind of call


def test_execs_are_run_attached_to_and_given_input(run: Loop, peer: Peer) -> None:
    async def work() -> None:
        ship = client()
        done = await ship.run(
            peer, name := new(), {"id": name, "command": "echo out; echo err >&2; exit 3"}, 20
        )
        assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 3)
        with pytest.raises(NotFound):
            await ship.get_exec(peer, "exec-none", None)
        await ship.run(peer, name := new(), {"id": name, "argv": ["cat"], "stdin_open": True}, None)
        sent = os.urandom(3 * MEBIBYTE)
        async with ship.attach(peer, name) as attached:
            sending = asyncio.ensure_future(_send_all(attached.send, sent))
            seen = bytearray()
            async for frame in attached.frames():
                if isinstance(frame, OutputEnd):
                    assert frame.exit_code == 0
                else:
                    seen += frame[1:]
            await sending
        assert bytes(seen) == sent
        await ship.run(peer, name := new(), {"id": name, "command": "wc -c", "stdin_open": True}, None)
        assert await ship.write_stdin(peer, name, _parts(), eof=True) == 20 * 100_000
        assert (await ship.get_exec(peer, name, 20)).stdout == "2000000\n"
        with pytest.raises(Conflict):
            await ship.write_stdin(peer, name, b"x", eof=False)

    run(work)


async def _send_all(send: Callable[[bytes], Awaitable[None]], data: bytes) -> None:
    for start in range(0, len(data), 65536):
        await send(b"\0" + data[start : start + 65536])
    await send(b"\4")


async def _parts() -> AsyncGenerator[bytes]:
    for _ in range(20):
        yield b"x" * 100_000


def new() -> str:
    return f"exec-{secrets.token_hex(12)}"


def test_the_last_bytes_before_bay_leaves_reach_the_program(run: Loop, peer: Peer) -> None:
    async def work() -> None:
        ship = client()
        for _ in range(5):
            body = {"command": "head -c 300000 | wc -c", "stdin_open": True}
            await ship.run(peer, name := new(), {"id": name, **body}, None)
            async with ship.attach(peer, name) as attached:
                await _send_all(attached.send, b"x" * 300_000)
            assert (await ship.get_exec(peer, name, 20)).stdout == "300000\n"

    run(work)


def test_files_go_both_ways_whole(run: Loop, peer: Peer) -> None:
    async def work() -> None:
        files = FileClient(client())
        data = os.urandom(9 * MEBIBYTE)
        await files.upload(peer, "deep/file", _slices(data))
        async with files.download(peer, "deep/file", Wanted()) as download:
            assert b"".join([chunk async for chunk in download.chunks]) == data
        async with files.download(peer, "deep/file", Wanted(first=5, last=9)) as download:
            assert b"".join([chunk async for chunk in download.chunks]) == data[5:10]
        async with files.pack(peer, "deep", "tar") as packed:
            archive = b"".join([chunk async for chunk in packed])
        unpacked = await files.unpack(peer, "again", "tar", _slices(archive))
        assert (unpacked.files, unpacked.bytes) == (1, len(data))

    run(work)


async def _slices(data: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


def test_a_kernel_runs_cells_and_the_feed_tells_of_ports(run: Loop, peer: Peer) -> None:
    async def work() -> None:
        ship = client()
        kernels = KernelClient(ship)
        async with kernels.run(peer, "default", {"id": new(), "code": "print(6 * 7)"}) as events:
            printed = [event.text for event in [event async for event in events] if event.type == "stdout"]
        assert "".join(filter(None, printed)) == "42\n"
        feed = ship.feed(peer)
        assert (await anext(feed))[0] in ("ports", "services")
        await feed.aclose()

    run(work)


@pytest.fixture
def echo() -> Generator[int]:
    """The port of a program that sends back what it got, once it got all of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with listening.accept()[0] as client:
                seen = bytearray()
                while data := client.recv(MEBIBYTE):
                    seen += data
                client.sendall(seen)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_each_direction_of_a_tunnel_has_an_end_of_its_own(run: Loop, peer: Peer, echo: int) -> None:
    async def work() -> None:
        data = os.urandom(5 * MEBIBYTE)
        async with PortClient(client()).open(peer, echo) as stream:
            await stream.write(data)
            await stream.write_eof()
            assert await _read_all(stream) == data

    run(work)


async def _read_all(stream: PortStream) -> bytes:
    seen = bytearray()
    while data := await stream.read(65536):
        seen += data
    return bytes(seen)


def test_a_tunnel_that_is_left_early_is_reset_and_no_listener_is_refused(run: Loop, peer: Peer) -> None:
    async def work() -> None:
        ended = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                ended.set_result(await reader.read(-1))
            except ConnectionResetError as error:
                ended.set_result(error)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with PortClient(client()).open(peer, port) as stream:
            await stream.write(b"half of it")
        assert isinstance(await ended, ConnectionResetError)
        server.close()
        await server.wait_closed()
        with pytest.raises(PortClosed):
            async with PortClient(client()).open(peer, port):
                pass

    run(work)


def test_connections_are_kept_and_used_again(run: Loop, peer: Peer, ship: Ship) -> None:
    async def work() -> None:
        ship_client = client()
        for _ in range(30):
            await ship_client.meta(peer)
        assert await ship_client.can_connect(peer)
        held = len(os.listdir(f"/proc/{ship.pid}/fd"))
        for _ in range(30):
            await ship_client.meta(peer)
        assert len(os.listdir(f"/proc/{ship.pid}/fd")) <= held

    run(work)


def test_the_settings_that_drivers_give_are_those_that_ship_takes() -> None:
    source = Path(__file__).parents[3] / "src/bay/drivers/ship_settings.py"
    named = set(re.findall(r'"(SHIP_\w+)":', source.read_text()))
    assert len(named) > 10
    assert named <= BOOTSTRAP_SETTINGS
