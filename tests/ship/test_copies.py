"""A Ship like a pod's gives a copy of the workspace of one moment, while programs and calls change it."""

import asyncio
import io
import os
import signal
import socket
import stat
import tarfile
import threading
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from ship_harness import PATIENCE_S, Ship, eventually, running
from test_pause import all_stand_still, end_programs, pause, programs, resume, said

from bay.server.ship.carriers import read_trailer
from ship.http.conversation import Answer, Request, json_answer
from ship.http.door import Door
from ship.pausing import PauseRoutes
from ship.process.standstill import Standstill
from ship_protocol import CHECKPOINT_TRAILER

pytestmark = pytest.mark.host

MIB = 1 << 20
LINES = (
    "echo on; n=0; until [ -e go ]; do n=$((n+1)); for f in $(seq 9); do echo $n > f$f; done; done; echo off"
)
"""Writes one number after the other into nine files in turn."""


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    with running(pod=True) as found:
        yield found


@pytest.fixture(autouse=True)
def empty(ship: Ship) -> Generator[None]:
    """Each test begins with an empty workspace and no programs, and leaves nothing stopped."""
    assert ship.run("chmod -Rf u+rwX .; rm -rf ./* ./.[!.]*").code == 0
    yield
    end_programs(ship)


def copied(ship: Ship) -> tarfile.TarFile:
    answer = ship.http.get("/checkpoint")
    assert answer.status_code == 200, answer.text
    return opened(answer.content)


def opened(given: bytes) -> tarfile.TarFile:
    read_trailer(given[-CHECKPOINT_TRAILER:])
    return tarfile.open(fileobj=io.BytesIO(given[:-CHECKPOINT_TRAILER] + bytes(1024)))


def text_of(tar: tarfile.TarFile, name: str) -> str:
    found = tar.extractfile(f"workspace/{name}")
    assert found is not None
    return found.read().decode()


@contextmanager
def begun(ship: Ship) -> Generator[httpx.Response]:
    """A copy whose first bytes are there; the rest is more than connections and pipes hold."""
    (ship.workspace / "large").write_bytes(os.urandom(16 * MIB))
    with ship.client("a-token-of-the-tests") as other, other.stream("GET", "/checkpoint") as answer:
        assert answer.status_code == 200
        yield answer


def test_a_copy_has_the_files_of_one_moment_and_the_program_goes_on(ship: Ship) -> None:
    exec_id = ship.start(LINES)
    ship.wait_output(exec_id, "on")
    assert eventually(lambda: (ship.workspace / "f9").exists())
    for _ in range(5):
        tar = copied(ship)
        numbers = [int(text_of(tar, f"f{one}") or -1) for one in range(1, 10)]
        known = [one for one in numbers if one > 0]  # one of them may be empty at that moment
        assert len(known) >= 8
        assert known == sorted(known, reverse=True)
        assert known[0] - known[-1] <= 1
    (ship.workspace / "go").touch()
    ship.wait_output(exec_id, "off")
    assert ship.wait(exec_id).code == 0


def test_all_stand_still_for_as_long_as_it_lasts_and_ship_says_that_it_is_not_paused(ship: Ship) -> None:
    exec_id = ship.start("echo on; until [ -e go ]; do :; done; echo after")
    ship.wait_output(exec_id, "on")
    before = set(programs(ship))
    with begun(ship) as answer:
        assert said(ship, "GET", "/pause") == {"paused": False}
        states = programs(ship)
        assert not set("".join(states[pid] for pid in before)) - set("tT")
        (ship.workspace / "go").touch()
        tar = opened(answer.read())
    assert stat.S_IMODE(tar.getmember("workspace/large").mode) == 0o644
    ship.wait_output(exec_id, "after")


@pytest.mark.parametrize("way", ["close", "reset"])
def test_programs_go_on_and_shut_directories_are_shut_again_when_the_caller_leaves(
    ship: Ship, way: str
) -> None:
    shut = ship.workspace / "a-shut"
    assert ship.run(
        "mkdir -p a-shut/in; head -c 16M /dev/urandom > a-shut/in/noise; chmod 0 a-shut/in a-shut"
    )
    exec_id = ship.start("echo on; until [ -e go ]; do :; done; echo after")
    ship.wait_output(exec_id, "on")
    raw = ship.connect()
    raw.sendall(b"GET /checkpoint HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-token-of-the-tests\r\n\r\n")
    assert raw.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert eventually(lambda: stat.S_IMODE(shut.stat().st_mode) == 0o500)
    if way == "reset":
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raw.close()
    assert eventually(lambda: stat.S_IMODE(shut.stat().st_mode) == 0)
    (ship.workspace / "go").touch()
    ship.wait_output(exec_id, "after")
    assert ship.wait(exec_id).code == 0
    assert stat.S_IMODE((shut / "in").stat().st_mode) == 0


