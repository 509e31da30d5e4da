"""The quiet: Ship hands its connections over and gets them back, and its requests notice nothing of it."""

import asyncio
import base64
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from ship_harness import PATIENCE_S, TOKEN, Ship, eventually, read_to_end, running

from bay.drivers.base import Endpoint
from bay.drivers.quiet import HeldConnections, adopt, become_quiet, end_quiet
from bay.errors import SandboxNotReady
from ship.http.connection import Connection
from ship_protocol import session_proof
from ship_protocol.handover import HANDED_AT_ONCE, HANDED_OVER

pytestmark = pytest.mark.host

HEAD = f"Host: s\r\nAuthorization: Bearer {TOKEN}\r\n"
HEALTHZ = f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n".encode()
UPGRADE = f"{HEAD}Connection: Upgrade\r\nUpgrade: "
NEW = "n" * 32
MEBIBYTE = 1 << 20


@pytest.fixture
def ship() -> Iterator[Ship]:
    """A Ship as the oci driver has it: PID 1, reached over a Unix socket."""
    with running(first=True) as found:
        yield found


def endpoint(ship: Ship) -> Endpoint:
    return Endpoint(socket_path=str(ship.socket_path), peer_pid=ship.pid)


def quiet(ship: Ship) -> HeldConnections:
    return asyncio.run(become_quiet(endpoint(ship), TOKEN, PATIENCE_S))


def loud(ship: Ship, held: HeldConnections) -> None:
    asyncio.run(end_quiet(endpoint(ship), TOKEN, held, PATIENCE_S))


def sockets_of(pid: int) -> dict[int, int]:
    """The number and the inode of every open socket of a process."""
    found: dict[int, int] = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            link = os.readlink(f"/proc/{pid}/fd/{name}")
            if link.startswith("socket:["):
                found[int(name)] = int(link[8:-1])
    return found


