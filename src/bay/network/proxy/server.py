"""The proxy's listener, its guests, and the way of a request through it.

A client shows its session's secret, and comes from the address of its session's pod: a secret that one
sandbox tells another opens nothing. Everything that a client sends is bounded by the address that it comes
from, before Bay looks into its database.
"""

import asyncio
import errno
import hmac
import itertools
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address

import h11
import structlog

from bay.clock import Clock, utc_now
from bay.errors import BayError, DriverUnavailable
from bay.meters import Meters
from bay.models import NetworkState
from bay.network.dns.limits import DnsLimits
from bay.network.dns.names import ForwarderContext
from bay.network.dns.sandbox_resolver import Tasks
from bay.network.dns.upstream import Upstream, UpstreamResolver, resolver
from bay.network.http_passage import PIECE, NotPassedOn, Passage, Stream, passed_on
from bay.network.proxy.guest import PolicyVersion, ProxyGuest
from bay.network.proxy.requests import EgressTarget, credentials_of, target_of
from bay.network.proxy.shares import ConnectionShares, Sharer
from bay.network.proxy.tunnel import tunnel
from bay.network.reserved_ranges import Address, Network, is_reserved
from bay.token_bucket import TokenBucket

log = structlog.get_logger("bay.egress")

_REFUSED = ("X-Bay-Proxy", "refused")
_WAY_IN = ("Proxy-Authenticate", 'Basic realm="bay"')
_TRIES = 4
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyLimits:
    """The bounds of one proxy; those of a client count for each address by itself. Times are seconds."""

    connections: int = 128
    """Open at a time, of one client."""
    all_connections: int = 1024
    """One that stalls holds up to 650 KiB in buffers. Owners have shares of them."""
    requests_per_s: float = 50
    requests_at_once: float = 200
    clients: int = 20_000
    """How many are remembered; then those without a connection are forgotten."""
    head_bytes: int = 32 * 1024
    head_s: float = 10
    """For the head of a request, from its first byte on or the beginning of the connection."""
    idle_s: float = 75
    """Between two requests."""
    connect_s: float = 10
    silence_s: float = 300
    """Of either side, within a request for a URL."""
    tunnel_idle_s: float = 3600
    """Of both sides, after a CONNECT."""
    pieces: int = 4
    """How many of 64 KiB are carried in one turn of the event loop, which serves the API as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySession:
    """A session that may use the proxy. `version` is that of its sandbox's policy now."""

    secret: str = field(repr=False)
    owner: str
    address: Address
    version: int


FindSession = Callable[[str], Awaitable[ProxySession | None]]
"""The session of that id, None for one that is over or may not use the proxy. Raises BayError."""

FindPolicy = Callable[[str], Awaitable[PolicyVersion | None]]
"""The policy that the session of that id is to be held to now, as `FindSession`."""


