"""The proxy carries requests and WebSockets to the app on a port of a sandbox, once the gate let them in.

A request wakes the sandbox, waits for a listener, and keeps it awake until the answer. Each direction is one
loop that takes a piece once the last is sent, so nothing piles up; a break on one side breaks the other.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, MutableMapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from websockets.http11 import Response

from bay.errors import MethodNotAllowed, QuotaExceeded, Timeout, Unauthorized
from bay.meters import Meters
from bay.server.ports.app_http import AppConnection, AppConnections, AppRequest, Opened, Stale
from bay.server.ports.app_websocket import AppSocket
from bay.server.ports.headers import Headers, Seen, app_protocols, framing, toward_app, toward_browser
from bay.server.sessions.waker import Waker
from bay.server.ship.connection import Peer
from bay.server.ship.websocket import Closed
from bay.server.web.auth import Caller
from bay.server.web.concurrency import MOMENT_S, first, guarded
from bay.server.web.edge import SUBPROTOCOL
from bay.server.web.open_connections import OpenConnections
from ship_protocol import CloseCode

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LIMIT = 500
"""Concurrent requests and WebSockets to one sandbox; as many again of strangers at public ports."""

ANSWER_S = 300.0
"""How long an app may take until it begins to answer, and for a part of a body."""

_SHAKE_S = 60.0
_GOODBYE_S = 5.0
_LEAVING = Closed(CloseCode.SERVICE_RESTART, "Bay is shutting down")
_REVOKED = Closed(CloseCode.FORBIDDEN, "the key was revoked or has expired")
_SHUT = Closed(CloseCode.FORBIDDEN, "this is open to everybody no more")
_BROKEN = Closed(CloseCode.INTERNAL_ERROR, "the app broke off the connection")
_SAID: dict[int, Closed] = {CloseCode.NO_STATUS: Closed(CloseCode.NORMAL), CloseCode.ABNORMAL: _BROKEN}


class ClientLeft(Exception):
    """The client has disconnected: there is none to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A client that was let in to a port."""

    sandbox_id: str
    owner: str
    """Of the sandbox."""
    port: int
    key_id: str | None
    """The key that lets them in, by itself or by a link; None for a port that is everybody's."""
    is_shut: Callable[[], Awaitable[bool]] | None = None
    """For a public port: whether it has been closed to strangers."""
    seen: Seen
    target: bytes
    """Path and query as the app gets them."""
    with_authorization: bool
    """Whether the Authorization that came with it is for the app."""


