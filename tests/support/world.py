"""An internet and a private network beside the tests' own: real servers in namespaces, and a count of every
packet they saw.

The tests' process is the host. Two links lead from it:

    up0   the internet: an allowed site, a denied one, a resolver that anybody may ask, on public addresses
    lan0  what no sandbox may reach: private addresses of every kind, cloud metadata, and Bay's resolver

Servers answer on every address. What reached a namespace is counted there by nftables, each packet, so that
"refused" means that nothing came, and not only that the sandbox saw an error.
"""

import asyncio
import os
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, TypeVar

from upstream import Upstream, serving_on

from bay.drivers.oci import netns
from bay.linux import namespaces, sysctls
from bay.linux.nftables import Nft

T = TypeVar("T")

SITE, SITE6 = "93.184.216.34", "2606:2800:220:1::34"
"""The site that policies allow."""
OTHER, OTHER6 = "151.101.1.69", "2a04:4e42::645"
"""The one that they deny, or do not know."""
PUBLIC_RESOLVER, PUBLIC_RESOLVER6 = "9.9.9.9", "2620:fe::fe"

HOST_PUBLIC, HOST_PUBLIC6 = "5.5.5.2", "2a00:5:5::2"
HOST_LAN, HOST_LAN6 = "10.20.0.1", "fd00:20::1"
RESOLVER = "10.20.0.53"

