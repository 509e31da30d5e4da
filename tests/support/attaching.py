"""A client's end of an attachment, as the tests of the server use it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from server_harness import Json, Served, within
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

STDIN, STDOUT, STDERR, REPAINT, END = b"\0", b"\1", b"\2", b"\3", b"\4"


@dataclass(slots=True)
class Client:
    """One that is attached. What it was told is in `first`, `exit` and `screen`."""

    socket: ClientConnection
    first: Json
    exit: Json | None = None
    screen: bytes = b""

    async def read(self) -> bytes | None:
        """The next output, mark included; None at the end."""
        try:
            message = await within(self.socket.recv())
        except ConnectionClosed:
            return None
        if isinstance(message, str):
            self.exit = json.loads(message)
            return await self.read()
        if message[:1] == REPAINT:
            self.screen += message[1:]
            return await self.read()
        return message

    async def until(self, wanted: bytes) -> bytes:
        """Output until `wanted` was in it."""
        seen = b""
        while wanted not in seen:
            piece = await self.read()
            assert piece is not None, f"it ended with {self.exit or self.closed} after {seen[-200:]!r}"
            seen += piece[1:]
        return seen

    async def rest(self) -> bytes:
        """All that still comes."""
        seen = bytearray()
        while (piece := await self.read()) is not None:
            seen += piece[1:]
        return bytes(seen)

    async def write(self, data: bytes) -> None:
        await self.socket.send(STDIN + data)

    async def tell(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    @property
    def closed(self) -> tuple[int | None, str | None]:
        """Code and reason of the close."""
        return self.socket.close_code, self.socket.close_reason


@asynccontextmanager
async def attached(
    live: Served, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
) -> AsyncGenerator[Client]:
    """Attached to `path` below the sandboxes of `live`."""
    url = f"{live.url.replace('http', 'ws', 1)}/v1/sandboxes/{path}"
    given = live.headers if headers is None else headers
    async with connect(url, additional_headers=given, compression=None, max_size=None, **options) as socket:
        first = json.loads(await within(socket.recv()))
        assert first["type"] == "attached"
        yield Client(socket, first)


async def refused(
    live: Served, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
) -> tuple[int, Json]:
    """Status and error of an attachment that is refused, which is in the one shape."""
    try:
        async with attached(live, path, headers=headers, **options):
            raise AssertionError(f"{path} was accepted")
    except InvalidStatus as error:
        answer = error.response
        body: Json = json.loads(answer.body or b"")["error"]
        assert body["request_id"] == answer.headers["x-request-id"]
        assert answer.headers["content-type"] == "application/json"
        return answer.status_code, body


async def ask_in_process(
    app: Callable[..., Awaitable[None]], path: str, headers: Mapping[str, str]
) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of a WebSocket that the application answers without a network; 101 when
    accepted.
    """
    path, _, query = path.partition("?")
    incoming: asyncio.Queue[Json] = asyncio.Queue()
    for message in ({"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1005}):
        incoming.put_nowait(message)
    sent: list[Json] = []

    async def send(message: Json) -> None:
        sent.append(message)

    scope: Json = {
        "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "scheme": "ws", "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode(),
        "headers": [(b"host", b"bay"), *((k.lower().encode(), v.encode()) for k, v in headers.items())],
        "subprotocols": [], "extensions": {"websocket.http.response": {}}, "state": {},
    }  # fmt: skip
    await within(app(scope, incoming.get, send))
    head = sent[0]
    body = b"".join(message.get("body", b"") for message in sent[1:])
    found = {name.decode().lower(): value.decode() for name, value in head.get("headers", ())}
    return head.get("status", 101), body.decode() if head["type"] != "websocket.accept" else "", found
