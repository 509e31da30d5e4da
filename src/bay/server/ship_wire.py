"""One HTTP/1.1 connection to a Ship, which may lie.

The peer is inside a sandbox, so nothing it sends is taken on trust: the socket is opened without
following links and its owner is checked with the kernel, heads and bodies are capped, every call has
one deadline from first to last byte, and after anything odd the connection is thrown away.
h11 parses; rejected: httpx, whose timeouts are per read and which decodes compressed bodies.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field

import h11

from bay.drivers.base import Endpoint
from bay.drivers.ship_socket import connect, proof_of
from bay.errors import ShipError

_READ_BYTES = 64 * 1024
_MAX_HEAD_BYTES = 32 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The Ship of one session: where it answers and the secret it shares with Bay."""

    session_id: str
    endpoint: Endpoint
    token: str = field(repr=False)

    @property
    def proof(self) -> str:
        """What every answer must carry in X-Ship-Session."""
        return proof_of(self.token)


@dataclass(frozen=True, slots=True)
class Head:
    """The start of an answer."""

    status: int
    content_length: int | None


class Wire:
    """An open connection. Used by one call at a time; `reusable` says whether another may follow."""

    def __init__(self, peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._peer = peer
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD_BYTES)
        self._deadline: float | None = None

    @classmethod
    async def open(cls, peer: Peer) -> "Wire":
        """Connect to the session's Ship. Raises ShipError when nobody, or somebody else, answers."""
        try:
            link = connect(peer.endpoint)
        except OSError as error:
            raise ShipError(f"the sandbox's runtime is not reachable ({error.strerror})") from error
        reader, writer = await asyncio.open_unix_connection(sock=link)
        return cls(peer, reader, writer)

    def set_deadline(self, seconds: float | None) -> None:
        """Everything up to the last byte of the next answer must happen within `seconds`, else TimeoutError."""
        self._deadline = None if seconds is None else asyncio.get_running_loop().time() + seconds

    async def send(
        self, method: str, target: str, body: bytes | AsyncIterator[bytes] | None, content_type: str
    ) -> Head:
        """Send one request and read the head of the answer.

        Raises ShipError on anything that is not HTTP from this session's Ship, and ConnectionError
        when the connection was closed before the first byte of an answer.
        """
        self._write(h11.Request(method=method, target=target, headers=self._headers(body, content_type)))
        if isinstance(body, bytes):
            self._write(h11.Data(data=body))
        elif body is not None:
            async for chunk in body:
                self._write(h11.Data(data=chunk))
                await self._drain()
        self._write(h11.EndOfMessage())
        await self._drain()
        return self._check_head(await self._next_event())

    async def body(self) -> AsyncGenerator[bytes, None]:
        """The rest of the answer, chunk by chunk."""
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise ShipError("the sandbox's runtime ended its answer too early")

    def recycle(self) -> bool:
        """Make ready for the next call; False when this connection is used up."""
        unasked, _closed = self._http.trailing_data
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not unasked:
            self._http.start_next_cycle()
            return self.is_open()
        return False

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

    def _write(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)

    async def _drain(self) -> None:
        async with asyncio.timeout_at(self._deadline):
            await self._writer.drain()

    async def _next_event(self) -> object:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                async with asyncio.timeout_at(self._deadline):
                    data = await self._reader.read(_READ_BYTES)
                self._http.receive_data(data)
        except h11.RemoteProtocolError as error:
            if self._http.their_state is h11.ERROR and self._reader.at_eof():
                raise ConnectionResetError("closed by the sandbox's runtime") from error
            raise ShipError("the sandbox's runtime does not speak HTTP") from error
        return event

    def _check_head(self, event: object) -> Head:
        if isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("closed by the sandbox's runtime")
        if not isinstance(event, h11.Response):
            raise ShipError("the sandbox's runtime sent an unexpected interim answer")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
        if headers.get("x-ship-session") != self._peer.proof:
            raise ShipError("the answer does not come from this session's runtime")
        if headers.get("content-encoding", "identity") != "identity":
            raise ShipError("the sandbox's runtime sent an encoding that nobody asked for")
        length = headers.get("content-length", "")
        return Head(event.status_code, int(length) if length.isascii() and length.isdigit() else None)
