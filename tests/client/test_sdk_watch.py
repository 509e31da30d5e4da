"""Watching files through the SDK, over real WebSockets to a server that says what it is told to say."""

import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import canned
import httpx
import pytest
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

import bay
from bay.client._socket import _options

pytestmark = pytest.mark.pure

BEGUN = {"type": "watching", "path": "/workspace"}
MADE = {"type": "created", "path": "/workspace/f", "is_dir": False}
MOVED = {"type": "moved", "path": "/workspace/f", "to": "/workspace/g", "is_dir": False}


@dataclass
class World:
    """What each connection is sent, one after the other; then it is closed with the code, cut (None), or held
    (0).
    """

    scripts: list[tuple[list[Any], int | None]] = field(default_factory=list[tuple[list[Any], int | None]])
    asked: list[str] = field(default_factory=list[str])

    def plain(self, connection: ServerConnection, request: Request) -> Response | None:
        if "Upgrade" in request.headers:
            self.asked.append(request.path)
            return None
        body = json.dumps(canned.SANDBOX).encode()
        headers = Headers({"Content-Type": "application/json", "Content-Length": str(len(body))})
        return Response(HTTPStatus.OK, "OK", headers, body)

    def serve(self, connection: ServerConnection) -> None:
        frames, end = self.scripts.pop(0)
        with suppress(ConnectionClosed):
            for frame in frames:
                connection.send(json.dumps(frame))
            if end is None:
                connection.socket.shutdown(2)
            elif end:
                connection.close(end)
            else:
                connection.recv(20)


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def address(world: World) -> Iterator[str]:
    with serve(world.serve, "127.0.0.1", 0, process_request=world.plain, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join(5)


@pytest.fixture
def files(address: str) -> Iterator[bay.Files]:
    with bay.Client(address, "k", retry_s=0.3) as client:
        yield client.sandboxes.get("box").files


def test_events_come_in_their_order(files: bay.Files, world: World) -> None:
    world.scripts = [([BEGUN, MADE, {"type": "of a newer server"}, MOVED, {"type": "overflow"}], 4404)]
    with files.watch("src", recursive=False) as watch:
        events = iter(watch)
        assert next(events) == bay.FileEvent(type="created", path="/workspace/f", is_dir=False)
        assert next(events).to == "/workspace/g"
        assert next(events) == bay.FileEvent(type="overflow")
        with pytest.raises(bay.NotFound):
            next(events)
    query = dict(parse_qsl(urlsplit(world.asked[0]).query))
    assert query == {"path": "src", "recursive": "false"}


@pytest.mark.parametrize("end", [None, 1011, 1012, 4502])
def test_a_connection_that_breaks_is_made_anew_and_shows_as_overflow(
    files: bay.Files, world: World, end: int | None
) -> None:
    world.scripts = [([BEGUN, MADE], end), ([BEGUN, MOVED], 0)]
    with files.watch() as watch:
        events = iter(watch)
        assert [next(events).type for _ in range(3)] == ["created", "overflow", "moved"]


def test_a_watch_ends_with_what_is_watched(files: bay.Files, world: World) -> None:
    world.scripts = [([BEGUN, MADE], 1000)]
    with files.watch() as watch:
        assert [event.type for event in watch] == ["created"]
    assert len(world.asked) == 1


def test_a_server_that_stays_away_is_given_up(files: bay.Files, world: World) -> None:
    world.scripts = [([BEGUN], 1012), *[([], 1012)] * 20]
    with files.watch() as watch, pytest.raises(bay.ConnectionFailed):
        next(iter(watch))


def test_a_watch_that_is_left_elsewhere_ends(files: bay.Files, world: World) -> None:
    world.scripts = [([BEGUN, MADE], 0)]
    with files.watch() as watch:
        seen: list[str] = []
        for event in watch:
            seen.append(event.type)
            threading.Thread(target=watch.close).start()
    assert seen == ["created"]


def test_what_does_not_begin_as_a_watch_is_none(files: bay.Files, world: World) -> None:
    world.scripts = [([{"type": "attached"}], 0)]
    with pytest.raises(bay.BayError, match="is not `watching`"), files.watch():
        pytest.fail("the block must not be entered")
    with pytest.raises(bay.BayError, match="context manager"):
        next(iter(files.watch()))


@pytest.mark.anyio
async def test_a_task_watches_too(address: str, world: World) -> None:
    world.scripts = [([BEGUN, MADE], None), ([BEGUN, MOVED], 0)]
    async with bay.AsyncClient(address, "k") as client:
        box = await client.sandboxes.get("box")
        seen: list[str] = []
        with anyio.fail_after(10):
            async with box.files.watch() as watch:
                async for event in watch:
                    seen.append(event.type)
                    if event.type == "moved":
                        break
    assert seen == ["created", "overflow", "moved"]


def test_a_client_with_a_transport_of_its_own_goes_through_no_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither do its WebSockets: the server's own client would give a key away."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    own = bay.AsyncClient("http://192.0.2.1:8700", "k", transport=httpx.AsyncHTTPTransport())
    assert _options(own._http.config, 1)["proxy"] is None
    assert _options(bay.AsyncClient("http://192.0.2.1:8700", "k")._http.config, 1)["proxy"] is True
