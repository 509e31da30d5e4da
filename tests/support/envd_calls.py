"""Calls of envd as its clients make them: Connect with JSON, by hand."""

import base64
import hashlib
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from server_harness import Json, Served, within

STREAM = "application/connect+json"


def frame(message: Any, flags: int = 0) -> bytes:
    """One message of a stream."""
    data = json.dumps(message).encode()
    return struct.pack(">BI", flags, len(data)) + data


def frames(data: bytes) -> list[tuple[int, Json]]:
    """The flags and the message of each frame of a body."""
    found: list[tuple[int, Json]] = []
    while data:
        flags, length = struct.unpack_from(">BI", data)
        found.append((flags, json.loads(data[5 : 5 + length])))
        data = data[5 + length :]
    return found


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass(slots=True)
class Events:
    """The frames of a stream as they come."""

    chunks: AsyncIterator[bytes]
    held: bytes = b""
    end: Json | None = None
    """The last frame, once it came."""

    async def next(self) -> Json | None:
        """The next message; None after the last, or when the connection has ended."""
        while self.end is None:
            if len(self.held) >= 5:
                flags, length = struct.unpack_from(">BI", self.held)
                if len(self.held) >= 5 + length:
                    message = json.loads(self.held[5 : 5 + length])
                    self.held = self.held[5 + length :]
                    if flags == 0:
                        return message
                    assert flags == 2
                    self.end = message
                    continue
            try:
                self.held += await within(anext(self.chunks))
            except StopAsyncIteration:
                return None
        return None

    async def rest(self) -> list[Json]:
        """All messages that still come."""
        found: list[Json] = []
        while (message := await self.next()) is not None:
            found.append(message)
        return found

    async def output(self, wanted: bytes) -> bytes:
        """Output until `wanted` was in it."""
        seen = b""
        while wanted not in seen:
            message = await self.next()
            assert message is not None, (seen[-200:], self.end)
            seen += output_of([message])
        return seen


def output_of(events: list[Json], *names: str) -> bytes:
    """The output in events of a process, of the streams with those names or of all."""
    data = [event["event"].get("data", {}) for event in events]
    return b"".join(
        base64.b64decode(text) for part in data for name, text in part.items() if not names or name in names
    )


def signed_query(
    token: str, path: str, *, operation: str = "read", user: str = "", until: int | None = None
) -> dict[str, str]:
    """The query of a signed URL, as clients make it: what is empty is not in it."""
    parts = [path, operation, user, token, *([] if until is None else [str(until)])]
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    said = {"path": path, "username": user, "signature_expiration": "" if until is None else str(until)}
    signature = "v1_" + base64.b64encode(digest).rstrip(b"=").decode()
    return {"signature": signature, **{name: value for name, value in said.items() if value}}


@dataclass(slots=True)
class Envd:
    """One sandbox's envd, called by the internal paths."""

    http: httpx.AsyncClient
    sandbox: str

    def url(self, path: str) -> str:
        return f"/e2b/sandboxes/{self.sandbox}/envd{path}"

    async def call(self, method: str, user: str | None = None, **message: Any) -> httpx.Response:
        """A unary call."""
        headers = {"Content-Type": "application/json", **basic(user)}
        return await self.http.post(self.url(f"/{method}"), content=json.dumps(message), headers=headers)

    async def ok(self, method: str, user: str | None = None, **message: Any) -> Json:
        """The message that answers a unary call."""
        answer = await self.call(method, user, **message)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @asynccontextmanager
    async def stream(
        self, method: str, message: Any, headers: dict[str, str] | None = None
    ) -> AsyncGenerator[Events]:
        """A stream that answers one message."""
        sent = {"Content-Type": STREAM, "Connect-Protocol-Version": "1", **(headers or {})}
        opened = self.http.stream(
            "POST", self.url(f"/{method}"), content=frame(message), headers=sent, timeout=60
        )
        async with opened as answer:
            assert answer.status_code == 200, await answer.aread()
            assert answer.headers["content-type"] == STREAM
            yield Events(answer.aiter_raw())

    @asynccontextmanager
    async def run(
        self, command: str, headers: dict[str, str] | None = None, **more: Any
    ) -> AsyncGenerator[Events]:
        """A command of the shell as the SDKs start it."""
        process = {"cmd": "/bin/bash", "args": ["-c", command], **more.pop("process", {})}
        async with self.stream(
            "process.Process/Start", {"process": process, "stdin": False, **more}, headers
        ) as events:
            yield events

    async def ran(self, command: str, **more: Any) -> tuple[bytes, Json]:
        """The output of a command and how it ended."""
        async with self.run(command, **more) as events:
            found = await events.rest()
            assert events.end == {}, events.end
        return output_of(found), found[-1]["event"]["end"]


def basic(user: str | None) -> dict[str, str]:
    """The header that selects a user."""
    return {} if user is None else {"Authorization": f"Basic {b64(f'{user}:'.encode())}"}


@asynccontextmanager
async def envd_of(live: Served) -> AsyncGenerator[Envd]:
    """The envd of a new sandbox of a Bay behind a real port."""
    async with httpx.AsyncClient(base_url=live.url, headers={"X-API-Key": live.key}, timeout=30) as http:
        made = await http.post(
            "/v1/sandboxes", params={"wait": 15}, json={}, headers={"Authorization": f"Bearer {live.key}"}
        )
        assert made.status_code == 201, made.text
        yield Envd(http, made.json()["id"])