LAN, LAN6 = "10.20.0.5", "fd00:20::5"
PRIVATE = (LAN, "192.168.77.5", "172.16.3.3")
METADATA = ("169.254.169.254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
CARRIER = "100.64.9.9"
RESERVED = (CARRIER, "198.18.0.9", "192.0.2.9", "203.0.113.9", "240.0.0.9", "0.0.0.9", "192.88.99.9")
RESERVED6 = (
    LAN6,
    "fd00:ec2::254",
    "64:ff9b::a14:5",
    "2002:a14:5::1",
    "2001:0:a14:5::1",
    "2001:db8::9",
    "::ffff:10.20.0.5",
)

PORTS = (53, 80, 443, 8080)
_INTERNET = (SITE, OTHER, PUBLIC_RESOLVER, SITE6, OTHER6, PUBLIC_RESOLVER6)
_LAN = (*PRIVATE, *METADATA, *RESERVED, RESOLVER, *(one for one in RESERVED6 if not one.startswith("::ffff")))

Seen = tuple[str, str, int]
"""Address, protocol and port of packets; the port of ICMP is 0."""

_WATCH = """
table inet watch {
  set seen4 { type ipv4_addr . inet_proto . inet_service; flags dynamic; size 65535; counter; }
  set seen6 { type ipv6_addr . inet_proto . inet_service; flags dynamic; size 65535; counter; }
  set ping4 { type ipv4_addr . inet_proto; flags dynamic; size 65535; counter; }
  set ping6 { type ipv6_addr . inet_proto; flags dynamic; size 65535; counter; }
  set from4 { type ipv4_addr; flags dynamic; size 65535; }
  set from6 { type ipv6_addr; flags dynamic; size 65535; }
  chain came {
    type filter hook prerouting priority -500; policy accept;
    iifname lo accept
    update @from4 { ip saddr }
    update @from6 { ip6 saddr }
    meta nfproto ipv4 meta l4proto { tcp, udp } update @seen4 { ip daddr . meta l4proto . th dport }
    meta nfproto ipv6 meta l4proto { tcp, udp } update @seen6 { ip6 daddr . meta l4proto . th dport }
    meta nfproto ipv4 meta l4proto != { tcp, udp } update @ping4 { ip daddr . meta l4proto }
    meta nfproto ipv6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report } accept
    meta nfproto ipv6 meta l4proto != { tcp, udp } update @ping6 { ip6 daddr . meta l4proto }
  }
}
"""


@dataclass(slots=True)
class Place:
    """A network namespace with servers."""

    fd: int
    nft: Nft

    def inside(self, work: Callable[[], T]) -> T:
        """What `work` returns, done there."""
        return namespaces.inside(self.fd, work)

    def ip(self, *commands: str) -> None:
        """Commands of `ip`, there."""
        path = f"/proc/{os.getpid()}/fd/{self.fd}"
        _ip("nsenter", f"--net={path}", text="\n".join(commands))

    def seen(self) -> Counter[Seen]:
        """Packets that came in, by where they went to."""
        found: Counter[Seen] = Counter()
        for name in ("seen4", "seen6", "ping4", "ping6"):
            for address, protocol, *port in self._elements(name):
                kind = "icmp" if "icmp" in str(protocol) else str(protocol)
                found[address, kind, port[0] if port else 0] += 1
        return found

    def senders(self) -> set[str]:
        """The sources of what came in, but for the talk of neighbours on the link."""
        found = {str(one) for name in ("from4", "from6") for one in self._elements(name)}
        return {one for one in found if one != "::" and not one.startswith("fe80:")}

    def forget(self) -> None:
        """Count from nothing."""
        for name in ("seen4", "seen6", "ping4", "ping6", "from4", "from6"):
            self.nft.run(f"flush set inet watch {name}")

    def _elements(self, name: str) -> list[Any]:
        listed = self.nft.ask(f"list set inet watch {name}", elements=True)
        found = next(one["set"] for one in listed if "set" in one).get("elem", ())
        return [_key(one) for one in found]

    def close(self) -> None:
        """Let it end."""
        self.nft.close()
        os.close(self.fd)


def _key(element: Any) -> Any:
    """What a set's element is, without its counter: nftables says `{"elem": {"val": {"concat": […]}}}`, or
    less of it.
    """
    for name in ("elem", "val", "concat"):
        with suppress(TypeError, KeyError):  # it is a word, or has no such wrapping
            element = element[name]
    return element


@dataclass(slots=True)
class World:
    """Both networks. `resolver` is Bay's; its zone may be changed at any time."""

    internet: Place
    lan: Place
    resolver: Upstream
    accepted: Counter[str] = field(default_factory=Counter[str])
    """Connections that each address took."""
    echoed: Counter[str] = field(default_factory=Counter[str])
    """Bytes that came to each address by them."""
    open: set[asyncio.StreamWriter] = field(default_factory=set[asyncio.StreamWriter])

    def seen(self) -> Counter[Seen]:
        """What came to either."""
        return self.internet.seen() + self.lan.seen()

    def forget(self) -> None:
        """Count from nothing."""
        self.internet.forget()
        self.lan.forget()
        self.resolver.asked.clear()


@contextmanager
def world() -> Generator[World]:
    """Make it around the calling process's namespace, which tests/conftest.py made; nothing of it stays."""
    assert {name for _, name in socket.if_nameindex() if name.startswith(("e", "w"))} == set(), (
        "this is a machine's own network"
    )
    for name in (
        "ipv4/ip_forward",
        "ipv6/conf/all/forwarding",
    ):  # a namespace begins as the machine is, or a Bay before left it
        sysctls.write(name, "0")
    internet, lan, nft = _new_place(), _new_place(), Nft()
    try:
        _link(internet, lan)
        with _served(internet, lan) as made:
            yield made
    finally:
        _ip(text="link del up0\nlink del lan0", check=False)
        _ip(
            text="\n".join(f"link del {name}" for _, name in socket.if_nameindex() if name.startswith("bay")),
            check=False,
        )
        nft.run("flush ruleset")  # what Bays keep when they end, and more when they are killed
        nft.close()
        internet.close()
        lan.close()


def _new_place() -> Place:
    def make() -> tuple[int, Nft]:
        netns.set_up_loopback()
        nft = Nft()
        nft.run(_WATCH)
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), nft

    return Place(*namespaces.inside_new(make))


