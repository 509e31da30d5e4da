"""Relays a session to a client of Sprites: frames of streams without a terminal, bytes with one.

All output goes before the end, which is told before the connection is closed. A client hears something at
least every `SILENCE_S` seconds, since it takes a longer silence for a dead connection.
"""

import asyncio
import shlex
from contextlib import suppress
from typing import Any, Never

from starlette.websockets import WebSocket

from bay.errors import BayError, InvalidArgument, NotFound, ShipError, Timeout
from bay.models import Exec
from bay.server.compat.sprites.exec_service import FAILED, SpriteSession, exit_code
from bay.server.compat.sprites.port_messages import PORT_LIST, port_messages
from bay.server.execs.attachments import MAX_CONTROL, Attached, Resize, Signal, parse_control
from bay.server.ship.client import OutputEnd
from bay.server.web.concurrency import first
from bay.server.web.websocket_close import Goodbye, pump, send_json
from bay.token_bucket import TokenBucket
from ship_protocol import CONTROLS_PER_S, END_OF_STDIN, MESSAGE_BYTES, STDERR, STDIN, CloseCode

SILENCE_S = 15.0
_EXIT = b"\3"
_FRAME_BYTES = 32 << 10
_INPUT_BYTES = MESSAGE_BYTES // 2
_VERDICT_S = 5.0
_PRIVATE_CODES = 4000
"""RFC 6455, section 7.4.2: from here on a close code means what both sides say."""


async def relay(socket: WebSocket, session: SpriteSession, silence_s: float = SILENCE_S) -> None:
    """Serve an accepted WebSocket to its end. The session lives on, unless that is its end."""
    voice = _Voice(socket, silence_s)
    down = first(_give(voice, session), voice.beat(), _give_ports(voice, session))
    await pump(socket, down, _Listener(socket, session).listen(), session.must_leave())


class _Voice:
    """The frames for the client."""

    def __init__(self, socket: WebSocket, silence_s: float) -> None:
        self._socket = socket
        self._silence_s = silence_s
        self._spoke = asyncio.Event()
        self.has_begun = asyncio.Event()
        self.tty = False

    async def begin(self, item: Exec) -> None:
        """Say which session it is."""
        self.tty = item.tty
        await self.tell(session_info(item))
        self.has_begun.set()

    async def tell(self, message: object) -> None:
        """Send a notification."""
        self._spoke.set()
        await send_json(self._socket, message)

    async def output(self, frame: bytes) -> None:
        """Pass output on in pieces, each with its stream's mark unless there is a terminal."""
        mark = b"" if self.tty else frame[:1]
        room = _FRAME_BYTES - len(mark)
        for start in range(1, len(frame), room):
            self._spoke.set()
            await self._socket.send_bytes(mark + frame[start : start + room])

    async def end(self, code: int) -> Goodbye:
        """Say how it ended."""
        if self.tty:
            await send_json(self._socket, {"type": "exit", "exit_code": code})
            return Goodbye(_PRIVATE_CODES + code if code else CloseCode.NORMAL)
        await self._socket.send_bytes(_EXIT + bytes((code,)))
        return Goodbye(CloseCode.NORMAL)

    async def fail(self, why: str) -> Goodbye:
        """The end of a command that never ran, or was lost: the reason where a program reads it."""
        await self.output(STDERR + f"{why}\n".encode())
        return await self.end(FAILED)

    async def beat(self) -> Never:
        """Break each silence with an empty message."""
        while True:
            self._spoke.clear()
            try:
                async with asyncio.timeout(self._silence_s):
                    await self._spoke.wait()
            except TimeoutError:
                await self._socket.send_bytes(b"")


async def _give(voice: _Voice, session: SpriteSession) -> Goodbye:
    """All that the session says."""
    try:
        async for told in session.frames():
            if isinstance(told, Exec):
                await voice.begin(told)
            elif isinstance(told, OutputEnd):
                return await _end(voice, told)
            else:
                await voice.output(told)
    except BayError as error:
        if voice.has_begun.is_set() or not session.is_new:
            raise
        return await voice.fail(error.message)
    return Goodbye(CloseCode.UNREACHABLE, "the sprite's runtime stopped sending output")


