"""The relay carries one client's HTTP/1.1 requests to the one host that it may, with headers added.

Every message is parsed and written anew by h11, so both sides see one framing; ambiguous ones are refused.
Nothing of a message is kept or logged. Bodies pass in pieces, as fast as the slower side takes them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

import h11

PIECE: Final = 64 * 1024
HEAD_BYTES: Final = 64 * 1024

_HOP = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"proxy-authorization",
    b"te",
    b"upgrade",
    b"trailer",
}
_ANSWERED_ONLY = {b"alt-svc"}
"""It would lead clients to another way to the host, past the broker."""
_SWITCHED: Final = 101


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Seconds: how long a client may be idle between requests and take for a head, and any side be silent."""

    idle_s: float = 75.0
    head_s: float = 30.0
    silence_s: float = 900.0


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

    async def event(self, silence_s: float) -> object:
        """The next event. Raises h11.RemoteProtocolError, OSError and TimeoutError."""
        while (event := self.http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(silence_s):
                self.http.receive_data(await self.reader.read(PIECE))
        return event

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
            self.writer.write(data)
            async with asyncio.timeout(silence_s):
                await self.writer.drain()


Header = tuple[bytes, bytes]
Connect = Callable[[], Awaitable[Stream]]
Added = Callable[[], Awaitable[tuple[Header, ...]]]


class HttpRelay:
    """The relay of one connection to `domain`. `connect` opens the way, `added` gives the headers of now."""

    def __init__(
        self, client: Stream, domain: str, port: int, *, connect: Connect, added: Added, limits: RelayLimits
    ) -> None:
        self._client, self._domain, self._port = client, domain, port
        self._connect, self._added, self._limits = connect, added, limits
        self._host: Stream | None = None
        self.requests = 0
        """How many have come."""

    async def run(self) -> None:
        """Serve until either side ends. Raises NotPassedOn after it was told to the client."""
        try:
            while await self._exchange():
                pass
        except NotPassedOn as refusal:
            await self._refuse(refusal)
            raise
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            refusal = NotPassedOn(
                status, "malformed", "this is no HTTP/1.1 request that Bay's broker passes on"
            )
            await self._refuse(refusal)
            raise refusal from error
        finally:
            if self._host is not None:
                self._host.writer.transport.abort()

    async def _exchange(self) -> bool:
        """One request and its response; whether another may follow."""
        request = await self._request()
        if request is None:
            return False
        upgrade = _is_websocket(request)
        sent = h11.Request(
            method=request.method,
            target=request.target,
            headers=self._headers(request, await self._added(), upgrade=upgrade),
        )
        host = await self._to_host()
        await host.send(sent, self._limits.silence_s)
        if await self._carry(host):
            await self._tunnel(host)
            return False
        return self._again(host)

    async def _request(self) -> h11.Request | None:
        """The next request, checked; None at the end of the connection."""
        client = self._client
        if not client.http.trailing_data[0]:
            async with asyncio.timeout(self._limits.idle_s):
                client.http.receive_data(await client.reader.read(PIECE))
        async with asyncio.timeout(self._limits.head_s):
            event = await client.event(self._limits.head_s)
        if not isinstance(event, h11.Request):
            return None
        self.requests += 1
        self._check(event)
        return event

    def _check(self, request: h11.Request) -> None:
        if request.method.upper() in (b"CONNECT", b"TRACE", b"TRACK"):
            raise NotPassedOn(405, "method", "Bay's broker does not pass CONNECT and TRACE on")
        is_origin = request.target.startswith(b"/") or (request.target, request.method) == (b"*", b"OPTIONS")
        if not is_origin:
            raise NotPassedOn(400, "malformed", "Bay's broker takes a path as the target of a request")
        names = [name for name, _ in request.headers]
        if b"content-length" in names and b"transfer-encoding" in names:
            raise NotPassedOn(400, "malformed", "a request has Content-Length or Transfer-Encoding, not both")
        hosts = [value for name, value in request.headers if name == b"host"]
        if len(hosts) != 1 or hosts[0].lower() not in self._names():
            raise NotPassedOn(421, "other_host", f"this connection is for {self._domain} alone; open another")

    def _names(self) -> tuple[bytes, ...]:
        plain, full = self._domain.encode(), f"{self._domain}:{self._port}".encode()
        return (plain, full) if self._port == 443 else (full,)

    def _headers(
        self, request: h11.Request, added: Iterable[Header], *, upgrade: bool
    ) -> list[tuple[bytes, bytes]]:
        added = list(added)
        gone = _HOP | {name.lower() for name, _ in added} | {b"host", b"http2-settings"}
        gone |= _named_by_connection(request.headers)
        kept = [(name, value) for name, value in request.headers if name not in gone]
        more = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")] if upgrade else []
        return [(b"Host", self._names()[0]), *kept, *more, *added]

    async def _to_host(self) -> Stream:
        host = self._host
        # Some hosts say that they end a connection that idles: that must not be the answer to a request.
        if host is None or host.http.our_state is not h11.IDLE or not await host.is_quiet():
            if host is not None:
                host.writer.transport.abort()
            host = self._host = await self._connect()
        return host

    async def _carry(self, host: Stream) -> bool:
        """The body up and the response down, at once; whether the protocol was switched."""
        up = asyncio.ensure_future(self._body_up(host))
        try:
            return await self._response_down(host)
        finally:
            up.cancel()  # where the host has answered before the end of the body, the rest goes nowhere
            await asyncio.wait((up,))
            if not up.cancelled() and isinstance(error := up.exception(), h11.RemoteProtocolError):
                raise error

    async def _body_up(self, host: Stream) -> None:
        try:
            await self._pieces_up(host)
        except (h11.RemoteProtocolError, OSError):
            host.writer.transport.abort()  # half a body must not look like a whole one
            raise

    async def _pieces_up(self, host: Stream) -> None:
        while True:
            event = await self._client.event(self._limits.silence_s)
            if isinstance(event, h11.EndOfMessage):
                await host.send(h11.EndOfMessage(), self._limits.silence_s)
                return
            if not isinstance(event, h11.Data):
                return
            await host.send(h11.Data(data=event.data), self._limits.silence_s)

    async def _response_down(self, host: Stream) -> bool:
        while True:
            try:
                event = await host.event(self._limits.silence_s)
            except (h11.RemoteProtocolError, OSError) as error:
                if self._client.http.our_state is h11.SEND_RESPONSE:
                    raise NotPassedOn(502, "upstream", f"{self._domain} ended without an answer") from error
                raise ConnectionAbortedError from error  # cut, so that nobody takes it for whole
            match event:
                case h11.InformationalResponse():
                    await self._client.send(_informational(event), self._limits.silence_s)
                    if event.status_code == _SWITCHED:
                        return True
                case h11.Response():
                    await self._client.send(_response(event), self._limits.silence_s)
                case h11.Data():
                    await self._client.send(h11.Data(data=event.data), self._limits.silence_s)
                case h11.EndOfMessage():
                    await self._client.send(h11.EndOfMessage(), self._limits.silence_s)
                    return False
                case _:
                    raise NotPassedOn(502, "upstream", f"{self._domain} ended without an answer")

    def _again(self, host: Stream) -> bool:
        if host.http.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            host.http.start_next_cycle()
        else:
            host.writer.transport.abort()
            self._host = None
        if self._client.http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._client.http.start_next_cycle()
        return True

    async def _tunnel(self, host: Stream) -> None:
        """Bytes both ways, until one side ends."""
        ways = {
            asyncio.ensure_future(self._bytes(self._client, host)),
            asyncio.ensure_future(self._bytes(host, self._client)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _bytes(self, source: Stream, target: Stream) -> None:
        data = source.http.trailing_data[0]
        while True:
            if data:
                target.writer.write(data)
                async with asyncio.timeout(self._limits.silence_s):
                    await target.writer.drain()
            async with asyncio.timeout(self._limits.silence_s):
                if not (data := await source.reader.read(PIECE)):
                    return

    async def _refuse(self, refusal: NotPassedOn) -> None:
        """Tell the client why, if a response may still be sent."""
        if self._client.http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        body = f"bay: {refusal.message}\n".encode()
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body))),
                   ("Connection", "close"), ("X-Bay-Broker", refusal.reason)]  # fmt: skip
        client = self._client.http
        sent = client.send(h11.Response(status_code=refusal.status, headers=headers, reason="Refused"))
        data = (
            (sent or b"")
            + (client.send(h11.Data(data=body)) or b"")
            + (client.send(h11.EndOfMessage()) or b"")
        )
        self._client.writer.write(data)


def _named_by_connection(headers: Iterable[Header]) -> set[bytes]:
    values = b",".join(value for name, value in headers if name == b"connection")
    return {part.strip().lower() for part in values.split(b",")} - {
        b"",
        b"host",
        b"content-length",
        b"transfer-encoding",
    }


def _is_websocket(request: h11.Request) -> bool:
    asked = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    return request.method == b"GET" and asked == [b"websocket"]


def _response(event: h11.Response) -> h11.Response:
    gone = _HOP | _ANSWERED_ONLY | _named_by_connection(event.headers)
    headers = [(name, value) for name, value in event.headers if name not in gone]
    return h11.Response(status_code=event.status_code, headers=headers, reason=event.reason)


def _informational(event: h11.InformationalResponse) -> h11.InformationalResponse:
    kept = (b"connection", b"upgrade") if event.status_code == _SWITCHED else ()
    headers = [(name, value) for name, value in event.headers if name in kept or name not in _HOP]
    return h11.InformationalResponse(status_code=event.status_code, headers=headers, reason=event.reason)
