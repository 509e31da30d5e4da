"""The WebSocket client of sandboxes, which may lie: a base class, Ship's, and that of an exec's attachment.

`websockets` parses and frames. No extension is offered, so nothing is ever unpacked.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, Event, Protocol, State

from bay.errors import BadRequest, BayError, Conflict, OutputGone, PayloadTooLarge, QuotaExceeded, ShipError
from bay.server.ship.answers import AttachReply, Exit, OutputEnd, parse
from bay.server.ship.connection import Wire
from bay.token_bucket import TokenBucket
from ship_protocol import FRAGMENTS, LEAVE, MESSAGE_BYTES, STDERR, STDOUT, CloseCode, first_offset_in

_SLICE_BYTES = 16 * 1024  # parsed without a pause: it may be thousands of tiny frames
_TURN = 64  # frames that are handed out before others get a turn
_MAX_PINGS_PER_S = 50
_REFUSALS: dict[int, type[BayError]] = {
    CloseCode.TOO_LARGE: PayloadTooLarge,
    CloseCode.BAD_MESSAGE: BadRequest,
    CloseCode.CONFLICT: Conflict,
    CloseCode.TOO_MANY: QuotaExceeded,
}


@dataclass(frozen=True, slots=True)
class Closed:
    """The code and reason with which the peer closed a WebSocket; NO_STATUS and ABNORMAL are never sent."""

    code: int
    reason: str = ""


class ClientWebSocket(ABC):
    """A client sends and receives messages over a connection. One task may receive; any number may send.
    `read` returns the next bytes, none at the end; `write` returns once there is room for more.
    """

    def __init__(
        self,
        protocol: Protocol,
        read: Callable[[], Awaitable[bytes]],
        write: Callable[[bytes], Awaitable[None]],
        received: bytes = b"",
    ) -> None:
        self._protocol = protocol
        self._read = read
        self._write = write
        self._unparsed = received
        self._parsed = 0
        """Bytes of `_unparsed` that the parser has."""
        self._events: deque[Event] = deque()
        self._handed_out = 0
        self._sending = asyncio.Lock()  # a pong must not get between the pieces of a message
        self._fragments: list[bytes] = []
        self._is_text = False

    async def receive(self) -> bytes | str | Closed:
        """The next message, or how the peer closed. Nothing comes after that. Raises OSError."""
        while True:
            while self._events:
                event = self._events.popleft()
                await self._give_turn()
                if isinstance(event, Frame) and (message := self._take(event)) is not None:
                    return message
            if (closed := self._protocol.close_rcvd) is not None:
                return Closed(closed.code, closed.reason)
            if self._protocol.parser_exc is not None or self._protocol.state is State.CLOSED:
                return self._failed()
            await self._parse()

    async def send(self, message: bytes | str) -> None:
        """Send one message, as fast as the peer takes it. After its close it goes nowhere. Raises OSError."""
        if self._protocol.state is not State.OPEN:
            return
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        await self._flush()

    async def send_close(self) -> None:
        """Begin to close it: what was sent before arrives before that. `receive` goes on. Raises OSError."""
        self._protocol.send_close(CloseCode.NORMAL)
        await self._flush()

    @abstractmethod
    def _failed(self) -> Closed:
        """The peer broke the protocol, or a bound of this module: `receive` returns or raises it."""

    async def _parse(self) -> None:
        """Parse the next slice of what came, and answer pings and a close."""
        if self._parsed >= len(self._unparsed):
            self._unparsed, self._parsed = await self._read(), 0
        if data := self._unparsed[self._parsed : self._parsed + _SLICE_BYTES]:
            self._parsed += len(data)
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._events += self._protocol.events_received()
        try:
            await self._flush()
        except ConnectionError:
            if self._protocol.close_rcvd is None:  # else the peer has left after its last word
                raise

    async def _flush(self) -> None:
        if data := b"".join(self._protocol.data_to_send()):
            async with self._sending:
                await self._write(data)

    async def _give_turn(self) -> None:
        self._handed_out += 1
        if self._handed_out % _TURN == 0:
            await asyncio.sleep(0)

    def _take(self, frame: Frame) -> bytes | str | Closed | None:
        """The whole message once it is there."""
        if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            return None  # the parser has answered it
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
        return self._failed()


class ShipWebSocket(ClientWebSocket):
    """Bay's WebSocket to a Ship. Errors are ShipError, and TimeoutError of the wire's deadline."""

    def __init__(self, wire: Wire, received: bytes) -> None:
        protocol = Protocol(CLIENT, state=State.OPEN, max_size=MESSAGE_BYTES)
        super().__init__(protocol, wire.receive, wire.send_raw, received)
        self._pings = TokenBucket(_MAX_PINGS_PER_S, _MAX_PINGS_PER_S)

    async def receive(self) -> bytes | str | Closed:
        """The next message, or how Ship closed. Raises ShipError when Ship broke off, or broke a bound."""
        with _broken():
            return await super().receive()

    async def send(self, message: bytes | str) -> None:
        """Send one message; returns when there is room for more. Raises ShipError when Ship broke off."""
        with _broken():
            await super().send(message)

    async def send_close(self) -> None:
        """Begin to close it. Raises ShipError when Ship broke off."""
        with _broken():
            await super().send_close()

    def _failed(self) -> NoReturn:
        if isinstance(self._protocol.parser_exc, PayloadTooBig):
            raise ShipError(f"the sandbox's runtime sent a message of more than {MESSAGE_BYTES} bytes")
        raise ShipError("the sandbox's runtime broke the WebSocket protocol")

    def _take(self, frame: Frame) -> bytes | str | Closed | None:
        if frame.opcode is Opcode.PONG:
            raise ShipError("the sandbox's runtime sent an unsolicited pong")
        if frame.opcode is Opcode.PING and not self._pings.take():
            raise ShipError("the sandbox's runtime sent too many pings")
        return super()._take(frame)


class Attachment:
    """Bay's attachment to an exec, its output and its input. `frames` begin at byte `next_offset`.

    Ship asks it to leave for a save in gVisor. It closes its connection then, Ship says that the program has
    all of its input, and `connect` attaches again at the next byte. Its caller notices nothing.
    """

    def __init__(
        self, socket: ShipWebSocket, attached: AttachReply, connect: Callable[[int], Awaitable[ShipWebSocket]]
    ) -> None:
        self.exec = attached.exec.to_exec()
        self.next_offset = attached.next_offset
        self._socket = socket
        self._connect = connect
        self._takes_input = asyncio.Event()
        self._takes_input.set()
        self._is_broken = False

    async def frames(self) -> AsyncGenerator[bytes | OutputEnd, None]:
        """Binary frames as they come, marker included, and an OutputEnd at last. One task may read. A frozen
        sandbox is silent. Raises ShipError when the sandbox's side broke, OutputGone when this reader fell
        behind the ring, and for input: Conflict when stdin is closed, BadRequest, PayloadTooLarge or
        QuotaExceeded when Ship refused it. The process lives on.
        """
        offset = self.next_offset
        while True:
            message = await self._socket.receive()
            if isinstance(message, Closed):
                raise _refusal_of(message)
            if message == LEAVE:
                await self._attach_again(offset)
            elif isinstance(message, str):
                yield parse(Exit, message.encode()).to_end()
                return
            elif message[:1] in (STDOUT, STDERR):
                offset += len(message) - 1
                yield message
            else:
                raise ShipError("the sandbox's runtime sent a frame of an unknown kind")

    async def send(self, frame: bytes) -> None:
        """Send one binary frame, marker included; returns when there is room for more. It waits for `frames`
        while these attach again. Raises ShipError.
        """
        await (await self._open_socket()).send(frame)

    async def send_json(self, message: Mapping[str, Any]) -> None:
        """Send a control message, as `send` does."""
        await (await self._open_socket()).send(json.dumps(message))

    async def _open_socket(self) -> ShipWebSocket:
        while not self._takes_input.is_set():  # it may be cleared again before a waiter has its turn
            await self._takes_input.wait()
        if self._is_broken:
            raise ShipError("the connection to the sandbox's runtime broke")
        return self._socket

    async def _attach_again(self, offset: int) -> None:
        """Nothing is sent from before the close until there is another connection."""
        self._takes_input.clear()
        self._is_broken = True
        try:
            await self._socket.send_close()
            closed = await self._socket.receive()
            if not isinstance(closed, Closed):
                raise ShipError("the sandbox's runtime went on after it had asked to leave")
            if closed.code != CloseCode.SERVICE_RESTART:
                raise _refusal_of(closed)
            self._socket = await self._connect(offset)
            self._is_broken = False
        finally:
            self._takes_input.set()


async def read_attached(socket: ShipWebSocket, exec_id: str) -> AttachReply:
    """The first message of an attachment. Raises ShipError when it is none, or of another exec, and
    OutputGone when the ring has let go of the first byte since the call was checked.
    """
    first = await socket.receive()
    if isinstance(first, Closed) and first.code == CloseCode.OUTPUT_GONE:
        raise _refusal_of(first)
    if not isinstance(first, str):
        raise ShipError("the sandbox's runtime did not name the exec it attached to")
    attached = parse(AttachReply, first.encode())
    if attached.exec.id != exec_id:
        raise ShipError("the sandbox's runtime attached to another exec")
    return attached


def _refusal_of(closed: Closed) -> BayError:
    if closed.code == CloseCode.OUTPUT_GONE and (offset := first_offset_in(closed.reason)) is not None:
        message = "this reader fell behind the output buffer; continue from first_offset"
        return OutputGone(message, details={"first_offset": offset})
    refusal = _REFUSALS.get(closed.code, ShipError)
    return refusal(closed.reason or f"the sandbox's runtime ended the attachment ({closed.code})")


@contextmanager
def _broken() -> Generator[None]:
    try:
        yield
    except TimeoutError:  # an OSError too, and the caller's
        raise
    except OSError as error:
        raise ShipError("the connection to the sandbox's runtime broke") from error
