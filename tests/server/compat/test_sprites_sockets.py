"""The WebSockets of sprites: changes of files, open ports, and connections to them."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from port_apps import listen
from server_harness import Json, Served, create, eventually, within
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from bay.server.compat.sprites.file_routes import FileSubscriptions
from bay.server.compat.sprites.files_service import MAX_WATCHED, FileWatches, SpriteFiles
from bay.server.web.auth import Caller

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(live: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        yield client


@pytest.fixture
async def box(client: httpx.AsyncClient) -> str:
    return (await create(client, name="box", wait=15))["name"]


@asynccontextmanager
async def opened(live: Served, path: str) -> AsyncGenerator[ClientConnection]:
    url = f"{live.url.replace('http', 'ws', 1)}/v1/sprites/{path}"
    async with connect(url, additional_headers=live.headers, compression=None) as socket:
        yield socket


async def read(socket: ClientConnection) -> Json:
    return json.loads(await within(socket.recv()))


async def until_told(socket: ClientConnection, **wanted: object) -> Json:
    """The next message that has all that is wanted."""
    while True:
        told = await read(socket)
        if wanted.items() <= told.items():
            return told


async def write(client: httpx.AsyncClient, path: str) -> str:
    query = {"path": path, "mkdirParents": "true"}
    answer = await client.put("/v1/sprites/box/fs/write", params=query, content=b"x")
    assert answer.status_code == 200, answer.text
    return answer.json()["path"]


async def test_a_watch_tells_of_changes_below_what_it_subscribed_to(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    await write(client, "src/old")
    async with opened(live, "box/fs/watch") as socket:
        asked = {"type": "subscribe", "paths": ["src", "."], "recursive": True, "workingDir": "."}
        await socket.send(json.dumps(asked))
        told = await read(socket)
        assert told["type"] == "subscribed"
        path = await write(client, "src/new")
        event = await until_told(socket, path=path, event="create")
        assert (event["type"], event["isDir"], event["size"]) == ("event", False, 1)
        assert event["timestamp"].endswith("Z")
        moved = {"source": "src/new", "dest": "src/moved"}
        assert (await client.post("/v1/sprites/box/fs/rename", json=moved)).status_code == 200
        await until_told(socket, path=path, event="rename")
        await client.delete("/v1/sprites/box/fs/delete", params={"path": "src/moved"})
        await until_told(socket, event="remove")
        for text in ("[]", "{}", '{"type":"subscribe","paths":[]}', "no JSON", "x" * 70_000):
            await socket.send(text)
            assert "subscribe" in (await until_told(socket, type="error"))["message"]
        await socket.send(json.dumps({"type": "subscribe", "paths": ["none"]}))
        assert "none" in (await until_told(socket, type="error"))["message"]
        await write(client, "src/after")
        await until_told(socket, event="create")


async def test_a_watch_as_root_is_for_profiles_that_allow_it(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    asked = {"type": "subscribe", "paths": ["."], "workingDir": ".", "asRoot": True}
    async with opened(live, "box/fs/watch") as socket:
        await socket.send(json.dumps(asked))
        assert (await read(socket))["type"] == "subscribed"
        await until_told(socket, event="create", path=await write(client, "new"))
    await create(client, name="rootless", profile="rootless", wait=15)
    async with opened(live, "rootless/fs/watch") as socket:
        await socket.send(json.dumps(asked))
        assert "root" in (await until_told(socket, type="error"))["message"]


async def test_a_watch_of_ports_has_a_list_and_then_each_change(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async with opened(live, "box/ports/watch") as socket:
        assert (await read(socket))["type"] == "port_list"
        path, port = await listen(client, box)
        told = await until_told(socket, type="port_opened", port=port)
        assert told["address"] == "127.0.0.1"
        assert told["pid"] > 0
        async with opened(live, "box/ports/watch") as second:
            listed = await read(second)
            assert {"type": "port_opened", "port": port} in [
                {"type": one["type"], "port": one["port"]} for one in listed["ports"]
            ]
            await client.post("/v1/sandboxes/box/pause")
            await client.post("/v1/sandboxes/box/start", params={"wait": 15})
            await client.post(f"{path}/stdin", params={"eof": "true"})
            for one in (socket, second):
                await until_told(one, type="port_closed", port=port)


async def test_a_frozen_sprite_closes_no_port_and_one_that_stops_closes_all(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    _, port = await listen(client, box)
    async with opened(live, "box/ports/watch") as socket:
        told = await read(socket)
        while port not in [one["port"] for one in told.get("ports", [told])]:
            told = await read(socket)
        assert (await client.post("/v1/sandboxes/box/pause")).status_code == 200
        async with opened(live, "box/ports/watch") as second:
            assert port in [one["port"] for one in (await read(second))["ports"]]
        await client.post("/v1/sandboxes/box/start", params={"wait": 15})
        _, later = await listen(client, box)
        while (told := await read(socket))["port"] != later:
            assert (told["type"], told["port"]) != ("port_closed", port)
        await client.post("/v1/sandboxes/box/stop")
        await until_told(socket, type="port_closed", port=port)
    async with opened(live, "box/ports/watch") as cold:
        assert await read(cold) == {"type": "port_list", "ports": []}


async def test_a_proxy_carries_bytes_to_the_port_that_its_first_message_names(live: Served, box: str) -> None:
    seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        seen.set_result(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        async with opened(live, "box/proxy") as socket:
            await socket.send(json.dumps({"host": "localhost", "port": port}))
            assert await read(socket) == {"status": "connected", "target": f"localhost:{port}"}
            assert await within(socket.recv()) == b"hello"
            await socket.send(b"one ")
            await socket.send("two")
        assert await within(seen) == b"one two"


async def test_a_proxy_ends_when_the_program_does(live: Served, box: str) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, opened(live, "box/proxy") as socket:
        await socket.send(json.dumps({"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1]}))
        assert (await read(socket))["status"] == "connected"
        assert await within(socket.recv()) == b"bye"
        with pytest.raises(ConnectionClosed):
            await within(socket.recv())
        assert socket.close_code == 1000


@pytest.mark.parametrize(
    "message", ['{"host":"example.com","port":80}', '{"port":0}', "[]", "{", '{"host":"localhost","port":1}']
)
async def test_a_proxy_says_why_it_does_not_connect(live: Served, box: str, message: str) -> None:
    async with opened(live, "box/proxy") as socket:
        await socket.send(message)
        told = await read(socket)
        assert told["status"] == "error"
        assert told["error"]
        with pytest.raises(ConnectionClosed):
            await within(socket.recv())


async def send_and_leave(live: Served, path: str) -> None:
    """A POST whose client is gone as soon as it is sent."""
    _, writer = await asyncio.open_connection("127.0.0.1", live.port)
    head = f"POST /v1/sprites/{path} HTTP/1.1\r\nHost: bay\r\nContent-Length: 0\r\n"
    writer.write(f"{head}Authorization: {live.headers['Authorization']}\r\n\r\n".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def test_acts_are_done_though_their_clients_have_left(
    live: Served, client: httpx.AsyncClient, box: str
) -> None:
    async def has(path: str, wanted: Callable[[Json], bool]) -> bool:
        answer = await client.get(f"/v1/{path}")
        return answer.status_code == 200 and wanted(answer.json())

    await client.put("/v1/sandboxes/box/services/web", json={"argv": ["sleep", "600"]})
    await eventually(lambda: has("sandboxes/box/services/web", lambda one: one["state"] == "running"))
    await send_and_leave(live, "box/services/web/stop?timeout=10s")
    await eventually(lambda: has("sandboxes/box/services/web", lambda one: one["state"] == "stopped"))
    await send_and_leave(live, "box/services/web/start?duration=60s")
    await eventually(lambda: has("sandboxes/box/services/web", lambda one: one["state"] == "running"))
    await send_and_leave(live, "box/checkpoint")
    await eventually(lambda: has("sprites/box/checkpoints", lambda found: len(found) == 2))
    await write(client, "later")
    await send_and_leave(live, "box/checkpoints/v1/restore")
    gone = {"path": "later"}

    async def is_gone() -> bool:
        return (await client.get("/v1/sprites/box/fs/list", params=gone)).status_code == 404

    await eventually(is_gone)


@pytest.mark.parametrize("path", ["fs/watch", "ports/watch", "proxy"])
async def test_a_socket_of_no_sprite_is_refused_before_the_upgrade(live: Served, path: str) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with opened(live, f"none/{path}"):
            raise AssertionError("it was accepted")
    answer = caught.value.response
    assert (answer.status_code, json.loads(answer.body or b"")["error"]) == (404, "sprite not found")


class DeafSocket(WebSocket):
    """A client that subscribes again and again to what cannot be, and takes no answer."""

    def __init__(self) -> None:
        self.asked = 0

    async def receive(self) -> MutableMapping[str, Any]:
        await asyncio.sleep(0)
        self.asked += 1
        return {"type": "websocket.receive", "text": json.dumps({"type": "subscribe", "paths": [""]})}

    async def send_text(self, data: str) -> None:
        await asyncio.Event().wait()


async def test_refusals_that_a_client_does_not_read_do_not_pile_up(live: Served) -> None:
    bay, socket = live.bay, DeafSocket()
    files = SpriteFiles(
        files=bay.sandbox_files, waker=bay.waker, connections=bay.connections, profiles=bay.profiles
    )
    watcher = FileWatches(files, Caller(owner="alice", scope="write", key_id="key"), "sandbox-1")
    subscriptions = FileSubscriptions(socket, watcher)
    async with asyncio.TaskGroup() as group:
        serving = [group.create_task(way) for way in (subscriptions.down(), subscriptions.up())]
        for _ in range(20 * MAX_WATCHED):
            await asyncio.sleep(0)
        for task in serving:
            task.cancel()
    assert MAX_WATCHED <= socket.asked <= MAX_WATCHED + 5
