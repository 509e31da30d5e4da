"""A WebSocket to an app in a sandbox. `websockets` knows the protocol; no extension is offered, so nothing is ever unpacked."""

import asyncio
from collections import deque
from dataclasses import dataclass

from websockets.client import ClientProtocol
from websockets.datastructures import Headers as WireHeaders
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from bay.errors import PortClosed
from bay.server.ports.app_http import Opened
from bay.server.ports.headers import Headers
from ship_protocol import FRAGMENTS, CloseCode

MESSAGE_BYTES = 4 << 20
"""Bytes of a message from an app; what comes from a client is bounded by the server's own limit."""

_READ_BYTES = 16 * 1024  # a read may be thousands of tiny frames, which are parsed without a pause
_TURN = 64  # frames that are looked at before others get a turn
_GOODBYE_S = 2.0
_WITHOUT_A_WORD = (CloseCode.NO_STATUS, CloseCode.ABNORMAL)
_ANYWHERE = WebSocketURI(False, "app", 80, "/", "", None, None)  # the request is made by the caller


@dataclass(frozen=True, slots=True)
class Closed:
    """How a WebSocket was closed; code 1005 says nothing, and 1006 that it broke."""

    code: int
    reason: str = ""


class AppSocket:
    """Messages both ways. One task receives; others may send."""

    def __init__(self, opened: Opened, protocols: list[str]) -> None:
        self._port = opened.port
        self._stream = opened.stream
        offered = [Subprotocol(name) for name in protocols]
        self._protocol = ClientProtocol(_ANYWHERE, subprotocols=offered or None, max_size=MESSAGE_BYTES)
        self._events: deque[Frame | Response] = deque()
        self._looked_at = 0
        self._cookies: list[str] = []
        self._sending = asyncio.Lock()  # a pong must not get between the pieces of a message
        self._fragments: list[bytes] = []
        self._is_text = False

    @property
    def subprotocol(self) -> str | None:
        """What the app chose of the subprotocols that were offered."""
        return self._protocol.subprotocol

    @property
    def cookies(self) -> Headers:
        """The cookies that the app set as it opened."""
        return [(b"set-cookie", value.encode("latin-1")) for value in self._cookies]

    async def open(self, target: bytes, headers: Headers) -> Response | None:
        """Shake hands. None when it is open, else what the app answered instead. Raises PortClosed."""
        asked = self._protocol.connect()
        given = WireHeaders()
        for name, value in headers:
            given[name.decode("latin-1")] = value.decode("latin-1")
        for name, value in asked.headers.raw_items():
            if name != "Host":
                given[name] = value
        self._protocol.send_request(Request(target.decode("ascii"), given))
        try:
            await self._flush()
            while not self._events and self._protocol.handshake_exc is None:
                await self._read()
        except ConnectionError as error:
            raise self._broken() from error
        return self._opened()

    async def receive(self) -> bytes | str | Closed:
        """The next message, or how the app closed it. Nothing comes after that."""
        while True:
            while self._events:
                event = self._events.popleft()
                await self._give_turn()
                if isinstance(event, Frame) and (message := self._take(event)) is not None:
                    return message
            if self._protocol.close_rcvd is not None:
                return Closed(self._protocol.close_rcvd.code, self._protocol.close_rcvd.reason)
            if self._protocol.parser_exc is not None or self._protocol.state is State.CLOSED:
                sent = self._protocol.close_sent
                return Closed(sent.code, sent.reason) if sent else Closed(CloseCode.ABNORMAL)
            try:
                await self._read()
            except ConnectionError:
                return Closed(CloseCode.ABNORMAL)

    async def send(self, message: bytes | str) -> None:
        """Send a message, as fast as the app takes it. What is sent to one that has closed goes nowhere."""
        if self._protocol.state is not State.OPEN:
            return
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        await self._flush()

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
                    await self._read()
                    self._events.clear()
        except (TimeoutError, ConnectionError):
            return

    async def _give_turn(self) -> None:
        self._looked_at += 1
        if self._looked_at % _TURN == 0:
            await asyncio.sleep(0)

    def _opened(self) -> Response | None:
        response = self._events.popleft() if self._events else None
        failed = self._protocol.handshake_exc
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

    async def _read(self) -> None:
        data = await self._stream.read(_READ_BYTES)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._events += (e for e in self._protocol.events_received() if isinstance(e, Frame | Response))
        await self._flush()
        if not data and self._protocol.state is State.CONNECTING:
            raise ConnectionResetError("the program closed the connection")

    async def _flush(self) -> None:
        async with self._sending:
            data = b"".join(self._protocol.data_to_send())
            if data:
                await self._stream.write(data)

    def _take(self, frame: Frame) -> bytes | str | Closed | None:
        """The whole message once it is there."""
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return None
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        self._fragments.append(bytes(frame.data))
        if len(self._fragments) > FRAGMENTS:
            return self._fail(CloseCode.TOO_LARGE, f"more than {FRAGMENTS} fragments")
        if not frame.fin:
            return None
        whole, self._fragments = b"".join(self._fragments), []
        if not self._is_text:
            return whole
        try:
            return whole.decode()
        except UnicodeDecodeError:
            return self._fail(CloseCode.INVALID_DATA, "a text that is not UTF-8")

    def _fail(self, code: CloseCode, reason: str) -> Closed:
        self._protocol.fail(code, reason)
        return Closed(code, reason)

    def _broken(self) -> PortClosed:
        return PortClosed(f"the program that listens on port {self._port} did not answer as a WebSocket")