def is_shown(ship: Ship) -> bool:
    """Whether a program with Ship's ids, and without the right to trace any process, may look at it."""
    less = ["--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    look = ["setpriv", *less, "readlink", f"/proc/{ship.pid}/exe"]
    return subprocess.run(look, capture_output=True, timeout=PATIENCE_S).returncode == 0


_IDS = """
import ctypes
from ship.process import syscalls
syscalls.show_to_debuggers()
syscalls.set_fs_identity(12345, 12345)
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
syscalls.hide_from_debuggers()
syscalls.set_fs_identity(0, 0)
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_a_thread_that_changes_its_ids_hides_it_for_no_longer() -> None:
    done = subprocess.run([sys.executable, "-c", _IDS], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.stdout, done.stderr) == ("1\n0\n", "")


def test_a_connection_that_has_ended_is_aborted_like_any_other() -> None:
    async def serve(wire: Connection) -> None:
        await wire.receive(None)

    async def close_and_abort() -> None:
        near, far = socket.socketpair()
        with far:
            _, wire = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Connection(serve), near
            )
            wire.write(bytes(MEBIBYTE))  # more than the socket takes
            wire.close()
            await asyncio.to_thread(read_all, far)
            await asyncio.wait_for(wire.lost, PATIENCE_S)
            wire.abort()

    asyncio.run(close_and_abort())


def read_all(end: socket.socket) -> None:
    while end.recv(MEBIBYTE):
        pass


def stale_entries(pid: int) -> list[str]:
    """Registrations for epoll(7) of other files than their number has now."""
    found: list[str] = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}") != "anon_inode:[eventpoll]":
            continue
        for line in Path(f"/proc/{pid}/fdinfo/{name}").read_text().splitlines():
            if line.startswith("tfd:"):
                words = line.replace(":", " ").split()
                number, inode = words[1], int(words[words.index("ino") + 1], 16)
                path = Path(f"/proc/{pid}/fd/{number}")
                if not path.exists() or path.stat().st_ino != inode:
                    found.append(line)
    return found


@contextmanager
def sending(raw: socket.socket, data: bytes) -> Generator[None]:
    """Has all of it sent at the end of the block, as fast as Ship takes it."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(raw.sendall, data)
        yield
        sent.result(PATIENCE_S)


def ask(raw: socket.socket, head: str, body: bytes = b"") -> None:
    raw.sendall(f"{head} HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def read_head(raw: socket.socket) -> bytes:
    """The head of an answer, and no byte more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += (byte := raw.recv(1))
        assert byte, head
    return head


def exactly(raw: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        data += (more := raw.recv(size - len(data)))
        assert more, len(data)
    return bytes(data)


def body_of(raw: socket.socket) -> bytes:
    """The body of an answer with a length."""
    found = re.search(rb"\r\ncontent-length: (\d+)\r\n", read_head(raw).lower())
    assert found
    return exactly(raw, int(found[1]))


def is_ended(raw: socket.socket) -> bool:
    """Whether Ship has closed it, in time."""
    try:
        return raw.recv(1) == b""
    except ConnectionResetError:
        return True


def opened(ship: Ship, stack: ExitStack, count: int = 1) -> list[socket.socket]:
    """Connections that Ship has answered on."""
    raws = [stack.enter_context(ship.connect()) for _ in range(count)]
    for raw in raws:
        raw.sendall(HEALTHZ)
    for raw in raws:
        assert body_of(raw) == b'{"status":"ok"}'
    return raws


def test_idle_connections_go_on(ship: Ship) -> None:
    with ExitStack() as stack:
        raws = opened(ship, stack, 3)
        for _ in range(3):
            held = quiet(ship)
            assert len(held.descriptors) == 3
            raws[0].sendall(HEALTHZ)  # waits in the socket
            loud(ship, held)
            assert body_of(raws[0]) == b'{"status":"ok"}'
            for raw in raws:
                raw.sendall(HEALTHZ)
                assert body_of(raw) == b'{"status":"ok"}'


def test_no_socket_but_the_listener_is_open_to_the_outside(ship: Ship) -> None:
    assert eventually(lambda: not is_shown(ship))
    before = sockets_of(ship.pid)
    with ExitStack() as stack:
        raws = opened(ship, stack, 200)
        held = quiet(ship)
        assert is_shown(ship)
        during = sockets_of(ship.pid)
        assert {os.fstat(number).st_ino for number in held.descriptors}.isdisjoint(during.values())
        # A placeholder has two ends, each its own.
        placeholders = set(during.values()) - set(before.values())
        assert len(placeholders) == 2 * len(held.descriptors) == 400
        assert len(during) == len(before) + 400
        assert stale_entries(ship.pid) == []
        loud(ship, held)
        assert not is_shown(ship)
        assert placeholders.isdisjoint(sockets_of(ship.pid).values())
        assert stale_entries(ship.pid) == []
        for raw in raws:
            raw.sendall(HEALTHZ)
        for raw in raws:
            assert body_of(raw) == b'{"status":"ok"}'
    assert eventually(lambda: sockets_of(ship.pid) == before)


def test_as_many_connections_as_bay_takes_are_handed_over_and_more_are_refused(ship: Ship) -> None:
    with ExitStack() as stack:
        raws = opened(ship, stack, HANDED_OVER)
        held = quiet(ship)
        assert len(held.descriptors) == HANDED_OVER
        loud(ship, held)
        raws += opened(ship, stack)
        with pytest.raises(SandboxNotReady, match="409"):
            quiet(ship)
        for raw in raws:
            raw.sendall(HEALTHZ)
        for raw in raws:
            assert body_of(raw) == b'{"status":"ok"}'


def test_an_attachment_loses_no_byte(ship: Ship) -> None:
    counting = "i=0; until [ -e stop ]; do echo $i; i=$((i+1)); [ $((i % 512)) != 0 ] || echo $i > at; done; echo $i > at"
    exec_id = ship.start(counting)
    at = ship.workspace / "at"

    def reached(count: int) -> bool:
        return at.exists() and int(at.read_text().strip() or 0) > count

    with ship.websocket(f"/execs/{exec_id}/attach") as attached:
        attached.recv(PATIENCE_S)
        seen = bytearray()
        for _ in range(8):
            held = quiet(ship)
            so_far = int(at.read_text().strip() or 0) if at.exists() else 0
            assert eventually(lambda so_far=so_far: reached(so_far + 1024))
            loud(ship, held)
            wanted = len(seen) + 4096
            while len(seen) < wanted:
                message = attached.recv(PATIENCE_S)
                assert isinstance(message, bytes)
                seen += message[1:]
        (ship.workspace / "stop").touch()
        while isinstance(message := attached.recv(PATIENCE_S), bytes):
            seen += message[1:]
        assert json.loads(message)["exit_code"] == 0
    lines = bytes(seen).decode().splitlines()
    assert lines == [str(number) for number in range(int(at.read_text()))]


def test_input_that_is_typed_meanwhile_arrives_once(ship: Ship) -> None:
    exec_id = ship.start(["cat"], tty=True, rows=24, cols=80)
    with ship.websocket(f"/execs/{exec_id}/attach") as attached:
        attached.recv(PATIENCE_S)
        seen = b""
        for number in range(5):
            held = quiet(ship)
            attached.send(b"\0" + b"line %d\n" % number)
            loud(ship, held)
            while seen.count(b"line %d\r\n" % number) < 2:  # the terminal's echo, and the program's
                message = attached.recv(PATIENCE_S)
                assert isinstance(message, bytes)
                seen += message[1:]
        attached.send(b"\0\4")
        while isinstance(message := attached.recv(PATIENCE_S), bytes):
            seen += message[1:]
    assert seen == b"".join(2 * (b"line %d\r\n" % number) for number in range(5))


def test_an_upload_goes_on(ship: Ship) -> None:
    data = os.urandom(32 * MEBIBYTE)
    with ship.connect() as raw:
        head = (
            f"PUT /fs/content?path=large&beneath=true HTTP/1.1\r\n{HEAD}Content-Length: {len(data)}\r\n\r\n"
        )
        raw.sendall(head.encode() + data[: 5 * MEBIBYTE])
        held = quiet(ship)
        with sending(raw, data[5 * MEBIBYTE :]):
            loud(ship, held)
            held = quiet(ship)
            loud(ship, held)
        assert read_head(raw).startswith(b"HTTP/1.1 200 ")
    assert (ship.workspace / "large").read_bytes() == data


def test_a_download_goes_on(ship: Ship) -> None:
    data = os.urandom(32 * MEBIBYTE)
    (ship.workspace / "large").write_bytes(data)
    with ship.connect() as raw:
        ask(raw, "GET /fs/content?path=large&beneath=true")
        assert read_head(raw).startswith(b"HTTP/1.1 200 ")
        seen = exactly(raw, 1000)
        for _ in range(4):
            held = quiet(ship)
            seen += exactly(raw, 1000)  # in the socket already
            loud(ship, held)
            seen += exactly(raw, MEBIBYTE)
        seen += exactly(raw, len(data) - len(seen))
        assert hashlib.sha256(seen).digest() == hashlib.sha256(data).digest()
        raw.sendall(HEALTHZ)
        assert body_of(raw) == b'{"status":"ok"}'


def test_the_rest_of_an_answer_comes_after_its_connection_was_closed(ship: Ship) -> None:
    data = os.urandom(MEBIBYTE // 2 - 100_000)
    (ship.workspace / "file").write_bytes(data)
    with ship.connect() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.sendall(
            f"GET /fs/content?path=file&beneath=true HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n".encode()
        )
        read_head(raw)
        held = quiet(ship)
        assert len(held.descriptors) == 1
        loud(ship, held)
        assert read_to_end(raw) == data


@pytest.mark.parametrize("ends", ["during", "after"])
def test_a_long_poll_goes_on(ship: Ship, ends: str) -> None:
    exec_id = ship.start("until [ -e go ]; do sleep 0.01; done; echo done; touch over")
    with ship.connect() as raw:
        ask(raw, f"GET /execs/{exec_id}?wait={PATIENCE_S}")
        held = quiet(ship)
        if ends == "during":
            (ship.workspace / "go").touch()
            assert eventually((ship.workspace / "over").exists)
        loud(ship, held)
        (ship.workspace / "go").touch()
        ended = json.loads(body_of(raw))
        assert (ended["state"], base64.b64decode(ended["stdout"])) == ("exited", b"done\n")


SERVER = """
import os, socket, time
with socket.create_server(("127.0.0.1", 4000)) as listening:
    open("listens", "w").close()
    peer, _ = listening.accept()
while data := peer.recv(1 << 16):
    peer.sendall(data.upper())
    open("took", "ab").write(data)
    if data.endswith(b"reset"):
        while not os.path.exists("go"):
            time.sleep(0.01)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
        os._exit(0)
peer.sendall(b"over")
"""


@contextmanager
def tunnel(ship: Ship) -> Generator[socket.socket]:
    ship.start(["python3", "-c", SERVER])
    assert eventually((ship.workspace / "listens").exists)
    with ship.connect() as raw:
        raw.sendall(f"GET /tunnel?port=4000 HTTP/1.1\r\n{UPGRADE}tcp\r\n\r\n".encode())
        assert read_head(raw).startswith(b"HTTP/1.1 101 ")
        yield raw


def send_piece(raw: socket.socket, data: bytes) -> None:
    raw.sendall(len(data).to_bytes(4, "big") + data)


def read_piece(raw: socket.socket) -> bytes:
    return exactly(raw, int.from_bytes(exactly(raw, 4), "big"))


def took(ship: Ship) -> bytes:
    path = ship.workspace / "took"
    return path.read_bytes() if path.exists() else b""


def test_a_tunnel_goes_on(ship: Ship) -> None:
    with tunnel(ship) as raw:
        send_piece(raw, b"before")
        assert read_piece(raw) == b"BEFORE"
        raw.sendall((6).to_bytes(4, "big") + b"dur")
        assert eventually(lambda: took(ship) == b"beforedur")
        held = quiet(ship)
        raw.sendall(b"ing")
        loud(ship, held)
        assert eventually(lambda: took(ship) == b"beforeduring")
        held = quiet(ship)
        send_piece(raw, b"")
        loud(ship, held)
        seen = b""
        while piece := read_piece(raw):
            seen += piece
        assert seen == b"DURINGover"
        assert is_ended(raw)


@pytest.mark.parametrize("fewer", [1, 2])
def test_a_connection_that_ends_within_the_quiet_is_closed_after_it(ship: Ship, fewer: int) -> None:
    """Ship first closes its connection to the program and ends its direction, and then closes all."""
    with tunnel(ship) as raw:
        send_piece(raw, b"reset")
        assert read_piece(raw) == b"RESET"
        held = quiet(ship)
        before = len(sockets_of(ship.pid))
        (ship.workspace / "go").touch()
        assert eventually(lambda: len(sockets_of(ship.pid)) <= before - fewer)
        loud(ship, held)
        assert read_to_end(raw) == b""
    assert ship.run("echo served").out == "served\n"


def test_without_the_caller_the_next_request_ends_what_was_handed_over(ship: Ship) -> None:
    with ExitStack() as stack:
        (idle,) = opened(ship, stack)
        upload = stack.enter_context(ship.connect())
        upload.sendall(
            f"PUT /fs/content?path=half&beneath=true HTTP/1.1\r\n{HEAD}Content-Length: 9\r\n\r\nhalf".encode()
        )
        assert eventually(lambda: any(ship.workspace.iterdir()))
        before = len(sockets_of(ship.pid))
        held = quiet(ship)
        assert is_shown(ship)
        held.close()
        assert is_ended(idle)
        assert is_ended(upload)
        assert ship.send_raw(b"GET /healthz HTTP/1.0\r\n" + HEAD.encode() + b"\r\n").startswith(
            b"HTTP/1.1 200 "
        )
        assert not is_shown(ship)
        assert list(ship.workspace.iterdir()) == []  # the temporary file
        assert eventually(lambda: len(sockets_of(ship.pid)) == before - 2)
        assert stale_entries(ship.pid) == []


def test_another_request_ends_the_quiet(ship: Ship) -> None:
    with ExitStack() as stack:
        (idle,) = opened(ship, stack)
        held = quiet(ship)
        with ship.client(TOKEN) as other:
            assert other.get("/meta").status_code == 200
            assert not is_shown(ship)
            with pytest.raises(SandboxNotReady, match="409"):
                loud(ship, held)
            assert is_ended(idle)
            assert other.get("/meta").status_code == 200


def test_a_second_quiet_ends_what_was_handed_over_before(ship: Ship) -> None:
    with ExitStack() as stack:
        (idle,) = opened(ship, stack)
        first = quiet(ship)
        second = quiet(ship)
        assert second.descriptors == []
        first.close()
        assert is_ended(idle)
        (other,) = opened(ship, stack)  # ends the second
        third = quiet(ship)
        loud(ship, third)
        other.sendall(HEALTHZ)
        assert body_of(other) == b'{"status":"ok"}'


def _fewer(files: list[int]) -> None:
    os.close(files.pop())


def _more(files: list[int]) -> None:
    files.append(os.dup(files[0]))


def _none(files: list[int]) -> None:
    while files:
        os.close(files.pop())


@pytest.mark.parametrize("change", [_fewer, _more, _none, list[int].reverse])
def test_wrong_files_end_the_connections(ship: Ship, change: Callable[[list[int]], None]) -> None:
    with ExitStack() as stack:
        raws = opened(ship, stack, HANDED_AT_ONCE + 2)
        before = len(sockets_of(ship.pid))
        held = quiet(ship)
        change(held.descriptors)
        with pytest.raises(SandboxNotReady, match="did not take"):
            loud(ship, held)
        assert all(map(is_ended, raws))
        assert ship.run("echo served").out == "served\n"
        assert not is_shown(ship)
        assert eventually(lambda: len(sockets_of(ship.pid)) <= before - len(raws) + 1)  # one of `run`


@pytest.mark.parametrize("sent", [b"", b"+", b"x", b"."])
def test_a_caller_that_breaks_off_or_sends_nonsense_ends_the_connections(ship: Ship, sent: bytes) -> None:
    with ExitStack() as stack:
        (idle,) = opened(ship, stack)
        held = quiet(ship)
        with ship.connect() as raw:
            raw.sendall(f"POST /loud HTTP/1.1\r\n{UPGRADE}loud\r\n\r\n".encode())
            assert read_head(raw).startswith(b"HTTP/1.1 101 ")
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            assert read_to_end(raw) == b"!"
        held.close()
        assert is_ended(idle)
        assert not is_shown(ship)


def test_a_caller_that_has_left_takes_nothing_along(ship: Ship) -> None:
    with ExitStack() as stack:
        (idle,) = opened(ship, stack)
        with ship.connect() as raw:
            raw.sendall(f"POST /quiet HTTP/1.1\r\n{UPGRADE}quiet\r\n\r\n".encode())
        idle.sendall(HEALTHZ)
        assert body_of(idle) == b'{"status":"ok"}'
        assert not is_shown(ship)
        loud(ship, quiet(ship))
        idle.sendall(HEALTHZ)
        assert body_of(idle) == b'{"status":"ok"}'


def test_a_caller_that_leaves_what_was_handed_to_it_takes_nothing_along(ship: Ship) -> None:
    with ExitStack() as stack:
        (idle,) = opened(ship, stack)
        with ship.connect() as raw:
            raw.sendall(f"POST /quiet HTTP/1.1\r\n{UPGRADE}quiet\r\n\r\n".encode())
            assert eventually(lambda: is_shown(ship))  # all has been sent, and is in the socket
        idle.sendall(HEALTHZ)
        assert body_of(idle) == b'{"status":"ok"}'
        assert not is_shown(ship)


def test_what_came_before_the_quiet_is_answered_after_it(ship: Ship) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        (one,) = opened(ship, stack)
        for _ in range(100):
            sent = pool.submit(one.sendall, HEALTHZ)  # before, while or after it is handed over
            loud(ship, quiet(ship))
            sent.result(PATIENCE_S)
            assert body_of(one) == b'{"status":"ok"}'


def test_connections_may_come_and_go_beside_it(ship: Ship) -> None:
    with ExitStack() as stack:
        (one,) = opened(ship, stack)
        for _ in range(30):
            with ExitStack() as passing:
                opened(ship, passing, 5)
            with ship.connect():  # accepted while Ship hands the others over
                held = quiet(ship)
            assert 1 <= len(held.descriptors) <= 7
            loud(ship, held)
        one.sendall(HEALTHZ)
        assert body_of(one) == b'{"status":"ok"}'


def test_requests_without_the_upgrade_are_refused(ship: Ship) -> None:
    with ship.client(TOKEN) as http:
        for name in ("quiet", "loud"):
            assert http.post(f"/{name}").status_code == 400
            assert (
                http.post(f"/{name}", headers={"Connection": "Upgrade", "Upgrade": "tcp"}).status_code == 400
            )
        assert http.post("/loud", headers={"Connection": "Upgrade", "Upgrade": "loud"}).status_code == 409
        assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize("pod", [False, True])
def test_a_ship_that_is_not_saved_has_no_such_routes(pod: bool) -> None:
    with running(pod=pod) as ship:
        for name in ("quiet", "loud", "adopt"):
            answer = ship.http.post(f"/{name}", headers={"Connection": "Upgrade", "Upgrade": name})
            assert answer.status_code == 404


@pytest.mark.parametrize("is_quiet", [False, True])
def test_a_copy_has_a_secret_of_its_own(ship: Ship, is_quiet: bool) -> None:
    exec_id = ship.start(["sleep", "1000"])
    with ExitStack() as stack:
        (idle,) = opened(ship, stack)
        waiting = stack.enter_context(ship.connect())
        ask(waiting, f"GET /execs/{exec_id}?wait=20")
        if is_quiet:
            quiet(ship).close()
        asyncio.run(adopt(endpoint(ship), TOKEN, NEW))
        assert is_ended(idle)
        assert is_ended(waiting)
        assert not is_shown(ship)
        with ship.client(TOKEN) as old, ship.client(NEW) as new:
            refused = old.get("/healthz")
            assert (refused.status_code, "x-ship-session" in refused.headers) == (403, False)
            for path in ("/healthz", f"/execs/{exec_id}"):
                answer = new.get(path)
                assert (answer.status_code, answer.headers["x-ship-session"]) == (200, session_proof(NEW))
            with pytest.raises(SandboxNotReady):
                asyncio.run(adopt(endpoint(ship), TOKEN, "x" * 32))
            with pytest.raises(SandboxNotReady, match="403"):
                asyncio.run(become_quiet(endpoint(ship), TOKEN))
            asyncio.run(end_quiet(endpoint(ship), NEW, asyncio.run(become_quiet(endpoint(ship), NEW))))
            assert new.delete(f"/execs/{exec_id}").status_code == 200


def test_a_copy_takes_no_other_secret(ship: Ship) -> None:
    bodies: list[Any] = [
        {}, [], "x" * 32, {"token": "x" * 31}, {"token": "x" * 1025}, {"token": "x" * 31 + " "},
        {"token": "x" * 32 + "\n"}, {"token": "é" * 32}, {"token": 10**32}, {"token": None},
        {"token": NEW, "more": 1},
    ]  # fmt: skip
    with ship.client(TOKEN) as http:
        for body in bodies:
            answer = http.post("/adopt", json=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error"), body
        assert http.post("/adopt", content=b"no").status_code == 400
        assert http.get("/healthz").status_code == 200
    with ship.client(NEW) as http:
        assert http.get("/healthz").status_code == 403
