"""A stand-in for the tunnels of Bay: `WS …/tunnel?port=` to real TCP servers of this machine, and faults on
demand.

It answers GET of one sandbox too. A client that hangs up before its `eof` has reset its connection, and so it
is reset for the program.

It stays beside the tests of a real Bay (`test_sdk_tunnel_real.py`, `test_cli_proxy_real.py`), since it does
on demand what Bay does rarely or never: a close with any code, frames of a newer server, garbage, a cut
without a word, refusals in a row. Its programs behind the ports serve both kinds of tests.
"""

import asyncio
import json
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit

import canned
from real_bay import KEY
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Json = dict[str, Any]
Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]
EOF = json.dumps({"type": "eof"})
_PIECE = 64 << 10


class World:
    """One sandbox, what listens in it, and the tunnels there are."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pipes: dict[int, Pipe] = {}
        self.ports: dict[int, int] = {}
        """Where a port of the sandbox is on this machine."""
        self.refusals: list[tuple[int, str]] = []
        """Status and code of the answers in place of the next upgrades."""
        self.tunnels: set[ServerConnection] = set()
        self.opened = 0
        self.ended: list[str] = []
        """How tunnels ended for the program: `eof` in good order, `reset` else."""

    def listen(self, port: int, app: "App") -> None:
        self.ports[port] = app.server_address[1]

    def hang_up(self, code: int, reason: str) -> None:
        """Close all tunnels so."""
        self._run(self._hang_up(code, reason))

    def break_off(self) -> None:
        """Cut the connections of all tunnels, without a word."""
        self._run(self._break_off())

    def say(self, frame: str | bytes) -> None:
        """Send that over all tunnels."""
        self._run(self._say(frame))

    def _run(self, act: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(act, self._loop).result(10)

    async def _hang_up(self, code: int, reason: str) -> None:
        for tunnel in list(self.tunnels):
            await tunnel.close(code, reason)

    async def _break_off(self) -> None:
        for tunnel in self.tunnels:
            tunnel.transport.abort()

    async def _say(self, frame: str | bytes) -> None:
        for tunnel in self.tunnels:
            await tunnel.send(frame)

    async def plain(self, connection: ServerConnection, request: Request) -> Response | None:
        """An answer without an upgrade, None to go on with it."""
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return _error(401, "unauthorized", "no such key")
        if "Upgrade" not in request.headers:
            return _response(200, canned.SANDBOX)
        if self.refusals:
            return _error(*self.refusals.pop(0), "not now")
        port = int(parse_qs(urlsplit(request.path).query)["port"][0])
        try:
            pipe = await asyncio.open_connection("127.0.0.1", self.ports.get(port, 1))
        except OSError:
            return _error(502, "port_closed", f"nothing in the sandbox listens on port {port}")
        self._pipes[id(connection)] = pipe
        return None

    async def carry(self, connection: ServerConnection) -> None:
        """One tunnel."""
        reader, writer = self._pipes.pop(id(connection))
        self.tunnels.add(connection)
        self.opened += 1
        down = asyncio.create_task(self._down(connection, reader))
        try:
            whole = await self._up(connection, writer)
            if whole:
                await down
                await connection.close(1000)
        finally:
            down.cancel()
            self.tunnels.discard(connection)
        if whole:
            writer.close()
        else:
            _reset(writer)
        self.ended.append("eof" if whole else "reset")

    async def _up(self, connection: ServerConnection, writer: asyncio.StreamWriter) -> bool:
        """From the client to the program; whether it came to its end."""
        try:
            async for frame in connection:
                if isinstance(frame, str):
                    writer.write_eof()
                    return True
                writer.write(frame)
                await writer.drain()
        except ConnectionError:
            await connection.close(1000)
        except ConnectionClosed:
            pass
        return False

    async def _down(self, connection: ServerConnection, reader: asyncio.StreamReader) -> None:
        try:
            while data := await reader.read(_PIECE):
                await connection.send(data)
            await connection.send(EOF)
        except ConnectionClosed:
            pass
        except ConnectionError:
            await connection.close(4502, "the program reset the connection")


def _reset(writer: asyncio.StreamWriter) -> None:
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _error(status: int, code: str, message: str) -> Response:
    details: Json = {"retry_after_ms": 1} if status == 503 else {}
    return _response(
        status, {"error": {"code": code, "message": message, "details": details, "request_id": "req-7"}}
    )


def _response(status: int, body: Json) -> Response:
    data = json.dumps(body).encode()
    known = {"Content-Type": "application/json", "Content-Length": str(len(data)), "Connection": "close"}
    return Response(status, HTTPStatus(status).phrase, Headers(known), data)


@contextmanager
def standing_in() -> Generator[tuple[str, World], None, None]:
    """Serve until the block is left; gives the URL and what happens behind it."""
    started: list[tuple[str, World]] = []
    ready, over = threading.Event(), asyncio.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(started, ready, over)), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield started[0]
    finally:
        loop = started[0][1]._loop  # pyright: ignore[reportPrivateUsage]
        loop.call_soon_threadsafe(over.set)
        thread.join(10)


async def _serve(started: list[tuple[str, World]], ready: threading.Event, over: asyncio.Event) -> None:
    world = World(asyncio.get_running_loop())
    options: Json = {"process_request": world.plain, "compression": None, "close_timeout": 1}
    async with serve(world.carry, "127.0.0.1", 0, **options) as server:
        started.append((f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", world))
        ready.set()
        await over.wait()


# Programs behind the ports


class App(socketserver.ThreadingTCPServer):
    """A TCP server whose connections `serve` has; their threads are waited for at the end."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        super().__init__(("127.0.0.1", 0), socketserver.BaseRequestHandler)
        self._serve = serve

    def finish_request(self, request: Any, client_address: Any) -> None:
        with suppress(ConnectionError):
            self._serve(request)


@contextmanager
def running(serve: Callable[[socket.socket], None]) -> Generator[App, None, None]:
    """A program that serves so until the block is left."""
    with App(serve) as app:
        thread = threading.Thread(target=app.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield app
        finally:
            app.shutdown()
            thread.join(5)


def echo(client: socket.socket) -> None:
    """What comes goes back, to its end."""
    while data := client.recv(_PIECE):
        client.sendall(data)


def count(client: socket.socket) -> None:
    """Reads to the end, and only then says how much that was: it works only where each direction ends by
    itself.
    """
    size = 0
    while data := client.recv(_PIECE):
        size += len(data)
    client.sendall(f"{size} bytes\n".encode())


def greet(client: socket.socket) -> None:
    """Says something, ends its direction, and reads on to the end."""
    client.sendall(b"hello\n")
    client.shutdown(socket.SHUT_WR)
    while client.recv(_PIECE):
        pass


def drop(client: socket.socket) -> None:
    """Resets the connection after the first bytes."""
    client.recv(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()  # before socketserver, which would end it in good order


class Source:
    """Sends `size` bytes as fast as they are taken; `sent` says how many were."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.sent = 0

    def __call__(self, client: socket.socket) -> None:
        piece = bytes(range(256)) * 256
        while self.sent < self.size:
            client.sendall(piece)
            self.sent += len(piece)
