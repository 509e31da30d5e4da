"""uvicorn's HTTP protocol, which alone keeps strangers' endless headers and silent connections, with bounds.

Trailers are dropped (RFC 9110, 6.5.1): uvicorn puts them among headers, which a proxy has checked already.
"""

import secrets
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from bay.errors import BadRequest, BayError, RequestTimeout
from bay.server.web.connection_limits import ClientConnection, Connections
from bay.server.web.replies import error_response

MAX_HEAD = 64 * 1024
"""Bytes without a byte of a body, or an end. A read's worth more may have come by then."""

PLACE = "connection"
"""Under which the application's state has the connection that a request came by."""

AUTHORITY = "authority"
"""Under which it has the host that a request's first line names, where that is a whole URL."""


class Http(HttpToolsProtocol):
    """One client's connection, whose heads are bounded in memory, and which has a place among all."""

    crowd: ClassVar[Connections]
    _place: ClientConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = 0
        self._body_bytes = 0
        self._has_head = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._place = self.crowd.join(self, self.client[0] if self.client else "")
        self.app_state = {**self.app_state, PLACE: self._place}

    def connection_lost(self, exc: Exception | None) -> None:
        self._place.left()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._since += len(data)
        super().data_received(data)
        if self._since > MAX_HEAD and not self.transport.is_closing():
            self.send_400_response(
                f"the head of a request has more than {MAX_HEAD} bytes; send a shorter one"
            )

    def on_message_begin(self) -> None:
        self._has_head = False
        if self._is_between():
            self._place.began()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._since = 0
        self._has_head = True
        if self._is_between():
            self._place.asked()
        if not self.url.startswith(b"/"):
            self.scope.setdefault("state", {})[AUTHORITY] = _authority_of(self.url)
        super().on_headers_complete()

    def handle_websocket_upgrade(self) -> None:
        if self.url.startswith(b"/") and self.scope["http_version"] == "1.1":
            super().handle_websocket_upgrade()
        else:
            self._refuse(BadRequest("a WebSocket is asked for by a path and HTTP/1.1"))

    def on_body(self, body: bytes) -> None:
        self._since = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._since = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_between():
            self._place.answered()
        else:
            self._place.asked()  # the next request had come already

    def owed(self) -> int | None:
        """Bytes of the body so far, while it is the client's turn to send more of it; else None."""
        cycle = self.cycle
        if self._is_between() or cycle.response_started or not cycle.more_body:
            return None
        return None if cycle.waiting_for_100_continue or self.flow.read_paused else self._body_bytes

    def turn_away(self, error: RequestTimeout) -> None:
        """Close the connection; a client that has sent part of a request gets the reason."""
        if self._since or self.owed() is not None:
            self._refuse(error)
        else:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, as uvicorn calls it, too."""
        self._refuse(BadRequest(msg))

    def _is_between(self) -> bool:
        return self.cycle is None or self.cycle.response_complete  # pyright: ignore[reportUnnecessaryComparison]

    def _refuse(self, error: BayError) -> None:
        if self._is_between() or not self.cycle.response_started:
            self.transport.write(last_answer(error, self.server_state.default_headers))
        self.transport.close()
        if not self._is_between():
            self.cycle.disconnected = True  # nothing that is said now would be read as the answer
            self.cycle.message_event.set()


def http_among(connections: Connections) -> type[Http]:
    """The protocol of the clients that stand among `connections`."""
    return type("Http", (Http,), {"crowd": connections})


def last_answer(error: BayError, default_headers: list[tuple[bytes, bytes]]) -> bytes:
    """The answer to what is no request, after which the connection is closed."""
    request_id = f"req-{secrets.token_hex(8)}"
    answer = error_response(error, request_id)
    headers = [*default_headers, *answer.raw_headers, (b"x-request-id", request_id.encode())]
    lines = b"".join(b"%s: %s\r\n" % pair for pair in headers)
    return STATUS_LINE[error.status] + lines + b"connection: close\r\n\r\n" + bytes(answer.body)


def _authority_of(url: bytes) -> str:
    """Host and port of a URL, as a Host header names them; the port is left out where it is 80."""
    parsed = httptools.parse_url(url)
    host = (parsed.host or b"").decode("latin-1")
    named = f"[{host}]" if ":" in host else host
    return named if parsed.port in (None, 80) else f"{named}:{parsed.port}"