Dial = Callable[[Address, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Connects to an address and a port. Raises OSError."""


@dataclass(slots=True, eq=False)
class _ProxyClient:
    """An address that connections come from, and the session that was last admitted there."""

    rate: TokenBucket
    connections: int = 0
    guest: ProxyGuest | None = None
    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the policy is read, for all its connections at once."""

    def takes(self, most: int) -> bool:
        """Whether one more connection may begin."""
        return self.connections < most and self.rate.take()

    def refused(self) -> None:
        """One was not taken."""
        if self.guest is not None:
            self.guest.count_flood()


class EgressProxy:
    """Serves sessions by their policies. `deny`: networks that none reaches, beside reserved ones; `is_own`:
    whether an address is one of this host, which none reaches either; `dial` connects to an address; `now`: a
    clock in seconds that does not jump; `clock`: displayed times.
    """

    def __init__(
        self,
        *,
        sessions: FindSession,
        policies: FindPolicy,
        resolvers: Sequence[Address | UpstreamResolver],
        deny: Iterable[Network] = (),
        ipv6: bool = False,
        limits: ProxyLimits | None = None,
        dns_limits: DnsLimits | None = None,
        is_own: Callable[[Address], bool] | None = None,
        dial: Dial | None = None,
        now: Callable[[], float] = time.monotonic,
        clock: Clock = utc_now,
        meters: Meters | None = None,
    ) -> None:
        self._sessions, self._policies = sessions, policies
        self._deny, self._ipv6 = tuple(deny), ipv6
        self._limits = limits or ProxyLimits()
        self._is_own, self.dial = is_own or _is_own, dial or _dial
        self._now = now
        dns_limits = dns_limits or DnsLimits()
        upstream = Upstream([resolver(one) for one in resolvers], dns_limits, now)
        self._around = ForwarderContext(
            upstream,
            _open_nothing,
            lambda one: not is_reserved(one) and not self._is_denied(one),
            ipv6,
            dns_limits,
            now,
            clock,
            meters or Meters(),
        )
        self.turns = asyncio.Semaphore(self._limits.pieces)
        self._server: asyncio.Server | None = None
        self.shares = ConnectionShares(self._limits.all_connections)
        self._tasks = Tasks()
        self._keys = itertools.count()
        self._guests: dict[str, ProxyGuest] = {}
        self._clients: dict[Address, _ProxyClient] = {}
        self._warnings = TokenBucket(1 / 60, 10, now)

    async def open(self, host: str, port: int) -> int:
        """Listen; the port, which for 0 is a free one. Raises DriverUnavailable."""
        try:
            self._server = await asyncio.start_server(self._accept, host, port, limit=PIECE, backlog=512)
        except OSError as error:
            raise DriverUnavailable(
                f"the egress proxy cannot listen on {host} port {port}: {error}; set egress_proxy_listen to another place"
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def aclose(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for session_id in list(self._guests):
            await self._forget(session_id)
        await self._tasks.aclose()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._tasks)

    def known(self, *, connected: bool) -> dict[str, int]:
        """The sessions that it has served, and the version of the policy that it holds each to; with
        `connected` those that have a connection.
        """
        return {
            one.session_id: one.version for one in self._guests.values() if one.is_connected or not connected
        }

    async def renew(self, session_id: str) -> None:
        """Hold the session, if it is known here, to what its row says now. Raises BayError."""
        if session_id in self._guests:
            present = await self._policies(session_id)
            if present is None:
                await self._forget(session_id)
            elif (guest := self._guests.get(session_id)) is not None:
                self._hold(guest, present)

    def state(self, session_id: str) -> NetworkState | None:
        """The session's traffic; None for one that this proxy does not know."""
        guest = self._guests.get(session_id)
        return guest and guest.state()

    async def _forget(self, session_id: str) -> None:
        if (guest := self._guests.pop(session_id, None)) is not None:
            await guest.aclose()

    def _hold(self, guest: ProxyGuest, present: PolicyVersion) -> None:
        if present.version > guest.version and (count := guest.hold(present)):
            log.info("egress.connections_cut", session=guest.session_id, count=count)

    def _is_denied(self, address: Address) -> bool:
        if address.version == 6 and not self._ipv6:
            return True
        return any(address in network for network in self._deny) or self._is_own(address)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _peer_of(writer)
        client = None if peer is None else self._client(peer)
        if peer is None or client is None:
            writer.transport.abort()
            return
        sharer = peer if client.guest is None else client.guest.owner
        if not client.takes(self._limits.connections) or not self.shares.take(sharer):
            client.refused()
            writer.transport.abort()
            return
        client.connections += 1
        self._tasks.start(self._serve(peer, client, sharer, reader, writer))

    def _client(self, peer: Address) -> _ProxyClient:
        if peer not in self._clients and len(self._clients) >= self._limits.clients:
            self._clients = {one: client for one, client in self._clients.items() if client.connections}
        limits = self._limits
        rate = TokenBucket(limits.requests_per_s, limits.requests_at_once, self._now)
        return self._clients.setdefault(peer, _ProxyClient(rate))

    async def _serve(
        self,
        peer: Address,
        client: _ProxyClient,
        sharer: Sharer,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes)
        _hold_nothing(writer)
        stream = Stream(reader, writer, http, turns=self.turns)
        visit = _ProxyExchanges(self, peer, client, stream, self._limits, sharer)
        try:
            await visit.run()
        except (OSError, h11.ProtocolError):
            pass  # a side has cut the connection, or was silent for too long
        except Exception:
            # A connection's edge, as a request has one: a defect costs this connection, and the others go on.
            log.exception("egress.failed")
        finally:
            client.connections -= 1
            if visit.guest is not None:
                visit.guest.count_bytes(stream)
            await _closed(writer)
            if visit.sharer is not None:
                self.shares.give_back(visit.sharer)

    async def admitted(
        self, peer: Address, client: _ProxyClient, credentials: tuple[str, str] | None
    ) -> ProxyGuest | None:
        """The session whose credentials these are, held to its present policy; None for a stranger. Raises
        BayError.
        """
        if credentials is None:
            return None
        session_id, secret = credentials
        session = await self._sessions(session_id)
        known = session.secret if session is not None else ""
        if not hmac.compare_digest(known.encode(), secret.encode()) or session is None:
            return None
        if session.address != peer:
            if self._warnings.take():
                log.warning("egress.other_address", session=session_id, address=str(peer))
            return None
        async with client.reading:
            return await self._guest(session_id, session)

    async def _guest(self, session_id: str, session: ProxySession) -> ProxyGuest | None:
        guest = self._guests.get(session_id)
        if guest is not None and guest.version >= session.version:
            return guest
        present = await self._policies(session_id)
        if present is None:
            return None
        guest = self._guests.get(session_id)
        if guest is None:
            key = next(self._keys)
            guest = ProxyGuest(key, session_id, session.owner, present, self._around, self._is_denied)
            self._guests[session_id] = guest
        self._hold(guest, present)
        return guest


@dataclass(slots=True, eq=False)
class _ProxyExchanges:
    """One connection of a client: requests, one after the other, up to a CONNECT."""

    proxy: EgressProxy
    peer: Address
    client: _ProxyClient
    stream: Stream
    limits: ProxyLimits
    sharer: Sharer | None
    """Whose share it is of; None for one that has no share, and ends."""
    guest: ProxyGuest | None = None

    async def run(self) -> None:
        """Serve it to its end."""
        try:
            more = await self._exchange(self.limits.head_s)
            while more:
                more = await self._exchange(self.limits.idle_s)
        except NotPassedOn as refusal:
            self.stream.refuse(refusal, [_WAY_IN if refusal.status == 407 else _REFUSED])
        except h11.RemoteProtocolError as error:
            what = "this is no HTTP/1.1 request that Bay's egress proxy passes on"
            self.stream.refuse(NotPassedOn(error.error_status_hint, "malformed", what), [_REFUSED])

    async def _exchange(self, idle_s: float) -> bool:
        """One request and its answer; whether another may follow."""
        request = await self._request(idle_s)
        if request is None:
            return False
        if self.guest is not None and (wait_s := self.client.rate.pay()) > 0:  # the first was paid for
            await asyncio.sleep(wait_s)
        guest = await self._admitted(request)
        target = target_of(request)
        host, address = await self._connected(guest, target)
        try:
            connection = guest.begin(target, address, self.stream, host)
            try:
                if target.path is None:
                    return await self._tunnel(host)
                return await self._pass_on(request, target, host)
            finally:
                guest.end(connection)
        finally:
            host.writer.transport.abort()

    async def _request(self, idle_s: float) -> h11.Request | None:
        stream = self.stream
        if not stream.http.trailing_data[0]:
            async with asyncio.timeout(idle_s):
                await stream.listen()
        async with asyncio.timeout(self.limits.head_s):
            event = await stream.event(self.limits.head_s)
        return event if isinstance(event, h11.Request) else None

    async def _admitted(self, request: h11.Request) -> ProxyGuest:
        try:
            guest = await self.proxy.admitted(self.peer, self.client, credentials_of(request))
        except BayError as error:
            raise NotPassedOn(503, "unavailable", "Bay cannot look up this sandbox now; try again") from error
        if guest is None or (self.guest is not None and guest is not self.guest):
            raise NotPassedOn(
                407, "stranger", "this proxy is for sandboxes, by the credentials in HTTPS_PROXY"
            )
        self.guest = self.client.guest = guest
        if self.sharer != guest.owner:
            self._move(guest)
        return guest

    def _move(self, guest: ProxyGuest) -> None:
        """It is of the share of that owner from now on. Raises NotPassedOn where that is used up."""
        shares = self.proxy.shares
        if self.sharer is not None:
            shares.give_back(self.sharer)
        self.sharer = guest.owner if shares.take(guest.owner) else None
        if self.sharer is None:
            guest.count_flood()
            raise NotPassedOn(
                429, "flood", "the sandboxes of this owner have their share of connections; end some"
            )

    async def _connected(self, guest: ProxyGuest, target: EgressTarget) -> tuple[Stream, Address]:
        """A connection to one of the target's addresses. Raises NotPassedOn."""
        for address in (await guest.addresses(target))[:_TRIES]:
            try:
                async with asyncio.timeout(self.limits.connect_s):
                    reader, writer = await self.proxy.dial(address, target.port)
            except OSError:
                continue
            http = h11.Connection(h11.CLIENT, max_incomplete_event_size=self.limits.head_bytes)
            _hold_nothing(writer)
            return Stream(reader, writer, http, turns=self.proxy.turns), address
        raise NotPassedOn(502, "upstream", f"{target.authority} could not be reached")

    async def _tunnel(self, host: Stream) -> bool:
        stream = self.stream
        await stream.event(self.limits.head_s)  # the end of the request, which has no body
        await stream.send(
            h11.Response(status_code=200, headers=[], reason="Connection established"), self.limits.silence_s
        )
        await tunnel(stream, host, self.limits.tunnel_idle_s)
        return False

    async def _pass_on(self, request: h11.Request, target: EgressTarget, host: Stream) -> bool:
        kept = passed_on(request.headers, (b"host", b"http2-settings"))
        sent = h11.Request(
            method=request.method,
            target=target.path or b"/",
            headers=[(b"Host", target.host_header), *kept, (b"Connection", b"close")],
        )
        await host.send(sent, self.limits.silence_s)
        if await Passage(self.stream, host, target.authority, self.limits.silence_s).carry():
            return False  # it asked for no other protocol
        if self.stream.http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self.stream.http.start_next_cycle()
        return True


async def _open_nothing(_key: int, _name: str, _addresses: Sequence[Address], _ttl_s: int) -> None:
    """Addresses of names are not opened here: each connection is judged by its name."""


async def _dial(address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(str(address), port, limit=PIECE)


def _peer_of(writer: asyncio.StreamWriter) -> Address | None:
    found = writer.get_extra_info("peername")
    if not found:
        return None  # it was cut before it was taken
    address = ip_address(str(found[0]).partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _is_own(address: Address) -> bool:
    """Whether it is one of this host: the address that it would take to connect there is the same."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))  # sends nothing
            return ip_address(probe.getsockname()[0]) == address
    except OSError as error:  # nothing leads there, unless this process has no room to look
        return error.errno in _NO_ROOM


def _hold_nothing(writer: asyncio.StreamWriter) -> None:
    """Have `drain` return when the kernel has all that was written: what is left then is lost with the
    connection, and takes memory as long as its peer likes.
    """
    writer.transport.set_write_buffer_limits(0)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close the connection once all that was said has gone, within a bound."""
    writer.close()
    with suppress(OSError):
        async with asyncio.timeout(5):
            await writer.wait_closed()
    writer.transport.abort()
