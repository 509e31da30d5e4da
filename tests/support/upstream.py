"""A resolver on 127.0.0.1 that is told what to say, and how to lie."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from bay.network.dns.sandbox_resolver import Tasks
from bay.network.dns.upstream import UpstreamResolver, receive_exactly

Lie = Callable[[bytes, dns.message.Message], Sequence[bytes]]
"""From the question's bytes and the honest answer: the messages to send in its place."""


@dataclass
class Upstream:
    """What it knows and does. `zone` has the texts of records by name and type; other names do not exist."""

    port: int
    zone: dict[tuple[str, str], list[str]] = field(default_factory=dict[tuple[str, str], list[str]])
    ttl: int = 60
    rcode: int | None = None
    lie: Lie | None = None
    stream_lie: Lie | None = None
    silent: bool = False
    chases: bool = True
    """Whether it follows aliases itself, as resolvers do."""
    cuts: bool = True
    """Whether an answer that is too long for the asker's datagram is cut."""
    from_elsewhere: bool = False
    gate: asyncio.Event | None = None
    """Answers wait until it is set."""
    asked: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    ids: list[int] = field(default_factory=list[int])
    ports: list[int] = field(default_factory=list[int])
    heard: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def resolver(self) -> UpstreamResolver:
        """Where it is."""
        return UpstreamResolver(IPv4Address("127.0.0.1"), self.port)

    def names(self) -> list[str]:
        """The names that it was asked for, in order."""
        return [name for name, _, _ in self.asked]

    async def replies(self, question: bytes, way: str) -> Sequence[bytes]:
        """What it says to the bytes of a question."""
        query = dns.message.from_wire(question)
        name, kind = query.question[0].name, dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name.to_text(omit_final_dot=True), kind, way))
        self.ids.append(query.id)
        self.heard.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.silent:
            return ()
        answer = self._answer(query, name, kind)
        lie = self.lie if way == "udp" else self.stream_lie
        if lie is not None:
            return lie(question, answer)
        return [_cut(query, answer) if way == "udp" and self.cuts else answer.to_wire(max_size=65535)]

    def _answer(self, query: dns.message.Message, name: dns.name.Name, kind: str) -> dns.message.Message:
        answer = dns.message.make_response(query, recursion_available=True)
        if self.rcode is not None:
            answer.set_rcode(dns.rcode.Rcode.make(self.rcode))
            return answer
        text = name.to_text(omit_final_dot=True).lower()
        for _ in range(20):
            target = self.zone.get((text, "CNAME"))
            if target is None or kind == "CNAME":
                break
            answer.answer.append(self._records(text, "CNAME", target))
            text = target[0].removesuffix(".")
            if not self.chases:
                return answer
        if records := self.zone.get((text, kind)):
            answer.answer.append(self._records(text, kind, records))
        elif not any(known == text for known, _ in self.zone):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        return answer

    def _records(self, name: str, kind: str, texts: list[str]) -> dns.rrset.RRset:
        return dns.rrset.from_text_list(f"{name}.", self.ttl, "IN", kind, texts)


def _cut(query: dns.message.Message, answer: dns.message.Message) -> bytes:
    whole = answer.to_wire(max_size=65535)
    if len(whole) <= max(512, query.payload):
        return whole
    short = dns.message.make_response(query)
    short.flags |= dns.flags.TC
    return short.to_wire()


def sockets() -> tuple[socket.socket, socket.socket]:
    """A bound one and a listening one, on one port."""
    while True:  # until there is a port that is free for both
        udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
        udp.bind(("127.0.0.1", 0))
        try:
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen(64)
        return udp, tcp


@asynccontextmanager
async def upstream(**script: object) -> AsyncGenerator[Upstream]:
    """One that serves until the end of the block."""
    async with serving_on(*sockets(), **script) as served:
        yield served


@asynccontextmanager
async def serving_on(udp: socket.socket, tcp: socket.socket, **script: object) -> AsyncGenerator[Upstream]:
    """The same on a bound socket and a listening one, which belong to it from now on."""
    loop, tasks = asyncio.get_running_loop(), Tasks()
    with udp, tcp:
        udp.setblocking(False)
        tcp.setblocking(False)
        served = Upstream(udp.getsockname()[1], **script)  # type: ignore[arg-type]
        loop.add_reader(udp, _read, udp, served, tasks)
        tasks.start(_accept(tcp, served, tasks))
        try:
            yield served
        finally:
            loop.remove_reader(udp)
            await tasks.aclose()


def _read(udp: socket.socket, served: Upstream, tasks: Tasks) -> None:
    question, sender = udp.recvfrom(4096)
    served.ports.append(sender[1])
    tasks.start(_reply(udp, question, sender, served))


async def _reply(udp: socket.socket, question: bytes, sender: object, served: Upstream) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.setblocking(False)
        for reply in await served.replies(question, "udp"):
            (elsewhere if served.from_elsewhere else udp).sendto(reply, sender)  # type: ignore[arg-type]


async def _accept(tcp: socket.socket, served: Upstream, tasks: Tasks) -> None:
    while True:
        connection, _ = await asyncio.get_running_loop().sock_accept(tcp)
        tasks.start(_converse(connection, served))


async def _converse(connection: socket.socket, served: Upstream) -> None:
    with connection, contextlib.suppress(OSError):
        length = int.from_bytes(await receive_exactly(connection, 2), "big")
        question = await receive_exactly(connection, length)
        for reply in await served.replies(question, "tcp"):
            message = len(reply).to_bytes(2, "big") + reply
            await asyncio.get_running_loop().sock_sendall(connection, message)
