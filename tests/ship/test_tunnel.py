"""`/tunnel`: bytes of a TCP connection both ways, the end of each direction, and what becomes of a break of
either side.
"""

import json
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from ship_harness import PATIENCE_S, TOKEN, Ship

pytestmark = pytest.mark.host

END = b"\0\0\0\0"
AT_ONCE = struct.pack("ii", 1, 0)
MEBIBYTE = 1 << 20


def piece(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


class Tunnel:
    """Bay's end of a tunnel."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw

    def send(self, data: bytes) -> None:
        self.raw.sendall(piece(data))

    def end(self) -> None:
        self.raw.sendall(END)

    def read(self) -> bytes | None:
        """The next piece, empty at the end of the direction; None when the connection broke off."""
        head = self._exactly(4)
        return None if head is None else self._exactly(int.from_bytes(head, "big"))

    def all(self) -> tuple[bytes, bool]:
        """What comes, and whether to the end of the direction."""
        seen = bytearray()
        while data := self.read():
            seen += data
        return bytes(seen), data is not None

    def is_closed(self) -> bool:
        """Whether Ship has closed it, without another byte."""
        try:
            return self.raw.recv(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            try:
                more = self.raw.recv(size - len(data))
            except ConnectionResetError:
                return None
            if not more:
                return None
            data += more
        return bytes(data)


def ask(port: object, **headers: str) -> bytes:
    named = {"Host": "ship", "Authorization": f"Bearer {TOKEN}", "Connection": "Upgrade", "Upgrade": "tcp"}
    lines = [
        f"GET /tunnel?port={port} HTTP/1.1",
        *(f"{k}: {v}" for k, v in {**named, **headers}.items() if v),
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def read_head(raw: socket.socket) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        more = raw.recv(1)
        assert more, head
        head += more
    return head


@contextmanager
def tunnel(ship: Ship, port: int, behind: bytes = b"") -> Generator[Tunnel]:
    """A tunnel, which is dropped at the end of the block; `behind` goes with the request."""
    with ship.connect() as raw:
        raw.sendall(ask(port) + behind)
        head = read_head(raw)
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert b"upgrade: tcp" in head.lower()
        assert b"x-ship-session: " in head.lower()
        yield Tunnel(raw)


def refused(ship: Ship, port: object, **headers: str) -> tuple[int, dict[str, Any]]:
    with ship.connect() as raw:
        raw.sendall(ask(port, **headers))
        raw.shutdown(socket.SHUT_WR)
        head = read_head(raw)
        return int(head.split()[1]), json.loads(raw.makefile("rb").read())["error"]


@contextmanager
def app(serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Generator[int]:
    """A program that serves one connection; its port.

    What it fails with is raised at the end of the block.
    """

    def run() -> None:
        client, _ = listening.accept()
        client.settimeout(PATIENCE_S)
        with client:
            serve(client)

    with (
        ThreadPoolExecutor(1) as pool,
        socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening,
    ):
        listening.settimeout(PATIENCE_S)
        listening.bind((host, 0))
        listening.listen()
        served = pool.submit(run)
        yield listening.getsockname()[1]
        served.result(PATIENCE_S)


def echo(client: socket.socket) -> None:
    while data := client.recv(65536):
        client.sendall(data)


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)
    client.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_bytes_go_both_ways_and_each_direction_ends_by_itself(ship: Ship, host: str) -> None:
    with app(echo, host) as port, tunnel(ship, port) as made:
        made.send(b"one")
        assert made.read() == b"one"
        made.send(b"two")
        made.end()
        assert made.all() == (b"two", True)
        assert made.is_closed()


def test_what_comes_behind_the_request_belongs_to_the_connection(ship: Ship) -> None:
    with app(echo) as port, tunnel(ship, port, piece(b"early") + END) as made:
        assert made.all() == (b"early", True)


def test_pieces_may_come_in_any_cut(ship: Ship) -> None:
    with app(echo) as port, tunnel(ship, port) as made:
        for byte in piece(b"ab") + piece(b"c") + END:
            made.raw.sendall(bytes([byte]))
        assert made.all() == (b"abc", True)


def test_much_goes_both_ways_at_once_unharmed(ship: Ship) -> None:
    sent = os.urandom(MEBIBYTE) * 24
    given = b"".join(piece(sent[at : at + 3 * MEBIBYTE]) for at in range(0, len(sent), 3 * MEBIBYTE)) + END
    with app(echo) as port, tunnel(ship, port) as made:
        assert pieces(both_ways(made.raw, given)) == sent


def both_ways(raw: socket.socket, given: bytes) -> bytes:
    """Send that while all is read, up to the end of that direction. In one thread: two may not use a
    connection of TLS at once.
    """
    raw.setblocking(False)
    seen, left = bytearray(), memoryview(given)
    while not seen.endswith(END):
        readable, writable, _ = select.select([raw], [raw] if left else [], [], PATIENCE_S)
        assert readable or writable, "nothing goes on"
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while data := raw.recv(1 << 18):
                seen += data
            assert seen.endswith(END), "it broke off"
        with suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            left = left[raw.send(left[: 1 << 16]) :] if left else left
    return bytes(seen)


def pieces(raw: bytes) -> bytes:
    seen, at = bytearray(), 0
    while size := int.from_bytes(raw[at : at + 4]):
        seen += raw[at + 4 : at + 4 + size]
        at += 4 + size
    return bytes(seen)


def test_the_program_may_end_its_direction_first_and_still_read(ship: Ship) -> None:
    seen: list[bytes] = []

    def serve(client: socket.socket) -> None:
        client.sendall(b"hello")
        client.shutdown(socket.SHUT_WR)
        seen.append(read_all(client))

    with app(serve) as port, tunnel(ship, port) as made:
        assert made.all() == (b"hello", True)
        made.send(b"thanks")
        made.end()
        assert made.is_closed()
    assert seen == [b"thanks"]


def test_a_reset_by_the_program_is_no_end(ship: Ship) -> None:
    def serve(client: socket.socket) -> None:
        client.recv(1)
        reset(client)

    with app(serve) as port, tunnel(ship, port) as made:
        made.send(b"x")
        assert made.read() is None


def test_a_reset_after_our_end_is_told_from_its_end(ship: Ship) -> None:
    def serve(client: socket.socket) -> None:
        client.sendall(b"half")
        while client.recv(1):
            pass
        reset(client)

    with app(serve) as port, tunnel(ship, port) as made:
        assert made.read() == b"half"
        made.end()
        assert made.read() is None


def test_a_program_that_closed_takes_no_more_but_what_it_said_arrives_whole(ship: Ship) -> None:
    said = os.urandom(MEBIBYTE // 2)
    gone = threading.Event()

    def serve(client: socket.socket) -> None:
        client.recv(1)
        client.sendall(said)
        client.close()
        gone.set()

    with app(serve) as port, tunnel(ship, port) as made:
        made.send(b"x")
        assert gone.wait(PATIENCE_S)
        thread = threading.Thread(target=send_for_ever, args=(made,), daemon=True)
        thread.start()
        assert made.all() == (said, True)
        assert made.is_closed()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_what_a_program_says_before_it_closes_on_unread_bytes_arrives_though_it_is_no_end(ship: Ship) -> None:
    said = os.urandom(100_000)

    def serve(client: socket.socket) -> None:
        client.recv(1)
        while client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
            pass
        client.sendall(said)

    with app(serve) as port, tunnel(ship, port) as made:
        made.send(bytes(10))
        thread = threading.Thread(target=send_for_ever, args=(made,), daemon=True)
        thread.start()
        assert made.all() == (said, False)
        made.raw.close()
        thread.join(PATIENCE_S)


def send_for_ever(made: Tunnel) -> None:
    with suppress(OSError):
        while True:
            made.send(b"more")


@pytest.mark.parametrize("behind", [b"", piece(b"data"), b"\0", piece(b"data")[:-1]])
def test_who_leaves_before_the_end_resets_the_connection_of_the_program(ship: Ship, behind: bytes) -> None:
    def serve(client: socket.socket) -> None:
        with pytest.raises(ConnectionResetError):
            read_all(client)

    with app(serve) as port, tunnel(ship, port) as made:
        made.raw.sendall(behind)


def test_who_leaves_after_the_end_has_given_the_program_all(ship: Ship) -> None:
    seen = bytearray()

    def serve(client: socket.socket) -> None:
        seen.extend(read_all(client))

    with app(serve) as port, tunnel(ship, port) as made:
        made.send(bytes(100_000))
        made.end()
        made.raw.close()
    assert len(seen) == 100_000


def test_a_peer_that_reads_nothing_holds_the_program_up_and_no_memory(ship: Ship) -> None:
    sent = 0
    held_up = threading.Event()

    def serve(client: socket.socket) -> None:
        nonlocal sent
        client.settimeout(0.5)
        with suppress(TimeoutError):
            while sent < 64 * MEBIBYTE:
                sent += client.send(bytes(65536))
        held_up.set()
        client.settimeout(PATIENCE_S)
        client.shutdown(socket.SHUT_WR)

    before = ship.rss()
    with app(serve) as port, tunnel(ship, port) as made:
        assert held_up.wait(PATIENCE_S)
        assert MEBIBYTE // 2 < sent < 32 * MEBIBYTE
        assert ship.rss() - before < 8 * MEBIBYTE
        data, is_whole = made.all()
        assert is_whole
    assert len(data) == sent


def test_a_program_that_reads_nothing_holds_us_up_and_no_memory(ship: Ship) -> None:
    over = threading.Event()

    def serve(_client: socket.socket) -> None:
        over.wait(PATIENCE_S)

    before = ship.rss()
    with app(serve) as port, tunnel(ship, port) as made:
        made.raw.settimeout(0.5)
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 * MEBIBYTE:
                sent += made.raw.send(piece(bytes(65536)))
        assert MEBIBYTE // 2 < sent < 32 * MEBIBYTE
        assert ship.rss() - before < 8 * MEBIBYTE
        made.raw.close()
        over.set()


def test_nothing_that_listens_is_refused_with_what_does(ship: Ship) -> None:
    with app(lambda _client: None) as port:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            free = unused.getsockname()[1]
            status, error = refused(ship, free)
            assert (status, error["code"]) == (502, "port_closed")
            assert port in error["details"]["listening"]
        with tunnel(ship, port) as made:
            made.end()


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "1e3", "http", "00000080", "²"])
def test_what_is_no_port_is_refused(ship: Ship, port: str) -> None:
    assert refused(ship, port.replace("²", "%C2%B2"))[0] == 400


@pytest.mark.parametrize("headers", [{"Upgrade": ""}, {"Upgrade": "websocket"}, {"Connection": "keep-alive"}])
def test_a_tunnel_takes_an_upgrade(ship: Ship, headers: dict[str, str]) -> None:
    with app(lambda _client: None) as port:
        status, error = refused(ship, port, **headers)
        assert (status, error["code"]) == (400, "validation_error")
        with tunnel(ship, port) as made:
            made.end()


def test_ship_ends_at_once_though_tunnels_are_open(ship: Ship) -> None:
    def serve(client: socket.socket) -> None:
        with pytest.raises(ConnectionResetError):
            client.recv(1)

    with app(serve) as port, tunnel(ship, port) as made:
        os.kill(ship.pid, 15)
        assert made.read() is None
        ship.process.wait(PATIENCE_S)
