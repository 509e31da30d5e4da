"""The streamable HTTP transport of the Model Context Protocol, for the tools of `bay.mcp`.

A request of the protocol's newer way is whole in itself. The older one has sessions, which belong to the key
that opened them: to another they are not there.
"""

import hashlib
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Self, cast

import httpx
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import DEFAULT_SESSION_IDLE_TIMEOUT, StreamableHTTPSessionManager
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

import bay
from bay.mcp.agent import Agent, DefaultSandbox, KeptSandbox, SessionSandbox
from bay.mcp.resources import Context
from bay.mcp.server import BayTools, mcp_server
from bay.server.web.auth import Caller

BODY_BYTES = 1 << 20
"""As of all calls whose bodies are parsed whole."""

SESSIONS = 1000
SESSIONS_OF_OWNER = 100
"""With one more, the owner's longest unused ends. Its client begins another, as the protocol says."""

COMMON = "mcp"
"""The name of the default sandbox of clients that have no session and name none."""

_SESSION = b"mcp-session-id"


@dataclass(slots=True)
class McpSession:
    """A session of the protocol's older way. `scope` is the head of the request that opened it."""

    id: bytes
    key_id: str
    scope: Scope
    used_at: float
    under_way: int = 0
    """Requests that are answered just now: it is in use, however long ago they began."""


class McpTransport:
    """Answers requests at `/mcp`. Tools call the API at `url`, Bay's own address, with the caller's key."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tools = BayTools(self._agent_of)
        self._manager = StreamableHTTPSessionManager(
            mcp_server(self._tools), max_sessions=None, max_request_body_size=BODY_BYTES
        )
        self._sessions: dict[str, dict[bytes, McpSession]] = {}
        """Of each owner, by id."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Self]:
        """Within, requests are answered."""
        async with self._manager.run():
            yield self

    async def serve(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises QuotaExceeded when the owner's sessions are all in use."""
        token = AccessToken(token="", client_id=caller.key_id, scopes=[caller.scope])
        scope["user"] = AuthenticatedUser(token)
        session = self._session_of(caller, scope)
        if session is None and _may_open_a_session(scope):
            await self._make_room(caller.owner)

        async def noticed(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                self._notice(caller, scope, message)
            await send(message)

        with _in_use(session):
            await self._manager.handle_request(scope, receive, noticed)

    async def end_of_key(self, caller: Caller) -> None:
        """End the sessions of a key that was revoked, and all that their calls do."""
        for session in list(self._sessions.get(caller.owner, {}).values()):
            if session.key_id == caller.key_id:
                await self._end(caller.owner, session)

    def _session_of(self, caller: Caller, scope: Scope) -> McpSession | None:
        named = next((value for name, value in scope["headers"] if name == _SESSION), None)
        return None if named is None else self._sessions.get(caller.owner, {}).get(named)

    def _notice(self, caller: Caller, scope: Scope, start: Message) -> None:
        """Keep account of the session that an answer names: it was opened, or has ended."""
        named = next((value for name, value in start["headers"] if name.lower() == _SESSION), None)
        if named is None:
            return
        mine = self._sessions.setdefault(caller.owner, {})
        if scope["method"] == "DELETE":
            mine.pop(named, None)
        elif named not in mine:
            mine[named] = McpSession(named, caller.key_id, scope, time.monotonic())

    async def _make_room(self, owner: str) -> None:
        """Have room for one more session: of the owner, and of all, where the one who has most gives way."""
        self._forget_ended()
        while sum(map(len, self._sessions.values())) >= SESSIONS:
            await self._end_one(self._with_most())
        if len(self._sessions.get(owner, ())) >= SESSIONS_OF_OWNER:
            await self._end_one(owner)

    def _with_most(self) -> str:
        """The owner with most sessions, of those who have unused ones; else any."""
        return max(
            self._sessions,
            key=lambda one: (any(map(_is_unused, self._sessions[one].values())), len(self._sessions[one])),
        )

    def _forget_ended(self) -> None:
        """Those that the library has ended because they were not used."""
        oldest = time.monotonic() - DEFAULT_SESSION_IDLE_TIMEOUT
        for owner, sessions in list(self._sessions.items()):
            kept = {one.id: one for one in sessions.values() if one.under_way or one.used_at > oldest}
            self._sessions[owner] = kept
            if not kept:
                del self._sessions[owner]

    async def _end_one(self, owner: str) -> None:
        """End the owner's longest unused session. Raises QuotaExceeded when all are in use."""
        unused = list(filter(_is_unused, self._sessions[owner].values()))
        if not unused:
            raise bay.QuotaExceeded("all sessions that there may be are in use; close one and try again")
        await self._end(owner, min(unused, key=lambda one: one.used_at))

    async def _end(self, owner: str, session: McpSession) -> None:
        """End a session as its own client would."""
        self._sessions[owner].pop(session.id, None)
        headers = [(_SESSION, session.id), (b"accept", b"application/json, text/event-stream")]
        scope = {**session.scope, "method": "DELETE", "headers": headers}

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_message: Message) -> None:
            """No client waits for the answer."""

        await self._manager.handle_request(scope, receive, send)

    @asynccontextmanager
    async def _agent_of(self, ctx: Context) -> AsyncGenerator[Agent]:
        """The caller of a request, with a client of its own: no connection is shared between keys."""
        request = cast("Request", ctx.request)
        key = request.headers["authorization"].partition(" ")[2].strip()
        # With a transport named, the environment's proxies do not apply: this is Bay's own address.
        async with bay.AsyncClient(
            self._url, key, transport=httpx.AsyncHTTPTransport(verify=False)
        ) as client:
            yield Agent(client, _default_of(request))


def _is_unused(session: McpSession) -> bool:
    return not session.under_way


def _may_open_a_session(scope: Scope) -> bool:
    """Whether a request may begin one: it names none, and is not of the newer way."""
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    version = headers.get(b"mcp-protocol-version")
    is_older = version is None or version in HANDSHAKE_PROTOCOL_VERSIONS
    return scope["method"] == "POST" and _SESSION not in headers and is_older


@contextmanager
def _in_use(session: McpSession | None) -> Generator[None]:
    if session is None:
        yield
        return
    session.under_way += 1
    try:
        yield
    finally:
        session.under_way -= 1
        session.used_at = time.monotonic()


def _default_of(request: Request) -> DefaultSandbox:
    """The default sandbox: that of the URL, else the session's own, else the owner's common one."""
    if named := request.query_params.get("sandbox"):
        return KeptSandbox(named)
    if (session := request.headers.get(_SESSION.decode())) is not None:
        return SessionSandbox(f"mcp-{hashlib.sha256(session.encode()).hexdigest()[:12]}")
    return KeptSandbox(COMMON)
