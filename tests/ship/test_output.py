"""The output of execs: followed, resumed, flooded, fallen behind."""

import asyncio
import base64
import json
import os
import threading
import time
from itertools import accumulate
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ship_harness import TOKEN, Ship, eventually

from ship.execs.output import OutputSource
from ship.execs.output import lines as output_lines
from ship.execs.patience import ReaderAllowance
from ship.execs.transcript import Transcript
from ship.http.conversation import Conversation, Request

pytestmark = pytest.mark.host

MIB = 1 << 20


def output(ship: Ship, exec_id: str, **query: str) -> list[dict[str, Any]]:
    answer = ship.http.get(f"/execs/{exec_id}/output", params=query)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def text(lines: list[dict[str, Any]]) -> str:
    return b"".join(base64.b64decode(line["data"]) for line in lines if "data" in line).decode()


def test_output_has_offsets_streams_and_a_last_line(ship: Ship) -> None:
    exec_id = ship.run("echo out; sleep 0.15; echo err >&2; exit 3").json["id"]
    first, second, last = output(ship, exec_id)
    assert (first["offset"], first["stream"], text([first])) == (0, "stdout", "out\n")
    assert (second["offset"], second["stream"], text([second])) == (4, "stderr", "err\n")
    assert first["t"] < second["t"]
    assert last == {"exit_code": 3, "signal": None, "state": "exited", "timed_out": False}


def test_reading_goes_on_from_any_byte(ship: Ship) -> None:
    exec_id = ship.run("printf 0123456789").json["id"]
    assert text(output(ship, exec_id, since="4")) == "456789"
    assert output(ship, exec_id, since="10") == [
        {"exit_code": 0, "signal": None, "state": "exited", "timed_out": False}
    ]


def test_without_follow_a_running_exec_gives_what_is_there(ship: Ship) -> None:
    exec_id = ship.start("echo here; exec sleep 600")
    ship.wait_output(exec_id, "here")
    assert text(output(ship, exec_id)) == "here\n"
    assert "exit_code" not in output(ship, exec_id)[-1]
    assert output(ship, exec_id, since="5") == []


def test_without_follow_a_flood_ends_with_what_there_was_at_the_call() -> None:
    transcript = Transcript(MIB)
    transcript.take("tty", b"a" * 400_000)
    printer = cast("OutputSource", SimpleNamespace(transcript=transcript, running=True))
    request = Request("GET", ("execs", "x", "output"), {}, None, None, None, cast("Conversation", None))
    given: list[dict[str, Any]] = []

    async def read() -> None:
        async for block in output_lines(request, printer, 0, ReaderAllowance(transcript)):
            given.extend(json.loads(line) for line in block.splitlines())
            assert given[-1]["offset"] < 400_000
            transcript.take("tty", b"b" * 200_000)  # it prints on while the reader takes the block

    asyncio.run(read())
    assert text(given) == "a" * 400_000


def test_following_gives_output_as_it_comes_and_then_the_end(ship: Ship) -> None:
    os.mkfifo(ship.workspace / "go")
    exec_id = ship.start("echo one; read x < go; echo two; exit 7")
    with ship.follow(exec_id) as lines:
        assert text([next(lines)]) == "one\n"
        (ship.workspace / "go").write_text("go\n")
        assert text([next(lines)]) == "two\n"
        assert next(lines)["exit_code"] == 7
        assert list(lines) == []


def test_a_follower_may_leave_and_come_back(ship: Ship) -> None:
    os.mkfifo(ship.workspace / "go")
    exec_id = ship.start("echo one; read x < go; echo two")
    with ship.follow(exec_id) as lines:
        assert text([next(lines)]) == "one\n"
    (ship.workspace / "go").write_text("go\n")
    with ship.follow(exec_id, since=4) as lines:
        assert text(list(lines)) == "two\n"


@pytest.mark.parametrize("since", ["-1", "x", "1.0", "9" * 30, "5"])
def test_an_offset_that_is_none_is_refused(ship: Ship, since: str) -> None:
    exec_id = ship.run("printf 0123").json["id"]
    answer = ship.http.get(f"/execs/{exec_id}/output", params={"since": since})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")


def test_an_offset_before_the_ring_is_gone_and_the_answer_says_where_to_go_on(ship: Ship) -> None:
    exec_id = ship.run("printf 0123456789", ring_bytes=4).json["id"]
    answer = ship.http.get(f"/execs/{exec_id}/output", params={"since": 0})
    assert (answer.status_code, answer.json()["error"]["code"]) == (410, "output_gone")
    assert answer.json()["error"]["details"] == {"first_offset": 6}
    assert text(output(ship, exec_id, since="6")) == "6789"


def test_the_ring_keeps_the_newest_and_says_that_the_rest_is_gone(ship: Ship) -> None:
    ended = ship.run("head -c 3000000 /dev/zero | tr '\\0' a; printf end")
    assert ended.json["truncated"] is True
    assert (ended.json["output_bytes"], ended.json["first_offset"]) == (3_000_003, 3_000_003 - MIB)
    assert len(ended.out) == MIB
    assert ended.out.endswith("aend")


