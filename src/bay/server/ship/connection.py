"""One HTTP/1.1 connection to a Ship, which may lie.

The peer is inside a sandbox, so nothing it sends is taken on trust: `ship_socket` checks who it is, heads
and bodies are capped, every call has one deadline from first to last byte, and after anything odd the
connection is thrown away.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import cast

import h11
from websockets.utils import accept_key, generate_key

from bay.drivers.base import Endpoint
from bay.drivers.ship_socket import open_connection
from bay.errors import ShipError
from bay.server.ship.http11 import AnswerHead, Headers, Http11Client, Read
from ship_protocol import FILE_HEADER, SESSION_HEADER, session_proof
from ship_protocol.tls import TlsLayer

_READ_BYTES = 256 * 1024
_FINISH_S = 2.0
_MAX_HEAD_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The Ship of one session: where it answers and the secret it shares with Bay."""

    session_id: str
    endpoint: Endpoint
    token: str = field(repr=False)

    @property
    def proof(self) -> str:
        """The X-Ship-Session that every answer must carry."""
        return session_proof(self.token)


@dataclass(frozen=True, slots=True)
class Head:
    """The start of an answer."""

    status: int
    content_length: int | None
    file: str = ""
    """The X-Ship-File that describes the file which follows."""


class Wire:
    """An open connection. Used by one call at a time; `reusable` says whether another may follow."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._http = Http11Client(_MAX_HEAD_BYTES)
        self._deadline: float | None = None
        self._renewed_s: float | None = None
        """The deadline while the parts of a body go out, where it begins anew with each."""

    @classmethod
    async def open(cls, peer: Peer) -> "Wire":
        """Connect to the session's Ship. Raises ShipError when no process, or a wrong one, answers."""
        try:
            return cls(peer, *await open_connection(peer.endpoint, _READ_BYTES))
        except OSError as error:
            why = error.strerror or "timed out"
            raise ShipError(f"the sandbox's runtime is not reachable ({why})") from error

    def set_deadline(self, seconds: float | None, *, while_moving: bool = False) -> None:
        """Everything up to the last byte of the next answer must happen within `seconds`, else TimeoutError.
        With `while_moving` they begin anew whenever a part of the request's body has gone out.
        """
        self._deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds
        self._renewed_s = seconds if while_moving else None

    async def send(
        self, method: str, target: str, body: bytes | AsyncIterator[bytes] | None, content_type: str
    ) -> Head:
        """Send one request and read the head of the answer. Raises ShipError on anything that is not HTTP
        from this session's Ship, and ConnectionError when the connection was closed before the first byte of
        an answer.
        """
        headers = (
            self._headers() if body is None else [*self._headers(), (b"Content-Type", content_type.encode())]
        )
        if body is not None and not isinstance(body, bytes):
            headers.append((b"Transfer-Encoding", b"chunked"))
            self._write(h11.Request(method=method, target=target, headers=headers))
            return self._check_head(await self._send_parts(body))
        self._writer.writelines(self._http.ask(method, target.encode(), headers, body))
        await self._drain()
        return self._check_head(await self._read_answer(self._read))

    async def upgrade(self, target: str, protocol: str) -> Head | None:
        """Ask for another protocol. None when this connection speaks it now, else the head of the refusal."""
        asked, key = [(b"Connection", b"Upgrade"), (b"Upgrade", protocol.encode())], generate_key()
        if protocol == "websocket":
            asked += [(b"Sec-WebSocket-Version", b"13"), (b"Sec-WebSocket-Key", key.encode())]
        self._writer.writelines(self._http.ask("GET", target.encode(), [*self._headers(), *asked]))
        await self._drain()
        answer = await self._read_answer(self._read)
        if answer.status >= 200:
            return self._check_head(answer)
        headers = self._check_switch(answer, protocol)
        if protocol == "websocket":
            self._check_websocket(headers, key)
        return None

    async def hand_over(self, protocol: asyncio.Protocol) -> tuple[asyncio.Transport, bytes]:
        """Give an upgraded connection to `protocol`; returns what carries it, and what has come already."""
        transport = cast("asyncio.Transport", self._writer.transport)  # a socket's reads, too
        transport.set_protocol(protocol)
        self._reader.feed_eof()  # so that it returns the bytes it has, without waiting for all
        received = self._http.rest + await self._reader.read()
        transport.resume_reading()
        return transport, received

    def take_rest(self) -> bytes:
        """Bytes that came behind the answer to an upgrade."""
        return self._http.rest

    async def receive(self) -> bytes:
        """The next bytes of an upgraded connection. Raises ConnectionResetError at its end; TimeoutError."""
        async with asyncio.timeout_at(self._deadline):
            data = await self._reader.read(_READ_BYTES)
        if not data:
            raise ConnectionResetError("closed by the sandbox's runtime")
        return data

    async def send_raw(self, data: bytes) -> None:
        """Send on an upgraded connection; returns when there is room for more."""
        self._writer.write(data)
        await self._drain()

    def finish(self) -> None:
        """Drop the connection, after what is unsent if the peer takes it soon."""
        transport = self._writer.transport
        if isinstance(transport, TlsLayer):
            transport.close()  # unlike a Unix socket, one that is aborted loses what it has taken already
            return
        if transport.get_write_buffer_size() == 0:
            transport.abort()
            return
        transport.close()
        asyncio.get_running_loop().call_later(_FINISH_S, transport.abort)

    def body(self, silence_s: float | None = None) -> AsyncGenerator[bytes, None]:
        """The rest of the answer in chunks; with `silence_s` the deadline begins anew with each of them."""

        async def next_part() -> bytes:
            if silence_s is not None:
                self.set_deadline(silence_s)
            elif self._is_late():  # a read that need not wait would not notice
                raise TimeoutError
            try:
                return await self._http.part(self._read)
            except h11.RemoteProtocolError as error:
                raise self._blame() from error

        return self._http.body(next_part)

    def _is_late(self) -> bool:
        return self._deadline is not None and asyncio.get_running_loop().time() > self._deadline

    def recycle(self) -> bool:
        """Make ready for the next call; False when this connection is used up."""
        return self._http.recycle() and self.is_open()

    def is_open(self) -> bool:
        """Whether the peer has not closed, as far as is known here."""
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """Drop the connection at once."""
        self._writer.transport.abort()

    def _headers(self) -> Headers:
        return [
            (b"Host", b"ship"),
            (b"Authorization", b"Bearer " + self._peer.token.encode()),
            (b"Accept-Encoding", b"identity"),
        ]

    def _write(self, *events: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self._writer.writelines(self._http.encode(*events))  # one system call, and no copy of a body

    async def _send_parts(self, body: AsyncIterator[bytes]) -> AnswerHead:
        """Send a body and wait for the answer. If that comes early, the rest of the body is not sent."""
        answer = asyncio.create_task(self._read_answer(self._read_late))
        sending = asyncio.create_task(self._write_parts(body))
        try:
            await asyncio.wait({answer, sending}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                await sending
            async with asyncio.timeout_at(self._deadline):
                return await answer
        finally:
            for task in (answer, sending):
                task.cancel()
            await asyncio.wait({answer, sending})

    async def _write_parts(self, body: AsyncIterator[bytes]) -> None:
        async for chunk in body:
            self._renew()  # the time that went by was not Ship's
            self._write(h11.Data(data=chunk))
            await self._drain()
        self._renew()
        self._write(h11.EndOfMessage())
        await self._drain()

    def _renew(self) -> None:
        if self._renewed_s is not None:
            self.set_deadline(self._renewed_s, while_moving=True)

    async def _drain(self) -> None:
        async with asyncio.timeout_at(self._deadline):
            await self._writer.drain()

    async def _read(self) -> bytes:
        async with asyncio.timeout_at(self._deadline):
            return await self._reader.read(_READ_BYTES)

    async def _read_late(self) -> bytes:
        """Without a deadline: the time until now was not Ship's."""
        return await self._reader.read(_READ_BYTES)

    async def _read_answer(self, read: Read) -> AnswerHead:
        try:
            return await self._http.answer(read)
        except h11.RemoteProtocolError as error:
            raise self._blame() from error

    def _blame(self) -> ConnectionResetError | ShipError:
        if self._http.is_broken and self._reader.at_eof():
            return ConnectionResetError("closed by the sandbox's runtime")
        return ShipError("the sandbox's runtime does not speak HTTP")

    def _check_head(self, answer: AnswerHead) -> Head:
        if answer.status < 200:
            raise ShipError("the sandbox's runtime sent an unexpected interim response")
        headers = self._proven(answer)
        if headers.get("content-encoding", "identity") != "identity":
            raise ShipError("the sandbox's runtime sent an encoding that was not requested")
        length = headers.get("content-length", "")
        is_framed = "transfer-encoding" not in headers  # which beats the length: that bounds nothing then
        size = int(length) if is_framed and length.isascii() and length.isdigit() else None
        return Head(answer.status, size, headers.get(FILE_HEADER.lower(), ""))

    def _check_switch(self, answer: AnswerHead, protocol: str) -> dict[str, str]:
        headers = self._proven(answer)
        if answer.status != 101 or headers.get("upgrade", "").lower() != protocol:
            raise ShipError("the sandbox's runtime sent an unexpected interim response")
        return headers

    def _check_websocket(self, headers: dict[str, str], key: str) -> None:
        if {"sec-websocket-extensions", "sec-websocket-protocol"} & set(headers):
            raise ShipError("the sandbox's runtime sent an unexpected interim response")
        if headers.get("sec-websocket-accept") != accept_key(key):
            raise ShipError("the sandbox's runtime does not speak WebSocket")

    def _proven(self, answer: AnswerHead) -> dict[str, str]:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in answer.headers}
        if headers.get(SESSION_HEADER.lower()) != self._peer.proof:
            raise ShipError("the answer does not come from this session's runtime")
        return headers
