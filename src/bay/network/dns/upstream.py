"""The client side of DNS: queries the host's resolvers, which may be slow, down or lying, until one answers.

Each question has a connected socket and port of its own, a random id, and its name and type compared: an
off-path attacker has some 2^30 guesses within a second (RFC 5452). Messages that do not match are ignored; a
truncated answer is asked for again over TCP.
"""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, ip_address

from bay.network.dns import wire
from bay.network.dns.limits import DnsLimits
from bay.network.dns.responses import MalformedResponse, Response, read_response
from bay.network.reserved_ranges import Address

_DATAGRAM_BYTES = 4096
_FINAL = (wire.NOERROR, wire.NXDOMAIN)
_NO_EDNS = (wire.FORMERR, wire.NOTIMP)


class NoAnswer(Exception):
    """No resolver answered within the time there was."""


@dataclass(frozen=True, slots=True)
class UpstreamResolver:
    """Where a resolver listens."""

    address: Address
    port: int = 53

    @property
    def family(self) -> socket.AddressFamily:
        """Of the sockets that reach it."""
        return socket.AF_INET if self.address.version == 4 else socket.AF_INET6

    @property
    def place(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The address to which its sockets connect."""
        if isinstance(self.address, IPv4Address):
            return str(self.address), self.port
        plain, _, scope = str(self.address).partition("%")
        return plain, self.port, 0, _interface(scope) if scope else 0


def _interface(scope: str) -> int:
    return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)


def resolver(place: str | Address | UpstreamResolver) -> UpstreamResolver:
    """The resolver that `place` names, on port 53 by default. Raises ValueError."""
    return place if isinstance(place, UpstreamResolver) else UpstreamResolver(ip_address(place))


def resolvers_in(resolv_conf: str) -> tuple[UpstreamResolver, ...]:
    """The name servers in the text of an /etc/resolv.conf, in order; lines that name none are left aside."""
    found: list[UpstreamResolver] = []
    for words in map(str.split, resolv_conf.splitlines()):
        if len(words) >= 2 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.append(resolver(words[1]))
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class _Query:
    """One question to one resolver."""

    name: bytes
    type: int
    edns: bool
    number: int = field(default_factory=lambda: secrets.randbits(16))

    @property
    def wire(self) -> bytes:
        return wire.query(self.number, self.name, self.type, edns=self.edns)


class Upstream:
    """Several resolvers as one. The first that is not known to be down is asked first."""

    def __init__(
        self, resolvers: Sequence[UpstreamResolver], limits: DnsLimits, now: Callable[[], float]
    ) -> None:
        self._resolvers, self._limits, self._now = tuple(resolvers), limits, now
        self._failed_at: dict[UpstreamResolver, float] = {}
        self._exchanges = asyncio.Semaphore(limits.exchanges)

    async def ask(self, name: bytes, kind: int) -> Response:
        """The response to a question of class IN. Raises NoAnswer; the caller bounds the whole time."""
        unwilling: set[UpstreamResolver] = set()
        for try_s in self._limits.tries_s:
            for one in self._in_order():
                if one in unwilling:
                    continue
                response = await self._try(one, name, kind, try_s)
                if response is not None and response.rcode in _FINAL:
                    return response
                if response is not None:
                    unwilling.add(one)
        raise NoAnswer

    def _in_order(self) -> list[UpstreamResolver]:
        """Those that failed lately come last, the longest ago of them first."""
        soon = self._now() - self._limits.down_s
        failed = {one: at for one, at in self._failed_at.items() if at > soon}
        return sorted(self._resolvers, key=lambda one: failed.get(one, float("-inf")))

    async def _try(self, one: UpstreamResolver, name: bytes, kind: int, try_s: float) -> Response | None:
        """The response of `one`, whatever its rcode; None when it does not answer, which is remembered."""
        async with self._exchanges:
            try:
                async with asyncio.timeout(try_s):
                    response = await self._exchange(one, _Query(name, kind, edns=True))
                    if response.rcode in _NO_EDNS:
                        response = await self._exchange(one, _Query(name, kind, edns=False))
            except (OSError, MalformedResponse, NoAnswer):  # TimeoutError is an OSError
                self._failed_at[one] = self._now()
                return None
        self._failed_at.pop(one, None)
        return response

    async def _exchange(self, one: UpstreamResolver, query: _Query) -> Response:
        response = await self._by_datagram(one, query)
        return await self._by_stream(one, query) if response.truncated else response

    async def _by_datagram(self, one: UpstreamResolver, query: _Query) -> Response:
        loop = asyncio.get_running_loop()
        with socket.socket(one.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as udp:
            udp.connect(one.place)  # sends nothing; binds a port that the kernel takes at random
            udp.send(query.wire)
            for _ in range(self._limits.lies):
                message = await loop.sock_recv(udp, _DATAGRAM_BYTES)
                if (response := self._read(message, query)) is not None:
                    return response
        raise NoAnswer

    async def _by_stream(self, one: UpstreamResolver, query: _Query) -> Response:
        loop, question = asyncio.get_running_loop(), query.wire
        with socket.socket(one.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as tcp:
            await loop.sock_connect(tcp, one.place)
            await loop.sock_sendall(tcp, len(question).to_bytes(2, "big") + question)
            length = int.from_bytes(await receive_exactly(tcp, 2), "big")
            response = self._read(await receive_exactly(tcp, length), query)
        if response is None or response.truncated:
            raise NoAnswer
        return response

    def _read(self, message: bytes, query: _Query) -> Response | None:
        return read_response(message, query.number, query.name, query.type, self._limits.records)


async def receive_exactly(stream: socket.socket, count: int) -> bytes:
    """The next `count` bytes of a stream that does not block. Raises ConnectionError when it ends before."""
    loop, got = asyncio.get_running_loop(), bytearray()
    while len(got) < count:
        part = await loop.sock_recv(stream, count - len(got))
        if not part:
            raise ConnectionResetError("the stream ended within a message")
        got += part
    return bytes(got)