def test_no_line_is_longer_than_line_readers_take(ship: Ship) -> None:
    exec_id = ship.run("head -c 500000 /dev/zero").json["id"]
    answer = ship.http.get(f"/execs/{exec_id}/output")
    assert max(len(line) for line in answer.content.splitlines()) < 64 * 1024


def test_output_that_is_no_text_arrives_unchanged(ship: Ship) -> None:
    blob = os.urandom(200_000)
    (ship.workspace / "blob").write_bytes(blob)
    exec_id = ship.run("cat blob").json["id"]
    assert b"".join(base64.b64decode(line["data"]) for line in output(ship, exec_id)[:-1]) == blob


def test_a_flood_is_bounded_in_memory_and_leaves_others_their_turn(ship: Ship) -> None:
    before = ship.rss()
    exec_id = ship.start("yes | head -c 10G")
    assert eventually(lambda: ship.http.get(f"/execs/{exec_id}").json()["output_bytes"] > 200 * MIB)
    slowest = 0.0
    for _ in range(30):
        began = time.perf_counter()
        ship.http.get("/healthz")
        slowest = max(slowest, time.perf_counter() - began)
    assert ship.http.get(f"/execs/{exec_id}").json()["state"] == "running"
    assert slowest < 0.5
    assert ship.rss() - before < 16 * MIB
    assert ship.http.delete(f"/execs/{exec_id}").json()["state"] in ("killed", "exited")


def test_single_bytes_by_turns_are_bounded_in_memory(ship: Ship) -> None:
    before = ship.rss()
    program = "import os\nfor _ in range(100000): os.write(1, b'a'); os.write(2, b'b')"
    ended = ship.run(["/usr/bin/python3", "-c", program])
    assert ended.json["output_bytes"] == 200_000
    assert ship.rss() - before < 16 * MIB


def test_a_slow_reader_slows_nobody_and_is_told_where_to_go_on(ship: Ship) -> None:
    os.mkfifo(ship.workspace / "go")
    exec_id = ship.start("read x < go; head -c 50M /dev/zero; echo end")
    slow = ship.connect()
    head = f"GET /execs/{exec_id}/output?follow=true HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    slow.sendall(head.encode())
    assert slow.recv(12) == b"HTTP/1.1 200"
    quick: list[int] = []

    def read_quickly() -> None:
        with ship.client(TOKEN) as http, http.stream("GET", f"/execs/{exec_id}/output?follow=true") as answer:
            quick.append(sum(len(data) for data in answer.iter_bytes()))

    reader = threading.Thread(target=read_quickly)
    reader.start()
    (ship.workspace / "go").write_text("go\n")
    assert ship.wait(exec_id).code == 0  # while the slow one has read nothing
    reader.join(20)
    assert quick
    with slow:
        received = bytearray()
        while not received.endswith(b"0\r\n\r\n"):
            received += slow.recv(65536)
    last = json.loads(bytes(received).split(b"\r\n")[-4])
    first_offset = ship.wait(exec_id).json["first_offset"]
    assert last["error"]["code"] == "output_gone"
    assert last["error"]["first_offset"] == last["error"]["details"]["first_offset"] == first_offset


def test_a_follower_that_goes_away_is_forgotten(ship: Ship) -> None:
    exec_id = ship.start("exec sleep 600")
    held = descriptors(ship)
    for _ in range(10):
        with ship.connect() as raw:
            head = f"GET /execs/{exec_id}/output?follow=true HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
            raw.sendall(head.encode())
            raw.recv(12)
    assert eventually(lambda: descriptors(ship) <= held)


def descriptors(ship: Ship) -> int:
    return len(os.listdir(f"/proc/{ship.pid}/fd"))


def test_no_descriptor_is_left_after_execs(ship: Ship) -> None:
    ship.run("true")
    ship.entries()
    held = descriptors(ship)
    for _ in range(20):
        ship.run("echo x; echo y >&2", stdin=base64.b64encode(b"z" * 100_000).decode())
        ship.run(["no-such-program"])
        ship.http.post("/execs", json={"id": "x", "command": "true", "cwd": "missing"})
    assert eventually(lambda: descriptors(ship) <= held)


def test_a_follower_that_takes_what_comes_gets_all_of_a_flood(ship: Ship) -> None:
    exec_id = ship.start("read go; exec head -c 50000000 /dev/zero", stdin_open=True)
    query = {"since": "0", "follow": "true"}
    with ship.http.stream("GET", f"/execs/{exec_id}/output", params=query) as answer:
        ship.http.post(f"/execs/{exec_id}/stdin", content=b"go\n").raise_for_status()
        raw = b"".join(answer.iter_raw())
    told = [json.loads(line) for line in raw.splitlines()]
    assert told[-1].get("exit_code") == 0, told[-1]
    sizes = [len(base64.b64decode(line["data"])) for line in told[:-1]]
    assert [line["offset"] for line in told[:-1]] == [0, *accumulate(sizes[:-1])]
    assert sum(sizes) == 50_000_000
