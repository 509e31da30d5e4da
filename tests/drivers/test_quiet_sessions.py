"""Bay asks a Ship for its quiet that is hostile, or broken: it takes no harm, and keeps nothing."""

import os
import socket
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO

import pytest
from ship_harness import eventually

from bay.drivers.base import Endpoint
from bay.drivers.quiet import HeldConnections, adopt, become_quiet, end_quiet
from bay.errors import SandboxNotReady
from ship_protocol import session_proof
from ship_protocol.handover import HANDED_AT_ONCE, HANDED_OVER

pytestmark = [pytest.mark.host, pytest.mark.anyio]

TOKEN = "t" * 32
PROOF = f"X-Ship-Session: {session_proof(TOKEN)}\r\n"
SWITCHED = f"HTTP/1.1 101 \r\n{PROOF}\r\n".encode()

Act = Callable[[socket.socket], None]


@asynccontextmanager
async def ship(tmp_path: Path, act: Act) -> AsyncGenerator[Endpoint]:
    """Takes one connection, reads the head of its request, does `act`, and closes."""
    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor(1) as pool:
        listening.bind(str(tmp_path / "ship.sock"))
        listening.listen()
        listening.settimeout(10)

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.settimeout(10)
                seen = b""
                while b"\r\n\r\n" not in seen:
                    seen += peer.recv(4096)
                act(peer)

        served = pool.submit(serve)
        yield Endpoint(socket_path=str(tmp_path / "ship.sock"), peer_pid=os.getpid())
        served.result(10)


def handing(*counts: int, last: bytes = b".", first: bytes = SWITCHED) -> Act:
    """Sends that many descriptors of a connection in each message."""
    return handing_files(lambda: socket.socket(socket.AF_UNIX), *counts, last=last, first=first)


def handing_files(
    make: Callable[[], socket.socket | IO[str]], *counts: int, last: bytes = b".", first: bytes = SWITCHED
) -> Act:
    """The same of another file."""

    def act(peer: socket.socket) -> None:
        peer.sendall(first)
        with make() as file, suppress(OSError):  # Bay has heard enough
            for count in counts:
                socket.send_fds(peer, [b"+"], [file.fileno()] * count)
            peer.sendall(last)

    return act


def held_files() -> int:
    """How many descriptors this process has open of files that could be handed over here."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith(("socket:", "pipe:", os.devnull))
        except FileNotFoundError:  # that of the listing
            continue
    return found


async def test_all_that_is_handed_over_is_held_until_it_is_closed(tmp_path: Path) -> None:
    before = held_files()
    async with ship(tmp_path, handing(HANDED_AT_ONCE, 3)) as endpoint:
        held = await become_quiet(endpoint, TOKEN)
    assert len(held.descriptors) == HANDED_AT_ONCE + 3 == held_files() - before
    assert not any(map(os.get_inheritable, held.descriptors))
    held.close()
    held.close()
    assert eventually(lambda: held_files() == before)


@pytest.mark.parametrize(
    ("act", "problem"),
    [
        (handing(HANDED_AT_ONCE + 1), "more descriptors at once"),
        (handing(*[HANDED_AT_ONCE] * (HANDED_OVER // HANDED_AT_ONCE), 1), f"more than {HANDED_OVER}"),
        (handing(3, last=b""), "ended while"),
        (handing(3, last=b"+"), "ended while"),
        (handing(3, last=b"x"), "ended while"),
        (handing(3, last=b".."), "more over than it said"),
        (handing_files(Path(os.devnull).open, 1), "no connection"),
        (handing_files(lambda: socket.socket(socket.AF_INET), 1), "no connection"),
        (handing_files(lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), 1), "no connection"),
        (handing(first=b"HTTP/1.1 101 \r\n\r\n"), "not this session's"),
        (handing(first=b'HTTP/1.1 200 \r\n\r\n{"status":"quiet"}'), "answered 200 to /quiet"),
        (handing(first=b"nonsense\r\n\r\n"), "does not speak HTTP"),
        (handing(first=b"", last=b""), "ended its answer early"),
        (handing(first=b"", last=b"x" * 20_000), "ended its answer early"),
    ],
)
async def test_another_answer_is_an_error_and_nothing_of_it_is_kept(
    tmp_path: Path, act: Act, problem: str
) -> None:
    before = held_files()
    async with ship(tmp_path, act) as endpoint:
        with pytest.raises(SandboxNotReady, match=problem):
            await become_quiet(endpoint, TOKEN)
    assert eventually(lambda: held_files() == before)


async def test_a_silent_ship_is_waited_for_no_longer_than_said(tmp_path: Path) -> None:
    before = held_files()

    def act(peer: socket.socket) -> None:
        handing(3, last=b"")(peer)
        assert peer.recv(1) == b""

    async with ship(tmp_path, act) as endpoint:
        with pytest.raises(SandboxNotReady, match="timed out"):
            await become_quiet(endpoint, TOKEN, timeout_s=0.1)
    assert eventually(lambda: held_files() == before)


async def test_another_process_at_the_socket_is_asked_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "ship.sock"))
        listening.listen()
        other = Endpoint(socket_path=str(tmp_path / "ship.sock"), peer_pid=1)
        for asked in (become_quiet(other, TOKEN), adopt(other, TOKEN, "n" * 32)):
            with pytest.raises(SandboxNotReady, match="is not its Ship"):
                await asked
    with pytest.raises(SandboxNotReady, match="does not come to rest"):
        await become_quiet(Endpoint(socket_path=str(tmp_path / "none.sock")), TOKEN)


@pytest.mark.parametrize("answer", [b"!", b"", b"x"])
async def test_what_ship_does_not_take_back_is_closed(tmp_path: Path, answer: bytes) -> None:
    before = held_files()

    def act(peer: socket.socket) -> None:
        peer.sendall(SWITCHED)
        assert peer.recv(1) == b"+"
        assert peer.recv(1) == b"."
        peer.sendall(answer)

    held = HeldConnections([os.open(os.devnull, os.O_RDWR)])
    async with ship(tmp_path, act) as endpoint:
        with pytest.raises(SandboxNotReady, match="did not take its connections back"):
            await end_quiet(endpoint, TOKEN, held)
    assert held.descriptors == []
    assert eventually(lambda: held_files() == before)


async def test_a_copy_that_does_not_prove_its_new_token_is_no_ship(tmp_path: Path) -> None:
    def act(peer: socket.socket) -> None:
        peer.sendall(f"HTTP/1.1 200 OK\r\n{PROOF}Content-Length: 0\r\n\r\n".encode())

    async with ship(tmp_path, act) as endpoint:
        with pytest.raises(SandboxNotReady, match="not this session's"):
            await adopt(endpoint, TOKEN, "n" * 32)
