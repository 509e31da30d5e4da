"""The WebSocket client of an app in a sandbox: its handshake, and its bounds."""

import asyncio
from functools import partial

from websockets.client import ClientProtocol
from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import InvalidStatus
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from bay.errors import PortClosed
from bay.server.ports.app_http import Opened
from bay.server.ports.headers import Headers
from bay.server.ship.websocket import ClientWebSocket, Closed
from ship_protocol import CloseCode

MESSAGE_BYTES = 4 << 20
"""Bytes of a message from an app; the server's own limit bounds messages of clients."""

_READ_BYTES = 16 * 1024
_GOODBYE_S = 2.0
_WITHOUT_A_WORD = (CloseCode.NO_STATUS, CloseCode.ABNORMAL)
_ANYWHERE = WebSocketURI(False, "app", 80, "/", "", None, None)  # the request is made by the caller


class AppSocket(ClientWebSocket):
    """A WebSocket client of an app. Errors of the connection are OSErrors, but for `receive`."""

    def __init__(self, opened: Opened, protocols: list[str]) -> None:
        self._port = opened.port
        offered = [Subprotocol(name) for name in protocols]
        self._client = ClientProtocol(_ANYWHERE, subprotocols=offered or None, max_size=MESSAGE_BYTES)
        self._cookies: list[str] = []
        super().__init__(self._client, partial(opened.stream.read, _READ_BYTES), opened.stream.write)

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol that the app chose of those offered."""
        return self._client.subprotocol

    @property
    def cookies(self) -> Headers:
        """The cookies that the app set as it opened."""
        return [(b"set-cookie", value.encode("latin-1")) for value in self._cookies]

    async def open(self, target: bytes, headers: Headers) -> Response | None:
        """Shake hands. None when it is open, else what the app answered instead. Raises PortClosed."""
        asked = self._client.connect()
        given = WireHeaders()
        for name, value in headers:
            given[name.decode("latin-1")] = value.decode("latin-1")
        for name, value in asked.headers.raw_items():
            if name != "Host":
                given[name] = value
        self._client.send_request(Request(target.decode("ascii"), given))
        try:
            await self._flush()
            while not self._events and self._client.handshake_exc is None:
                await self._parse()
        except ConnectionError as error:
            raise self._broken() from error
        return self._opened()

    async def receive(self) -> bytes | str | Closed:
        """The next message, or last how the app closed; ABNORMAL when its connection broke."""
        try:
            return await super().receive()
        except ConnectionError:
            return Closed(CloseCode.ABNORMAL)

    async def close(self, closed: Closed) -> None:
        """Close it as the client did, if that can be said to the app within a moment."""
        if self._protocol.state is not State.OPEN or closed.code == CloseCode.ABNORMAL:
            return
        if closed.code in _WITHOUT_A_WORD:
            self._protocol.send_close()
        else:
            self._protocol.send_close(closed.code, closed.reason)
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._flush()
                while self._protocol.close_rcvd is None and self._protocol.parser_exc is None:
                    await self._parse()
                    self._events.clear()
        except (TimeoutError, ConnectionError):
            return

    def _opened(self) -> Response | None:
        response = self._events.popleft() if self._events else None
        failed = self._client.handshake_exc
        if failed is None and isinstance(response, Response):
            self._cookies = response.headers.get_all("Set-Cookie")
            return None
        if (
            isinstance(failed, InvalidStatus)
            and isinstance(response, Response)
            and response.status_code >= 200
        ):
            return response
        raise self._broken() from failed

    def _failed(self) -> Closed:
        sent = self._protocol.close_sent
        return Closed(sent.code, sent.reason) if sent else Closed(CloseCode.ABNORMAL)

    def _broken(self) -> PortClosed:
        return PortClosed(f"the program that listens on port {self._port} did not answer as a WebSocket")
