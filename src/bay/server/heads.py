"""uvicorn's HTTP with a bound on heads: as it is, a client that nobody knows may send headers, or trailers, without an end, and all are kept."""

from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 64 * 1024
"""Bytes without a byte of a body, or an end. A read's worth more may have come by then."""


class Http(HttpToolsProtocol):
    """One client's connection, whose heads are bounded in memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._since = 0

    def data_received(self, data: bytes) -> None:
        self._since += len(data)
        super().data_received(data)
        if self._since > MOST_HEAD and not self.transport.is_closing():
            self.send_400_response(f"the head of a request has more than {MOST_HEAD} bytes")

    def on_headers_complete(self) -> None:
        self._since = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._since = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._since = 0
        super().on_message_complete()
