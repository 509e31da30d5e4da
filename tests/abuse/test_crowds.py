"""Strangers who hold connections: how many, and for how long, while those with a key go on working."""

import contextlib
import json
import selectors
import socket
import time
from collections.abc import Generator, Iterable
from pathlib import Path

import pytest
from server_harness import short_dir
from serving import KEY, WAIT_S, Server, serving

pytestmark = pytest.mark.host

AUTH = f"Authorization: Bearer {KEY}\r\n".encode()
HALF_A_HEAD = b"GET /health HTTP/1.1\r\nHost: x\r\nX-"


@pytest.fixture
def root() -> Generator[Path]:
    with short_dir() as path:
        yield path


@contextlib.contextmanager
def connected(server: Server, count: int, first: bytes) -> Generator[list[socket.socket]]:
    """So many connections that have sent `first`."""
    with contextlib.ExitStack() as stack:
        links: list[socket.socket] = []
        for _ in range(count):
            links.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), WAIT_S)))
            with contextlib.suppress(ConnectionError):
                links[-1].sendall(first)
        yield links


def ended(links: Iterable[socket.socket], within_s: float = WAIT_S) -> int:
    """How many are closed, once all are or the time is over."""
    until, over = time.monotonic() + within_s, 0
    with selectors.DefaultSelector() as still:
        for link in links:
            still.register(link, selectors.EVENT_READ)
        while still.get_map() and (left_s := until - time.monotonic()) > 0:
            for key, _ in still.select(left_s):
                if isinstance(key.fileobj, socket.socket) and _is_over(key.fileobj):
                    still.unregister(key.fileobj)
                    over += 1
    return over


def _is_over(link: socket.socket) -> bool:
    try:
        return not link.recv(65536)
    except ConnectionError:
        return True


def read_to_the_end(link: socket.socket) -> bytes:
    answer = b""
    while more := link.recv(65536):
        answer += more
    return answer


def refused(answer: bytes) -> tuple[bytes, str]:
    """The status line's number, and the code of the one error shape."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head.lower()
    return head.split(b" ")[1], json.loads(body)["error"]["code"]


@pytest.fixture(scope="module")
def hasty() -> Generator[Server]:
    """A server that gives a second for everything."""
    times = {
        "BAY_HEAD_TIMEOUT": "1",
        "BAY_BODY_TIMEOUT": "1",
        "BAY_KEEP_ALIVE_TIMEOUT": "1",
        "BAY_PORT_WAIT": "2",
    }
    with short_dir() as path, serving(path, **times) as running:
        yield running


def drip(link: socket.socket, drop: bytes) -> bytes:
    """Send `drop` again and again until the server ends the connection; gives what it said."""
    link.settimeout(0.2)
    answer = b""
    for _ in range(100):
        try:
            link.sendall(drop)
            if not (more := link.recv(65536)):
                return answer
            answer += more
        except TimeoutError:
            continue
        except ConnectionError:
            return answer
    raise AssertionError("the server keeps the connection")


@pytest.mark.parametrize(
    "head",
    [
        HALF_A_HEAD,
        b"GET / HTTP/1.1\r\nHost: 8000-web.localhost\r\nX-",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: ",
    ],
    ids=["api", "port", "websocket"],
)
def test_half_a_head_is_ended_by_time_however_it_drips(hasty: Server, head: bytes) -> None:
    with connected(hasty, 1, head) as (link,):
        assert refused(drip(link, b"x")) == (b"408", "request_timeout")


def test_a_connection_that_says_nothing_is_closed_without_a_word(hasty: Server) -> None:
    with connected(hasty, 1, b"") as (link,):
        assert read_to_the_end(link) == b""


def test_a_connection_that_was_answered_and_begins_no_other_request_is_closed(hasty: Server) -> None:
    """Line ends begin no request, yet keep the server's own timer from running out."""
    with connected(hasty, 1, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as (link,):
        assert link.recv(65536).startswith(b"HTTP/1.1 200")
        drip(link, b"\r\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 100\r\n\r\n{", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_body_that_does_not_move_is_ended_by_time(hasty: Server, framing: bytes) -> None:
    with connected(hasty, 1, b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\n" + AUTH + framing) as (link,):
        assert refused(read_to_the_end(link)) == (b"408", "request_timeout")


def test_a_body_that_bay_has_not_asked_for_is_not_hurried(hasty: Server) -> None:
    """A client that waits for `100 Continue` owes nothing, such as while it is waited until something
    listens.
    """
    with hasty.client() as client:
        made = client.post("/v1/sandboxes", params={"wait": WAIT_S}).json()["id"]
        head = f"POST /v1/sandboxes/{made}/ports/9/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close\r\n"
        with connected(hasty, 1, head.encode() + AUTH + b"\r\n") as (link,):
            assert refused(read_to_the_end(link)) == (b"502", "port_closed")
        assert client.delete(f"/v1/sandboxes/{made}").status_code == 204


def test_more_connections_than_descriptors_keep_nobody_with_a_key_out(root: Path) -> None:
    _crowd_that_shuts_out_nobody(root, descriptors=300, count=600)


@pytest.mark.abuse
def test_thousands_of_connections_keep_nobody_with_a_key_out(root: Path) -> None:
    _crowd_that_shuts_out_nobody(root, descriptors=1500, count=8000)


def _crowd_that_shuts_out_nobody(root: Path, *, descriptors: int, count: int) -> None:
    few = ("prlimit", f"--nofile={descriptors}:{descriptors}")
    settings = {"BAY_HEAD_TIMEOUT": "600", "BAY_MAX_CONNECTIONS_PER_ADDRESS": str(count)}
    with serving(root, through=few, **settings) as server, connected(server, count, HALF_A_HEAD) as links:
        with server.client() as friend:
            made = friend.post("/v1/sandboxes", params={"wait": WAIT_S}).json()["id"]
            ran = friend.post(f"/v1/sandboxes/{made}/shell/exec", json={"command": "echo here"})
            assert ran.json()["output"] == "here\n"
            assert friend.delete(f"/v1/sandboxes/{made}").status_code == 204
        assert 0 < _open(links) <= descriptors // 3
    assert "Too many open files" not in (root / "log").read_text()


def _open(links: list[socket.socket]) -> int:
    return len(links) - ended(links, 1.0)


def test_one_address_has_only_so_many_connections_without_a_key(root: Path) -> None:
    settings = {"BAY_HEAD_TIMEOUT": "600", "BAY_MAX_CONNECTIONS_PER_ADDRESS": "10"}
    with serving(root, **settings) as server, connected(server, 30, HALF_A_HEAD) as links:
        assert ended(links[:20]) == 20, "the oldest go"
        assert _open(links) == 10


def test_a_client_with_a_key_may_open_more_than_that_at_once(root: Path) -> None:
    ask = b"GET /v1/sandboxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + AUTH + b"\r\n"
    with serving(root, BAY_MAX_CONNECTIONS_PER_ADDRESS="10") as server, connected(server, 40, b"") as links:
        with server.client() as last:
            assert last.get("/health").status_code == 200, "all before it were accepted"
        for link in links:
            link.sendall(ask)
        answers = [read_to_the_end(link) for link in links]
    assert all(answer.startswith(b"HTTP/1.1 200 ") for answer in answers)