@dataclass(kw_only=True, eq=False)
class PortProxy:
    """Serves visits. `wait_s` is how long one waits until something listens."""

    waker: Waker
    is_key: Callable[[str], bool]
    connections: OpenConnections
    wait_s: float
    to_apps: AppConnections
    meters: Meters
    _under_way: Counter[tuple[str, bool]] = field(init=False, default_factory=Counter[tuple[str, bool]])

    async def run(self) -> None:
        """Look after the connections that wait for another request, until cancelled."""
        await self.to_apps.run()

    async def serve(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or relay a WebSocket to its end. On BayError a begun answer must be cut."""
        with self._place(visit), suppress(ClientLeft):
            self.meters.port_requests.labels(scope["type"]).inc()
            if scope["type"] == "websocket":
                await self._relay(visit, scope, receive, send)
            else:
                await guarded(self._exchange(visit, scope, receive, send), self._over(visit))

    async def _exchange(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._request_of(visit, scope)
        exchange = _Exchange(request, visit.seen, receive, send)
        # An endless body of a stranger does not keep the owner from freezing the sandbox.
        async with self._awake(visit, follower=visit.key_id is None) as peer:
            while not await self._try(exchange, peer, visit.port):
                pass

    def _request_of(self, visit: Visit, scope: Scope) -> AppRequest:
        method: str = scope["method"]
        if method in ("CONNECT", "TRACE"):  # another protocol, and what would show a page its own cookies
            raise MethodNotAllowed(f"{method} is not forwarded to apps")
        length = framing(scope["headers"])
        headers = [*self._toward_app(visit, scope["headers"]), *length]
        return AppRequest(method=method, target=visit.target, headers=headers, has_body=bool(length))

    def _toward_app(self, visit: Visit, given: Headers) -> Headers:
        return toward_app(given, visit.seen, with_authorization=visit.with_authorization, is_key=self.is_key)

    async def _try(self, exchange: "_Exchange", peer: Peer, port: int) -> bool:
        """Whether it was answered; False when the connection turned out to be closed already."""
        kept = await self.to_apps.take(peer, port) if exchange.request.is_repeatable else None
        connection = kept or AppConnection(await self.to_apps.open(peer, port, self.wait_s))
        is_whole = False
        try:
            await exchange.run(connection)
            is_whole = True
        except Stale:
            return False
        finally:
            if is_whole:
                await self.to_apps.give_back(peer, port, connection)
            else:
                await connection.aclose()
        return True

    async def _relay(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # that it wants to connect
        # A WebSocket may be open for days; its owner may freeze the sandbox all the same, and time alone does
        # not.
        async with self._awake(visit, follower=True) as peer:
            opened = await self.to_apps.open(peer, visit.port, self.wait_s)
            try:
                await self._shake_hands(opened, visit, scope, receive, send)
            finally:
                await opened.aclose()

    async def _shake_hands(
        self, opened: Opened, visit: Visit, scope: Scope, receive: Receive, send: Send
    ) -> None:
        offered: list[str] = scope.get("subprotocols", [])
        app = AppSocket(opened, app_protocols(offered))
        given = [(name, value) for name, value in scope["headers"] if not name.startswith(b"sec-websocket-")]
        refused = await _within(_SHAKE_S, app.open(visit.target, self._toward_app(visit, given)))
        if refused is not None:
            with suppress(OSError):  # the client has left meanwhile
                await _refuse(refused, visit.seen, send)
            return
        chosen = app.subprotocol or (SUBPROTOCOL if SUBPROTOCOL in offered else None)
        with suppress(OSError):  # the client has left meanwhile
            cookies = toward_browser(app.cookies, 101, visit.seen, is_page=False)
            await send({"type": "websocket.accept", "subprotocol": chosen, "headers": cookies})
            await _carry(app, receive, send, self._end_of(visit))

    @asynccontextmanager
    async def _awake(self, visit: Visit, *, follower: bool = False) -> AsyncGenerator[Peer]:
        """The sandbox's Ship, kept awake, in the name of the owner, who has let this client in."""
        owner = Caller(visit.owner, "write", visit.key_id or "")
        async with self.waker.holding(owner, visit.sandbox_id, follower=follower) as sandbox:
            self.waker.refuse_expired(sandbox)
            async with self.waker.reach(sandbox) as (_, peer):
                yield peer

    @contextmanager
    def _place(self, visit: Visit) -> Generator[None]:
        # Strangers at a port that is everybody's take no room from those who were let in.
        room = (visit.sandbox_id, visit.key_id is None)
        if self._under_way[room] >= LIMIT:
            raise QuotaExceeded(
                f"{LIMIT} requests to this sandbox are in progress, the limit; try again in a moment"
            )
        self._under_way[room] += 1
        try:
            yield
        finally:
            self._under_way[room] -= 1
            if not self._under_way[room]:
                del self._under_way[room]

    async def _over(self, visit: Visit) -> NoReturn:
        if (closed := await self._end_of(visit)) is not _LEAVING:
            raise Unauthorized(closed.reason)
        raise Timeout("Bay is shutting down; the app may have received part of this request")

    async def _end_of(self, visit: Visit) -> Closed:
        if visit.is_shut is not None:
            return _LEAVING if await self.connections.over_when(visit.is_shut) == "leaving" else _SHUT
        return _LEAVING if await self.connections.over_for(visit.key_id) == "leaving" else _REVOKED


@dataclass(eq=False)
class _Exchange:
    """One request and its answer, over one connection or, if that was closed already, over another."""

    request: AppRequest
    seen: Seen
    receive: Receive
    send: Send
    _limit: asyncio.Timeout | None = field(init=False, default=None)
    _is_answered: bool = field(init=False, default=False)

    async def run(self, connection: AppConnection) -> None:
        """Send and answer. Raises Stale when nothing came of it, PortClosed, Timeout, and ClientLeft."""
        with suppress(ConnectionError):  # it may have answered before it closed
            await connection.ask(self.request)
        after_s = 0 if self.request.has_body else MOMENT_S
        await guarded(self._down(connection), self._up(connection), after_s=after_s)

    async def _down(self, connection: AppConnection) -> None:
        head = await connection.answer()
        self._is_answered = True
        if self._limit is not None:
            self._limit.reschedule(None)
        headers = toward_browser(head.headers, head.status, self.seen)
        await self.send({"type": "http.response.start", "status": head.status, "headers": headers})
        async for data in connection.body():
            await self.send({"type": "http.response.body", "body": data, "more_body": True})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _up(self, connection: AppConnection) -> NoReturn:
        """The body, and then a look whether the client is still there. Never returns."""
        if self.request.has_body:
            with suppress(ConnectionError):  # an app that stops reading may have answered why
                await self._send_body(connection)
        try:
            async with asyncio.timeout(None if self._is_answered else ANSWER_S) as self._limit:
                while True:
                    await self._next()
        except TimeoutError:
            raise Timeout(f"the app did not begin to answer within {ANSWER_S:g} s") from None

    async def _send_body(self, connection: AppConnection) -> None:
        more = True
        while more:
            message = await self._next()
            more = message.get("more_body", False)
            if message.get("body"):
                await _within(ANSWER_S, connection.send(message["body"]))
        await _within(ANSWER_S, connection.end())

    async def _next(self) -> Message:
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        return message


async def _carry(app: AppSocket, receive: Receive, send: Send, stay: Awaitable[Closed]) -> None:
    """Carry messages both ways, until one side or Bay closes the socket, which closes the other."""

    async def until_over() -> tuple[Closed, bool, bool]:
        return await stay, True, True

    closed, tell_app, tell_client = await first(_to_client(app, send), _to_app(app, receive), until_over())
    if tell_client:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_GOODBYE_S):
                await send({"type": "websocket.close", **_said_to_client(closed)})
    if tell_app:
        await app.close(closed)


