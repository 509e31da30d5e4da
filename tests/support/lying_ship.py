"""A Ship that lies: a server on a Unix socket that answers what its script says."""

import asyncio
import json
import os
import resource
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server_harness import Json

from bay.drivers.base import Endpoint
from bay.server.ship.connection import Peer

TOKEN = "t" * 64
EXEC_ID = "exec-" + "0" * 24
EXEC: Json = {
    "id": EXEC_ID, "argv": ["true"], "pid": 7, "tty": False, "state": "exited", "exit_code": 0, "signal": None,
    "started_at": "2030-01-01T00:00:00Z", "ended_at": "2030-01-01T00:00:01Z", "output_bytes": 0, "first_offset": 0,
    "timed_out": False,
}  # fmt: skip
META: Json = {"version": "1", "protocol": 1, "capabilities": []}
DEADLINE_S = 0.5

Script = Callable[["Liar", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(slots=True)
class Liar:
    """A server on a Unix socket that answers as its script says."""

    path: Path
    script: Script
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Bay has dropped the connection."""
    tasks: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])

    def peer(self, **changes: Any) -> Peer:
        peer: dict[str, Any] = {"peer_uid": os.getuid(), "peer_pid": os.getpid(), **changes}
        endpoint = Endpoint(socket_path=str(self.path), **peer)
        return Peer(session_id="sess-1", endpoint=endpoint, token=TOKEN)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.script(self, reader, writer)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # Bay went away, or the test is over
        finally:
            self.closed.set()
            writer.transport.abort()

    async def aclose(self) -> None:
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        await asyncio.sleep(0)  # aborted transports close on the next turn


Lie = Callable[[Script], Awaitable[Liar]]


async def request(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def head(status: str = "200 OK", length: int | None = None, *extra: str, proof: str | None = None) -> bytes:
    proof = (
        Peer(session_id="", endpoint=Endpoint(socket_path=""), token=TOKEN).proof if proof is None else proof
    )
    lines = [f"HTTP/1.1 {status}", f"X-Ship-Session: {proof}", *extra]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def whole(body: bytes | Json, status: str = "200 OK", *extra: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(status, len(data), *extra) + data


def saying(*pieces: bytes, close: bool = False) -> Script:
    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        for piece in pieces:
            writer.write(piece)
        await writer.drain()
        if close:
            writer.close()

    return script


def for_ever(first: bytes, piece: bytes, *, pause: float = 0) -> Script:
    async def script(liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(first)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return script


def peak_kib() -> int:
    """The most memory this process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
