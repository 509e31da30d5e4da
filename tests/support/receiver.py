"""An HTTP server on a loopback port that takes webhooks, and fails as it is told."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

HANG = "hang"


@dataclass(frozen=True, slots=True)
class Got:
    """One request; names of headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Receiver:
    """What came, and how the next requests are answered: a status, with a Location after a
    blank, or `HANG`.
    """

    port: int = 0
    got: list[Got] = field(default_factory=list[Got])
    script: list[str] = field(default_factory=list[str])
    closing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def kinds(self) -> list[str]:
        return [json.loads(got.body)["type"] for got in self.got]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.got.append(Got(first.split()[1], headers, body))
        status, _, location = (self.script.pop(0) if self.script else "200").partition(" ")
        if status == HANG:
            await self.closing.wait()
            return
        where = f"Location: {location}\r\n" if location else ""
        writer.write(f"HTTP/1.1 {status} x\r\n{where}Content-Length: 2\r\n\r\nok".encode())
        await writer.drain()


@asynccontextmanager
async def receiving(*script: str, tls: ssl.SSLContext | None = None) -> AsyncGenerator[Receiver]:
    """A receiver until the block is left."""
    receiver = Receiver(script=list(script))
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        receiver.port = server.sockets[0].getsockname()[1]
        yield receiver
        receiver.closing.set()