async def _to_client(app: AppSocket, send: Send) -> tuple[Closed, bool, bool]:
    while not isinstance(message := await app.receive(), Closed):
        try:
            await send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})
        except OSError:
            return Closed(CloseCode.ABNORMAL), True, False
    return message, False, True


async def _to_app(app: AppSocket, receive: Receive) -> tuple[Closed, bool, bool]:
    while (message := await receive())["type"] != "websocket.disconnect":
        data = message.get("bytes")
        try:
            await app.send(message["text"] if data is None else data)
        except ConnectionError:
            return _BROKEN, False, True
    return Closed(message.get("code") or CloseCode.NO_STATUS, message.get("reason") or ""), True, False


def _said_to_client(closed: Closed) -> dict[str, Any]:
    """The two reserved codes, which no peer may send, become codes of the same meaning."""
    said = _SAID.get(closed.code, closed)
    return {"code": said.code, "reason": said.reason}


async def _refuse(refused: Response, seen: Seen, send: Send) -> None:
    """Answer as the app did instead of a WebSocket."""
    given: Headers = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in refused.headers.raw_items()]
    headers = [
        (name.lower(), value)
        for name, value in toward_browser(given, refused.status_code, seen)
        if name.lower() != b"content-length"
    ]
    body = (
        bytes(refused.body or b"").decode(errors="replace").encode()
    )  # the server takes nothing but text here
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "websocket.http.response.start", "status": refused.status_code, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


async def _within(seconds: float, what: Awaitable[Any]) -> Any:
    try:
        async with asyncio.timeout(seconds):
            return await what
    except TimeoutError:
        raise Timeout(f"the app neither read nor sent anything for {seconds:g} s") from None
