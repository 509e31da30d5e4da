"""An exec's output and input on one WebSocket, spoken to with another implementation of the protocol."""

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import socket
import struct
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ship_harness import PATIENCE_S, TOKEN, Ship, eventually, running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from ship.execs.attach import Attachment
from ship.execs.execs import Exec
from ship.execs.transcript import Transcript
from ship.http.websocket import WebSocket

pytestmark = [pytest.mark.long, pytest.mark.host]

Json = dict[str, Any]


@pytest.fixture(scope="module", params=["unix", "pod"])
def ship(request: pytest.FixtureRequest) -> Iterator[Ship]:
    """One Ship for all tests of this file, of either kind: none of them harms it."""
    with running(pod=request.param == "pod") as found:
        yield found


@contextmanager
def attached(ship: Ship, exec_id: str, since: int | None = None) -> Generator[ClientConnection]:
    """A socket whose first message has not been read."""
    with ship.websocket(f"/execs/{exec_id}/attach" + ("" if since is None else f"?since={since}")) as socket:
        yield socket


def first(socket: ClientConnection) -> Json:
    """The first message."""
    message = json.loads(socket.recv(PATIENCE_S))
    assert message["type"] == "attached"
    return message


def rest(socket: ClientConnection) -> tuple[bytes, bytes, Json]:
    """All of stdout (or the terminal), all of stderr, and the last message, up to the close with 1000."""
    output = {1: b"", 2: b""}
    while isinstance(message := socket.recv(PATIENCE_S), bytes):
        output[message[0]] += message[1:]
    assert close_of(socket) == (1000, "")
    return output[1], output[2], json.loads(message)


def receive_for_ever(socket: ClientConnection) -> None:
    while True:
        socket.recv(PATIENCE_S)


