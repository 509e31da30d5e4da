"""Every byte over plain HTTP and WebSockets, as a program that has no SDK of ours: calls that wait, lines,
events, attachments.
"""

import base64
import json
import threading
from collections.abc import Generator, Iterable
from typing import Any

import httpx
import pytest
from counting import LARGEST, MIB, PERFECT, ROOMY, SIZES, judged, printing
from examples.own_server import OwnServer
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

import bay

pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(900)]
CLAIM = {"follow": "true", "wait_for_reader": "true"}


@pytest.fixture(scope="module")
def http(server: OwnServer) -> Generator[httpx.Client]:
    headers = {"Authorization": f"Bearer {server.api_key}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=320) as client:
        yield client


@pytest.fixture
def path(box: bay.Box) -> str:
    return f"/v1/sandboxes/{box.id}"


@pytest.fixture
def roomy(client: bay.Client, http: httpx.Client) -> Generator[str]:
    """The path of a sandbox whose commands keep much."""
    with client.sandbox(profile=ROOMY) as box:
        yield f"/v1/sandboxes/{box.id}"


def start(http: httpx.Client, path: str, size: int) -> str:
    """The id of a command that prints the lines, and waits for its reader."""
    answer = http.post(f"{path}/execs", json={"command": printing(size), "wait_for_reader": True})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def of_lines(lines: Iterable[str]) -> Iterable[bytes]:
    for line in lines:
        said: dict[str, Any] = json.loads(line)
        if "data" in said:
            yield base64.b64decode(said["data"])


@pytest.mark.parametrize("size", SIZES)
def test_lines_of_json(http: httpx.Client, path: str, size: int) -> None:
    exec_id = start(http, path, size)
    with http.stream("GET", f"{path}/execs/{exec_id}/output", params=CLAIM) as answer:
        assert judged(size, of_lines(answer.iter_lines())) == PERFECT


@pytest.mark.parametrize("size", SIZES)
def test_events(http: httpx.Client, path: str, size: int) -> None:
    exec_id = start(http, path, size)
    accept = {"Accept": "text/event-stream"}
    with http.stream("GET", f"{path}/execs/{exec_id}/output", params=CLAIM, headers=accept) as answer:
        data = (line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: "))
        assert judged(size, of_lines(data)) == PERFECT


@pytest.mark.parametrize("size", SIZES)
def test_an_attachment(server: OwnServer, http: httpx.Client, box: bay.Box, path: str, size: int) -> None:
    exec_id = start(http, path, size)
    with attached(server, box, exec_id, claim=True) as socket:
        assert judged(size, frames(socket)) == PERFECT


def test_a_reader_that_breaks_off_and_comes_back(http: httpx.Client, roomy: str) -> None:
    # Bytes that are under way when a connection breaks have to be kept: there may be megabytes of them.
    size = min(LARGEST, 20 * MIB)
    output = f"{roomy}/execs/{start(http, roomy, size)}/output"

    def pieces() -> Iterable[bytes]:
        since = 0
        while since < size:
            with http.stream("GET", output, params={**CLAIM, "since": str(since)}) as answer:
                assert answer.status_code == 200, answer.read()
                for number, piece in enumerate(of_lines(answer.iter_lines())):
                    yield piece
                    since += len(piece)
                    if number == 7:
                        break  # the connection is closed while more is under way

    assert judged(size, pieces()) == PERFECT


def test_many_readers_of_one_command_beside_the_one_it_waits_for(
    server: OwnServer, http: httpx.Client, box: bay.Box, path: str
) -> None:
    size = min(LARGEST, 20 * MIB)
    exec_id = start(http, path, size)
    told: list[bool] = []
    all_here = threading.Barrier(5, timeout=20)

    def watch() -> None:
        with attached(server, box, exec_id, claim=False) as socket:
            all_here.wait()
            try:
                told.append(judged(size, frames(socket)) == PERFECT)
            except ConnectionClosedError:
                told.append(socket.close_code == 4410)

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    # The command stands still until its own reader comes, so that all others find its first byte.
    all_here.wait()
    with attached(server, box, exec_id, claim=True) as socket:
        assert judged(size, frames(socket)) == PERFECT
    for watcher in watchers:
        watcher.join(60)
    assert told == [True] * 4


@pytest.mark.parametrize("size", SIZES)
def test_a_create_that_waits_says_what_is_missing(http: httpx.Client, path: str, size: int) -> None:
    answer = http.post(f"{path}/execs", params={"wait": "60"}, json={"command": printing(size)}).json()
    got = answer["stdout"].encode()
    assert answer["output_bytes"] == size
    if answer["truncated"]:
        assert len(got) < size
    else:
        assert judged(size, [got]) == PERFECT


@pytest.mark.parametrize("size", SIZES)
def test_the_call_shell_exec_says_when_it_cut(http: httpx.Client, path: str, size: int) -> None:
    answer = http.post(f"{path}/shell/exec", json={"command": printing(size), "timeout": 300}).json()
    assert answer["success"]
    assert judged(size, [answer["output"].encode()]) == PERFECT or answer["truncated"]


def attached(server: OwnServer, box: bay.Box, exec_id: str, *, claim: bool) -> Any:
    query = "?since=0&wait_for_reader=true" if claim else "?since=0"
    url = f"{server.url.replace('http', 'ws')}/v1/sandboxes/{box.id}/execs/{exec_id}/attach{query}"
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return connect(url, additional_headers=headers, compression=None)


def frames(socket: Any) -> Iterable[bytes]:
    """The data of stdout; a first byte says of which stream a message is."""
    for message in socket:
        if isinstance(message, bytes):
            yield message[1:]
