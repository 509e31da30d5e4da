"""The streamable HTTP transport of the Model Context Protocol, for the tools of `bay.mcp`.

A request of the protocol's newer way is whole in itself. The older one has sessions, which belong to the key
that opened them: to another they are not there.
"""

import hashlib
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Self, cast

import httpx
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

import bay
from bay.mcp.agent import Agent, DefaultSandbox, KeptSandbox, SessionSandbox
from bay.mcp.bounds import BLOB_BYTES
from bay.mcp.resources import Context
from bay.mcp.server import BayTools, mcp_server
from bay.server.web.auth import Caller

BODY_BYTES = 2 * BLOB_BYTES
"""A file of `BLOB_BYTES` as base64, and what is around it."""

SESSIONS = 1000
SESSIONS_OF_OWNER = 100
"""With one more, the owner's oldest ends. Its client begins another, as the protocol says."""

COMMON = "mcp"
"""The name of the default sandbox of clients that have no session and name none."""

_SESSION = b"mcp-session-id"


class McpTransport:
    """Answers requests at `/mcp`. Tools call the API at `url`, Bay's own address, with the caller's key."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._tools = BayTools(self._agent_of)
        self._manager = StreamableHTTPSessionManager(
            mcp_server(self._tools), max_sessions=SESSIONS, max_request_body_size=BODY_BYTES
        )
        self._sessions: defaultdict[str, OrderedDict[bytes, Scope]] = defaultdict(OrderedDict)
        """Of each owner, the longest unused first; with the head of the request that opened it."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Self]:
        """Within, requests are answered."""
        async with self._manager.run():
            yield self

    async def serve(self, caller: Caller, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        token = AccessToken(token="", client_id=caller.key_id, scopes=[caller.scope])
        scope["user"] = AuthenticatedUser(token)
        used: list[bytes] = []

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 300:
                used.extend(value for name, value in message["headers"] if name == _SESSION)
            await send(message)

        await self._manager.handle_request(scope, receive, watched)
        for session in used:
            await self._note(caller.owner, session, scope)

    async def _note(self, owner: str, session: bytes, scope: Scope) -> None:
        """Note a session that was used just now, and end the owner's oldest where there are too many."""
        mine = self._sessions[owner]
        if scope["method"] == "DELETE":
            mine.pop(session, None)
            return
        mine.setdefault(session, scope)
        mine.move_to_end(session)
        if len(mine) > SESSIONS_OF_OWNER:
            await self._end(*mine.popitem(last=False))

    async def _end(self, session: bytes, opened_by: Scope) -> None:
        """End a session as its own client would."""
        headers = [(_SESSION, session), (b"accept", b"application/json, text/event-stream")]
        scope = {**opened_by, "method": "DELETE", "headers": headers}

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


def _default_of(request: Request) -> DefaultSandbox:
    """The default sandbox: that of the URL, else the session's own, else the owner's common one."""
    if (named := request.query_params.get("sandbox")) is not None:
        return KeptSandbox(named)
    if (session := request.headers.get(_SESSION.decode())) is not None:
        return SessionSandbox(f"mcp-{hashlib.sha256(session.encode()).hexdigest()[:12]}")
    return KeptSandbox(COMMON)
