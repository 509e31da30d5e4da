"""`/ports` and its feed: where something listens, and which program, seen by netlink and by /proc alike."""

import json
import os
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from ship_harness import PATIENCE_S, Ship, eventually, running

from ship.ports import sock_diag
from ship.ports.sock_diag import Listener, Netlink, Tables

pytestmark = pytest.mark.host

ANY = "0.0.0.0"  # noqa: S104 - in a namespace of its own, or of the tests
Look = Callable[[], list[Listener]]

LISTEN = (
    "import socket, sys\n"
    "family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
    "made = socket.socket(family)\n"
    "made.bind((sys.argv[1], int(sys.argv[2])))\n"
    "made.listen()\n"
    "print(made.getsockname()[1], flush=True)\n"
    "sys.stdin.read()\n"
)


def start(ship: Ship, host: str = "127.0.0.1", port: int = 0, **more: Any) -> tuple[str, int]:
    """A program that listens until its stdin ends; its exec and its port."""
    made = ship.start(["python3", "-c", LISTEN, host, str(port)], stdin_open=True, **more)
    return made, int(ship.wait_output(made, "\n"))


def stop(ship: Ship, exec_id: str) -> None:
    assert ship.http.post(f"/execs/{exec_id}/stdin", params={"eof": "true"}).status_code == 200
    assert ship.wait(exec_id).code == 0


def ports(ship: Ship) -> list[dict[str, Any]]:
    answer = ship.http.get("/ports")
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


@contextmanager
def feed(ship: Ship) -> Generator[Iterator[list[dict[str, Any]]]]:
    """What is told, line by line."""
    with ship.http.stream("GET", "/feed", timeout=PATIENCE_S) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
        lines = (json.loads(line) for line in answer.iter_lines())
        yield (line["items"] for line in lines if line["type"] == "ports")


@contextmanager
def bound(family: int, host: str) -> Generator[tuple[int, int]]:
    """A socket that listens; its port and inode."""
    with socket.socket(family) as made:
        made.bind((host, 0))
        made.listen()
        yield made.getsockname()[1], os.fstat(made.fileno()).st_ino


def by_netlink() -> list[Listener]:
    with closing(Netlink()) as asked:
        return asked.look()


def by_tables(tables: Tables | None = None) -> list[Listener]:
    tables = tables or Tables()
    if tables.is_old():
        tables.read()
    return tables.last


def test_a_port_is_told_with_its_addresses_and_the_program_that_listens(ship: Ship) -> None:
    assert ports(ship) == []
    made, port = start(ship)
    again, _ = start(ship, "::1", port)
    pid = ship.http.get(f"/execs/{made}").json()["pid"]
    item = {"port": port, "addresses": ["127.0.0.1", "::1"], "pid": pid, "process": "python3"}
    assert ports(ship) == [item]
    stop(ship, made)
    assert [(found["port"], found["addresses"]) for found in ports(ship)] == [(port, ["::1"])]
    stop(ship, again)
    assert ports(ship) == []


def test_a_local_ship_tells_of_its_own_programs_alone(ship: Ship) -> None:
    with bound(socket.AF_INET, "127.0.0.1"):
        _, port = start(ship)
        assert [item["port"] for item in ports(ship)] == [port]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be PID 1 of new namespaces")
def test_in_a_container_the_programs_of_the_user_are_seen_and_ships_own_port_is_not() -> None:
    with running(first=True) as ship:
        assert ports(ship) == []
        _, port = start(ship, ANY, 4000)
        _, other = start(ship, "::", 4001, user="root")
        found = ports(ship)
        assert [(item["port"], item["addresses"]) for item in found] == [(port, [ANY]), (other, ["::"])]
        assert [item["process"] for item in found] == ["python3", "python3"]
        assert all(isinstance(item["pid"], int) for item in found)


def test_the_feed_tells_at_once_and_after_each_change(ship: Ship) -> None:
    with feed(ship) as told:
        assert next(told) == []
        made, port = start(ship)
        assert [item["port"] for item in next(told)] == [port]
        stop(ship, made)
        assert next(told) == []


