"""Apps for the tests of ports.

A sandbox of the `fake` driver is on this host's network, so an app of its may run in the test.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import httpx
from server_harness import eventually

Act = Callable[["Call"], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """A request as the app got it: the bytes of its head, and both directions."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    def all(self, name: str) -> list[str]:
        """The values of a header."""
        pairs = [line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:]]
        return [value.strip() for key, _, value in pairs if key.lower() == name.lower()]

    def has(self, text: str) -> bool:
        """Whether that is anywhere in the head, whatever it is called there."""
        return text.lower() in self.head.decode("latin-1").lower()

    async def answer(self, body: bytes = b"hello", *headers: str, status: str = "200 OK") -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode("latin-1") + body)
        await self.writer.drain()


@dataclass(slots=True)
class App:
    """A server that does with each request what `act` says, and remembers what it was asked."""

    act: Act
    port: int = 0
    calls: list[Call] = field(default_factory=list[Call])
    writers: list[asyncio.StreamWriter] = field(default_factory=list[asyncio.StreamWriter])
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a connection is over."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                call = Call(await reader.readuntil(b"\r\n\r\n"), reader, writer)
                self.calls.append(call)
                await self.act(call)
        writer.close()
        self.gone.set()


async def greet(call: Call) -> None:
    await call.answer()


@asynccontextmanager
async def app(act: Act = greet, port: int = 0) -> AsyncGenerator[App]:
    """An app that listens on a port of its own."""
    made = App(act)
    server = await asyncio.start_server(made.serve, "127.0.0.1", port)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for writer in made.writers:
            writer.transport.abort()


LISTEN = "python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); print(s.getsockname()[1], flush=True); input()'"


async def listen(client: httpx.AsyncClient, box: str) -> tuple[str, int]:
    """A program that listens until its stdin ends; its exec and its port."""
    answer = await client.post(f"/v1/sandboxes/{box}/execs", json={"command": LISTEN, "stdin_open": True})
    path = f"/v1/sandboxes/{box}/execs/{answer.json()['id']}"
    said: list[str] = []

    async def says_its_port() -> bool:
        said[:] = (await client.get(f"{path}/output")).text.splitlines()
        return bool(said)

    await eventually(says_its_port)
    return path, int(base64.b64decode(json.loads(said[0])["data"]))
