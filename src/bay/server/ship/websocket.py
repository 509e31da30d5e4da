"""A WebSocket to a Ship, which may lie: what one message may hold, and how often Ship may ask for an answer.

wsproto knows the protocol. It hands out a message in the parts in which it came, so that this can stop at
the bound; no extension is offered, so nothing is ever unpacked.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from bay.errors import ShipError
from bay.server.ship.connection import Wire
from ship_protocol import FRAGMENTS, MESSAGE_BYTES

_MOST_PINGS_PER_S = 50
_TURN = 64  # frames that are looked at before others get a turn


@dataclass(frozen=True, slots=True)
class Closed:
    """How Ship closed the socket."""

    code: int
    reason: str


class ShipWebSocket:
    """Messages both ways. One task receives; any number may send."""

    def __init__(self, wire: Wire, received: bytes) -> None:
        self._wire = wire
        self._protocol = Connection(ConnectionType.CLIENT, trailing_data=received)
        self._handed_out = 0
        self._pings: list[float] = []

    async def receive(self) -> bytes | str | Closed:
        """The next message. Raises ShipError when the connection broke or Ship sent what it may not."""
        parts = _Parts()
        while True:
            for event in self._protocol.events():
                await self._give_turn()
                if isinstance(event, CloseConnection):
                    return Closed(int(event.code), event.reason or "")
                if (message := await self._take(event, parts)) is not None:
                    return message
            with _broken():
                self._protocol.receive_data(await self._wire.receive())

    async def send(self, message: bytes | str) -> None:
        """Send one message; returns when there is room for more. Raises ShipError when the connection broke."""
        event = TextMessage(message) if isinstance(message, str) else BytesMessage(message)
        with _broken():
            await self._wire.send_raw(self._protocol.send(event))

    async def _take(self, event: Event, parts: "_Parts") -> bytes | str | None:
        if isinstance(event, BytesMessage | TextMessage):
            return parts.add(event)
        if isinstance(event, Ping):
            await self._answer(event)
        elif isinstance(event, Pong):
            raise ShipError("the sandbox's runtime sent an unsolicited pong")
        return None

    async def _answer(self, ping: Ping) -> None:
        now = asyncio.get_running_loop().time()
        self._pings = [*(at for at in self._pings if now - at < 1), now]
        if len(self._pings) > _MOST_PINGS_PER_S:
            raise ShipError("the sandbox's runtime sent too many pings")
        with _broken():
            await self._wire.send_raw(self._protocol.send(ping.response()))

    async def _give_turn(self) -> None:
        # What has been received already is looked at without waiting; a flood of tiny frames would keep others out.
        self._handed_out += 1
        if self._handed_out % _TURN == 0:
            await asyncio.sleep(0)


class _Parts:
    """A message on its way."""

    def __init__(self) -> None:
        self._size = 0
        self._bytes: list[bytes | bytearray] = []
        self._text: list[str] = []

    def add(self, event: BytesMessage | TextMessage) -> bytes | str | None:
        """The whole message once it is there. Raises ShipError above the bounds."""
        self._size += len(event.data)
        if self._size > MESSAGE_BYTES or len(self._bytes) + len(self._text) >= FRAGMENTS:
            raise ShipError(f"the sandbox's runtime sent a message of more than {MESSAGE_BYTES} bytes")
        if isinstance(event, TextMessage):
            self._text.append(event.data)
            return "".join(self._text) if event.message_finished else None
        self._bytes.append(event.data)
        return b"".join(self._bytes) if event.message_finished else None


@contextmanager
def _broken() -> Generator[None]:
    try:
        yield
    except TimeoutError:  # an OSError too, and the caller's
        raise
    except OSError as error:
        raise ShipError("the connection to the sandbox's runtime broke") from error
