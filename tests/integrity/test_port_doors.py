"""Every byte through ports and tunnels, both ways: an app by its path, and a TCP connection."""

import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from counting import PERFECT, SIZES, judged, lines, pieces_of, sha256_of_lines
from examples.own_server import OwnServer

import bay

APP = Path(__file__).with_name("app.py")
BIN = Path(sys.executable).with_name("bay")
pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def ports(box: bay.Box) -> tuple[int, int]:
    """Where the app answers HTTP, and where it takes any TCP connection and sends everything back."""
    box.files.write("app.py", APP.read_text())
    first = next(iter(box.spawn(["python3", "app.py"]).output()))
    http, echo = first.data.split()
    return int(http), int(echo)


@pytest.fixture(scope="module")
def app(server: OwnServer, box: bay.Box, ports: tuple[int, int]) -> Generator[httpx.Client]:
    """A client of the app, by its path below Bay."""
    with httpx.Client(
        base_url=f"{server.url}/v1/sandboxes/{box.id}/ports/{ports[0]}/",
        headers={"Authorization": f"Bearer {server.api_key}"},
        timeout=300,
    ) as made:
        yield made


@pytest.mark.parametrize("how", ["chunked", "length"])
@pytest.mark.parametrize("size", SIZES)
def test_an_answer_of_an_app(app: httpx.Client, size: int, how: str) -> None:
    with app.stream("GET", f"{how}/{size}") as answer:
        assert answer.status_code == 200
        assert judged(size, answer.iter_raw()) == PERFECT


@pytest.mark.parametrize("size", SIZES)
def test_a_request_to_an_app(app: httpx.Client, size: int) -> None:
    with lines(size) as stream:
        answer = app.post("sum", content=pieces_of(stream))
    assert (answer.status_code, answer.text) == (200, sha256_of_lines(size))


@pytest.mark.parametrize("size", SIZES)
def test_a_tunnel_both_ways_at_once(box: bay.Box, ports: tuple[int, int], size: int) -> None:
    with box.tunnel(ports[1]) as tunnel:

        def feed() -> None:
            with lines(size) as stream:
                for piece in pieces_of(stream):
                    tunnel.send(piece)
            tunnel.send_eof()

        thread = threading.Thread(target=feed)
        thread.start()
        assert judged(size, iter(tunnel.receive, b"")) == PERFECT
        thread.join(60)


@pytest.mark.parametrize("size", SIZES)
def test_the_command_proxy_both_ways_at_once(
    server: OwnServer, box: bay.Box, ports: tuple[int, int], size: int
) -> None:
    # On stdin and stdout: what an SSH client makes of `bay ssh-proxy`.
    environment = {"BAY_URL": server.url, "BAY_API_KEY": server.api_key}
    command = [BIN, "ssh-proxy", "--port", str(ports[1]), box.id]
    with (
        lines(size) as stdin,
        subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, env=environment) as process,
    ):
        assert process.stdout is not None
        assert judged(size, pieces_of(process.stdout)) == PERFECT
        assert process.wait(60) == 0