def close_of(socket: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which Ship closes, whatever comes before."""
    with pytest.raises(ConnectionClosed) as closed:
        receive_for_ever(socket)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def until(socket: ClientConnection, wanted: bytes) -> bytes:
    """Output up to and with `wanted`."""
    seen = bytearray()
    looked = 0
    while seen.find(wanted, max(0, looked - len(wanted))) < 0:
        looked = len(seen)
        message = socket.recv(PATIENCE_S)
        assert isinstance(message, bytes), (message, seen)
        seen += message[1:]
    return bytes(seen)


def refused(ship: Ship, exec_id: str, since: int) -> tuple[int, Json]:
    with pytest.raises(InvalidStatus) as error, attached(ship, exec_id, since):
        pass
    response = error.value.response
    assert response.body is not None
    return response.status_code, json.loads(response.body)["error"]


# Output


def test_output_comes_as_it_is_printed_with_its_stream_and_then_how_it_ended(ship: Ship) -> None:
    exec_id = ship.start("echo out; read x; echo err >&2; exit 3", stdin_open=True)
    with attached(ship, exec_id) as socket:
        message = first(socket)
        assert message["exec"]["id"] == exec_id
        assert message["exec"]["state"] == "running"
        assert message["next_offset"] == 0
        assert until(socket, b"\n") == b"out\n"
        socket.send(b"\0x\n")
        out, err, end = rest(socket)
    assert (out, err) == (b"", b"err\n")
    assert end == {"type": "exit", "exit_code": 3, "signal": None, "state": "exited", "timed_out": False}


def test_the_order_of_the_streams_is_kept(ship: Ship) -> None:
    exec_id = ship.start("for i in $(seq 300); do echo $i; echo $i >&2; done")
    with attached(ship, exec_id) as socket:
        first(socket)
        out, err, _ = rest(socket)
    assert out == err == b"".join(b"%d\n" % i for i in range(1, 301))


def test_one_that_comes_late_reads_from_the_oldest_byte_or_from_the_one_it_names(ship: Ship) -> None:
    exec_id = ship.start("printf 0123456789")
    ship.wait(exec_id)
    for since, expected in ((None, b"0123456789"), (0, b"0123456789"), (4, b"456789"), (10, b"")):
        with attached(ship, exec_id, since) as socket:
            assert first(socket)["next_offset"] == (since or 0)
            out, _, end = rest(socket)
        assert out == expected
        assert end["exit_code"] == 0


def test_many_read_the_same_bytes(ship: Ship) -> None:
    exec_id = ship.start("read x; seq 20000", stdin_open=True)
    with attached(ship, exec_id) as one, attached(ship, exec_id) as two, attached(ship, exec_id) as three:
        for socket in (one, two, three):
            first(socket)
        two.send(b"\0go\n")
        outputs = [rest(socket)[0] for socket in (three, one, two)]
    assert outputs == [b"".join(b"%d\n" % i for i in range(1, 20001))] * 3


def test_output_before_the_ring_is_gone_and_beyond_the_end_there_is_none(ship: Ship) -> None:
    exec_id = ship.start("head -c 200000 /dev/zero", ring_bytes=65536)
    ended = ship.wait(exec_id)
    status, error = refused(ship, exec_id, 0)
    assert (status, error["code"]) == (410, "output_gone")
    assert error["details"] == {"first_offset": ended.json["first_offset"]}
    status, error = refused(ship, exec_id, 200001)
    assert (status, error["code"]) == (400, "validation_error")
    with attached(ship, exec_id, ended.json["first_offset"]) as socket:
        first(socket)
        assert len(rest(socket)[0]) == 200000 - ended.json["first_offset"]


def test_what_is_no_exec_or_no_websocket_is_refused_in_http(ship: Ship) -> None:
    assert refused(ship, "exec-none", 0)[0] == 404
    exec_id = ship.start("true")
    answer = ship.http.get(f"/execs/{exec_id}/attach")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")
    with (
        pytest.raises(InvalidStatus) as error,
        ship.websocket(f"/execs/{exec_id}/attach", token=None),
    ):
        pass
    assert error.value.response.status_code == 403
    assert "X-Ship-Session" not in error.value.response.headers


def test_an_upgrade_says_whose_ship_it_is_and_agrees_to_no_extension(ship: Ship) -> None:
    exec_id = ship.start("true")
    with ship.websocket(f"/execs/{exec_id}/attach", compression="deflate") as socket:
        response = socket.response
        assert response is not None
        proof = hashlib.sha256(f"ship-session:{TOKEN}".encode()).hexdigest()[:32]
        assert response.headers["X-Ship-Session"] == proof
        assert "Sec-WebSocket-Extensions" not in response.headers
        first(socket)
        rest(socket)


def test_a_flood_arrives_whole_at_a_reader_that_keeps_up_and_ship_stays_small(ship: Ship) -> None:
    size = 96 << 20
    exec_id = ship.start(f"read x; head -c {size} /dev/zero | tr '\\0' x", stdin_open=True)
    before = ship.rss()
    seen = most = 0
    with attached(ship, exec_id) as socket:
        first(socket)
        socket.send(b"\0go\n")
        while isinstance(message := socket.recv(PATIENCE_S), bytes):
            assert message.count(b"x") == len(message) - 1
            seen += len(message) - 1
            most = max(most, len(message))
        assert json.loads(message)["exit_code"] == 0
    assert seen == size
    assert most > 64 << 10
    assert ship.rss() - before < 24 << 20


def test_one_that_comes_into_a_flood_begins_with_the_oldest_byte_there_is_by_then(ship: Ship) -> None:
    exec_id = ship.start("exec yes")
    assert eventually(lambda: ship.http.get(f"/execs/{exec_id}").json()["first_offset"] > 0)
    for _ in range(5):
        with attached(ship, exec_id) as socket:
            first(socket)
            taken = 0
            while taken < 5_000_000:
                taken += len(socket.recv(PATIENCE_S))
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": "0"})


def test_one_whose_byte_is_overwritten_while_it_comes_is_not_attached() -> None:
    transcript = Transcript(1000)
    transcript.take("tty", b"x" * 3000)
    told: list[Any] = []

    async def run() -> None:
        never = asyncio.get_running_loop().create_future()

        async def messages() -> AsyncGenerator[bytes]:
            await never
            yield b""

        async def tell(*words: Any) -> None:
            told.append(words)

        socket = SimpleNamespace(
            wire=SimpleNamespace(gone=never, asked_to_leave=lambda: never),
            messages=messages, send_text=tell, close=tell,
        )  # fmt: skip
        found = SimpleNamespace(
            transcript=transcript, ring=transcript.ring, watched=nullcontext, running=True, tty=True
        )
        attachment = Attachment(cast("WebSocket", socket), cast("Exec", found), 1999, claims=False)
        async with asyncio.timeout(PATIENCE_S):
            await attachment.run()

    asyncio.run(run())
    assert told == [(4410, "first_offset=2000")]


def test_a_flood_of_a_terminal_arrives_whole_too(ship: Ship) -> None:
    size = 6 << 20
    exec_id = ship.start(["sh", "-c", f"read x; head -c {size} /dev/zero | tr '\\0' x"], tty=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        socket.send(b"\0\r")
        assert rest(socket)[0].count(b"x") == size


def test_a_reader_that_reads_nothing_holds_up_nobody_and_comes_back_by_offset(ship: Ship) -> None:
    exec_id = ship.start("read x; seq 3000000; sleep 100", stdin_open=True)
    total = sum(len(f"{i}\n") for i in range(1, 3000001))
    with stuck(ship, exec_id) as slow:
        with attached(ship, exec_id) as quick:
            first(quick)
            quick.send(b"\0go\n")
            assert until(quick, b"3000000\n").endswith(b"2999999\n3000000\n")
        code, reason = close_frame(slow)
    assert code == 4410
    found = re.fullmatch(r"first_offset=(\d+)", reason)
    assert found
    since = int(found[1])
    with attached(ship, exec_id, since) as socket:
        assert first(socket)["next_offset"] == since
        assert len(until(socket, b"\n3000000\n")) == total - since
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": "0"})


def test_readers_that_come_again_and_again_do_not_stop_a_program(ship: Ship) -> None:
    exec_id = ship.start("read x; exec head -c 4000000 /dev/zero", stdin_open=True)
    with ExitStack() as readers:
        readers.enter_context(stuck(ship, exec_id))
        ship.http.post(f"/execs/{exec_id}/stdin", content=b"go\n").raise_for_status()
        state = "running"
        for _ in range(100):  # a new one before the last has no patience left
            if state == "running":
                readers.enter_context(stuck(ship, exec_id))
                state = ship.wait(exec_id, 0.05).json["state"]
    assert state == "exited"


@contextmanager
def stuck(ship: Ship, exec_id: str) -> Generator[socket.socket]:
    """An attachment that nobody reads."""
    with ship.connect() as raw:
        raw.sendall(handshake(exec_id))
        yield raw


def handshake(exec_id: str, *changes: str) -> bytes:
    lines = [
        f"GET /execs/{exec_id}/attach HTTP/1.1", "Host: ship", f"Authorization: Bearer {TOKEN}",
        *(changes or ("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Version: 13",
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")),
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def close_frame(raw: socket.socket) -> tuple[int, str]:
    """The close frame that is the last thing Ship sends; the connection need not be closed by then."""
    seen = b""
    while not (found := re.search(rb"\x88([\x02-\x7d])(..)(first_offset=\d+)?$", seen, re.DOTALL)):
        data = raw.recv(1 << 20)
        assert data, seen[-200:]
        seen = (seen + data)[-200:]
    return struct.unpack("!H", found[2])[0], (found[3] or b"").decode()


# Input


def test_input_arrives_whole_in_order_with_its_end(ship: Ship) -> None:
    data = os.urandom(5 << 20)
    exec_id = ship.start("sha256sum", stdin_open=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        for start in range(0, len(data), 300_000):
            socket.send(b"\0" + data[start : start + 300_000])
        socket.send(b"\4")
        out, _, end = rest(socket)
    assert out.decode().split()[0] == hashlib.sha256(data).hexdigest()
    assert end["exit_code"] == 0


def test_a_message_in_parts_is_one_message(ship: Ship) -> None:
    exec_id = ship.start("cat", stdin_open=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        socket.send([b"\0a", b"b", b"", b"c"])
        socket.send(b"\4")
        assert rest(socket)[0] == b"abc"


def test_the_end_of_input_at_a_terminal_is_for_one_program_and_more_may_follow(ship: Ship) -> None:
    exec_id = ship.start("stty -echo; echo up; wc -c; wc -c; read x; exit $x", tty=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        until(socket, b"up\r\n")
        for message in (b"\0four\r", b"\4", b"\4", b"\0007\r"):
            socket.send(message)
        out, _, end = rest(socket)
    assert (out, end["exit_code"]) == (b"5\r\n0\r\n", 7)


def test_what_was_sent_before_the_peer_went_still_arrives(ship: Ship) -> None:
    exec_id = ship.start("cat > late.txt", stdin_open=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        socket.send(b"\0last words")
        socket.send(b"\4")
    assert ship.wait(exec_id).code == 0
    assert (ship.workspace / "late.txt").read_bytes() == b"last words"


def test_a_signal_comes_through_when_nobody_reads_the_input_before_it(ship: Ship) -> None:
    exec_id = ship.start(
        "trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.01; done", stdin_open=True
    )
    with attached(ship, exec_id) as socket:
        first(socket)
        until(socket, b"ready\n")
        socket.send(b"\0" + b"x" * 1_000_000)
        socket.send('{"type": "signal", "signal": "USR1"}')
        out, _, end = rest(socket)
    assert out == b"caught\n"
    assert end["exit_code"] == 5


def test_a_terminal_is_resized_and_takes_keys(ship: Ship) -> None:
    exec_id = ship.start(["bash", "--norc", "-i"], tty=True, rows=24, cols=80)
    with attached(ship, exec_id) as socket:
        assert first(socket)["exec"]["tty"] is True
        socket.send('{"type": "resize", "rows": 41, "cols": 137}')
        socket.send(b"\0stty size\r")
        assert b"41 137" in until(socket, b"41 137")
        socket.send(b"\0exit 7\r")
        assert rest(socket)[2]["exit_code"] == 7
    assert ship.wait(exec_id).json["rows"] == 41


# What Ship does not take

BAD: dict[str, tuple[Callable[[ClientConnection], None], int]] = {
    "an unknown marker": (lambda socket: socket.send(b"\7x"), 4400),
    "an empty binary message": (lambda socket: socket.send(b""), 4400),
    "an end with something behind": (lambda socket: socket.send(b"\4x"), 4400),
    "text where binary belongs": (lambda socket: socket.send("ls\n"), 4400),
    "an unknown type": (lambda socket: socket.send('{"type": "dance"}'), 4400),
    "no object": (lambda socket: socket.send("[]"), 4400),
    "deep JSON": (lambda socket: socket.send("[" * 100_000), 4400),
    "a size of nothing": (lambda socket: socket.send('{"type": "resize", "rows": 0, "cols": 80}'), 4400),
    "a resize without a terminal": (lambda socket: socket.send('{"type": "resize", "rows": 2, "cols": 80}'), 4400),
    "no signal": (lambda socket: socket.send('{"type": "signal", "signal": "WAVE"}'), 4400),
    "signal 0": (lambda socket: socket.send('{"type": "signal", "signal": 0}'), 4400),
    "a message that is too large": (lambda socket: socket.send(b"\0" * ((1 << 20) + 1)), 1009),
    "parts that are too large together": (lambda socket: socket.send([b"\0" * (600 << 10)] * 2), 1009),
    "parts without end": (lambda socket: socket.send([b"\0"] * 2000), 1009),
    "text that is not UTF-8": (lambda socket: socket.send(b"\xff\xfe", text=True), 1007),
    "a flood of control messages": (lambda socket: flood(socket, '{"type": "signal", "signal": "CONT"}'), 4429),
    "a flood of nothing": (lambda socket: flood(socket, b"\0"), 4429),
    "a flood of pings": (lambda socket: pings(socket), 4429),
}  # fmt: skip


def flood(socket: ClientConnection, message: str | bytes) -> None:
    for _ in range(51):
        socket.send(message)


def pings(socket: ClientConnection) -> None:
    for _ in range(51):
        socket.ping()


@pytest.mark.parametrize("what", BAD)
def test_what_ship_does_not_take_closes_the_socket_and_leaves_the_process(ship: Ship, what: str) -> None:
    send, expected = BAD[what]
    exec_id = ship.start("cat", stdin_open=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        with suppress(ConnectionClosed):
            send(socket)
        code, reason = close_of(socket)
    assert code == expected
    assert reason
    with attached(ship, exec_id) as socket:
        first(socket)
        socket.send(b"\0still here")
        socket.send(b"\4")
        assert rest(socket)[0].endswith(b"still here")


RAW = {
    "unmasked": b"\x82\x01\x00",
    "a reserved bit": b"\xc2\x81\x00\x00\x00\x00\x00",
    "an unknown opcode": b"\x83\x81\x00\x00\x00\x00\x00",
    "a ping in parts": b"\x09\x80\x00\x00\x00\x00",
    "a long ping": b"\x89\xfe\x01\x00\x00\x00\x00\x00",
    "a continuation of nothing": b"\x80\x81\x00\x00\x00\x00\x00",
    "a message within another": b"\x02\x81\x00\x00\x00\x00\x00" * 2,
}


@pytest.mark.parametrize("what", RAW)
def test_what_is_no_websocket_frame_closes_the_socket_with_1002(ship: Ship, what: str) -> None:
    exec_id = ship.start("true")
    ship.wait(exec_id)
    waiting = ship.start("read x", stdin_open=True)
    with stuck(ship, waiting) as raw:
        raw.sendall(RAW[what])
        seen = b""
        while not (found := re.search(rb"\x88[\x02-\x7d](..)", seen.partition(b"}")[2], re.DOTALL)):
            data = raw.recv(65536)
            assert data, seen
            seen += data
        assert struct.unpack("!H", found[1])[0] == 1002
    ship.http.delete(f"/execs/{waiting}", params={"grace_s": "0"})


@pytest.mark.parametrize("open_first", [False, True])
def test_input_for_a_closed_stdin_is_refused_with_4409(ship: Ship, open_first: bool) -> None:
    exec_id = ship.start("cat; sleep 100", stdin_open=open_first)
    with attached(ship, exec_id) as socket:
        first(socket)
        if open_first:
            socket.send(b"\4")
        socket.send(b"\0x")
        code, reason = close_of(socket)
    assert code == 4409
    assert "stdin" in reason
    assert ship.http.get(f"/execs/{exec_id}").json()["state"] == "running"
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": "0"})


def test_a_program_that_ends_without_reading_all_is_no_error(ship: Ship) -> None:
    exec_id = ship.start("head -c 3", stdin_open=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        with suppress(ConnectionClosed):  # it may have ended before all was sent
            for _ in range(3):
                socket.send(b"\0" + b"x" * 200_000)
        out, _, end = rest(socket)
    assert (out, end["exit_code"]) == (b"xxx", 0)


@pytest.mark.parametrize(
    "headers",
    [
        ("Upgrade: websocket", "Connection: close"),
        ("Upgrade: h2c", "Connection: Upgrade"),
        ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
        ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: short"),
    ],
)  # fmt: skip
def test_half_a_handshake_is_answered_in_http(ship: Ship, headers: tuple[str, ...]) -> None:
    exec_id = ship.start("true")
    with ship.connect() as raw:
        raw.sendall(handshake(exec_id, *headers))
        assert raw.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_the_accept_header_is_that_of_the_rfc(ship: Ship) -> None:
    exec_id = ship.start("true")
    with stuck(ship, exec_id) as raw:
        head = raw.recv(65536)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head  # RFC 6455, 1.3


def test_pings_are_answered(ship: Ship) -> None:
    exec_id = ship.start("read x", stdin_open=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        assert socket.ping(b"hello").wait(PATIENCE_S)
        socket.send(b"\4")
        rest(socket)


# Whether somebody is there


def test_a_peer_that_breaks_off_amid_its_pings_is_no_trouble(capfd: pytest.CaptureFixture[str]) -> None:
    with running() as ship:
        exec_id = ship.start("exec sleep 600")
        with ship.connect() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sendall(handshake(exec_id) + b"\x89\x80\0\0\0\0" * 40)
        assert ship.http.get("/healthz").status_code == 200
    assert capfd.readouterr().err == ""


def test_an_exec_that_nobody_watches_ends_and_one_with_an_attachment_lives(ship: Ship) -> None:
    exec_id = ship.start("echo up; sleep 100", max_run_after_disconnect_s=0.3)
    with attached(ship, exec_id) as socket:
        first(socket)
        until(socket, b"up\n")
        with pytest.raises(TimeoutError):
            socket.recv(0.6)
    assert ship.wait(exec_id, 0).json["state"] == "running"
    ended = eventually(lambda: ship.http.get(f"/execs/{exec_id}").json()["state"] == "killed")
    assert ended


def test_a_peer_that_vanishes_while_its_input_is_stuck_is_noticed(ship: Ship) -> None:
    exec_id = ship.start("exec sleep 100", stdin_open=True, max_run_after_disconnect_s=0.1)
    payload = b"\x82\xff" + struct.pack("!Q", 1 << 20) + bytes(4) + bytes(1 << 20)
    with stuck(ship, exec_id) as raw:
        raw.settimeout(0.5)
        with pytest.raises(TimeoutError):
            raw.sendall(payload * 64)  # more than the buffers of TCP ever hold
    assert eventually(lambda: ship.http.get(f"/execs/{exec_id}").json()["signal"] == signal.SIGTERM)


def test_the_end_of_ship_ends_its_attachments_with_how_the_exec_ended() -> None:
    with running() as own:
        exec_id = own.start("echo up; exec sleep 100")
        with attached(own, exec_id) as socket:
            first(socket)
            until(socket, b"up\n")
            os.kill(own.pid, signal.SIGTERM)
            assert rest(socket)[2]["signal"] == signal.SIGTERM


def test_binary_passes_unharmed_both_ways(ship: Ship) -> None:
    data = bytes(range(256)) * 64
    exec_id = ship.start("cat", stdin_open=True)
    with attached(ship, exec_id) as socket:
        first(socket)
        socket.send(b"\0" + data)
        socket.send(b"\4")
        assert rest(socket)[0] == data
    assert base64.b64decode(ship.wait(exec_id).json["stdout"]) == data


def test_attachments_leave_no_descriptor_behind(ship: Ship) -> None:
    exec_id = ship.start("read x", stdin_open=True)

    def descriptors() -> int:
        return len(os.listdir(Path(f"/proc/{ship.pid}/fd")))

    before = descriptors()
    for _ in range(20):
        with attached(ship, exec_id) as socket:
            first(socket)
    assert eventually(lambda: descriptors() <= before)
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": "0"})
