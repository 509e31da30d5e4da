"""The edge middleware runs around every request: id, HTTP checks, authentication, body limit, audit, log.

One ASGI middleware instead of a stack, because the order is the point: nothing is read before its caller is
known, and no failure leaves without the one error shape. A route outside `OPEN_PATHS` and
Bay's pages needs a key, so a new route is closed by default; those below `ADMIN_PATHS` need an admin key,
and changes are audited. A browser that has signed in names its key by a cookie, on Bay's own API alone.
"""

import base64
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog

from bay.errors import BadRequest, BayError, InternalError, NotFound, PayloadTooLarge
from bay.meters import Meters, method_label
from bay.models import KeyScope
from bay.server.web import wire_format
from bay.server.web.audit import READING, Auditor, name_caller
from bay.server.web.auth import Caller, Keys
from bay.server.web.connection_limits import ClientConnection
from bay.server.web.console_cookie import MAX_SIGN_IN_BYTES, SIGN_IN, ConsoleCookies
from bay.server.web.large_bodies import LARGE, LargeBodies
from bay.server.web.page_routes import BELOW, PATHS, is_for_browser
from bay.server.web.replies import AnswerCut, answer_for
from bay.server.web.request_meter import RequestMeter, route_of
from bay.server.web.uvicorn_http import AUTHORITY, PLACE
from bay.server.web.wire_format import WireFormat
from bay.store.audit import AuditedCall, during
from bay.tracing import Span, Tracing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger("bay.http")

