"""The relay carries one client's HTTP/1.1 requests to the one host that it may, with headers added."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import h11

from bay.network.http_passage import Header, NotPassedOn, Passage, Stream, passed_on


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayLimits:
    """Seconds: how long a client may be idle between requests and take for a head, and any side be silent."""

    idle_s: float = 75.0
    head_s: float = 30.0
    silence_s: float = 900.0


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
            self._client.refuse(refusal, [("X-Bay-Broker", refusal.reason)])
            raise
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint
            refusal = NotPassedOn(
                status, "malformed", "this is no HTTP/1.1 request that Bay's broker passes on"
            )
            self._client.refuse(refusal, [("X-Bay-Broker", refusal.reason)])
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
        passage = Passage(self._client, host, self._domain, self._limits.silence_s)
        if await passage.carry():
            await passage.tunnel()
            return False
        return self._again(host)

    async def _request(self) -> h11.Request | None:
        """The next request, checked; None at the end of the connection."""
        client = self._client
        if not client.http.trailing_data[0]:
            async with asyncio.timeout(self._limits.idle_s):
                await client.listen()
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
        gone = {name.lower() for name, _ in added} | {b"host", b"http2-settings"}
        kept = passed_on(request.headers, gone)
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


def _is_websocket(request: h11.Request) -> bool:
    asked = [value.strip().lower() for name, value in request.headers if name == b"upgrade"]
    return request.method == b"GET" and asked == [b"websocket"]
