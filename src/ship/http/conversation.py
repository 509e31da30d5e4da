"""HTTP/1.1 over a connection: bodies are streamed both ways. h11 has the rules, this the bounds."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

import h11

from ship.errors import InvalidArgument, PayloadTooLarge, ShipError
from ship.http.connection import Connection
from ship.http.websocket import WebSocket, accept_of
from ship.wire import encode
from ship_protocol import SESSION_HEADER

HEAD_BYTES = 32 * 1024
IDLE_S = 600.0
_LINGER_S = 2.0
_LINGER_BYTES = 1 << 20
_OBJECT_BYTES = 1 << 20

_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")


class BadRequest(InvalidArgument):
    """The bytes are not HTTP/1.1; the connection cannot be used further."""


class TruncatedAnswer(Exception):
    """An answer that cannot be finished as promised; closing the connection shows it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body. `length` is a streamed body's size when it is known; else it goes in chunks.
    `close` frees a streamed body's resources. It is called in the end also when the body has never begun; a
    body that frees them itself must bear the second time.
    """

    status: int
    body: bytes | AsyncGenerator[bytes]
    content_type: str = "application/json"
    length: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    close: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True, slots=True)
class WebSocketUpgrade:
    """A WebSocket instead of an answer, and its server."""

    serve: Callable[[WebSocket], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ProtocolSwitch:
    """Another protocol in place of an answer, and its server, which gets the bytes behind the request.
    `close` is called in the end also when the protocol could not be changed."""

    protocol: str
    serve: Callable[[Connection, bytes], Awaitable[None]]
    close: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose body has not been read. `segments` are the decoded parts of the path."""

    method: str
    segments: tuple[str, ...]
    query: dict[str, str]
    authorization: bytes | None
    websocket_key: bytes | None
    """The key of a well-formed request for a WebSocket."""
    protocol: bytes | None
    """The protocol to upgrade to, in lower case."""
    talk: "Conversation" = field(repr=False)
    is_of_page: bool = False
    """Whether it has an Origin (RFC 6454), as all that may change something has from a page in a browser."""

    @property
    def stays(self) -> bool:
        """Whether the request may take as long as its client likes."""
        feeds = self.segments[-1:] in (("stdin",), ("feed",))
        return self.flag("follow") or feeds or "wait" in self.query or self.protocol is not None

    @property
    def may_break(self) -> bool:
        """Whether its client may lose the answer and ask again: its end changes nothing."""
        return self.stays and not self.flag("attached") and self.segments[-1:] != ("stdin",)

    @property
    def gone(self) -> asyncio.Future[None]:
        """Done once the client has closed, or stopped sending."""
        return self.talk.wire.gone

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A yes or no of the query."""
        given = self.query.get(name)
        return default if given is None else given in ("true", "1")

    def offset(self, name: str, meaning: str) -> int | None:
        """A whole number of the query, None when it is missing. Raises InvalidArgument with its `meaning`."""
        given = self.query.get(name)
        if given is not None and not (given.isascii() and given.isdigit() and len(given) <= 18):
            raise InvalidArgument(f"{name} must be {meaning}", field=name)
        return None if given is None else int(given)

    async def read_object(self, limit: int = _OBJECT_BYTES) -> dict[str, object]:
        """As `read_json`, which must be an object. Raises InvalidArgument else."""
        body = await self.read_json(limit)
        if not isinstance(body, dict):
            raise InvalidArgument("the body must be a JSON object")
        return cast("dict[str, object]", body)

    async def read_json(self, limit: int) -> object:
        """The decoded body. Raises PayloadTooLarge above `limit` bytes, InvalidArgument for no JSON."""
        body = bytearray()
        async for data in self.talk.body():
            body += data
            if len(body) > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes", limit=limit)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument("the body is not JSON") from error


class Conversation:
    """The requests of one connection, one after another."""

    def __init__(self, wire: Connection, session: str | None) -> None:
        self.wire = wire
        self._session = session  # None: clients of this listener must not learn it
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    def sign_as(self, session: str) -> None:
        """Have the answers from now on carry that X-Ship-Session."""
        self._session = session

    async def next_request(self) -> Request | None:
        """The next request; None at the end. Raises BadRequest, PayloadTooLarge, TimeoutError or PeerGone."""
        event = await self._next_event()
        if isinstance(event, h11.Request):
            return _to_request(event, self)
        return None

    async def body(self) -> AsyncGenerator[bytes]:
        """The body of the request, as it comes. Raises BadRequest when it is cut short."""
        while isinstance(event := await self._next_event(), h11.Data):
            yield bytes(event.data)

    async def answer(self, answer: Answer) -> None:
        """Send it. Raises PeerGone, or TruncatedAnswer when a body does not fill its promised length."""
        try:
            await self._answer(answer)
        finally:
            if answer.close is not None:
                await answer.close()

    async def _answer(self, answer: Answer) -> None:
        head = self._http.send(self._head(answer))
        if isinstance(answer.body, bytes):
            await self._send(head, h11.Data(data=answer.body), h11.EndOfMessage())
            return
        await self._send(head)
        sent = 0
        async with aclosing(answer.body) as body:
            async for data in body:
                sent += len(data)
                await self._send(b"", h11.Data(data=data))
        if answer.length is not None and sent != answer.length:
            raise TruncatedAnswer
        await self._send(b"", h11.EndOfMessage())

    async def upgrade(self, key: bytes) -> WebSocket:
        """Accept a request for a WebSocket. Raises BadRequest when it has a body."""
        accept = ("Sec-WebSocket-Accept", accept_of(key).decode())
        return WebSocket(self.wire, await self.switch("websocket", accept))

    async def switch(self, protocol: str, *headers: tuple[str, str]) -> bytes:
        """Accept a switch of protocols; the bytes behind the request. Raises BadRequest if it has a body."""
        async for _ in self.body():
            raise BadRequest("an upgrade request may not have a body")
        named = [("Upgrade", protocol), ("Connection", "Upgrade"), *self._signature(), *headers]
        await self._send(b"", h11.InformationalResponse(status_code=101, headers=named))
        return self._http.trailing_data[0]

    async def refuse(self, error: ShipError, *, signed: bool = True) -> None:
        """Answer with `error`, when an answer has not begun. Not `signed`: without X-Ship-Session."""
        if not signed:
            self._session = None
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self.answer(json_answer(error.status, error.to_wire()))

    async def recycle(self) -> bool:
        """Make ready for the next request; False when the connection is used up."""
        if self._http.our_state is not h11.DONE:
            return False
        if self._http.their_state is h11.SEND_BODY:
            await self._read_rest()
        if self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    async def _read_rest(self) -> None:
        # A client that is still sending sees the answer only when someone reads on; for a while we do.
        read = 0
        async for data in self.body():
            read += len(data)
            if read > _LINGER_BYTES:
                return

    async def _next_event(self) -> h11.Event | None:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                await self._feed()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == 431:
                raise PayloadTooLarge(f"the head is larger than {HEAD_BYTES} bytes") from error
            raise BadRequest("the request is not HTTP/1.1, or ended early") from error
        return event if isinstance(event, h11.Event) else None

    async def _feed(self) -> None:
        if self._http.they_are_waiting_for_100_continue:
            await self._send(b"", h11.InformationalResponse(status_code=100, headers=[]))
        silence_s = _LINGER_S if self._http.our_state is h11.DONE else IDLE_S
        self._http.receive_data(await self.wire.receive(silence_s))

    async def _send(self, before: bytes | None, *events: h11.Event) -> None:
        parts = [before or b"", *(self._http.send(event) or b"" for event in events)]
        data = b"".join(parts)
        if data:
            await self.wire.send(data)

    def _head(self, answer: Answer) -> h11.Response:
        length = len(answer.body) if isinstance(answer.body, bytes) else answer.length
        headers = [("Content-Type", answer.content_type), *answer.headers]
        if length is not None:
            headers.append(("Content-Length", str(length)))
        return h11.Response(status_code=answer.status, headers=[*headers, *self._signature()])

    def _signature(self) -> list[tuple[str, str]]:
        return [] if self._session is None else [(SESSION_HEADER, self._session)]


Reply = Answer | ProtocolSwitch | WebSocketUpgrade
Handler = Callable[[Request], Awaitable[Reply]]


def json_answer(status: int, value: object) -> Answer:
    return Answer(status, encode(value))


def _to_request(event: h11.Request, talk: Conversation) -> Request:
    if len(event.target) + sum(len(name) + len(value) for name, value in event.headers) > HEAD_BYTES:
        raise PayloadTooLarge(f"the head is larger than {HEAD_BYTES} bytes")
    path, _, query = event.target.partition(b"?")
    if not path.startswith(b"/"):
        raise BadRequest("the target of a request must begin with /")
    return Request(
        method=event.method.decode("ascii", "replace"),
        segments=tuple(_unescape(part) for part in path[1:].split(b"/")),
        query=_parse_query(query),
        authorization=_only_header(event, b"authorization"),
        websocket_key=_websocket_key(event),
        protocol=_protocol(event),
        talk=talk,
        is_of_page=any(name == b"origin" for name, _ in event.headers),
    )


def _websocket_key(event: h11.Request) -> bytes | None:
    """RFC 6455, 4.2.1: the key, when all the rest is as it must be."""
    if _protocol(event) != b"websocket" or _only_header(event, b"sec-websocket-version") != b"13":
        return None
    key = _only_header(event, b"sec-websocket-key") or b""
    return key if _WEBSOCKET_KEY.fullmatch(key) else None


def _protocol(event: h11.Request) -> bytes | None:
    """RFC 9110, 7.8: the one that is asked for, when the connection may be changed."""
    connection = {word.strip().lower() for word in (_only_header(event, b"connection") or b"").split(b",")}
    protocol = _only_header(event, b"upgrade") if b"upgrade" in connection else None
    return protocol and protocol.lower()


def _only_header(event: h11.Request, name: bytes) -> bytes | None:
    values = [value for found, value in event.headers if found == name]
    return values[0] if len(values) == 1 else None


def _parse_query(query: bytes) -> dict[str, str]:
    pairs = [pair.partition(b"=") for pair in query.replace(b"+", b" ").split(b"&") if pair]
    return {_unescape(name): _unescape(value) for name, _, value in pairs}


def _unescape(text: bytes) -> str:
    # Other bytes than UTF-8 come through as os.fsencode takes them back.
    decoded = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), text)
    return decoded.decode("utf-8", "surrogateescape")