OPEN_PATHS = frozenset(
    (
        *("/health", "/health/ready", "/v1/profiles", "/openapi.json", *PATHS),
        # RFC 9728: clients of `/mcp` ask there before they have a key.
        *("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"),
    )
)
ADMIN_PATHS = ("/v1/keys", "/v1/admin", "/v1/replicas", "/metrics")
FOR_READERS = frozenset((SIGN_IN, "/v1/console/codes"))
"""Paths where a key of scope `read` may use every method: they change nothing but a browser's cookie."""
BY_COOKIE = "by_cookie"
"""In the state of a request whose caller was found by the console's cookie."""
_METRICS = "/metrics"
_SCRAPER = Caller(owner="", scope="admin", key_id="")
"""The caller with the token for metrics, of that one path and of no owner. Rejected: a scope of keys, which
every client of keys would have to know; and a listener of its own, as databases have it, which would need TLS
and a firewall of its own too.
"""
_ANY_SIZE = 1 << 63
_BEARER = "bay.bearer."
"""A browser gives a key with a WebSocket by a subprotocol that begins with this."""
SUBPROTOCOL = "bay.v1"
"""The subprotocol that Bay accepts when a client offers it: a browser needs one to be answered."""
_PORT = re.compile(r"/v1/sandboxes/[^/]+/ports/[0-9]+/(?!links$).*", re.DOTALL)
"""Requests to apps, whose bodies are not kept."""
_UPLOAD = re.compile(
    r"/v1/(sandboxes/[^/]+/(filesystem/upload|files/(content|archive)|checkpoints/import)|images/import|"
    r"templates/[^/]+/context)"
)
_STDIN = re.compile(r"/v1/sandboxes/[^/]+/execs/[^/]+/stdin")
_LARGE = re.compile(r"/v1/sandboxes/[^/]+/(filesystem/files|files/edit|execs)")
_CARRYING = frozenset(("POST", "PUT"))
"""The methods of the calls with large bodies; others of the same paths read and remove."""
_WATCH = re.compile(r"/v1/sandboxes/[^/]+/files/watch")
"""A WebSocket that only reads, as which it is counted and audited."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Edge:
    """Wraps the application."""

    def __init__(
        self,
        app: App,
        *,
        keys: Keys,
        cookies: ConsoleCookies,
        auditor: Auditor,
        formats: tuple[WireFormat, ...],
        max_body_bytes: int,
        max_upload_bytes: int,
        meters: Meters,
        metrics_token: str | None = None,
        tracing: Tracing,
    ) -> None:
        self._metrics_token = metrics_token
        self._app = app
        self._meter = RequestMeter(meters)
        self._tracing = tracing
        self._cookies = cookies
        self._formats = formats
        self._keys = keys
        self._auditor = auditor
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes
        self._large_bodies = LargeBodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await self._app(scope, receive, send)
            case _:
                await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = RequestHeaders(scope)
        request_id = request_id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        with self._tracing.request(
            "request", request_id, headers.all("traceparent"), headers.all("tracestate")
        ) as span:
            await self._measured(scope, headers, receive, send, request_id, span)

    async def _measured(
        self,
        scope: Scope,
        headers: "RequestHeaders",
        receive: Receive,
        send: Send,
        request_id: str,
        span: Span,
    ) -> None:
        wire = scope["state"][wire_format.IN_STATE] = wire_format.format_of(self._formats, scope["path"])
        only_reads = _only_reads(scope, wire)
        method = scope.setdefault("method", "GET" if only_reads else "WEBSOCKET")
        path = self._keys.hide(scope["path"])
        call = None if only_reads else self._auditor.begin(method, path, request_id)
        record = _AuditRecord(self._auditor, call, scope)
        answer = _EdgeAnswer(send, request_id, on_accepted=record.end)
        if scope["type"] == "websocket":
            receive = answer.hearing(receive)
        started = self._meter.begin()
        try:
            with during(call):
                await self._answer(scope, headers, receive, answer, call, path)
        finally:
            record.end(answer)
            took_s = self._meter.end(scope, started, answer.status, answer.closed, answer.error_code(scope))
            _describe(span, scope, method, path, answer)
        log.info("http.request", method=method, path=path, status=answer.status, ms=round(took_s * 1000, 1))

    async def _answer(
        self,
        scope: Scope,
        headers: "RequestHeaders",
        receive: Receive,
        answer: "_EdgeAnswer",
        call: AuditedCall | None,
        path: str,
    ) -> None:
        """Have the application answer, or answer with the error that it or the edge raised."""
        try:
            limited = self._admit(scope, headers, receive, call)
            await self._app(scope, limited, answer)
        except BayError as error:
            await answer.fail(scope, receive, error)
        except Exception as error:
            if isinstance(
                error.__cause__, BayError
            ):  # the framework's word for one that came after the answer began
                await answer.fail(scope, receive, error.__cause__)
                return
            log.exception("http.defect", method=scope["method"], path=path)
            await answer.fail(scope, receive, InternalError("Bay failed on an internal error; see its log"))

    def _admit(
        self, scope: Scope, headers: "RequestHeaders", receive: Receive, call: AuditedCall | None
    ) -> Receive:
        """Check the head of the request and name its caller; returns the body, limited."""
        check_framing(scope, headers)
        if (caller := self._caller_of(scope, headers)) is not None:
            name_caller(call, caller)
            caller.require(_needed(scope))  # before a byte of the body is read
            scope["state"]["caller"] = caller
            belongs_to(scope, caller.owner)
        if scope["type"] == "websocket":
            return receive  # its messages are bounded where they are parsed
        limit = self._limit_of(scope)
        length = headers.one("content-length")
        if length is not None and int(length) > limit:
            raise _too_large(limit)
        limited = _limited(receive, limit)
        if (
            limit <= LARGE
            or not _LARGE.fullmatch(scope["path"])
            or (length is not None and int(length) <= LARGE)
        ):
            return limited
        return self._large_bodies.of(scope["state"]["caller"].owner, limited)

    def _caller_of(self, scope: Scope, headers: "RequestHeaders") -> Caller | None:
        """The caller; None where none is needed. Raises Unauthorized."""
        if (wire := wire_format.in_scope(scope)) is not None:
            return wire.authenticate(self._keys, scope, headers)
        if scope["path"] in OPEN_PATHS or scope["path"].startswith(BELOW) or _is_home(scope, headers):
            return None
        given = headers.one("authorization") or bearer_of(scope)
        if self._is_scrape(scope, given):
            return _SCRAPER
        # A browser that sends both means the key: a cookie never makes up for a wrong one.
        if given is None and headers.one("authorization") is None:
            if scope["path"] == SIGN_IN and scope["method"] in ("POST", "DELETE"):
                return self._cookies.caller_of_sign_in(scope, headers)
            if (caller := self._cookies.caller(scope, headers)) is not None:
                scope["state"][BY_COOKIE] = True
                return caller
        return self._keys.authenticate(given)

    def _is_scrape(self, scope: Scope, given: str | None) -> bool:
        if self._metrics_token is None or scope["path"] != _METRICS or given is None:
            return False
        return hmac.compare_digest(given.encode(), f"Bearer {self._metrics_token}".encode())

    def _limit_of(self, scope: Scope) -> int:
        """Bytes the body may have: JSON costs a multiple to parse, so only what carries files is large."""
        # By the whole path: the last part of another may be a name that a user chose.
        path: str = scope["path"]
        if (wire := wire_format.in_scope(scope)) is not None:
            return self._foreign_limit(wire, path)
        if path == SIGN_IN:
            return MAX_SIGN_IN_BYTES
        if _PORT.fullmatch(path):
            return _ANY_SIZE  # a streamed body is not kept: it is read as fast as it is taken inside
        if scope["method"] not in _CARRYING:
            return min(LARGE, self._max_body_bytes)
        if _UPLOAD.fullmatch(path):
            return self._max_upload_bytes
        if _STDIN.fullmatch(path):
            return _ANY_SIZE
        large = _LARGE.fullmatch(path)
        return self._max_body_bytes if large else min(LARGE, self._max_body_bytes)

    def _foreign_limit(self, wire: WireFormat, path: str) -> int:
        if wire.streams is not None and wire.streams.fullmatch(path):
            return _ANY_SIZE
        if wire.uploads is not None and wire.uploads.fullmatch(path):
            return self._max_upload_bytes
        return min(LARGE, self._max_body_bytes)


class RequestHeaders:
    """The request's headers by lower-case name."""

    def __init__(self, scope: Scope) -> None:
        self._pairs: list[tuple[bytes, bytes]] = scope["headers"]

    def all(self, name: str) -> list[str]:
        """The values of a header, by its lower-case name."""
        wanted = name.encode("latin-1")
        return [value.decode("latin-1") for key, value in self._pairs if key == wanted]

    def one(self, name: str) -> str | None:
        """The header's value; a header that came twice is refused, since two readers may read two things."""
        values = self.all(name)
        if len(values) > 1:
            raise BadRequest(f"the header {name} came {len(values)} times; send it once")
        return values[0] if values else None


