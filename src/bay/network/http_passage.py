"""A passage carries one HTTP/1.1 request and its answer between two connections.

Every message is parsed and written anew by h11, so both sides see one framing; ambiguous ones are refused.
Nothing of a message is kept or logged. Bodies pass in pieces, as fast as the slower side takes them.
"""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import h11

PIECE: Final = 64 * 1024
HEAD_BYTES: Final = 64 * 1024

Header = tuple[bytes, bytes]

_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"te",
    b"upgrade",
    b"trailer",
}
_ANSWERED_ONLY = {b"alt-svc", b"proxy-authenticate"}
"""The first would lead clients to another way to the host, the second is for Bay alone to say."""
_SWITCHED: Final = 101


class NotPassedOn(Exception):
    """The request goes nowhere: `status` and `message` for the client, `reason` for the sandbox's log."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message


@dataclass(slots=True, eq=False)
class Stream:
    """One side: its bytes, and the state of its HTTP."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    http: h11.Connection
    heard: int = 0
    """Bytes that came from this side."""
    said: int = 0
    """Bytes that went to it."""
    turns: asyncio.Semaphore | None = None
    """Shared by streams of which so many may write in one turn of the event loop, that others have theirs."""
    asks_head: bool = False
    """Whether its request, the last one, was a HEAD: the answer has the length of a body, and no body."""

    async def event(self, silence_s: float) -> object:
        """The next event. Raises h11.RemoteProtocolError, OSError and TimeoutError."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(silence_s):
                await self.listen()
        if isinstance(event, h11.Request):
            self.asks_head = event.method == b"HEAD"
        return event

    async def listen(self) -> None:
        """Take the next bytes of this side, or its end."""
        data = await self.reader.read(PIECE)
        self.heard += len(data)
        self.http.receive_data(data)

    async def is_quiet(self) -> bool:
        """Whether the peer neither has ended nor says anything now; its words are lost."""
        if self.http.trailing_data[0]:
            return False
        try:
            async with asyncio.timeout(0):
                await self.reader.read(1)
        except TimeoutError:
            return True
        except OSError:
            return False
        return False

    async def send(self, event: h11.Event, silence_s: float) -> None:
        """Write an event."""
        if data := self.http.send(event):
            await self.write(data, silence_s)

    async def write(self, data: bytes, silence_s: float) -> None:
        """Write bytes, as fast as this side takes them."""
        await self.put(data)
        async with asyncio.timeout(silence_s):
            await self.writer.drain()

    async def put(self, data: bytes) -> None:
        """Write bytes in a turn, whether or not this side takes them; call `writer.drain` next."""
        if self.turns is None:
            self.said += len(data)
            self.writer.write(data)
            return
        async with self.turns:
            self.said += len(data)
            self.writer.write(data)
            await asyncio.sleep(0)

    def refuse(self, refusal: NotPassedOn, headers: Iterable[tuple[str, str]]) -> None:
        """Tell why, in an answer with those `headers`, if an answer may still be sent."""
        if self.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"bay: {refusal.message}\n".encode()
        about = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))),
                 ("Connection", "close"), *headers]  # fmt: skip
        said = (
            h11.Response(status_code=refusal.status, headers=about, reason="Refused"),
            *(() if self.asks_head else (h11.Data(data=body),)),
            h11.EndOfMessage(),
        )
        data = b"".join(self.http.send(event) or b"" for event in said)
        self.said += len(data)
        self.writer.write(data)


class Passage:
    """The way of one request, whose head `host` has been sent, and its answer to `client`. `name` is the
    host's. Raises NotPassedOn where the client may still be told, and OSError.
    """

    def __init__(self, client: Stream, host: Stream, name: str, silence_s: float) -> None:
        self._client, self._host, self._name, self._silence_s = client, host, name, silence_s

    async def carry(self) -> bool:
        """The body up and the response down, at once; whether the protocol was switched."""
        up = asyncio.ensure_future(self._body_up())
        try:
            return await self._response_down()
        finally:
            up.cancel()  # where the host has answered before the end of the body, the rest goes nowhere
            await asyncio.wait((up,))
            if not up.cancelled() and isinstance(error := up.exception(), h11.RemoteProtocolError):
                raise error

    async def tunnel(self) -> None:
        """Bytes both ways, until one side ends."""
        ways = {
            asyncio.ensure_future(self._bytes(self._client, self._host)),
            asyncio.ensure_future(self._bytes(self._host, self._client)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _body_up(self) -> None:
        try:
            await self._pieces_up()
        except (h11.RemoteProtocolError, OSError):
            self._host.writer.transport.abort()  # half a body must not look like a whole one
            raise

    async def _pieces_up(self) -> None:
        while True:
            event = await self._client.event(self._silence_s)
            if isinstance(event, h11.EndOfMessage):
                await self._host.send(h11.EndOfMessage(), self._silence_s)
                return
            if not isinstance(event, h11.Data):
                return
            await self._host.send(h11.Data(data=event.data), self._silence_s)

    async def _response_down(self) -> bool:
        while True:
            try:
                event = await self._host.event(self._silence_s)
            except (h11.RemoteProtocolError, OSError) as error:
                if self._client.http.our_state is h11.SEND_RESPONSE:
                    raise self._unanswered() from error
                raise ConnectionAbortedError from error  # cut, so that nobody takes it for whole
            match event:
                case h11.InformationalResponse():
                    await self._client.send(_informational(event), self._silence_s)
                    if event.status_code == _SWITCHED:
                        return True
                case h11.Response():
                    await self._client.send(_response(event), self._silence_s)
                case h11.Data():
                    await self._client.send(h11.Data(data=event.data), self._silence_s)
                case h11.EndOfMessage():
                    await self._client.send(h11.EndOfMessage(), self._silence_s)
                    return False
                case _:
                    raise self._unanswered()

    def _unanswered(self) -> NotPassedOn:
        return NotPassedOn(502, "upstream", f"{self._name} ended without an answer")

    async def _bytes(self, source: Stream, target: Stream) -> None:
        data = source.http.trailing_data[0]
        while True:
            if data:
                await target.write(data, self._silence_s)
            async with asyncio.timeout(self._silence_s):
                if not (data := await source.reader.read(PIECE)):
                    return
            source.heard += len(data)


def passed_on(headers: Iterable[Header], gone: Collection[bytes] = ()) -> list[Header]:
    """The headers of a message that the next hop gets: neither those of this hop, nor those in `gone`."""
    headers = list(headers)
    left = _HOP | _named_by_connection(headers) | set(gone)
    return [(name, value) for name, value in headers if name not in left]


def _named_by_connection(headers: Iterable[Header]) -> set[bytes]:
    values = b",".join(value for name, value in headers if name == b"connection")
    return {part.strip().lower() for part in values.split(b",")} - {
        b"",
        b"host",
        b"content-length",
        b"transfer-encoding",
    }


def _response(event: h11.Response) -> h11.Response:
    headers = passed_on(event.headers, _ANSWERED_ONLY)
    return h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)


def _informational(event: h11.InformationalResponse) -> h11.InformationalResponse:
    kept = (b"connection", b"upgrade") if event.status_code == _SWITCHED else ()
    headers = [(name, value) for name, value in event.headers if name in kept or name not in _HOP]
    return h11.InformationalResponse(status_code=event.status_code, headers=headers, reason=event.reason)