async def _give_ports(voice: _Voice, session: SpriteSession) -> Never:
    """Each port that is open or opens, and that closes, to a client with a terminal."""
    await voice.has_begun.wait()
    if voice.tty:
        with suppress(NotFound):  # the sprite is deleted, and the session's end is on its way
            async for message in port_messages(session.ports):
                for told in message["ports"] if message["type"] == PORT_LIST else (message,):
                    await voice.tell(told)
    while True:
        await asyncio.Event().wait()  # the session goes on without


async def _end(voice: _Voice, end: OutputEnd) -> Goodbye:
    if end.state == "lost":
        return await voice.fail("the sprite was stopped before the command ended")
    return await voice.end(exit_code(end.exit_code, end.signal))


class _Listener:
    """Takes what the client sends. Nothing is read before the session has begun, so nothing is lost."""

    def __init__(self, socket: WebSocket, session: SpriteSession) -> None:
        self._socket = socket
        self._session = session
        self._controls = TokenBucket(CONTROLS_PER_S, CONTROLS_PER_S)
        self._is_first = True

    async def listen(self) -> None:
        """Pass everything on until the client leaves."""
        await self._session.attached
        while (message := await self._socket.receive())["type"] != "websocket.disconnect":
            attached = self._session.attached.result()
            if (data := message.get("bytes")) is not None:
                await self._take_input(attached, data)
            else:
                await self._take_control(attached, message.get("text") or "")
            self._is_first = False

    async def _take_input(self, attached: Attached, data: bytes) -> None:
        if attached.exec.tty:
            # A client of Python ends the input of every session that it attaches to, before it can know
            # that this one has a terminal, where the same byte is a key.
            if not (data == END_OF_STDIN and self._is_first and not self._session.is_new):
                await self._feed(data)
        elif data[:1] == STDIN:
            await self._feed(data[1:])
        elif data[:1] == END_OF_STDIN:
            await self._send(END_OF_STDIN)
            self._session.takes_input = False

    async def _feed(self, data: bytes) -> None:
        for start in range(0, len(data), _INPUT_BYTES):
            await self._send(STDIN + data[start : start + _INPUT_BYTES])

    async def _take_control(self, attached: Attached, text: str) -> None:
        """A resize or a signal; a text that is neither has no effect."""
        try:
            control = parse_control(text[: MAX_CONTROL + 1])
        except InvalidArgument:
            return
        if isinstance(control, Signal) or attached.exec.tty:
            await asyncio.sleep(self._controls.pay())  # each is a call into the sandbox
            await self._send(control)

    async def _send(self, message: bytes | Resize | Signal) -> None:
        """Send it to the present attachment, and again when another has taken its place."""
        while self._session.takes_input or not isinstance(message, bytes):
            attached = self._session.attached.result()
            try:
                await attached.send(message)
                return
            except (ShipError, Timeout):
                # The other direction knows why, and decides if it says so within this time.
                await self._await_another(attached)

    async def _await_another(self, before: Attached) -> None:
        """Return once the session has another attachment. Raises ShipError when it gets none."""
        try:
            async with asyncio.timeout(_VERDICT_S):
                await self._session.deaf.wait()
        except TimeoutError:
            raise ShipError("the connection to the sprite's runtime broke") from None
        if self._session.attached.result() is before:
            raise ShipError("the connection to the sprite's runtime broke")


def session_info(item: Exec) -> dict[str, Any]:
    """The first message, also of each attachment."""
    return {
        "type": "session_info",
        "session_id": item.id,
        "command": shlex.join(item.argv),
        "created": int(item.started_at.timestamp()),
        "cols": item.cols or 0,
        "rows": item.rows or 0,
        "is_owner": True,
        "tty": item.tty,
    }
