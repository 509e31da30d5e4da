"""A WebSocket server (RFC 6455), as much of it as an attachment or a watch needs; no extensions.

Of its own, since every sandbox pays for a library's import, also without attachments. Ship offers nothing, so
there is nothing to negotiate; a message in fragments is put together here.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from ship.http.connection import Connection, PeerGone
from ship_protocol import FRAGMENTS, MESSAGE_BYTES, CloseCode

_CLOSING_S = 2.0
_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame holds 125, two of them the code

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10


class Closing(Exception):
    """The socket is to be closed with `code`, for a message of the peer or for the state of the process."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping, which has been answered."""


@dataclass(slots=True)
class _Frame:
    final: bool
    opcode: int
    payload: bytes


class WebSocket:
    """Messages both ways on a connection that has been upgraded. One task receives; any number may send."""

    def __init__(self, wire: Connection, received: bytes) -> None:
        self.wire = wire
        self._received = bytearray(received)
        self._peer_closed = False

    async def messages(self) -> AsyncGenerator[bytes | str | Ping]:
        """The peer's messages, until it disconnects or closes. Raises Closing when it breaks the protocol."""
        parts: list[bytes] = []
        kind = _CONTINUATION
        async for frame in self._frames():
            if frame.opcode == _PING:
                await self._send(_PONG, frame.payload)
                yield Ping()
            elif frame.opcode in (_CONTINUATION, _TEXT, _BINARY):
                kind = _kind_of(frame, kind)
                parts.append(frame.payload)
                _check_size(parts)
                if frame.final:
                    yield _message(kind, b"".join(parts))
                    parts, kind = [], _CONTINUATION

    async def send_text(self, text: str) -> None:
        """Raises PeerGone."""
        await self._send(_TEXT, text.encode("utf-8", "replace"))

    def write_bytes(self, *parts: bytes) -> None:
        """Send a binary message, for a caller that checks `wire.room`. Raises PeerGone."""
        self.wire.write(_encode(_BINARY, parts))

    async def close(self, code: int, reason: str) -> None:
        """Close; a peer that has not closed first has a little time to, and may have messages to read."""
        text = reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore")
        try:
            await self._send(_CLOSE, code.to_bytes(2, "big"), text.encode())
            async with asyncio.timeout(_CLOSING_S):
                await self._wait_peer_closes()
        except (PeerGone, TimeoutError):
            return

    async def _wait_peer_closes(self) -> None:
        try:
            while not self._peer_closed and await self._next_frame() is not None:
                continue
        except Closing:
            # Its bytes are no frame, or too large; it looks for our close once it is through.
            while await self.wire.receive(None):
                continue

    async def _send(self, opcode: int, *parts: bytes) -> None:
        await self.wire.send(_encode(opcode, parts))

    async def _frames(self) -> AsyncGenerator[_Frame]:
        while (frame := await self._next_frame()) is not None:
            if frame.opcode == _CLOSE:
                return
            yield frame

    async def _next_frame(self) -> _Frame | None:
        """The next frame, unmasked; None at the end of the connection."""
        if not await self._has(2):
            return None
        first, second = self._received[0], self._received[1]
        _check_head(first, second)
        head = 2 + {126: 2, 127: 8}.get(second & 0x7F, 0)
        if not await self._has(head + 4):
            return None
        size = int.from_bytes(self._received[2:head], "big") if head > 2 else second & 0x7F
        if size > MESSAGE_BYTES:
            raise Closing(CloseCode.TOO_LARGE, f"a frame may have at most {MESSAGE_BYTES} bytes")
        if not await self._has(head + 4 + size):
            return None
        payload = self._take(head, size)
        self._peer_closed = first & 0x0F == _CLOSE
        return _Frame(bool(first & 0x80), first & 0x0F, payload)

    async def _has(self, size: int) -> bool:
        while len(self._received) < size:
            data = await self.wire.receive(None)
            if not data:
                return False
            self._received += data
        return True

    def _take(self, head: int, size: int) -> bytes:
        key, masked = self._received[head : head + 4], self._received[head + 4 : head + 4 + size]
        del self._received[: head + 4 + size]
        return _unmask(bytes(key), masked)


def accept_of(key: bytes) -> bytes:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def _check_head(first: int, second: int) -> None:
    opcode, length = first & 0x0F, second & 0x7F
    if first & 0x70 or opcode not in (_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG):
        raise Closing(CloseCode.PROTOCOL_ERROR, "a frame has a reserved bit or an unknown opcode")
    if not second & 0x80:
        raise Closing(CloseCode.PROTOCOL_ERROR, "a client's frames must be masked")
    if opcode >= _CLOSE and (length > 125 or not first & 0x80):
        raise Closing(CloseCode.PROTOCOL_ERROR, "a control frame may have at most 125 bytes and no fragments")


def _kind_of(frame: _Frame, before: int) -> int:
    if (frame.opcode == _CONTINUATION) == (before == _CONTINUATION):
        raise Closing(CloseCode.PROTOCOL_ERROR, "the fragments of a message are out of order")
    return before or frame.opcode


def _check_size(parts: list[bytes]) -> None:
    if len(parts) > FRAGMENTS or sum(map(len, parts)) > MESSAGE_BYTES:
        raise Closing(CloseCode.TOO_LARGE, f"a message may have at most {MESSAGE_BYTES} bytes")


def _message(kind: int, data: bytes) -> bytes | str:
    if kind == _BINARY:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Closing(CloseCode.INVALID_DATA, "a text message must be UTF-8") from error


def _encode(opcode: int, parts: Iterable[bytes]) -> bytes:
    parts = tuple(parts)
    return b"".join((_head(opcode, sum(map(len, parts))), *parts))


def _head(opcode: int, size: int) -> bytes:
    if size < 126:
        return bytes((0x80 | opcode, size))
    if size < 1 << 16:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big")
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big")


def _unmask(key: bytes, data: bytes | bytearray) -> bytes:
    # As one long number: the interpreter's own loop, over 30 bits at a time.
    size = len(data)
    keys = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(keys, "little")).to_bytes(size, "little")