def _link(internet: Place, lan: Place) -> None:
    pid = os.getpid()
    _ip(text="\n".join([
        f"link add up0 type veth peer name eth0 netns /proc/{pid}/fd/{internet.fd}",
        f"link add lan0 type veth peer name eth0 netns /proc/{pid}/fd/{lan.fd}",
        f"addr add {HOST_PUBLIC}/24 dev up0",
        f"addr add {HOST_PUBLIC6}/64 dev up0 nodad",
        f"addr add {HOST_LAN}/24 dev lan0",
        f"addr add {HOST_LAN6}/64 dev lan0 nodad",
        "link set up0 up",
        "link set lan0 up",
    ]))  # fmt: skip
    _furnish(internet, "5.5.5.1/24", "2a00:5:5::1/64", HOST_PUBLIC, HOST_PUBLIC6, _INTERNET)
    _furnish(lan, f"{LAN}/24", f"{LAN6}/64", HOST_LAN, HOST_LAN6, _LAN)
    beyond = [
        f"route add {one}/{_bits(one)} via {LAN6 if ':' in one else LAN} dev lan0"
        for one in _LAN
        if one not in (LAN, LAN6, RESOLVER)
    ]
    _ip(
        text="\n".join(
            ["route add default via 5.5.5.1 dev up0", "route add default via 2a00:5:5::1 dev up0", *beyond]
        )
    )


def _furnish(place: Place, v4: str, v6: str, host4: str, host6: str, addresses: tuple[str, ...]) -> None:
    place.ip(
        f"addr add {v4} dev eth0",
        f"addr add {v6} dev eth0 nodad",
        "link set eth0 up",
        f"route add default via {host4}",
        f"route add default via {host6}",
        *(f"addr replace {one}/{_bits(one)} dev lo{' nodad' if ':' in one else ''}" for one in addresses),
    )


def _bits(address: str) -> int:
    return ip_address(address).max_prefixlen


def _ip(*before: str, text: str, check: bool = True) -> None:
    done = subprocess.run(
        [*before, "ip", "-force", "-batch", "-"],
        input=text,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if check and done.stderr:
        raise AssertionError(done.stderr)


@contextmanager
def _served(internet: Place, lan: Place) -> Generator[World]:
    """The servers, on a loop of their own: tests block."""
    ready: list[World] = []
    begun, ended = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            resolver = await stack.enter_async_context(serving_on(*lan.inside(_resolver_sockets)))
            made = World(internet, lan, resolver)
            for place, addresses in ((internet, _INTERNET), (lan, _LAN)):
                await _serve_place(stack, place, addresses, made)
            ready.append(made)
            begun.set()
            await ended.wait()
        for writer in ready[0].open:  # connections that their other side never closed
            writer.transport.abort()
        if rest := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(rest, timeout=5)

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), name="world", daemon=True)
    thread.start()
    assert begun.wait(10), "the world does not begin"
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


def _resolver_sockets() -> tuple[socket.socket, socket.socket]:
    udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
    udp.bind((RESOLVER, 53))
    tcp.bind((RESOLVER, 53))
    tcp.listen(64)
    return udp, tcp


async def _serve_place(stack: AsyncExitStack, place: Place, addresses: tuple[str, ...], made: World) -> None:
    for port in PORTS:
        for address in addresses:
            if (address, port) == (RESOLVER, 53):
                continue
            tcp, udp = place.inside(lambda address=address, port=port: _sockets(address, port))
            server = await asyncio.start_server(lambda r, w, place=place: _echo(r, w, made), sock=tcp)
            stack.callback(server.close)
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(_Echo, sock=udp)
            stack.callback(transport.close)


def _sockets(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    tcp, udp = socket.socket(family), socket.socket(family, socket.SOCK_DGRAM)
    for one in (tcp, udp):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, port))
    tcp.listen(1024)
    return tcp, udp


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, made: World) -> None:
    address = writer.get_extra_info("sockname")[0]
    made.accepted[address] += 1
    made.open.add(writer)
    try:
        while data := await reader.read(65536):
            made.echoed[address] += len(data)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        made.open.discard(writer)
        writer.close()


class _Echo(asyncio.DatagramProtocol):
    """Sends back what comes."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)
