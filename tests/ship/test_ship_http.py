"""The door: who may ask, what is no request, bounds, keep-alive, and what is said of Ship."""

import hashlib
import socket
from contextlib import ExitStack

import pytest
from ship_harness import TOKEN, Ship, eventually, read_to_end, running

from ship_protocol import Feature

pytestmark = pytest.mark.host

HEAD = f"Host: s\r\nAuthorization: Bearer {TOKEN}\r\n"
SESSION = hashlib.sha256(f"ship-session:{TOKEN}".encode()).hexdigest()[:32]


def test_health_is_ok(ship: Ship) -> None:
    answer = ship.http.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_meta_describes_ship(ship: Ship) -> None:
    meta = ship.http.get("/meta").json()
    assert meta["name"] == "ship"
    assert meta["protocol"] == 1
    assert meta["capabilities"] == ["shell", "filesystem", "exec", "python"]
    assert meta["features"] == list(Feature)
    assert meta["workspace"] == str(ship.workspace)
    assert meta["user"] == "ship"
    assert set(meta) == {
        "name", "version", "runtime", "protocol", "capabilities", "user", "uid", "workspace", "python", "image",
        "built_in_skills", "features", "exec_trees",
    }  # fmt: skip
    assert meta["runtime"] == {"name": "ship", "version": meta["version"]}
    assert meta["built_in_skills"] == []
    assert meta["image"]["shell"] == "/bin/bash"


def test_every_answer_to_the_host_carries_the_session(ship: Ship) -> None:
    for path in ("/healthz", "/no-such-route", "/execs/no", "/fs/content?beneath=true&path=.."):
        assert ship.http.get(path).headers["x-ship-session"] == SESSION


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Authorization: Bearer wrong\r\n",
        f"Authorization: {TOKEN}\r\n",
        f"Authorization: Bearer {TOKEN}x\r\n",
        f"Authorization: Bearer {TOKEN[:-1]}\r\n",
        f"Authorization: Basic {TOKEN}\r\n",
        "Authorization: Bearer \r\n",
        f"Authorization: Bearer {TOKEN}\r\nAuthorization: Bearer {TOKEN}\r\n",
        "Authorization: \x80\xff\r\n",
    ],
)
def test_without_the_token_nothing_is_told_and_the_connection_closes(ship: Ship, header: str) -> None:
    for path in ("/healthz", "/meta", "/no"):
        answer = ship.send_raw(f"GET {path} HTTP/1.1\r\nHost: s\r\n{header}\r\n".encode("latin-1"))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b'"code":"forbidden"' in answer
        assert SESSION.encode() not in answer


def test_a_refused_start_starts_nothing(ship: Ship) -> None:
    with ship.client("wrong") as stranger:
        assert stranger.post("/execs", json={"id": "x", "command": "true"}).status_code == 403
    assert ship.http.get("/execs").json() == {"items": []}


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"\r\n\r\n\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /x y HTTP/1.1\r\nHost: s\r\n\r\n",
        f"GET / HTTP/1.1\r\n{HEAD}Bad Name: x\r\n\r\n".encode(),
        f"PUT / HTTP/1.1\r\n{HEAD}Content-Length: -1\r\n\r\n".encode(),
        f"PUT / HTTP/1.1\r\n{HEAD}Content-Length: 1\r\nContent-Length: 2\r\n\r\n".encode(),
        f"GET http://s/healthz HTTP/1.1\r\n{HEAD}\r\n".encode(),
        f"OPTIONS * HTTP/1.1\r\n{HEAD}\r\n".encode(),
        bytes(100_000),
        bytes(range(256)) * 400,
    ],
)
def test_what_is_no_request_gets_an_error_and_the_connection_closes(ship: Ship, garbage: bytes) -> None:
    with ship.connect() as raw:
        raw.sendall(garbage)
        raw.shutdown(socket.SHUT_WR)
        answer = read_to_end(raw)
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 403", b"HTTP/1.1 413", b"")
    assert b"Traceback" not in answer
    assert ship.http.get("/healthz").status_code == 200


def test_a_chunk_that_is_none_is_an_error(ship: Ship) -> None:
    answer = ship.send_raw(
        f"POST /execs HTTP/1.1\r\n{HEAD}Transfer-Encoding: chunked\r\n\r\nnonsense\r\n".encode()
    )
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("size", [33_000, 60_000, 200_000])
def test_a_head_above_its_bound_is_too_large(ship: Ship, size: int) -> None:
    for head in (
        f"GET /{'x' * size} HTTP/1.1\r\n{HEAD}\r\n",
        f"GET / HTTP/1.1\r\n{HEAD}X: {'x' * size}\r\n\r\n",
    ):
        with ship.connect() as raw:
            raw.sendall(head.encode())
            answer = read_to_end(raw)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"code":"payload_too_large"' in answer


