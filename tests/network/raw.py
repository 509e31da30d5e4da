"""Packets as no program in a sandbox can make them, sent from a sandbox's network by the host's root."""

import os
import socket
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from lab import Box

from bay.linux import namespaces
from bay.linux.nftables import Nft
from bay.network.slots import NetworkSlot

T = TypeVar("T")


def slot_of(box: Box) -> NetworkSlot:
    """The slot of a sandbox that runs: the driver takes the number of its range of ids."""
    directory = _session_of(box)
    claims = (one for one in Path("/run/bay/ids").glob("[0-9]*") if _claimant(one) == str(directory))
    return NetworkSlot(int(next(claims).name) + 1, directory.name)


def _claimant(claim: Path) -> str | None:
    """Whose claim it is; another Bay on this host may give its own up meanwhile."""
    try:
        return claim.read_text()
    except FileNotFoundError:
        return None


def _session_of(box: Box) -> Path:
    owners = (box.lab.root / "run").glob("*/sessions/*/owner.json")
    return next(one.parent for one in owners if box.id in one.read_text())


def namespace_of(box: Box) -> Path:
    """The network namespace of a sandbox that runs, by its processes' control group: the one with a device,
    as in gVisor the process that opens files has an empty one.
    """
    session = _session_of(box).name
    own = os.readlink("/proc/self/ns/net")
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if (
                session in Path(f"/proc/{pid}/cgroup").read_text()
                and os.readlink(f"/proc/{pid}/ns/net") != own
                and "eth0:" in Path(f"/proc/{pid}/net/dev").read_text()
            ):
                return Path(f"/proc/{pid}/ns/net")
        except OSError:
            continue
    raise AssertionError(f"no process of {session}")


def send(namespace: Path, *packets: bytes, device: str = "eth0") -> None:
    """Send IP packets by `device`, as they are."""

    def work() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
            for data in packets:
                kind = 0x0800 if data[0] >> 4 == 4 else 0x86DD
                sock.sendto(data, (device, kind, 0, 0, bytes.fromhex("02ba00580001")))

    inside(namespace, work)


@contextmanager
def listening(namespace: Path, device: str = "eth0") -> Generator[Callable[[], list[bytes]]]:
    """Gives what came in by `device` since it was asked last, without the reports of multicast groups that
    the kernel of the host sends by the other end, at a random moment after its begin.
    """

    def opened() -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        sock.bind((device, 0x0003))
        sock.setblocking(False)
        return sock

    with inside(namespace, opened) as sock:
        yield lambda: list(_received(sock))


def _received(sock: socket.socket) -> Iterator[bytes]:
    while True:
        try:
            data, sender = sock.recvfrom(65536)
        except BlockingIOError:
            return
        if sender[2] != socket.PACKET_OUTGOING and not _is_group_report(data):
            yield data


def _is_group_report(data: bytes) -> bool:
    """Whether it is an MLDv2 report (RFC 3810): ICMPv6 of type 143 behind a hop-by-hop header of 8 bytes."""
    return data[0] >> 4 == 6 and data[6] == 0 and data[40:42] == b"\x3a\x00" and data[48] == 143


def inside(namespace: Path, work: Callable[[], T]) -> T:
    """What `work` returns, done there."""
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return namespaces.inside(fd, work)
    finally:
        os.close(fd)


def nft(command: str) -> None:
    """Do something to the host's nftables behind Bay's back."""
    library = Nft()
    library.run(command)
    library.close()


def packet(source: str, to: str, protocol: int, payload: bytes) -> bytes:
    """An IP packet."""
    if ":" in source:
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
        return head + ip_address(source).packed + ip_address(to).packed + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, 0, 64, protocol, 0)
    head += ip_address(source).packed + ip_address(to).packed
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + payload


def udp(source: str, to: str, port: int, body: bytes = b"hello!") -> bytes:
    """A datagram; `body` has an even length."""
    length = 8 + len(body)
    pseudo = ip_address(source).packed + ip_address(to).packed + struct.pack("!IHH", length, 0, 17)
    whole = struct.pack("!HHHH", 40_000, port, length, 0) + body
    return packet(source, to, 17, whole[:6] + struct.pack("!H", _checksum(pseudo + whole)) + body)


def fragments(source: str, to: str, port: int) -> list[bytes]:
    """A datagram of 1,400 bytes in two fragments."""
    whole = udp(source, to, port, b"x" * 1392)
    if ":" in source:
        head, body = whole[:40], whole[40:]
        return [_fragment6(head, body[:704], 1), _fragment6(head, body[704:], 704)]
    head, body = whole[:20], whole[20:]
    return [_fragment4(head, body[:704], 0x2000), _fragment4(head, body[704:], 704 >> 3)]


def _fragment4(head: bytes, body: bytes, place: int) -> bytes:
    new = head[:2] + struct.pack("!HHH", 20 + len(body), 7, place) + head[8:10] + b"\0\0" + head[12:]
    return new[:10] + struct.pack("!H", _checksum(new)) + new[12:] + body


def _fragment6(head: bytes, body: bytes, place: int) -> bytes:
    fragment = struct.pack("!BBHI", 17, 0, place, 7)  # the offset in bytes, with 1 added where more follows
    return head[:4] + struct.pack("!HB", 8 + len(body), 44) + head[7:] + fragment + body


def syn(source: str, to: str, port: int) -> bytes:
    """The first packet of a TCP connection, from a port that is the same for the same `port`."""
    whole = struct.pack("!HHIIBBHHH", 1024 + port % 60_000, port, 1, 0, 5 << 4, 2, 8192, 0, 0)
    pseudo = ip_address(source).packed + ip_address(to).packed + struct.pack("!HH", 6, len(whole))
    return packet(source, to, 6, whole[:16] + struct.pack("!H", _checksum(pseudo + whole)) + whole[18:])


def icmp(source: str, to: str, kind: int) -> bytes:
    """An ICMP message of that type, which is about nothing."""
    whole = struct.pack("!BBHHH", kind, 0, 0, 1, 1) + b"\0" * 32
    if ":" in source:
        pseudo = ip_address(source).packed + ip_address(to).packed + struct.pack("!II", len(whole), 58)
        return packet(source, to, 58, whole[:2] + struct.pack("!H", _checksum(pseudo + whole)) + whole[4:])
    return packet(source, to, 1, whole[:2] + struct.pack("!H", _checksum(whole)) + whole[4:])


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
