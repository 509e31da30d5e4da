"""Input of execs: written later, in order, without loss, no faster than it is read."""

import base64
import hashlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ship_harness import PATIENCE_S, TOKEN, Ship, eventually, read_to_end, running

pytestmark = pytest.mark.host

MIB = 1 << 20


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One Ship for all of these."""
    with running() as found:
        yield found


def write(ship: Ship, exec_id: str, data: Any, **query: str) -> httpx.Response:
    return ship.http.post(f"/execs/{exec_id}/stdin", params=query, content=data)


def refusal(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def test_what_is_written_later_comes_after_what_came_with_the_exec(ship: Ship) -> None:
    exec_id = ship.start("cat", stdin_open=True, stdin=base64.b64encode(b"one ").decode())
    assert write(ship, exec_id, b"two ").json() == {"written": 4}
    ship.wait_output(exec_id, "one two ")
    assert write(ship, exec_id, b"three", eof="true").json() == {"written": 5}
    ended = ship.wait(exec_id)
    assert (ended.out, ended.code) == ("one two three", 0)


def test_without_stdin_open_the_first_bytes_are_all(ship: Ship) -> None:
    exec_id = ship.start("cat; exec sleep 600", stdin=base64.b64encode(b"one").decode())
    ship.wait_output(exec_id, "one")
    assert eventually(lambda: write(ship, exec_id, b"two").status_code == 409)


@pytest.mark.parametrize("size", [64 * 1024, 64 * 1024 + 1, 3 * MIB])
def test_what_comes_with_the_exec_arrives_whole_however_large_it_is(ship: Ship, size: int) -> None:
    data = os.urandom(size)
    exec_id = ship.start(["sha256sum"], stdin=base64.b64encode(data).decode())
    assert ship.wait(exec_id).out.split()[0] == hashlib.sha256(data).hexdigest()


def test_any_byte_passes_unharmed_both_ways(ship: Ship) -> None:
    every = bytes(range(256)) * 3
    exec_id = ship.start(["cat"], stdin_open=True)
    write(ship, exec_id, every, eof="true")
    assert base64.b64decode(ship.wait(exec_id).json["stdout"]) == every


def test_fifty_mebibytes_arrive_whole_and_lie_nowhere_on_the_way(ship: Ship) -> None:
    block = os.urandom(MIB)
    exec_id = ship.start(["sha256sum"], stdin_open=True)
    before = ship.rss()
    assert write(ship, exec_id, (block for _ in range(50)), eof="true").json() == {"written": 50 * MIB}
    assert ship.rss() - before < 8 * MIB
    assert ship.wait(exec_id).out.split()[0] == hashlib.sha256(block * 50).hexdigest()


def test_a_writer_waits_for_a_program_that_does_not_read_and_others_do_not(ship: Ship) -> None:
    os.mkfifo(ship.workspace / "go")
    exec_id = ship.start("echo up; read x < go; exec sha256sum", stdin_open=True)
    ship.wait_output(exec_id, "up")
    data = os.urandom(MIB)
    answers: list[httpx.Response] = []
    with ship.client(TOKEN) as other:
        path = f"/execs/{exec_id}/stdin?eof=true"
        writer = threading.Thread(target=lambda: answers.append(other.post(path, content=data)))
        writer.start()
        assert [ship.run("true").code for _ in range(3)] == [0, 0, 0]
        assert not answers
        (ship.workspace / "go").write_text("go\n")
        writer.join(PATIENCE_S)
    assert answers[0].json() == {"written": MIB}
    assert ship.wait(exec_id).out.split()[1] == hashlib.sha256(data).hexdigest()


def test_what_a_writer_that_goes_away_had_left_is_dropped_and_the_next_is_heard(ship: Ship) -> None:
    os.mkfifo(ship.workspace / "on")
    exec_id = ship.start("echo up; read x < on; exec wc -c", stdin_open=True)
    ship.wait_output(exec_id, "up")
    head = f"POST /execs/{exec_id}/stdin HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {MIB}\r\n\r\n"
    with ship.connect() as raw:
        raw.sendall(head.encode() + bytes(MIB // 2))
        raw.shutdown(1)
        assert read_to_end(raw).startswith(b"HTTP/1.1 409 ")
    (ship.workspace / "on").write_text("go\n")
    assert write(ship, exec_id, b"x" * 10, eof="true").json() == {"written": 10}
    taken = int(ship.wait(exec_id).out.split()[1]) - 10
    assert 0 < taken < MIB // 2


def test_writers_are_served_one_after_another(ship: Ship) -> None:
    exec_id = ship.start(["cat"], stdin_open=True, ring_bytes=16 * MIB)
    blocks = [bytes([65 + number]) * 100_000 for number in range(8)]
    clients = [ship.client(TOKEN) for _ in blocks]
    path = f"/execs/{exec_id}/stdin"
    writers = [
        threading.Thread(target=client.post, args=(path,), kwargs={"content": block})
        for client, block in zip(clients, blocks, strict=True)
    ]
    for writer in writers:
        writer.start()
    for writer, client in zip(writers, clients, strict=True):
        writer.join(PATIENCE_S)
        client.close()
    write(ship, exec_id, b"", eof="true")
    out = ship.wait(exec_id).out
    assert sorted(out) == sorted(b"".join(blocks).decode())


def test_input_is_refused_where_none_is_read(ship: Ship) -> None:
    closed = ship.start("exec sleep 600")
    status, message = refusal(write(ship, closed, b"x"))
    assert (status, "stdin_open" in message) == (409, True)
    assert write(ship, closed, b"", eof="true").status_code == 409
    ended = ship.run("true", stdin_open=True).json["id"]
    assert refusal(write(ship, ended, b"x")) == (409, f"exec {ended} has ended")
    assert write(ship, "no-such", b"x").status_code == 404


def test_after_the_end_of_input_more_is_refused_and_a_second_end_is_none(ship: Ship) -> None:
    exec_id = ship.start("cat; echo over; exec sleep 600", stdin_open=True)
    assert write(ship, exec_id, b"", eof="true").json() == {"written": 0}
    ship.wait_output(exec_id, "over")
    assert refusal(write(ship, exec_id, b"more")) == (409, "stdin is closed: its end was given before")
    assert write(ship, exec_id, b"", eof="1").json() == {"written": 0}


def test_a_program_that_has_closed_its_stdin_is_told_of(ship: Ship) -> None:
    exec_id = ship.start("exec 0<&-; echo up; exec sleep 600", stdin_open=True)
    ship.wait_output(exec_id, "up")
    status, message = refusal(write(ship, exec_id, bytes(MIB)))
    assert (status, message.startswith("nobody reads this stdin")) == (409, True)


def test_a_writer_that_waits_hears_that_the_exec_has_ended(ship: Ship) -> None:
    exec_id = ship.start("echo up; exec sleep 600", stdin_open=True)
    ship.wait_output(exec_id, "up")
    answers: list[httpx.Response] = []
    with ship.client(TOKEN) as other:
        path = f"/execs/{exec_id}/stdin"
        writer = threading.Thread(target=lambda: answers.append(other.post(path, content=bytes(MIB))))
        writer.start()
        ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})
        writer.join(PATIENCE_S)
    assert answers[0].status_code == 409


def test_a_body_that_is_cut_short_ends_nothing(ship: Ship) -> None:
    exec_id = ship.start(["cat"], stdin_open=True)
    head = f"POST /execs/{exec_id}/stdin?eof=true HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n\r\n"
    with ship.connect() as raw:
        raw.sendall(head.encode() + b"half")
        raw.shutdown(1)
        read_to_end(raw)
    ship.wait_output(exec_id, "half")
    write(ship, exec_id, b"-whole", eof="true")
    assert ship.wait(exec_id).out == "half-whole"
