"""Networks to measure in: a site behind the host with servers that count and echo, and a bridge as Docker
makes one.

Everything is made from a thread that is in a network namespace of its own
(`bay.linux.namespaces.inside_new`), so that this machine's network is not touched, and is gone with it.
"""

import os
import socket
import subprocess
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import dns.message
import dns.rrset

from bay.drivers.oci import netns
from bay.linux import namespaces
from bay.linux.nftables import Nft

SITE, HOST = "5.5.5.1", "5.5.5.2"
SINK, ECHO = 5001, 5002
BRIDGE, BRIDGED = "172.17.0.1", "172.17.0.2"
PIECE = 1 << 18


@contextmanager
def site() -> Generator[None]:
    """A host of its own at the end of a link, with a TCP sink, a TCP echo and a resolver that knows every
    name.
    """
    netns.set_up_loopback()
    fd = namespaces.inside_new(lambda: os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
    sockets: list[socket.socket] = []
    try:
        ip(f"link add up0 type veth peer name eth0 netns /proc/{os.getpid()}/fd/{fd}",
           f"addr add {HOST}/24 dev up0", "link set up0 up", f"route add default via {SITE}")  # fmt: skip
        ip(
            "link set lo up",
            f"addr add {SITE}/24 dev eth0",
            "link set eth0 up",
            into=f"/proc/{os.getpid()}/fd/{fd}",
        )
        sockets = namespaces.inside(fd, _sockets)
        for work, sock in zip((_sink, _echo, _resolve), sockets, strict=True):
            threading.Thread(target=_until_closed, args=(work, sock), daemon=True).start()
        yield
    finally:
        for sock in sockets:
            sock.close()
        os.close(fd)


def ip(*commands: str, into: str | None = None) -> None:
    """Commands of `ip`, here or in the namespace at a path."""
    before = ["nsenter", f"--net={into}"] if into else []
    subprocess.run(
        [*before, "ip", "-batch", "-"], input="\n".join(commands), text=True, timeout=20, check=True
    )


def attach_to_bridge(namespace: Path) -> None:
    """Give a namespace that has loopback alone a link as `docker run` does: a veth on a bridge, and source
    NAT behind it.
    """
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    ip("link add docker0 type bridge", f"addr add {BRIDGE}/16 dev docker0", "link set docker0 up",
       f"link add vethd type veth peer name eth0 netns {namespace}", "link set vethd master docker0", "link set vethd up")  # fmt: skip
    ip(
        f"addr add {BRIDGED}/16 dev eth0",
        "link set eth0 up",
        f"route add default via {BRIDGE}",
        into=str(namespace),
    )
    nft = Nft()
    nft.run(
        "table ip dockerlike {\n"
        " chain nat { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != docker0 masquerade; }\n"
        " chain forward { type filter hook forward priority 0; policy drop;\n"
        "  oifname docker0 ct state established,related accept\n  iifname docker0 oifname != docker0 accept\n"
        '  iifname "bay*" accept\n  oifname "bay*" accept\n }\n}'
    )
    nft.close()


def _sockets() -> list[socket.socket]:
    sink, echo = socket.create_server((SITE, SINK)), socket.create_server((SITE, ECHO))
    resolver = socket.socket(type=socket.SOCK_DGRAM)
    resolver.bind((SITE, 53))
    return [sink, echo, resolver]


def _until_closed(work: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with suppress(OSError):
        while True:
            work(sock)


def _sink(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    buffer = bytearray(PIECE)
    with connection:
        while connection.recv_into(buffer):
            pass


def _echo(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        while data := connection.recv(100):
            connection.sendall(data)


def _resolve(sock: socket.socket) -> None:
    data, sender = sock.recvfrom(4096)
    query = dns.message.from_wire(data)
    answer = dns.message.make_response(query, recursion_available=True)
    answer.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "93.184.216.34"))
    sock.sendto(answer.to_wire(), sender)
