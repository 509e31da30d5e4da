"""`…/files/search`, `…/files/archive` and `WS …/files/watch`, through Bay to a real Ship, and to one that
lies.
"""

import asyncio
import io
import json
import re
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from lying_ship import Liar, Lie, Script, head, request, saying, whole
from server_harness import Json, Served, World, assert_error, create, within
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.utils import accept_key

from bay.errors import BadRequest, Conflict, ShipError
from bay.models import FileEvent
from bay.server.files.ship_client import FileClient
from bay.server.ship.client import ShipClient

pytestmark = pytest.mark.anyio


@pytest.fixture
async def made(alice: httpx.AsyncClient) -> Json:
    return await create(alice, wait=15)


@pytest.fixture
def base(made: Json) -> str:
    return f"/v1/sandboxes/{made['id']}/files"


@pytest.fixture
async def client(live: Served) -> AsyncGenerator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        yield client


@asynccontextmanager
async def watching(
    live: Served, box: Json, key: str | None = None, **query: str
) -> AsyncGenerator[ClientConnection]:
    url = (
        f"{live.url.replace('http', 'ws', 1)}/v1/sandboxes/{box['id']}/files/watch?{httpx.QueryParams(query)}"
    )
    headers = {"Authorization": f"Bearer {key or live.key}"}
    async with connect(url, additional_headers=headers) as socket:
        yield socket


async def told(socket: ClientConnection) -> Json:
    return json.loads(await within(socket.recv()))


async def told_for_ever(socket: ClientConnection) -> None:
    while True:
        await told(socket)


# Search


