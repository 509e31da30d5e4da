"""The Ships of all puppet pods, in one process: each is known by the address that it is reached at.

They do what a Bay asks of a Ship whose sandbox is at rest: the proof, the settings, health, the feed, and an
exec that has ended at once. All have one certificate, since the proof is one of the pod's own token.
"""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ship.tls import make_identity
from ship_protocol import SESSION_HEADER, hello_proof, session_proof
from ship_protocol.tls import TlsLayer

_HEAD_BYTES = 64 << 10
_BACKLOG = 4096


@dataclass(slots=True, eq=False)
class _Ship:
    bootstrap_token: str
    token: str | None = None
    open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    query: dict[str, list[str]]
    bearer: str
    body: bytes


class PuppetShips:
    """Ships by address. `begin` and `end` follow the containers of their pods."""

    def __init__(self) -> None:
        self._identity = make_identity()
        self._ships: dict[str, _Ship] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, port: int) -> None:
        """Answer at all addresses of this host."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "0.0.0.0", port, backlog=_BACKLOG)  # noqa: S104

    def begin(self, address: str, bootstrap_token: str) -> None:
        """A Ship waits there for its settings."""
        self._ships[address] = _Ship(bootstrap_token)

    def end(self, address: str) -> None:
        """It ended, and its connections with it."""
        if (ship := self._ships.pop(address, None)) is not None:
            for writer in ship.open:
                writer.transport.abort()

    def _accept(self) -> TlsLayer:
        reader = asyncio.StreamReader(limit=_HEAD_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader, self._begin)
        return TlsLayer(self._identity.context, protocol, server=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ship = self._ships.get(writer.get_extra_info("sockname")[0])
        if ship is None:
            writer.transport.abort()
            return
        ship.open.add(writer)
        try:
            while True:
                await self._answer(ship, await _read(reader), reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            ship.open.discard(writer)
            writer.transport.abort()

    async def _answer(
        self, ship: _Ship, asked: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if ship.token is None or asked.path == "/bootstrap":
            status, body = self._introduce(ship, asked)
            proof = ""
        elif asked.bearer != ship.token:
            status, body, proof = 403, {"error": {"code": "forbidden", "message": "wrong token"}}, ""
        else:
            proof = f"{SESSION_HEADER}: {session_proof(ship.token)}\r\n"
            if asked.path == "/feed":
                await _feed(proof, reader, writer)
                return
            status, body = _told(asked)
        content = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} -\r\n{proof}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        await writer.drain()

    def _introduce(self, ship: _Ship, asked: _Request) -> tuple[int, dict[str, Any]]:
        match asked.method, asked.path:
            case "GET", "/hello" if ship.token is None:
                nonce = asked.query["nonce"][0]
                return 200, {"proof": hello_proof(ship.bootstrap_token, nonce, self._identity.certificate)}
            case "POST", "/bootstrap" if asked.bearer != ship.bootstrap_token:
                return 403, {"error": {"code": "forbidden", "message": "wrong token"}}
            case "POST", "/bootstrap" if ship.token is None:
                ship.token = json.loads(asked.body)["SHIP_TOKEN"]
                return 200, {"status": "ok"}
            case _:
                return 404, {"error": {"code": "not_found", "message": "not now"}}


async def _read(reader: asyncio.StreamReader) -> _Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *rest = head.split("\r\n")
    method, target, _ = line.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (one.partition(":") for one in rest)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    parts = urlsplit(target)
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    return _Request(method, parts.path, parse_qs(parts.query), bearer, body)


def _told(asked: _Request) -> tuple[int, dict[str, Any]]:
    answers: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
        ("GET", "/healthz"): lambda: {"status": "ok"},
        ("GET", "/meta"): _meta,
        ("GET", "/tasks"): lambda: {"tasks": []},
        ("GET", "/execs"): lambda: {"items": []},
        ("GET", "/kernels"): lambda: {"items": []},
        ("GET", "/services"): lambda: {"items": []},
        ("PUT", "/services"): lambda: {"items": []},
        ("POST", "/execs"): lambda: _exec(json.loads(asked.body)),
    }
    found = answers.get((asked.method, asked.path))
    if found is None:
        return 404, {"error": {"code": "not_found", "message": "a puppet does not do that"}}
    return 200, found()


def _meta() -> dict[str, Any]:
    return {
        "name": "ship", "version": "0", "runtime": {"name": "ship", "version": "0"}, "protocol": 1,
        "capabilities": ["shell"], "features": [], "exec_trees": "best_effort", "built_in_skills": [],
        "user": "ship", "uid": 1000, "workspace": "/workspace", "python": "3",
        "image": {"os": None, "shell": None},
    }  # fmt: skip


def _exec(body: dict[str, Any]) -> dict[str, Any]:
    now = datetime.now(UTC).isoformat()
    return {
        "id": body["id"], "argv": body.get("argv") or ["true"], "pid": 1, "tty": False, "state": "exited",
        "exit_code": 0, "signal": None, "started_at": now, "ended_at": now, "output_bytes": 0,
        "first_offset": 0, "timed_out": False, "stdout": "", "stderr": "", "output": [], "truncated": False,
    }  # fmt: skip


async def _feed(proof: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Both kinds once, and then silence, as of a sandbox in which nothing happens."""
    writer.write(f"HTTP/1.1 200 -\r\n{proof}Transfer-Encoding: chunked\r\n\r\n".encode())
    for kind in ("ports", "services"):
        line = json.dumps({"type": kind, "items": []}).encode() + b"\n"
        writer.write(b"%x\r\n%b\r\n" % (len(line), line))
    await writer.drain()
    with suppress(OSError):
        await reader.read(1)
    raise ConnectionResetError