def _is_home(scope: Scope, headers: RequestHeaders) -> bool:
    """Whether it is a browser that was pointed to Bay by its bare address."""
    return (
        scope["path"] == "/" and scope["method"] == "GET" and is_for_browser(",".join(headers.all("accept")))
    )


def belongs_to(scope: Scope, owner: str) -> None:
    """Have the request's connection stand in that owner's name. Raises QuotaExceeded when it has too many."""
    place: ClientConnection | None = scope.get("state", {}).get(PLACE)
    if place is not None:
        place.belongs_to(owner)


def _only_reads(scope: Scope, wire: WireFormat | None) -> bool:
    """Whether a call that could change something by its method or WebSocket changes nothing."""
    if wire is not None:
        return wire.only_reads(scope["path"])
    return scope["type"] == "websocket" and _WATCH.fullmatch(scope["path"]) is not None


def _needed(scope: Scope) -> KeyScope:
    """The least scope that any route of this path and method may ask for; routes ask again themselves."""
    path: str = scope["path"]
    if any(path == above or path.startswith(f"{above}/") for above in ADMIN_PATHS):
        return "admin"
    if path in FOR_READERS or scope["method"] in READING or _only_reads(scope, wire_format.in_scope(scope)):
        return "read"
    return "write"


def bearer_of(scope: Scope) -> str | None:
    """The key of a browser's WebSocket, which cannot set headers, in the form of an Authorization header."""
    given = [p.removeprefix(_BEARER) for p in scope.get("subprotocols", ()) if p.startswith(_BEARER)]
    if not given:
        return None
    try:
        encoded = given[0].encode("ascii")
        return (
            f"Bearer {base64.b64decode(encoded + b'=' * (-len(encoded) % 4), b'-_', validate=True).decode()}"
        )
    except ValueError:  # also binascii's own, and text that is no text
        return "Bearer"