async def test_a_search_finds_lines_and_names(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    top = bay.workspace(made)
    (top / "d").mkdir()
    (top / "d/a.py").write_text("first\nthe needle\n")
    (top / ".gitignore").write_text("*.log")
    (top / "b.log").write_text("needle")
    found = await alice.get(f"{base}/search", params={"query": "NEEDLE", "ignore_case": True})
    assert found.json() == {
        "matches": [{"path": f"{top}/d/a.py", "line": 2, "column": 5, "text": "the needle"}],
        "truncated": False, "files_searched": 1, "files_skipped": 0,
    }  # fmt: skip
    names = await alice.get(f"{base}/search", params={"glob": "*.py", "path": "d"})
    assert [match["path"] for match in names.json()["matches"]] == [f"{top}/d/a.py"]
    assert_error(
        await alice.get(f"{base}/search", params={"query": "(", "regex": True}), 400, "validation_error"
    )
    assert_error(await alice.get(f"{base}/search", params={"path": "none"}), 404, "file_not_found")


async def test_a_search_that_never_ends_ends_with_its_caller(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    (bay.workspace(made) / "evil").write_text("a" * 50 + "b")
    async with asyncio.TaskGroup() as group:
        searches = [
            group.create_task(alice.get(f"{base}/search", params={"query": "(a+)+$", "regex": True}))
            for _ in range(3)
        ]
        healthy = await alice.get(f"{base}/stat", params={"path": "evil"})
        assert healthy.status_code == 200
        for search in searches:
            search.cancel()


MATCH: Json = {"path": "/x", "line": 1, "column": 1, "text": "x"}
COUNTS: Json = {"files_searched": 1, "files_skipped": 0, "truncated": False}


@pytest.mark.parametrize(
    "lines",
    [
        [MATCH],
        [MATCH] * 12 + [COUNTS],
        [{**MATCH, "line": -1}, COUNTS],
        [{**MATCH, "text": "x" * 5000}, COUNTS],
        [{"path": "/x"}, COUNTS],
        ["nonsense"],
        [{**COUNTS, "files_searched": 1 << 70}],
    ],
)
async def test_a_ship_that_lies_about_what_it_found_is_not_believed(lie: Lie, lines: list[Any]) -> None:
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    liar = await lie(saying(whole(body)))
    link = ShipClient()
    with pytest.raises(ShipError):
        await within(FileClient(link).search(liar.peer(), "/", {}, 10))
    link.close()


def deep(directories: int, letter: str) -> str:
    return "/workspace" + f"/{letter * 255}" * directories


async def test_what_lies_as_deep_as_ship_goes_is_found_and_watched(lie: Lie) -> None:
    found = {**MATCH, "path": deep(400, "\x01"), "text": "\x01" * 4096}
    body = b"".join(json.dumps(line).encode() + b"\n" for line in (found, COUNTS))
    link = ShipClient()
    result = await within(FileClient(link).search((await lie(saying(whole(body)))).peer(), "/", {}, 10))
    assert [match.path for match in result.matches] == [found["path"]]
    link.close()
    link = ShipClient()  # the connection to the first one would be used again
    moved: Json = {"type": "moved", "path": deep(257, "x"), "to": deep(257, "y"), "is_dir": False}
    text = json.dumps(moved).encode()
    liar = await lie(
        switching(WATCHING + b"\x81\x7f" + len(text).to_bytes(8) + text + frame(b"\x03\xe8", 0x88))
    )
    assert await within(watched(FileClient(link), liar)) == [FileEvent(**moved)]
    link.close()


# Archives


async def test_a_tree_goes_up_as_an_archive_and_comes_down_as_one(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        info = tarfile.TarInfo("d/file")
        info.size, info.mode, info.mtime = 3, 0o640, 1_000_000_000.5
        archive.addfile(info, io.BytesIO(b"abc"))
    put = await alice.put(
        f"{base}/archive", params={"path": "to", "format": "tar.gz"}, content=out.getvalue()
    )
    assert put.json() == {"files": 1, "bytes": 3}
    got = await alice.get(f"{base}/archive", params={"path": "to", "format": "tar"})
    assert got.headers["content-disposition"] == "attachment; filename*=UTF-8''to.tar"
    assert got.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(got.content)) as archive:
        assert archive.getnames() == ["d", "d/file"]
        file = archive.getmember("d/file")
        assert (file.mode, file.mtime, file.size) == (0o640, 1_000_000_000.5, 3)
    assert (bay.workspace(made) / "to/d/file").read_bytes() == b"abc"


async def test_what_is_no_archive_is_refused_also_in_the_middle_of_it(
    alice: httpx.AsyncClient, base: str
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"no archive" * 10_000

    assert_error(await alice.put(f"{base}/archive", content=b"nothing"), 400, "validation_error")
    assert_error(await alice.put(f"{base}/archive", content=endless()), 400, "validation_error")
    assert_error(await alice.get(f"{base}/archive", params={"path": "none"}), 404, "file_not_found")
    assert_error(await alice.get(f"{base}/archive", params={"format": "zip"}), 422, "validation_error")


async def test_an_archive_that_breaks_off_in_ship_breaks_off_for_the_client(lie: Lie) -> None:
    liar = await lie(saying(head("200 OK", None, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n", close=True))
    link = ShipClient()
    with pytest.raises(ShipError):
        await packed(FileClient(link), liar)
    link.close()


async def packed(link: FileClient, liar: Liar) -> bytes:
    async with link.pack(liar.peer(), "/", "tar") as chunks:
        return b"".join([chunk async for chunk in chunks])


# Watching


async def test_what_happens_is_told_to_a_key_that_may_only_read(
    live: Served, client: httpx.AsyncClient
) -> None:
    box = await create(client, wait=15)
    reader = await live.bay.keys.add("alice", "reader", "read")
    async with watching(live, box, reader, path=".") as socket:
        first = await told(socket)
        top = Path(first["path"])
        assert first["type"] == "watching"
        put = await client.put(
            f"/v1/sandboxes/{box['id']}/files/content", params={"path": "ü/x"}, content=b"x"
        )
        assert put.status_code == 200
        assert await told(socket) == {"type": "created", "path": f"{top}/ü", "is_dir": True}
        assert await told(socket) == {"type": "created", "path": f"{top}/ü/x", "is_dir": False}
        await socket.send("hello")
        with pytest.raises(ConnectionClosed):
            await told_for_ever(socket)
        assert socket.close_code == 4400


async def test_the_end_of_what_is_watched_and_of_the_sandbox_is_told(
    live: Served, client: httpx.AsyncClient
) -> None:
    box = await create(client, wait=15)
    base = f"/v1/sandboxes/{box['id']}/files"
    await client.post(f"{base}/mkdir", json={"path": "d"})
    async with watching(live, box, path="d") as gone, watching(live, box) as stopped:
        await told(gone)
        await told(stopped)
        await client.delete(base, params={"path": "d"})
        assert (await told(gone))["type"] == "deleted"
        await within(gone.wait_closed())
        assert gone.close_code == 1000
        await client.post(f"/v1/sandboxes/{box['id']}/stop")
        with pytest.raises(ConnectionClosed):
            await told_for_ever(stopped)
        assert stopped.close_code == 4410


async def test_what_cannot_be_watched_is_refused_in_plain_http(
    live: Served, client: httpx.AsyncClient
) -> None:
    box = await create(client, wait=15)
    for query, status in (({"path": "none"}, 404), ({"path": "../.."}, 403), ({"recursive": "perhaps"}, 422)):
        with pytest.raises(InvalidStatus) as refused:
            async with watching(live, box, **query):
                pass
        assert refused.value.response.status_code == status
    with pytest.raises(InvalidStatus) as refused:
        async with watching(live, box, "bay_nonsense"):
            pass
    assert refused.value.response.status_code == 401


async def test_nobody_watches_with_a_key_that_was_revoked(live: Served, client: httpx.AsyncClient) -> None:
    live.bay.connections._look_s = 0.05
    box = await create(client, wait=15)
    async with watching(live, box) as socket:
        await told(socket)
        live.bay.keys._by_hash.clear()
        with pytest.raises(ConnectionClosed):
            await told(socket)
        assert socket.close_code == 4403


def frame(text: bytes, kind: int = 0x81) -> bytes:
    return bytes((kind, len(text))) + text


def switching(*pieces: bytes) -> Script:
    """Agrees to the upgrade, and sends that."""

    async def script(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        key = re.search(rb"sec-websocket-key: (\S+)", await request(reader), re.IGNORECASE)
        assert key
        accept = f"Sec-WebSocket-Accept: {accept_key(key[1].decode())}"
        yes = head("101 Switching Protocols", None, "Connection: Upgrade", "Upgrade: websocket", accept)
        writer.write(yes + b"".join(pieces))
        await writer.drain()

    return script


WATCHING = frame(b'{"type":"watching","path":"/x"}')


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (WATCHING + frame(b'{"type":"burned","path":"/x"}'), ShipError),
        (WATCHING + frame(b'{"type":"created"}'), ShipError),
        (WATCHING + frame(b"nonsense"), ShipError),
        (WATCHING + frame(b"x", 0x82), ShipError),
        (WATCHING + frame(b"\x11\x30why", 0x88), BadRequest),
        (WATCHING + frame(b"\x03\xf3", 0x88), ShipError),
        (frame(b'{"type":"created","path":"/x"}'), ShipError),
        (frame(b"\x11\x39full", 0x88), Conflict),
        (frame(b"x", 0x82), ShipError),
    ],
)
async def test_a_ship_that_lies_about_what_happens_is_not_believed(
    lie: Lie, sent: bytes, error: type[Exception]
) -> None:
    liar = await lie(switching(sent))
    link = ShipClient()
    with pytest.raises(error):
        await watched(FileClient(link), liar)
    link.close()


async def watched(link: FileClient, liar: Liar) -> list[FileEvent]:
    async with link.watch(liar.peer(), "/x", recursive=True) as found:
        return [event async for event in found.events()]