def test_a_head_within_its_bound_is_taken(ship: Ship) -> None:
    assert ship.http.get("/healthz", headers={"X": "x" * 30_000}).status_code == 200


def test_a_body_above_its_bound_is_too_large(ship: Ship) -> None:
    answer = ship.http.post("/execs", content=(b" " * (1 << 20) for _ in range(65)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/files"), ("POST", "/healthz"), ("PATCH", "/execs/x"), ("GET", "/execs/x/y"),
     ("GET", "/execs/"), ("GET", "/../healthz"), ("GET", "//healthz")],
)  # fmt: skip
def test_an_unknown_route_is_not_found(ship: Ship, method: str, path: str) -> None:
    answer = ship.send_raw(f"{method} {path} HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b'"code":"not_found"' in answer


def test_requests_follow_one_another_on_one_connection(ship: Ship) -> None:
    with ship.connect() as raw:
        raw.sendall(f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n".encode() * 3)  # not waiting for the answers
        received = b""
        while received.count(b'{"status":"ok"}') < 3:
            received += raw.recv(65536)
        assert received.count(b"HTTP/1.1 200") == 3
        raw.sendall(f"GET /execs/no HTTP/1.1\r\n{HEAD}\r\n".encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 404")
        raw.sendall(f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n".encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_refused_upload_does_not_break_the_connection(ship: Ship) -> None:
    with ship.connect() as raw:
        body = b"x" * 500_000
        head = f"PUT /fs/content?beneath=true&path=.. HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        assert raw.recv(65536).startswith(b"HTTP/1.1 400")
        raw.sendall(f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n".encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 200")


def test_who_asks_before_sending_is_told_to_go_on(ship: Ship) -> None:
    with ship.connect() as raw:
        head = f"PUT /fs/content?beneath=true&path=x HTTP/1.1\r\n{HEAD}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        raw.sendall(head.encode())
        assert raw.recv(65536).startswith(b"HTTP/1.1 100 ")
        raw.sendall(b"ab")
        assert raw.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_2049th_connection_is_closed_and_the_others_live(ship: Ship) -> None:
    ship.http.get("/healthz")  # the first
    held: list[socket.socket] = []
    try:
        for _ in range(2047):
            held.append(ship.connect())
            if len(held) % 512 == 0:  # or more would wait for it than its queue holds
                assert ship.http.get("/healthz").status_code == 200
        with ship.connect() as one_more:
            assert read_to_end(one_more) == b""
        assert ship.http.get("/healthz").status_code == 200
    finally:
        for raw in held:
            raw.close()
    with ship.client(TOKEN) as again:
        assert eventually(lambda: ship_answers(ship))
        assert again.get("/healthz").status_code == 200


def test_those_who_stay_leave_connections_for_those_who_do_not(ship: Ship) -> None:
    exec_id = ship.start("exec sleep 600")
    follow = f"GET /execs/{exec_id}/output?follow=true HTTP/1.1\r\n{HEAD}\r\n".encode()
    with ExitStack() as held:
        status = b"200"
        while status == b"200":
            raw = held.enter_context(ship.connect())
            raw.sendall(follow)
            status = raw.recv(65536)[9:12]
        assert status == b"409"
        upgrade = {
            "Connection": "Upgrade", "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }  # fmt: skip
        asked: tuple[tuple[str, str, dict[str, str]], ...] = (
            ("GET", "/output?follow=true", {}),
            ("GET", "/attach", upgrade),
            ("POST", "/stdin", {}),
            ("GET", "?wait=1", {}),
        )
        for method, path, headers in asked:
            answer = ship.http.request(method, f"/execs/{exec_id}{path}", headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
            assert "connections are open" in answer.json()["error"]["message"]
        assert ship.http.get(f"/execs/{exec_id}/output").status_code == 200
        assert ship.http.delete(f"/execs/{exec_id}", params={"grace_s": "0"}).status_code == 200


def ship_answers(ship: Ship) -> bool:
    with ship.connect() as raw:
        raw.sendall(f"GET /healthz HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n".encode())
        return read_to_end(raw).startswith(b"HTTP/1.1 200")


def test_the_socket_is_for_its_owner_only(ship: Ship) -> None:
    assert ship.socket_path.stat().st_mode & 0o777 == 0o600


def test_a_socket_left_by_an_earlier_ship_is_replaced_and_a_file_is_not() -> None:
    with running() as ship:
        ship.process.kill()
        ship.process.wait()
        assert ship.socket_path.exists()
        with running(SHIP_SOCKET=str(ship.socket_path)) as another:
            another.socket_path = ship.socket_path
            with another.client(TOKEN) as http:
                assert http.get("/healthz").status_code == 200
