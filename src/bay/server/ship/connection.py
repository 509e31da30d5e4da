"""One HTTP/1.1 connection to a Ship, which may lie.

The peer is inside a sandbox, so nothing it sends is taken on trust: the socket is opened without
following links and its owner is checked with the kernel, heads and bodies are capped, every call has
one deadline from first to last byte, and after anything odd the connection is thrown away.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast

import h11
from websockets.utils import accept_key, generate_key

from bay.drivers.base import Endpoint
from bay.drivers.ship_socket import connect
from bay.errors import ShipError
from ship_protocol import FILE_HEADER, SESSION_HEADER, session_proof

_READ_BYTES = 256 * 1024
_FINISH_S = 2.0
_MAX_HEAD_BYTES = 32 * 1024
_TURN = 64  # pieces that are handed out before others get a turn


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


class Http11Client:
    """HTTP/1.1 into a sandbox, to its Ship or an app, request after request. Its caller bounds the time.
    Rejected: httpx and httpcore, which bound no head and no whole call, and give no connection away after an
    upgrade.
    """

    def __init__(self, max_head_bytes: int) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=max_head_bytes)
        self.heard = False
        """Whether a byte of the answer has come."""

    def encode(self, *events: h11.Request | h11.Data | h11.EndOfMessage) -> list[bytes]:
        """The parts to send for `events`. Raises h11.LocalProtocolError when they are no HTTP."""
        return [data for event in events if (data := self._h11.send(event))]

    async def next_event(self, read: Callable[[], Awaitable[bytes]]) -> object:
        """The answer's next event; `read` gives bytes, none at the end. Raises h11.RemoteProtocolError."""
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            data = await read()
            self.heard = self.heard or bool(data)
            self._h11.receive_data(data)
        return event

    async def body(self, next_event: Callable[[], Awaitable[object]]) -> AsyncGenerator[bytes, None]:
        """The rest of the answer, piece by piece, by the caller's bounded `next_event`."""
        count = 0
        while isinstance(event := await next_event(), h11.Data):
            yield bytes(event.data)
            count += 1
            if count % _TURN == 0:  # chunks of one byte that are all here would keep others out
                await asyncio.sleep(0)
        if not isinstance(event, h11.EndOfMessage):
            raise ConnectionResetError("the answer broke off")

    async def plain_body(
        self, size: int, read: Callable[[], Awaitable[bytes]]
    ) -> AsyncGenerator[bytes, None]:
        """The rest of an answer of `size` bytes, past h11, which would copy it. No other follows."""
        data = self._h11.trailing_data[0] or await read()
        while data and size > len(data):
            yield data
            size -= len(data)
            data = await read()
        if not data:
            raise ConnectionResetError("the answer broke off")
        yield data[:size]

    @property
    def is_broken(self) -> bool:
        """Whether the peer broke HTTP, or broke off."""
        return self._h11.their_state is h11.ERROR

    @property
    def rest(self) -> bytes:
        """The bytes behind the answer, as after an upgrade."""
        return self._h11.trailing_data[0]

    def recycle(self) -> bool:
        """Make ready for the next request; False when this connection is used up."""
        is_done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        unasked, ended = self._h11.trailing_data
        if not is_done or unasked or ended:
            return False
        self._h11.start_next_cycle()
        self.heard = False
        return True


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
            link = connect(peer.endpoint)
        except OSError as error:
            raise ShipError(f"the sandbox's runtime is not reachable ({error.strerror})") from error
        reader, writer = await asyncio.open_unix_connection(sock=link, limit=_READ_BYTES)
        return cls(peer, reader, writer)

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
        head = h11.Request(method=method, target=target, headers=self._headers(body, content_type))
        if body is not None and not isinstance(body, bytes):
            self._write(head)
            return self._check_head(await self._send_parts(body))
        self._write(head, h11.Data(data=body or b""), h11.EndOfMessage())
        await self._drain()
        return self._check_head(await self._next_event())

    async def upgrade(self, target: str, protocol: str) -> Head | None:
        """Ask for another protocol. None when this connection speaks it now, else the head of the refusal."""
        asked, key = [("Connection", "Upgrade"), ("Upgrade", protocol)], generate_key()
        if protocol == "websocket":
            asked += [("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", key)]
        head = h11.Request(method="GET", target=target, headers=[*self._headers(None, ""), *asked])
        self._write(head, h11.EndOfMessage())
        await self._drain()
        event = await self._next_event()
        if not isinstance(event, h11.InformationalResponse):
            return self._check_head(event)
        headers = self._check_switch(event, protocol)
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
        if transport.get_write_buffer_size() == 0:
            transport.abort()
            return
        transport.close()
        asyncio.get_running_loop().call_later(_FINISH_S, transport.abort)

    def body(self, silence_s: float | None = None) -> AsyncGenerator[bytes, None]:
        """The rest of the answer in chunks; with `silence_s` the deadline begins anew with each of them."""

        async def next_event() -> object:
            if silence_s is not None:
                self.set_deadline(silence_s)
            elif self._is_late():  # a read that need not wait would not notice
                raise TimeoutError
            return await self._next_event()

        return self._http.body(next_event)

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

    def _headers(self, body: object, content_type: str) -> list[tuple[str, str]]:
        headers = [
            ("Host", "ship"),
            ("Authorization", f"Bearer {self._peer.token}"),
            ("Accept-Encoding", "identity"),
        ]
        if isinstance(body, bytes):
            headers += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        elif body is not None:
            headers += [("Content-Type", content_type), ("Transfer-Encoding", "chunked")]
        return headers

    def _write(self, *events: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        self._writer.writelines(self._http.encode(*events))  # one system call, and no copy of a body

    async def _send_parts(self, body: AsyncIterator[bytes]) -> object:
        """Send a body and wait for the answer. If that comes early, the rest of the body is not sent."""
        answer = asyncio.create_task(self._read_event(None))
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

    async def _next_event(self) -> object:
        return await self._read_event(self._deadline)

    async def _read_event(self, deadline: float | None) -> object:
        async def read() -> bytes:
            async with asyncio.timeout_at(deadline):
                return await self._reader.read(_READ_BYTES)

        try:
            return await self._http.next_event(read)
        except h11.RemoteProtocolError as error:
            if self._http.is_broken and self._reader.at_eof():
                raise ConnectionResetError("closed by the sandbox's runtime") from error
            raise ShipError("the sandbox's runtime does not speak HTTP") from error

    def _check_head(self, event: object) -> Head:
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("closed by the sandbox's runtime")
        if not isinstance(event, h11.Response):
            raise ShipError("the sandbox's runtime sent an unexpected interim response")
        headers = self._proven(event)
        if headers.get("content-encoding", "identity") != "identity":
            raise ShipError("the sandbox's runtime sent an encoding that was not requested")
        length = headers.get("content-length", "")
        is_framed = "transfer-encoding" not in headers  # which beats the length: that bounds nothing then
        size = int(length) if is_framed and length.isascii() and length.isdigit() else None
        return Head(event.status_code, size, headers.get(FILE_HEADER.lower(), ""))

    def _check_switch(self, event: h11.InformationalResponse, protocol: str) -> dict[str, str]:
        headers = self._proven(event)
        if event.status_code != 101 or headers.get("upgrade", "").lower() != protocol:
            raise ShipError("the sandbox's runtime sent an unexpected interim response")
        return headers

    def _check_websocket(self, headers: dict[str, str], key: str) -> None:
        if {"sec-websocket-extensions", "sec-websocket-protocol"} & set(headers):
            raise ShipError("the sandbox's runtime sent an unexpected interim response")
        if headers.get("sec-websocket-accept") != accept_key(key):
            raise ShipError("the sandbox's runtime does not speak WebSocket")

    def _proven(self, event: h11.Response | h11.InformationalResponse) -> dict[str, str]:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        if headers.get(SESSION_HEADER.lower()) != self._peer.proof:
            raise ShipError("the answer does not come from this session's runtime")
        return headers