def test_ship_ends_at_once_though_its_feed_is_followed(ship: Ship) -> None:
    with feed(ship) as told:
        next(told)
        os.kill(ship.pid, 15)
        assert list(told) == []
        ship.process.wait(PATIENCE_S)


def is_socket(link: str) -> bool:
    try:
        return os.readlink(link).startswith("socket:")
    except FileNotFoundError:  # closed since it was listed
        return False


def test_nobody_is_looked_for_once_the_follower_is_gone(ship: Ship) -> None:
    def open_sockets() -> int:
        return sum(is_socket(f"/proc/{ship.pid}/fd/{name}") for name in os.listdir(f"/proc/{ship.pid}/fd"))

    ports(ship)
    with feed(ship) as told:
        next(told)
        during = open_sockets()
    assert eventually(lambda: open_sockets() < during)


@pytest.mark.parametrize(
    ("family", "host", "address"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET, ANY, ANY),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "::"),
        (socket.AF_INET6, "::ffff:127.0.0.1", "127.0.0.1"),
    ],
)
@pytest.mark.parametrize("look", [by_netlink, by_tables])
def test_both_ways_to_look_see_the_same(family: int, host: str, address: str, look: Look) -> None:
    with bound(family, host) as (port, inode):
        assert Listener(port, address, inode) in look()
    assert port not in {found.port for found in look()}


def test_connections_are_no_listeners() -> None:
    with (
        bound(socket.AF_INET, "127.0.0.1") as (port, inode),
        socket.create_connection(("127.0.0.1", port)),
    ):
        for found in (by_netlink(), by_tables()):
            assert [each for each in found if each.port == port] == [Listener(port, "127.0.0.1", inode)]


def test_the_tables_are_read_again_when_the_number_of_sockets_has_changed_and_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = (
        b"  0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 77 1 0 100 0 0 10 0"
    )
    files = {"/proc/net/sockstat": b"sockets: used 9\nTCP: inuse 1 orphan 0 tw 0 alloc 5 mem 2\n"}

    def read(path: str, _limit: int) -> bytes:
        return files.get(path, b"")

    monkeypatch.setattr(sock_diag, "read_file", read)
    tables = Tables()
    assert by_tables(tables) == []
    files["/proc/net/tcp"] = b"head\n" + row
    files["/proc/net/sockstat"] = b"sockets: used 11\nTCP: inuse 1 orphan 0 tw 4 alloc 7 mem 3\n"
    assert by_tables(tables) == []
    files["/proc/net/sockstat"] = b"sockets: used 11\nTCP: inuse 2 orphan 0 tw 4 alloc 7 mem 3\n"
    assert by_tables(tables) == [Listener(8080, "127.0.0.1", 77)]
    del files["/proc/net/tcp"]
    assert len(by_tables(tables)) == 1
    monkeypatch.setattr(sock_diag, "_BLIND_S", 0.0)
    assert by_tables(tables) == []


@pytest.mark.parametrize("line", [b"", b"  0: 0100007F", b"  0: zz:1F90 0:0 0A a b c d e f", b"1 2 3 0A"])
def test_a_line_of_a_table_that_is_cut_off_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, line: bytes
) -> None:
    def cut(path: str, _limit: int) -> bytes:
        return b"head\n" + line if path == "/proc/net/tcp" else b""

    monkeypatch.setattr(sock_diag, "read_file", cut)
    assert by_tables() == []


def test_the_place_where_bay_answers_for_names_is_none_of_the_sandboxs_ports(ship: Ship) -> None:
    bays, _ = start(ship, "127.0.0.53", 53)
    its_own, _ = start(ship, "127.0.0.1", 53)
    assert [(found["port"], found["addresses"]) for found in ports(ship)] == [(53, ["127.0.0.1"])]
    stop(ship, bays)
    stop(ship, its_own)
