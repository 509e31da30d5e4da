"""uvicorn's HTTP with a bound on heads: as it is, a client that nobody knows may send headers, or trailers, without an end, and all are kept.

And trailers are left out (RFC 9110, section 6.5.1): uvicorn has them among the headers, which whoever stands before Bay has looked through.
"""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 64 * 1024
"""Bytes without a byte of a body, or an end. A read's worth more may have come by then."""


class Http(HttpToolsProtocol):
    """One client's connection, whose heads are bounded in memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = 0
        self._has_head = False

    def data_received(self, data: bytes) -> None:
        self._since += len(data)
        super().data_received(data)
        if self._since > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response(f"the head of a request has more than {MOST_HEAD} bytes")

    def on_message_begin(self) -> None:
        self._has_head = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._since = 0
        self._has_head = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._since = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._since = 0
        super().on_message_complete()
