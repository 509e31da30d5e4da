"""The rest before a save in gVisor: Ship ends its connections, and listens anew when it is told to."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from ship_harness import PATIENCE_S, TOKEN, Ship, eventually, read_to_end, running
from websockets.exceptions import ConnectionClosedError

from bay.drivers.base import Endpoint, MemoryNotSaved
from bay.drivers.quiet import drain
from ship.waiting import DisconnectTimer, Interruption
from ship_protocol import LEAVE, CloseCode

pytestmark = pytest.mark.host

HEAD = f"Host: s\r\nAuthorization: Bearer {TOKEN}\r\n"


@pytest.fixture
def ship() -> Iterator[Ship]:
    """A Ship as the oci driver has it: PID 1, reached over a Unix socket."""
    with running(first=True) as found:
        yield found


def drained(ship: Ship) -> None:
    asyncio.run(drain(Endpoint(socket_path=str(ship.socket_path), peer_pid=ship.pid), TOKEN, PATIENCE_S))


def listens(ship: Ship) -> bool:
    with socket.socket(socket.AF_UNIX) as raw:
        try:
            raw.connect(str(ship.socket_path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def tell(ship: Ship) -> None:
    os.kill(ship.pid, signal.SIGUSR1)


def test_ship_ends_all_connections_and_listens_anew_when_it_is_told(ship: Ship) -> None:
    job = ship.start("until [ -e go ]; do sleep 0.02; done; echo done")
    with ship.connect() as idle, ship.connect() as waiting:
        waiting.sendall(f"GET /execs/{job}?wait=600 HTTP/1.1\r\n{HEAD}\r\n".encode())
        drained(ship)
        assert read_to_end(idle) == read_to_end(waiting) == b""
    assert not listens(ship)
    for _ in range(2):  # also one that listens, and whose socket is gone
        ship.socket_path.unlink()
        tell(ship)
        assert eventually(lambda: listens(ship))
    assert ship.put("go", b"").status_code == 200
    assert ship.wait(job).out == "done\n"
    drained(ship)
    assert not listens(ship)


def test_a_short_request_is_answered_first_and_refuses_it_where_it_lasts(ship: Ship) -> None:
    with ship.connect() as upload:
        upload.sendall(f"PUT /fs/content?path=f HTTP/1.1\r\n{HEAD}Content-Length: 8\r\n\r\nhalf".encode())
        with pytest.raises(MemoryNotSaved, match="under way"):
            drained(ship)
        assert listens(ship)
        with ThreadPoolExecutor(1) as threads:
            draining = threads.submit(drained, ship)
            upload.sendall(b"half")
            assert upload.recv(1 << 16).startswith(b"HTTP/1.1 200")
            draining.result(PATIENCE_S)
    assert not listens(ship)


def test_input_that_is_being_sent_is_not_cut(ship: Ship) -> None:
    job = ship.start("cat", stdin_open=True)
    with ship.connect() as feeding:
        head = f"POST /execs/{job}/stdin?eof=true HTTP/1.1\r\n{HEAD}Content-Length: 8\r\n\r\n"
        feeding.sendall(f"{head}half".encode())
        with pytest.raises(MemoryNotSaved, match="under way"):
            drained(ship)
        feeding.sendall(b"half")
        assert ship.wait(job).out == "halfhalf"


def test_a_client_that_a_drain_cuts_off_has_not_disconnected(ship: Ship) -> None:
    """Of a command that ends soon after a disconnect."""
    counts = "for n in $(seq 40); do sleep 0.02; echo > $n; done"
    command = f"until [ -e drained ]; do sleep 0.02; done; {counts}; exec sleep 600"
    job = ship.start(command, max_run_after_disconnect_s=0.1)
    with ship.connect() as waiting:
        waiting.sendall(f"GET /execs/{job}?wait=600 HTTP/1.1\r\n{HEAD}\r\n".encode())
        drained(ship)
    (ship.workspace / "drained").touch()
    assert eventually(lambda: (ship.workspace / "20").exists())
    tell(ship)
    assert eventually(lambda: listens(ship))
    assert eventually(lambda: (ship.workspace / "40").exists())
    assert ship.wait(job, 0).json["state"] == "running"
    assert eventually(lambda: ship.http.get(f"/execs/{job}").json()["state"] == "killed")


def test_a_client_that_does_not_come_back_has_disconnected() -> None:
    async def scenario() -> None:
        over, lasting = asyncio.Event(), asyncio.Event()
        interruption = Interruption(0.02)
        short = DisconnectTimer(0.01, over.set, interruption)
        long = DisconnectTimer(600.0, lasting.set, interruption)
        interruption.begin()
        for timer in (short, long):
            with timer.watching():
                pass
        interruption.end()
        async with asyncio.timeout(PATIENCE_S):
            await over.wait()
        assert not lasting.is_set()

    asyncio.run(scenario())


def test_a_refused_drain_leaves_the_time_of_a_disconnect_as_it_is(ship: Ship) -> None:
    job = ship.start("exec sleep 600", max_run_after_disconnect_s=0.1, stdin_open=True)
    with ship.connect() as feeding:
        head = f"POST /execs/{job}/stdin HTTP/1.1\r\n{HEAD}Content-Length: 8\r\n\r\n"
        feeding.sendall(f"{head}half".encode())
        with pytest.raises(MemoryNotSaved, match="under way"):
            drained(ship)
    assert eventually(lambda: ship.http.get(f"/execs/{job}").json()["state"] == "killed")


def test_an_attachment_is_asked_to_leave_and_its_input_is_taken_first(ship: Ship) -> None:
    job = ship.start("cat", stdin_open=True)
    with ThreadPoolExecutor(1) as threads, ship.websocket(f"/execs/{job}/attach") as socket:
        socket.recv(PATIENCE_S)
        socket.send(b"\0one ")
        assert socket.recv(PATIENCE_S) == b"\1one "
        draining = threads.submit(drained, ship)
        assert socket.recv(PATIENCE_S) == LEAVE
        socket.send(b"\0" + b"x" * 5000 + b" two")
        socket.close()
        assert socket.protocol.close_rcvd is not None
        assert socket.protocol.close_rcvd.code == CloseCode.SERVICE_RESTART
        draining.result(PATIENCE_S)
    tell(ship)
    assert eventually(lambda: listens(ship))
    with ship.websocket(f"/execs/{job}/attach?since=4") as socket:
        socket.recv(PATIENCE_S)
        socket.send(b"\0 three")
        socket.send(b"\4")
        said = b""
        while isinstance(message := socket.recv(PATIENCE_S), bytes):
            said += message[1:]
    assert said == b"x" * 5000 + b" two three"


def test_an_attachment_that_does_not_leave_or_whose_input_is_not_taken_is_cut_off(ship: Ship) -> None:
    job = ship.start("exec sleep 600", stdin_open=True)
    with (
        ThreadPoolExecutor(1) as threads,
        ship.websocket(f"/execs/{job}/attach") as staying,
        ship.websocket(f"/execs/{job}/attach") as stuck,
    ):
        for socket in (staying, stuck):
            socket.recv(PATIENCE_S)
        stuck.send(b"\0" + b"x" * 500_000)
        draining = threads.submit(drained, ship)
        for socket in (staying, stuck):
            assert socket.recv(PATIENCE_S) == LEAVE
        stuck.close()
        draining.result(PATIENCE_S)
        with pytest.raises(ConnectionClosedError):
            staying.recv(PATIENCE_S)
        assert stuck.protocol.close_rcvd is None
    tell(ship)
    assert eventually(lambda: listens(ship))


def test_a_program_inside_cannot_tell_ship_to_listen(ship: Ship) -> None:
    inside = ship.start("until [ -e go ]; do sleep 0.02; done; kill -USR1 1; echo $? > told")
    drained(ship)
    (ship.workspace / "go").touch()
    assert eventually(lambda: (ship.workspace / "told").exists())
    assert not listens(ship)
    tell(ship)
    assert eventually(lambda: listens(ship))
    assert ship.wait(inside).code == 0


def test_a_local_ship_has_no_such_route_and_another_protocol_is_refused(ship: Ship) -> None:
    with ship.client(TOKEN) as client:
        assert client.post("/drain").status_code == 400
    with running() as local, local.client(TOKEN) as client:
        assert client.post("/drain").status_code == 404
