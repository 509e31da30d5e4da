"""uvicorn's WebSocket protocol with bounds that it lacks.

uvicorn waits for a slow reader, and for each message to be taken. Bounded here: answers to the pings of a
client that does not read; fragments without content; tiny messages in one read; a closing connection whose
client takes nothing. A client whose input is not taken is not dropped for want of a pong, left unread.
"""

from collections import deque
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from bay.errors import BadRequest
from bay.server.web.connection_limits import ClientConnection
from bay.server.web.uvicorn_http import PLACE, last_answer
from ship_protocol import FRAGMENTS, CloseCode

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveEvent, ASGISendEvent

PING_S = 20.0
"""How often a client is pinged, and how long it has to answer."""

_SLICE = 16 * 1024
_LAST_S = 10.0
_LEAVE_S = 1.0
_NO_REQUEST = (
    "a WebSocket is asked for without a body, by at most 128 headers and lines of at most 8,190 bytes"
)


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """One client's connection, bounded in memory and time."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread: deque[bytes] = deque()
        self._took = False
        """Whether the client took something since the last look."""

    def data_received(self, data: bytes) -> None:
        self._unread.extend(data[at : at + _SLICE] for at in range(0, len(data), _SLICE))
        self._parse()
        if self._unread and not self.read_paused and not self._is_closing():
            self.read_paused = True  # also before it is accepted, where uvicorn takes all that comes
            self.transport.pause_reading()

    async def send(self, message: "ASGISendEvent") -> None:
        await super().send(message)
        if message["type"] == "websocket.accept" and not self.handshake_complete:
            raise ClientDisconnected  # as after it has left, which it is about to
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # refused, which uvicorn would call a defect of the application

    async def receive(self) -> "ASGIReceiveEvent":
        self._parse()
        return await super().receive()

    def _parse(self) -> None:
        """Parse what has come until there is a message for the application; after its last word all of it."""
        while self._unread and (self.queue.empty() or self.close_sent):
            super().data_received(self._unread.popleft())
            if self.conn.handshake_exc is not None and not self.handshake_initiated:
                self._refuse()

    def _refuse(self) -> None:
        """Answer a request that is no WebSocket handshake; uvicorn would leave it open without an answer."""
        self._unread.clear()
        self.close_sent = self.handshake_complete = True
        self.transport.write(last_answer(BadRequest(_NO_REQUEST), self.default_headers))
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        place: ClientConnection | None = self.app_state.get(PLACE)
        if place is not None:
            place.left()

    def handle_ping(self) -> None:
        pongs = b"".join(self.conn.data_to_send())
        if self.writable.is_set():  # a client that does not read gets no pong either
            self.transport.write(pongs)

    def handle_cont(self, event: Frame) -> None:
        if len(self.frames) >= FRAGMENTS:
            self.conn.fail(CloseCode.TOO_LARGE, f"more than {FRAGMENTS} fragments")
            self.handle_parser_exception()
        else:
            super().handle_cont(event)

    def resume_writing(self) -> None:
        self._took = True
        super().resume_writing()

    def send_keepalive_ping(self) -> None:
        if self._is_closing():
            self.loop.call_later(_LAST_S, self.transport.abort)
        else:
            super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        is_waiting = self.read_paused or self._took
        self._took = False
        if is_waiting and not self._is_closing():
            self.send_keepalive_ping()
            return
        super().keepalive_timeout()
        self.loop.call_later(_LAST_S, self.transport.abort)

    def shutdown(self) -> None:
        super().shutdown()
        self.loop.call_later(_LEAVE_S, self.transport.abort)

    def _is_closing(self) -> bool:
        return self.close_sent or self.transport.is_closing()
