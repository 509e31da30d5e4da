"""The reader that a program waits for: it is given every byte, also when it comes late, slowly or again."""

import base64
import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import SHUT_RDWR
from typing import Any

import pytest
from ship_harness import PATIENCE_S, Ship, eventually, running
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

pytestmark = pytest.mark.host

MIB = 1 << 20
COUNT = 3_000_000
NUMBERS = b"".join(b"%d\n" % i for i in range(1, COUNT + 1))
"""What `seq COUNT` prints, 22 MiB."""

SEQ = ["seq", str(COUNT)]


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One Ship for all tests of this file: none of them harms it."""
    with running() as found:
        yield found


@contextmanager
def attached(ship: Ship, exec_id: str, since: int = 0, *, claims: bool = True) -> Generator[ClientConnection]:
    """A socket whose first message has been read."""
    target = f"/execs/{exec_id}/attach?since={since}" + ("&wait_for_reader=true" if claims else "")
    with ship.websocket(target, max_queue=1) as socket:
        assert json.loads(socket.recv(PATIENCE_S))["next_offset"] == since
        yield socket
        with suppress(OSError):
            socket.socket.shutdown(SHUT_RDWR)  # a goodbye would stand behind what is unread


def rest(socket: ClientConnection) -> tuple[bytes, dict[str, Any]]:
    """All output up to the end, and the end."""
    output = bytearray()
    while isinstance(message := socket.recv(PATIENCE_S), bytes):
        output += message[1:]
    return bytes(output), json.loads(message)


def some(socket: ClientConnection, size: int) -> bytes:
    """Output of `size` bytes or more."""
    output = bytearray()
    while len(output) < size:
        message = socket.recv(PATIENCE_S)
        assert isinstance(message, bytes)
        output += message[1:]
    return bytes(output)


def printed(ship: Ship, exec_id: str) -> int:
    return ship.http.get(f"/execs/{exec_id}").json()["output_bytes"]


def in_flight(ship: Ship, exec_id: str, taken: int) -> int:
    """The bytes that were sent and not taken: Ship keeps a ring before the first that is unsent."""
    return int(ship.http.get(f"/execs/{exec_id}").json()["first_offset"]) + MIB - taken


def stands_still(ship: Ship, exec_id: str) -> bool:
    """Whether it waits in a write."""
    pid = ship.http.get(f"/execs/{exec_id}").json()["pid"]
    return Path(f"/proc/{pid}/wchan").read_text().endswith("pipe_write")


def same(one: bytes, other: bytes) -> bool:
    """Compared by digest, so that a failure prints no megabytes."""
    return hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


def test_a_program_waits_for_its_reader_and_that_gets_every_byte(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60)
    assert eventually(lambda: stands_still(ship, exec_id))
    assert printed(ship, exec_id) < 2 * MIB
    with attached(ship, exec_id) as socket:
        output, end = rest(socket)
    assert same(output, NUMBERS)
    assert end["exit_code"] == 0


def test_a_follower_may_be_the_reader_too(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60)
    assert eventually(lambda: stands_still(ship, exec_id))
    with ship.follow(exec_id, wait_for_reader="true") as lines:
        parts = [base64.b64decode(line["data"]) for line in lines if "data" in line]
    assert same(b"".join(parts), NUMBERS)


def test_a_terminal_waits_too(ship: Ship) -> None:
    exec_id = ship.start(["sh", "-c", f"stty -opost; seq {COUNT}"], tty=True, wait_for_reader_s=60)
    assert eventually(lambda: printed(ship, exec_id) > MIB - 1)
    with attached(ship, exec_id) as socket:
        output, _ = rest(socket)
    assert same(output, NUMBERS)


def test_both_streams_are_given_whole(ship: Ship) -> None:
    exec_id = ship.start(f"seq {COUNT} & seq {COUNT} >&2; wait", wait_for_reader_s=60)
    assert eventually(lambda: printed(ship, exec_id) > MIB - 1)
    streams = {1: bytearray(), 2: bytearray()}
    with attached(ship, exec_id) as socket:
        while isinstance(message := socket.recv(PATIENCE_S), bytes):
            streams[message[0]] += message[1:]
    assert same(bytes(streams[1]), NUMBERS)
    assert same(bytes(streams[2]), NUMBERS)


def test_single_bytes_by_turns_hold_the_program_before_they_fill_the_memory(ship: Ship) -> None:
    loop = "import os\nfor i in range(600000):\n os.write(1, b'o'); os.write(2, b'e')"
    exec_id = ship.start(["python3", "-c", loop], wait_for_reader_s=60)
    assert eventually(lambda: stands_still(ship, exec_id))
    assert printed(ship, exec_id) < 2 * MIB
    with attached(ship, exec_id) as socket:
        output, _ = rest(socket)
    assert (output.count(b"o"), output.count(b"e")) == (600000, 600000)


def test_what_a_program_leaves_at_its_end_is_kept_for_its_reader(ship: Ship) -> None:
    exec_id = ship.start(["head", "-c", str(MIB + 30_000), "/dev/zero"], wait_for_reader_s=60)
    assert ship.wait(exec_id).json["exit_code"] == 0
    with attached(ship, exec_id) as socket:
        output, end = rest(socket)
    assert (len(output), end["exit_code"]) == (MIB + 30_000, 0)


def test_one_that_is_killed_while_it_waits_has_its_output_kept(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60)
    assert eventually(lambda: stands_still(ship, exec_id))
    assert ship.http.delete(f"/execs/{exec_id}").json()["signal"] == 15
    total = printed(ship, exec_id)
    with attached(ship, exec_id) as socket:
        output, end = rest(socket)
    assert same(output, NUMBERS[:total])
    assert end["signal"] == 15


def test_a_time_limit_ends_one_that_waits(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60, timeout_s=0.5)
    ended = ship.wait(exec_id).json
    assert ended["timed_out"]
    assert not ended["truncated"]


def test_a_reader_that_never_comes_is_waited_for_no_longer_than_it_has(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=0.5)
    assert ship.wait(exec_id).json["exit_code"] == 0
    refused = ship.http.get(f"/execs/{exec_id}/output", params={"since": 0})
    assert refused.json()["error"]["code"] == "output_gone"


def test_a_reader_that_breaks_off_goes_on_where_it_was(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60)
    output = b""
    for _ in range(20):
        with attached(ship, exec_id, len(output)) as socket:
            output += some(socket, MIB)
    with attached(ship, exec_id, len(output)) as socket:
        output += rest(socket)[0]
    assert same(output, NUMBERS)


def test_a_reader_that_left_for_good_is_waited_for_no_longer_than_it_has(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=0.5)
    with attached(ship, exec_id) as socket:
        some(socket, MIB)
    assert ship.wait(exec_id).json["exit_code"] == 0


def test_a_reader_that_takes_nothing_for_long_loses_nothing(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=0.5)
    with attached(ship, exec_id) as socket:
        assert eventually(lambda: stands_still(ship, exec_id))
        # Longer than the reader has while it is not there, and than others are waited for.
        until = ship.http.get(f"/execs/{exec_id}", params={"wait": "1.5"})
        assert until.json()["state"] == "running"
        assert same(rest(socket)[0], NUMBERS)


def test_others_that_read_nothing_do_not_keep_it_from_its_reader(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60)
    with attached(ship, exec_id, claims=False), attached(ship, exec_id) as socket:
        assert same(rest(socket)[0], NUMBERS)


def test_a_newer_reader_takes_the_place_of_one_that_has_not_been_missed_yet(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60)
    with attached(ship, exec_id) as stale:
        begun = some(stale, MIB)
        with attached(ship, exec_id, len(begun)) as socket:
            assert same(begun + rest(socket)[0], NUMBERS)
        with pytest.raises(ConnectionClosed) as closed:
            rest(stale)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4410


def test_a_newer_reader_gets_all_that_a_stalled_one_was_sent_and_has_not_taken(ship: Ship) -> None:
    exec_id = ship.start(SEQ, wait_for_reader_s=60)
    assert eventually(lambda: stands_still(ship, exec_id))  # so that its frames are as large as they may be
    with attached(ship, exec_id) as stale:
        begun = some(stale, 3 * MIB)
        assert eventually(lambda: len({in_flight(ship, exec_id, len(begun)) for _ in range(50)}) == 1)
        assert in_flight(ship, exec_id, len(begun)) <= MIB * 3 // 4
        with attached(ship, exec_id, len(begun)) as socket:
            assert same(begun + rest(socket)[0], NUMBERS)


def test_any_program_waits_for_a_reader_that_claims_it(ship: Ship) -> None:
    exec_id = ship.start(f"read go; exec seq {COUNT}", stdin_open=True)
    with attached(ship, exec_id) as socket:
        socket.send(b"\0go\n")
        assert eventually(lambda: stands_still(ship, exec_id))
        assert same(rest(socket)[0], NUMBERS)


def test_a_start_that_waits_for_the_end_answers_once_the_program_stands_still(ship: Ship) -> None:
    ended = ship.run(SEQ, wait=60, wait_for_reader_s=60).json
    assert ended["state"] == "running"
    assert ended["wait_for_reader"]
    with attached(ship, ended["id"]) as socket:
        assert same(rest(socket)[0], NUMBERS)