def check_framing(scope: Scope, headers: RequestHeaders) -> None:
    """Require exactly one Host and one way to say where the body ends; else raises BadRequest."""
    host = headers.one("host")
    if host is None:
        raise BadRequest("the request has no Host header")
    named = scope.get("state", {}).get(AUTHORITY)
    if named is not None and named.lower() != host.lower().removesuffix(":80"):
        raise BadRequest(
            f"the request line names {named}, and the Host header {host}; send the same host in both"
        )
    length, codings = headers.one("content-length"), headers.all("transfer-encoding")
    if length is not None and codings:
        raise BadRequest("a request may have Content-Length or Transfer-Encoding, not both")
    if length is not None and not (length.isascii() and length.isdigit() and len(length) < 19):
        raise BadRequest("Content-Length is not a number")
    _check_version(scope, codings)


def _check_version(scope: Scope, codings: list[str]) -> None:
    version = scope.get("http_version", "1.1")
    if version not in ("1.0", "1.1"):
        raise BadRequest(f"HTTP/{version} is not supported; use HTTP/1.1")
    if codings and (version == "1.0" or [coding.lower() for coding in codings] != ["chunked"]):
        raise BadRequest("Transfer-Encoding may only be chunked, and only in HTTP/1.1")


def _limited(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def next_message() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_large(limit)
        return message

    return next_message


class _AuditRecord:
    """Writes the audit's row of one call once: when it is answered, or its WebSocket accepted."""

    def __init__(self, auditor: Auditor, call: AuditedCall | None, scope: Scope) -> None:
        self._auditor = auditor
        self._call = call
        self._scope = scope
        self._is_written = False

    def end(self, answer: "_EdgeAnswer") -> None:
        if self._call is None or self._is_written:
            return
        self._is_written = self._call.over = True
        code = answer.error_code(self._scope)
        self._auditor.end(self._call, answer.status, code, self._scope.get("path_params", {}))


class _EdgeAnswer:
    """Sends the application's answer on, with the request id, and knows whether it has begun."""

    def __init__(self, send: Send, request_id: str, *, on_accepted: Callable[["_EdgeAnswer"], None]) -> None:
        self._send = send
        self._on_accepted = on_accepted
        self.request_id = request_id
        self.status: int | None = None
        self.code: str | None = None
        """The code of the error that it failed or was cut with."""
        self.closed: int | None = None
        """The code by which Bay or the client closed the WebSocket, whoever was first."""

    def error_code(self, scope: Scope) -> str | None:
        """The code of the request's error, whoever answered with it."""
        return self.code or scope["state"].get("error_code")

    def hearing(self, receive: Receive) -> Receive:
        """The client's messages of a WebSocket, of which the last has the code of its close."""

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect" and self.closed is None:
                self.closed = message.get("code")
            return message

        return heard

    async def __call__(self, message: Message) -> None:
        kind: str = message["type"]
        if kind == "websocket.close":
            if self.status is None:  # as the framework says it
                raise NotFound("there is no WebSocket at this path; see the API docs")
            self.closed = self.closed or message.get("code")
        if kind.endswith(("response.start", "accept")):
            self.status = message.get("status", 101)
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)
        if kind == "websocket.accept":
            self._on_accepted(self)

    async def fail(self, scope: Scope, receive: Receive, error: BayError) -> None:
        """Answer with `error`; an answer that has begun is aborted, so that no client takes it for whole."""
        self.code = error.code
        if self.status is None:
            await answer_for(scope, error, self.request_id)(scope, receive, self)
            return
        log.warning("http.cut", code=error.code, error=error.message)
        raise AnswerCut(error.message) from error


def _describe(span: Span, scope: Scope, method: str, path: str, answer: _EdgeAnswer) -> None:
    """Name a request's span by its route, as the metrics do, with the outcome."""
    route = route_of(scope)
    span.rename(f"{method_label(method)} {route}")
    span.note({"http.request.method": method, "http.route": route, "url.path": path})
    if answer.status is not None:
        span.note({"http.response.status_code": answer.status})
    if (code := answer.error_code(scope)) is not None:
        span.fail(code)


def request_id_of(headers: RequestHeaders) -> str:
    """The id that the client gave, if it may be one, or a new one."""
    given = headers.all("x-request-id")
    if len(given) == 1 and _REQUEST_ID.fullmatch(given[0]):
        return given[0]
    return f"req-{secrets.token_hex(8)}"


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body has more than {limit} bytes, the limit of this call")
