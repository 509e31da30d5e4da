"""A forwarder with a scripted resolver behind it, and a client as a sandbox has it."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, ip_address
from typing import Any, cast

import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from upstream import Upstream, sockets, upstream

from bay.clock import ManualClock
from bay.meters import Meters
from bay.models import NetworkMode, NetworkPolicy, NetworkRule
from bay.network.dns.cache import Address
from bay.network.dns.forwarder import Forwarder
from bay.network.dns.limits import DnsLimits
from bay.network.dns.upstream import UpstreamResolver, receive_exactly
from bay.network.policy import CompiledPolicy, checked, compile_policy
from bay.network.reserved_ranges import is_reserved

KEY = 7
FAST = DnsLimits(tries_s=(0.15, 0.15), answer_s=1, idle_s=0.3, pause_s=0.01)
"""For tests of what does not answer: every wait is real, so it is short."""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both loops: `bay serve` runs on uvloop, whose sockets are its own code."""
    return "asyncio", {"use_uvloop": request.param}


class Ticks:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds


@dataclass
class Opened:
    """The opener: notes what it is told, and may be held up or fail."""

    calls: list[tuple[str, tuple[Address, ...], int]] = field(
        default_factory=list[tuple[str, tuple[Address, ...], int]]
    )
    gate: asyncio.Event | None = None
    error: Exception | None = None
    begun: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, key: int, name: str, addresses: Sequence[Address], ttl_s: int) -> None:
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.calls.append((name, tuple(addresses), ttl_s))

    def names(self) -> list[str]:
        """In the order they were opened."""
        return [name for name, _, _ in self.calls]


@dataclass
class World:
    """A sandbox that may ask, and everything around it."""

    forwarder: Forwarder
    upstream: Upstream
    opened: Opened
    ticks: Ticks
    udp: socket.socket
    place: tuple[str, int]
    meters: Meters

    async def ask(self, name: str, kind: str = "A", *, payload: int = 1232) -> dns.message.Message:
        """What a question by UDP is answered; its form is checked."""
        query = dns.message.make_query(name, kind, use_edns=0, payload=payload)
        return await self.ask_message(query)

    async def ask_message(self, query: dns.message.Message) -> dns.message.Message:
        """As `ask`, with a message of one's own."""
        answer = dns.message.from_wire(await self.send(query.to_wire()))
        assert query.is_response(answer)
        return answer

    async def send(self, message: bytes) -> bytes:
        """The bytes that these bytes are answered."""
        with self.client() as udp:
            udp.send(message)
            return await receive(udp)

    def client(self) -> socket.socket:
        """A socket that is connected to the forwarder."""
        udp = socket.socket(type=socket.SOCK_DGRAM)
        udp.setblocking(False)
        udp.connect(self.place)
        return udp

    async def connect(self) -> socket.socket:
        """A connection to the forwarder."""
        tcp = socket.socket()
        tcp.setblocking(False)
        await asyncio.get_running_loop().sock_connect(tcp, self.place)
        return tcp

    def refused(self) -> list[tuple[str, str, str, int | None]]:
        """Names, types, reasons and rules of the log."""
        return [(one.name, one.type, one.reason, one.rule) for one in self.forwarder.refused(KEY)]

    def counted(self, name: str, **labels: str) -> float | None:
        """A sample of the metrics."""
        return self.meters.registry.get_sample_value(name, labels)

    def reasons(self) -> list[str]:
        """Of the log."""
        return [one.reason for one in self.forwarder.refused(KEY)]

    def set_policy(self, mode: NetworkMode, *rules: NetworkRule) -> None:
        """Change what it may ask."""
        self.forwarder.set_plan(KEY, plan(mode, *rules))


def allow(domain: str, **more: Any) -> NetworkRule:
    """A rule."""
    return NetworkRule(action="allow", domain=domain, **more)


def deny(domain: str, **more: Any) -> NetworkRule:
    """A rule."""
    return NetworkRule(action="deny", domain=domain, **more)


def plan(mode: NetworkMode, *rules: NetworkRule, private: Sequence[IPv4Network] = ()) -> CompiledPolicy:
    """A policy as the forwarder takes it."""
    return compile_policy(checked(NetworkPolicy(mode=mode, rules=rules), private), private)


OPEN = plan("open")


@asynccontextmanager
async def world(
    holds: CompiledPolicy = OPEN,
    *,
    limits: DnsLimits | None = None,
    resolvers: Sequence[UpstreamResolver] | None = None,
    ipv6: bool = True,
    opened: Opened | None = None,
) -> AsyncGenerator[World]:
    """One sandbox under a plan."""
    async with AsyncExitStack() as stack:
        up = await stack.enter_async_context(upstream())
        opened, ticks, meters = opened or Opened(), Ticks(), Meters()
        forwarder = Forwarder(
            resolvers=[up.resolver] if resolvers is None else resolvers,
            opener=opened,
            is_reachable=lambda address: not is_reserved(address),
            now=ticks,
            clock=ManualClock(),
            ipv6=ipv6,
            limits=limits or DnsLimits(),
            meters=meters,
        )
        stack.push_async_callback(forwarder.aclose)
        udp, tcp = sockets()
        place = udp.getsockname()
        await forwarder.listen(KEY, udp, tcp, holds)
        yield World(forwarder, up, opened, ticks, udp, place, meters)


async def receive(udp: socket.socket) -> bytes:
    """The next datagram."""
    async with asyncio.timeout(5):
        return await asyncio.get_running_loop().sock_recv(udp, 65535)


async def send_stream(tcp: socket.socket, message: bytes) -> None:
    """One message with its length."""
    await asyncio.get_running_loop().sock_sendall(tcp, len(message).to_bytes(2, "big") + message)


async def receive_stream(tcp: socket.socket) -> bytes:
    """The next message of a connection."""
    async with asyncio.timeout(5):
        return await receive_exactly(tcp, int.from_bytes(await receive_exactly(tcp, 2), "big"))


def data(answer: dns.message.Message, kind: str = "A") -> list[str]:
    """What the records of that type say."""
    wanted = dns.rdatatype.from_text(kind)
    texts: list[str] = []
    for rrset in answer.answer:
        texts += [str(one) for one in cast(Iterable[object], rrset)] if rrset.rdtype == wanted else []
    return texts


def addresses(*texts: str) -> tuple[Address, ...]:
    """Parsed."""
    return tuple(map(ip_address, texts))


def is_refused(answer: dns.message.Message) -> bool:
    """Whether it says so, and nothing else."""
    return answer.rcode() == dns.rcode.REFUSED and not answer.answer