def test_an_upload_that_has_begun_waits_and_is_in_no_part_in_the_copy(ship: Ship) -> None:
    more = threading.Event()
    answers: list[httpx.Response] = []

    def parts() -> Iterator[bytes]:
        yield b"a" * 2 * MIB
        more.wait(PATIENCE_S)
        yield b"b" * 4 * MIB

    def upload() -> None:
        with ship.client("a-token-of-the-tests") as other:
            answers.append(
                other.put("/fs/content", params={"path": "up", "beneath": "true"}, content=parts())
            )

    def half_made() -> list[Path]:
        return [one for one in ship.workspace.glob(".ship-upload-*") if one.stat().st_size]

    sending = threading.Thread(target=upload)
    sending.start()
    assert eventually(lambda: bool(half_made()))
    with begun(ship) as answer:
        more.set()
        with ship.client("a-token-of-the-tests") as other, pytest.raises(httpx.TimeoutException):
            other.put("/fs/content", params={"path": "late", "beneath": "true"}, content=b"x", timeout=0.5)
        assert [one.stat().st_size <= 2 * MIB for one in half_made()] == [True]
        names = opened(answer.read()).getnames()
    assert names == ["workspace", "workspace/large"]
    sending.join(PATIENCE_S)
    assert answers[0].json()["size"] == 6 * MIB
    assert not (ship.workspace / "late").exists()


def test_a_pause_and_a_copy_end_each_for_itself(ship: Ship) -> None:
    exec_id = ship.start("echo on; while :; do :; done")
    ship.wait_output(exec_id, "on")
    pause(ship)
    assert copied(ship).getnames() == ["workspace"]
    assert all_stand_still(ship)
    with begun(ship) as answer:
        [before] = [pid for pid in programs(ship) if "t" in states(ship, pid) or "T" in states(ship, pid)]
        resume(ship)
        assert "T" in states(ship, before)
        pause(ship)
        answer.read()
    assert said(ship, "GET", "/pause") == {"paused": True}
    assert all_stand_still(ship)
    resume(ship)
    assert eventually(lambda: "R" in states(ship, before))


def states(ship: Ship, pid: int) -> str:
    return programs(ship).get(pid, "")


def test_programs_cannot_look_into_the_archiver_and_memory_is_taken_from_it_first(ship: Ship) -> None:
    with begun(ship) as answer:
        [archiver] = programs(ship)
        assert os.stat(f"/proc/{archiver}/mem").st_uid != 1000
        assert Path(f"/proc/{archiver}/oom_score_adj").read_text() == "1000\n"
        answer.read()


def test_an_archiver_that_is_killed_ends_the_copy_and_not_the_programs(ship: Ship) -> None:
    exec_id = ship.start("echo on; until [ -e go ]; do :; done")
    ship.wait_output(exec_id, "on")
    before = set(programs(ship))
    with begun(ship) as answer:
        [archiver] = set(programs(ship)) - before
        os.kill(archiver, signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            answer.read()
    (ship.workspace / "go").touch()
    assert ship.wait(exec_id).code == 0


def test_a_file_that_cannot_be_archived_ends_the_copy_with_the_reason(ship: Ship) -> None:
    deep = "d/" * 401
    assert ship.run(f"mkdir -p {deep}").code == 0
    given = ship.http.get("/checkpoint").content
    assert b"deep" in given[-CHECKPOINT_TRAILER:]
    assert ship.run("echo there").out == "there\n"


def test_a_ship_that_a_freezer_reaches_gives_no_copies() -> None:
    with running(first=True) as other:
        assert other.http.get("/checkpoint").status_code == 404


@pytest.mark.anyio
async def test_programs_go_on_when_the_caller_takes_nothing(tmp_path: Path) -> None:
    went_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def go_on(_but: object) -> None:
        loop.call_soon_threadsafe(went_on.set)

    async def copy(_request: Request) -> Answer:
        async def endless() -> AsyncGenerator[bytes]:
            while True:
                yield bytes(MIB)

        return Answer(200, endless(), "application/x-tar")

    async def other(_request: Request) -> Answer:
        return json_answer(200, {})

    routes = PauseRoutes(Standstill(set[Any], go_on), other, copy, stall_s=0.05)
    door = Door(routes.answer, 5, None, lambda _wire: True)
    server = await loop.create_unix_server(door.accept, tmp_path / "door.sock")
    async with asyncio.timeout(PATIENCE_S), server:
        _, writer = await asyncio.open_unix_connection(tmp_path / "door.sock", limit=1)
        writer.write(b"GET /checkpoint HTTP/1.1\r\nHost: x\r\n\r\n")
        await went_on.wait()
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
