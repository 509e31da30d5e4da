"""`…/files/*`: every path of a sandbox, through Bay."""

import asyncio
import json
import os
import pwd
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lying_ship import DEADLINE_S, Liar, Lie, Script, for_ever, head, peak_kib, request, saying, whole
from server_harness import (
    Json,
    Served,
    World,
    assert_error,
    clear,
    create,
    pass_time,
    shell,
    turns,
    until,
    within,
    world,
)
from starlette.requests import HTTPConnection

from bay.errors import InvalidPath, RangeNotSatisfiable, ShipError, Timeout
from bay.models import FileInfo
from bay.places import directory_of
from bay.server.files.routes import raw_path
from bay.server.files.service import SandboxFiles
from bay.server.files.ship_client import FileClient, ListEnd, ShipDownload, Wanted
from bay.server.ship.client import ShipClient
from bay.server.web.workspace_paths import sandbox_path

pytestmark = pytest.mark.anyio

MIB = 1 << 20
INFO: Json = {
    "name": "x", "path": "/workspace/x", "type": "file", "size": 1, "mode": "0644", "uid": 0, "gid": 0, "mtime": 1.5,
    "target": None,
}  # fmt: skip
PART: Json = {
    "size": 4, "first": 0, "length": 4, "partial": False, "etag": "1-2-3", "mode": "0644", "mtime": 1.5
}  # fmt: skip


@pytest.fixture
async def made(alice: httpx.AsyncClient) -> Json:
    return await create(alice, wait=15)


@pytest.fixture
def base(made: Json) -> str:
    return f"/v1/sandboxes/{made['id']}/files"


# Through Bay to a real Ship


async def test_content_goes_up_and_comes_down_with_all_that_is_told_of_it(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    query = {"path": "a/b.bin", "mode": "0640", "mtime": "1700000000.25"}
    put = await alice.put(f"{base}/content", params=query, content=b"0123456789")
    assert put.status_code == 200, put.text
    where = bay.workspace(made) / "a/b.bin"
    assert put.json() == {
        "name": "b.bin", "path": str(where), "type": "file", "size": 10, "mode": "0640", "uid": os.getuid(),
        "gid": os.getgid(), "mtime": 1700000000.25, "target": None,
    }  # fmt: skip
    got = await alice.get(f"{base}/content", params={"path": str(where)})
    assert (got.status_code, got.content) == (200, b"0123456789")
    told = {k: v for k, v in got.headers.items() if k not in ("x-request-id", "etag")}
    assert told == {
        "accept-ranges": "bytes", "content-disposition": "attachment; filename*=UTF-8''b.bin", "content-length": "10",
        "content-type": "application/octet-stream", "last-modified": "Tue, 14 Nov 2023 22:13:20 GMT", "x-bay-mode": "0640",
        "x-bay-mtime": "1700000000.25", "x-content-type-options": "nosniff",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "status", "content", "content_range"),
    [("bytes=2-4", 206, b"234", "bytes 2-4/10"), ("bytes=7-", 206, b"789", "bytes 7-9/10"), ("bytes=-3", 206, b"789", "bytes 7-9/10"),
     ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"), ("bytes=10-", 416, None, "bytes */10"), ("bytes=-0", 416, None, "bytes */10"),
     ("bytes=99999999999999999999-", 416, None, "bytes */10"), ("bytes=0-1,3-4", 200, b"0123456789", None), ("bytes=4-2", 200, b"0123456789", None),
     (f"bytes={','.join(f'{n}-{n}' for n in range(100))}", 200, b"0123456789", None), (f"bytes=-{'1' * 300}", 200, b"0123456789", None),
     ("lines=1-2", 200, b"0123456789", None), ("bytes=-", 200, b"0123456789", None), ("bytes=\u0661-", 200, b"0123456789", None)],
)  # fmt: skip
async def test_a_range_is_answered_as_rfc_9110_says(
    alice: httpx.AsyncClient,
    base: str,
    asked: str,
    status: int,
    content: bytes | None,
    content_range: str | None,
) -> None:
    await alice.put(f"{base}/content", params={"path": "x"}, content=b"0123456789")
    got = await alice.get(f"{base}/content", params={"path": "x"}, headers={"Range": asked.encode()})  # pyright: ignore[reportArgumentType]
    assert (got.status_code, got.headers.get("content-range")) == (status, content_range)
    if content is None:
        assert assert_error(got, 416, "range_not_satisfiable")["details"] == {"size": 10}
    else:
        assert (got.content, got.headers["content-length"]) == (content, str(len(content)))


async def test_a_range_of_another_state_is_answered_whole(alice: httpx.AsyncClient, base: str) -> None:
    await alice.put(f"{base}/content", params={"path": "x"}, content=b"0123456789")
    url, ranged = f"{base}/content?path=x", {"Range": "bytes=1-1"}
    first = await alice.get(url)
    etag, date = first.headers["etag"], first.headers["last-modified"]
    assert (await alice.get(url, headers={**ranged, "If-Range": etag})).status_code == 206
    for other in ('"other"', f"W/{etag}", date, "x", f"x{etag[1:-1]}y", f'"{"x" * 300}"'):
        assert (await alice.get(url, headers={**ranged, "If-Range": other})).content == b"0123456789"
    await alice.put(url, content=b"abcdefghij")
    changed = await alice.get(url, headers={**ranged, "If-Range": etag})
    assert (changed.status_code, changed.content) == (200, b"abcdefghij")
    assert changed.headers["etag"] != etag


@pytest.mark.parametrize("name", ["报告 2024.csv", "a'b\"c;%.txt", "🦆", "line\nbreak", "\udcff", "x" * 255])
async def test_any_name_is_reached_and_told_in_the_disposition(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str, name: str
) -> None:
    url = f"{base}/content?path={quote_from_bytes(os.fsencode(name))}"
    assert (await alice.put(url, content=b"x")).status_code == 200
    assert os.listdir(bay.workspace(made)) == [name]
    shown = name.replace("\udcff", "\ufffd")
    disposition = (await alice.get(url)).headers["content-disposition"]
    assert disposition.isascii()
    assert (
        httpx.URL(f"http://x/{disposition.removeprefix(chr(39) * 2).rpartition(chr(39) * 2)[2]}").path
        == f"/{shown}"
    )
    entries = (await alice.get(f"{base}/list")).json()["entries"]
    assert [entry["name"] for entry in entries] == [shown]
    assert (await alice.delete(f"{base}?path={quote_from_bytes(os.fsencode(name))}")).json() == {
        "status": "ok"
    }
    assert os.listdir(bay.workspace(made)) == []


@pytest.mark.parametrize("query", [b"path=%E4%B8%AD%FF", b"path=\xe4\xb8\xad\xff", b"path=%E4\xb8\xad%ff"])
def test_a_path_is_the_bytes_of_the_query_escaped_or_not(query: bytes) -> None:
    assert raw_path(HTTPConnection({"type": "http", "query_string": query}), "") == "\u4e2d\udcff"


async def test_a_file_of_a_year_that_no_calendar_has_is_listed_and_read(
    alice: httpx.AsyncClient, base: str, made: Json, bay: World, lie: Lie
) -> None:
    old = bay.workspace(made) / "old"
    old.write_text("x")
    os.utime(old, ns=(0, -65_000_000_000 * 10**9))
    mtime = old.stat().st_mtime  # what its file system made of it
    got = await alice.get(f"{base}/content", params={"path": "old"})
    assert (got.status_code, got.content, got.headers["x-bay-mtime"]) == (200, b"x", repr(mtime))
    entries = (await alice.get(f"{base}/list")).json()["entries"]
    assert [entry["mtime"] for entry in entries] == [mtime]
    for odd in (-1e300, 95_617_584_000.0, 2.0**63):
        told: Json = {**INFO, "mtime": odd}
        liar = await lie(saying(whole(line(told) + line({"truncated": False}))))
        link = ShipClient()  # a connection to the one before would be used again
        assert await list_all(FileClient(link), liar) == [FileInfo(**told), ListEnd(truncated=False)]
        link.close()


@pytest.mark.parametrize("mtime", [-65_000_000_000.0, 1e12, 1e300])
async def test_a_year_that_no_calendar_has_is_not_in_the_head(
    bay: World, alice: httpx.AsyncClient, base: str, monkeypatch: pytest.MonkeyPatch, mtime: float
) -> None:
    @asynccontextmanager
    async def download(*_: object) -> AsyncGenerator[ShipDownload]:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"

        yield ShipDownload(1, 0, 1, False, "1-2-3", "0644", mtime, chunks())

    monkeypatch.setattr(SandboxFiles, "download", download)
    got = await alice.get(f"{base}/content", params={"path": "x"})
    assert (got.status_code, got.content, "last-modified" in got.headers) == (200, b"x", False)


async def test_a_list_comes_as_one_object_or_as_lines(alice: httpx.AsyncClient, base: str) -> None:
    assert (await alice.get(f"{base}/list")).json() == {"entries": [], "truncated": False}
    for path in ("b/c", "a", "d"):
        await alice.put(f"{base}/content", params={"path": path}, content=b"")
    whole_list = (await alice.get(f"{base}/list", params={"depth": 2})).json()
    assert [e["name"] for e in whole_list["entries"]] == ["a", "b", "c", "d"]
    assert set(whole_list["entries"][0]) == set(INFO)
    lines = (
        await alice.get(
            f"{base}/list", params={"depth": 2, "limit": 2}, headers={"Accept": "application/x-ndjson"}
        )
    ).text
    assert [json.loads(line) for line in lines.splitlines()] == [
        *whole_list["entries"][:2],
        {"truncated": True},
    ]
    globbed = await alice.get(f"{base}/list", params={"depth": 2, "glob": "b/*"})
    assert [e["name"] for e in globbed.json()["entries"]] == ["c"]
    assert_error(await alice.get(f"{base}/list", params={"path": "nope"}), 404, "file_not_found")
    for bad in ({"depth": 0}, {"depth": 65}, {"limit": 0}, {"limit": 200_001}):
        assert_error(await alice.get(f"{base}/list", params=bad), 422, "validation_error")
    assert_error(await alice.get(f"{base}/list", params={"glob": "../*"}), 400, "validation_error")


async def test_what_is_there_is_moved_copied_changed_and_removed(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    await alice.put(f"{base}/content", params={"path": "a/x"}, content=b"one two")

    async def post(what: str, **body: Any) -> httpx.Response:
        return await alice.post(f"{base}/{what}", json=body)

    assert (await post("copy", source="a", destination="b")).json()["path"].endswith("/b")
    assert_error(await post("move", source="a", destination="b"), 409, "conflict")
    assert (await post("move", source="a", destination="b", overwrite=True)).status_code == 200
    assert (await post("mkdir", path="c/d", mode="0700")).json()["mode"] == "0700"
    assert (await post("chmod", path="b", mode="0700", recursive=True)).json()["mode"] == "0700"
    assert (await post("edit", path="b/x", old="one", new="1")).json() == {"replaced": 1}
    assert (
        assert_error(await post("edit", path="b/x", old="one", new="1"), 409, "conflict")["details"][
            "matches"
        ]
        == 0
    )
    assert (bay.workspace(made) / "b/x").read_text() == "1 two"
    stat = await alice.get(f"{base}/stat", params={"path": "b/x"})
    assert FileInfo(**stat.json()).mode == "0700"
    assert_error(await alice.delete(base, params={"path": "b", "recursive": False}), 409, "conflict")
    assert (await alice.delete(base, params={"path": "b"})).json() == {"status": "ok"}
    assert_error(await alice.get(f"{base}/content", params={"path": "b/x"}), 404, "file_not_found")
    assert_error(await post("edit", path="x", old="", new=""), 422, "validation_error")
    assert_error(await post("chmod", path="c", mode="rwx"), 422, "validation_error")


async def test_files_are_given_away_by_root_where_the_profile_allows_it(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    there = (await alice.put(f"{base}/content", params={"path": "a/x"}, content=b"1")).json()

    async def give(url: str = base, path: str = "a", **body: Any) -> httpx.Response:
        return await alice.post(f"{url}/chown", json={"path": path, **body})

    kept = await give(uid=there["uid"], gid=there["gid"], recursive=True)
    assert (kept.status_code, kept.json()["type"], kept.json()["uid"]) == (200, "directory", there["uid"])
    own = pwd.getpwuid(os.geteuid()).pw_name  # to a Ship that is no container's
    assert (await give(path="a/x", user=own, gid=there["gid"])).json()["name"] == "x"
    refused = assert_error(await give(uid=4242), 403, "forbidden")
    assert "has one user" in refused["message"]
    assert_error(await give(path="none", uid=there["uid"]), 404, "file_not_found")
    twice: list[Json] = [{"user": "root", "uid": 0}, {"group": "root", "gid": 0}]
    for body in ({}, {"user": "no-such"}, *twice):
        assert_error(await give(**body), 400, "validation_error")
    wrong: list[Json] = [
        {"uid": -1},
        {"gid": 65_536},
        {"uid": "1000"},
        {"user": ""},
        {"uid": 0, "owner": "x"},
    ]
    for body in wrong:
        assert_error(await give(**body), 422, "validation_error")
    rootless = await create(alice, profile="rootless")
    answer = await give(f"/v1/sandboxes/{rootless['id']}/files", uid=0)
    assert "needs root" in assert_error(answer, 403, "forbidden")["message"]


@pytest.mark.parametrize(
    ("path", "reason"), [("", "empty_path"), ("a\0b", "null_byte"), ("x/" * 2048, "path_too_long")]
)
async def test_what_is_no_path_is_refused_before_anything_starts(
    bay: World, alice: httpx.AsyncClient, path: str, reason: str
) -> None:
    made = await create(alice)
    base = f"/v1/sandboxes/{made['id']}/files"
    for field, answer in (
        ("path", await alice.get(f"{base}/content", params={"path": path})),
        ("path", await alice.put(f"{base}/content", params={"path": path}, content=b"")),
        ("path", await alice.get(f"{base}/stat", params={"path": path})),
        ("path", await alice.get(f"{base}/list", params={"path": path})),
        ("path", await alice.delete(base, params={"path": path})),
        ("source", await alice.post(f"{base}/move", json={"source": path, "destination": "x"})),
        ("destination", await alice.post(f"{base}/copy", json={"source": "x", "destination": path})),
        ("path", await alice.post(f"{base}/mkdir", json={"path": path})),
        ("path", await alice.post(f"{base}/chown", json={"path": path, "uid": 0})),
        ("path", await alice.post(f"{base}/edit", json={"path": path, "old": "x", "new": "y"})),
    ):
        assert assert_error(answer, 400, "invalid_path")["details"] == {"field": field, "reason": reason}
    assert (await bay.record(made["id"])).session is None


async def test_without_a_container_other_paths_of_the_host_are_forbidden(
    alice: httpx.AsyncClient, base: str
) -> None:
    for path in ("/etc/passwd", "../../x", "/proc/self/environ", "/"):
        assert_error(await alice.get(f"{base}/content", params={"path": path}), 403, "forbidden")
        assert_error(await alice.delete(base, params={"path": f"{path}/x"}), 403, "forbidden")


async def test_a_read_key_may_look_and_not_change(bay: World, alice: httpx.AsyncClient, base: str) -> None:
    await alice.put(f"{base}/content", params={"path": "x"}, content=b"x")
    reader = await bay.client("alice", "read")
    assert (await reader.get(f"{base}/content", params={"path": "x"})).content == b"x"
    for answer in (
        await reader.put(f"{base}/content", params={"path": "x"}, content=b""),
        await reader.delete(base, params={"path": "x"}),
        await reader.post(f"{base}/edit", json={"path": "x", "old": "x", "new": ""}),
    ):
        assert_error(answer, 403, "forbidden")


async def test_an_upload_beyond_the_limit_is_refused_and_the_old_file_stays(root: Path) -> None:
    try:
        async with world(root, max_upload_mb=1, max_body_mb=1) as bay:
            alice = await bay.client("alice")
            made = await create(alice, wait=15)
            url = f"/v1/sandboxes/{made['id']}/files/content?path=x"
            assert (await alice.put(url, content=b"x" * MIB)).status_code == 200

            async def endless() -> AsyncIterator[bytes]:
                for _ in range(20):
                    yield b"y" * (100 << 10)

            for body in (b"y" * (MIB + 1), endless()):
                assert_error(await alice.put(url, content=body), 413, "payload_too_large")
            await until(lambda: os.listdir(bay.workspace(made)) == ["x"])
            assert (bay.workspace(made) / "x").read_bytes() == b"x" * MIB
    finally:
        await clear(root)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_large_file_goes_both_ways_without_being_held(live: Served) -> None:
    size = 64 * MIB

    async def body() -> AsyncGenerator[bytes]:
        for number in range(size // MIB):
            yield bytes([number]) * MIB

    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=60) as client:
        url = f"/v1/sandboxes/{(await create(client, wait=15))['id']}/files/content?path=big"
        before = resident()
        sent = await client.put(url, content=body())
        assert (sent.status_code, sent.json()["size"]) == (200, size)
        seen, peak = 0, resident()
        async with client.stream("GET", url) as got:
            async for chunk in got.aiter_bytes(MIB):
                assert chunk == bytes([seen // MIB]) * MIB
                seen += len(chunk)
                peak = max(peak, resident())
        assert (seen, peak - before < 25 * MIB) == (size, True)


async def test_a_client_that_leaves_leaves_the_old_file_and_nothing_under_way(live: Served) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        made = await create(client, wait=15)
        where = directory_of(live.bay.cargo.place(made["cargo_id"]))
        base = f"/v1/sandboxes/{made['id']}/files"
        await client.put(f"{base}/content?path=x", content=b"old")
        caller = live.bay.keys.authenticate(f"Bearer {live.key}")
        session = (await live.bay.waker.find(caller, made["id"])).session
        assert session is not None
        began = asyncio.Event()

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"y" * MIB
                began.set()

        upload = asyncio.create_task(client.put(f"{base}/content?path=x", content=endless()))
        await within(began.wait())
        await until(lambda: len(os.listdir(where)) == 2)
        upload.cancel()
        await until(lambda: os.listdir(where) == ["x"] and not live.bay.ship.busy(session.id))
        assert (where / "x").read_bytes() == b"old"

        with (where / "x").open("wb") as file:
            file.truncate(200 * MIB)
        async with client.stream("GET", f"{base}/content?path=x") as got:
            await anext(got.aiter_bytes(1024))
        await until(lambda: not live.bay.ship.busy(session.id))

        (where / "many").mkdir()
        for number in range(3000):
            os.close(os.open(where / "many" / str(number), os.O_CREAT))
        order = {"source": "many", "destination": "again"}
        copying = asyncio.create_task(client.post(f"{base}/copy", json=order))
        await until(lambda: len(os.listdir(where)) > 2)
        copying.cancel()
        await until(lambda: sorted(os.listdir(where)) == ["many", "x"] and not live.bay.ship.busy(session.id))


# A Ship that lies


@pytest.fixture
def file_link(link: ShipClient, deadline_s: float) -> FileClient:
    return FileClient(link, silence_s=deadline_s, work_s=deadline_s)


async def read_all(file_link: FileClient, liar: Liar) -> bytes:
    async with file_link.download(liar.peer(), "x", Wanted()) as download:
        return b"".join([chunk async for chunk in download.chunks])


async def list_all(file_link: FileClient, liar: Liar, limit: int = 10) -> list[FileInfo | ListEnd]:
    async with file_link.list(liar.peer(), "x", depth=1, glob=None, limit=limit) as items:
        return [item async for item in items]


async def stat(file_link: FileClient, liar: Liar) -> FileInfo:
    return await file_link.stat(liar.peer(), "x", follow=True)


def file_head(promised: int | None = 4, **changes: Any) -> bytes:
    return head("200 OK", promised, f"X-Ship-File: {json.dumps({**PART, **changes})}")


def line(value: Json) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def test_an_honest_ship_is_believed(lie: Lie, file_link: FileClient) -> None:
    assert await read_all(file_link, await lie(saying(file_head(), b"data"))) == b"data"


async def test_signs_of_life_are_no_entries(lie: Lie, file_link: FileClient) -> None:
    body = b"\n\n" + line(INFO) + b"\n" + line({"truncated": True})
    assert await list_all(file_link, await lie(saying(whole(body)))) == [
        FileInfo(**INFO),
        ListEnd(truncated=True),
    ]


DOWNLOAD_LIES: dict[str, Script] = {
    "no word of the file": saying(whole(b"data")),
    "no JSON": saying(head("200 OK", 4, "X-Ship-File: x"), b"data"),
    "another length": saying(file_head(4, length=3), b"data"),
    "no length": saying(file_head(None), b"data", close=True),
    "beyond the end": saying(file_head(first=1), b"data"),
    "less than nothing": saying(file_head(first=-1), b"data"),
    "a mode with a line break": saying(file_head(mode="0644\r\nX-Evil: yes"), b"data"),
    "a mode that is none": saying(file_head(mode="0888"), b"data"),
    "a tag with quotes": saying(file_head(etag='1"\r\nX: y'), b"data"),
    "a time without end": saying(head("200 OK", 4, 'X-Ship-File: {"mtime":1e999}'), b"data"),
    "a time that is none": saying(head("200 OK", 4, 'X-Ship-File: {"mtime":NaN}'), b"data"),
    "a size beyond all": saying(file_head(size=2**70), b"data"),
    "short, then closed": saying(file_head(), b"da", close=True),
    "a length that chunks overrule": saying(
        head("200 OK", 4, f"X-Ship-File: {json.dumps(PART)}", "Transfer-Encoding: chunked"), b"4\r\ndata\r\n"
    ),
}


@pytest.mark.parametrize("what", DOWNLOAD_LIES)
async def test_a_lie_about_a_file_is_not_passed_on(lie: Lie, file_link: FileClient, what: str) -> None:
    liar = await lie(DOWNLOAD_LIES[what])
    with pytest.raises(ShipError):
        await within(read_all(file_link, liar))
    await within(liar.closed.wait())


@pytest.mark.silent_ship
@pytest.mark.parametrize("call", [read_all, stat, list_all], ids=["content", "stat", "list"])
async def test_a_ship_that_stalls_does_not_hang_anybody(
    lie: Lie, file_link: FileClient, call: Callable[[FileClient, Liar], Any]
) -> None:
    for script in (saying(), saying(file_head(4), b"da"), saying(head("200 OK", 10000), line(INFO))):
        with pytest.raises((Timeout, ShipError)):
            await within(call(file_link, await lie(script)))


@pytest.mark.silent_ship
async def test_a_list_that_drips_signs_of_life_ends_all_the_same(lie: Lie, file_link: FileClient) -> None:
    async def drip(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(head("200 OK", 1 << 20))
        while True:
            writer.write(b"\n")
            await writer.drain()
            await asyncio.sleep(DEADLINE_S / 5)

    liar = await lie(drip)
    with pytest.raises(Timeout):
        await within(file_link.list_workspace(liar.peer(), "."))


async def test_a_list_of_the_workspace_keeps_no_targets_of_links(lie: Lie, file_link: FileClient) -> None:
    body = line({**INFO, "target": "x" * 60_000}) + line({"truncated": False})
    [found] = await file_link.list_workspace((await lie(saying(whole(body)))).peer(), ".")
    assert found.target is None


async def test_a_client_that_reads_slowly_is_not_cut_off(
    lie: Lie, file_link: FileClient, deadline_s: float
) -> None:
    liar = await lie(saying(file_head(), b"data"))
    async with file_link.download(liar.peer(), "x", Wanted()) as download:
        pass_time(1.5 * deadline_s)  # longer than Ship may be silent
        await turns()
        assert b"".join([chunk async for chunk in download.chunks]) == b"data"


@pytest.mark.silent_ship
async def test_an_upload_whose_client_is_slow_is_not_cut_off_but_one_that_ship_does_not_take_is(
    lie: Lie, file_link: FileClient
) -> None:
    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        pass_time(1.5 * DEADLINE_S)
        await turns()
        yield b"y" * (4 * MIB)

    async def upload(liar: Liar) -> FileInfo:
        return await file_link.upload(liar.peer(), "x", slow(), mode=None, mtime=None, mkdir=True)

    async def takes_all(_liar: Liar, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken = b""
        while not taken.endswith(b"\r\n0\r\n\r\n"):
            taken = taken[-16:] + await reader.read(1 << 20)
        writer.write(whole(INFO))

    async def takes_nothing(_liar: Liar, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await request(reader)
        await asyncio.Event().wait()

    assert await within(upload(await lie(takes_all))) == FileInfo(**INFO)
    with pytest.raises(Timeout):
        await within(upload(await lie(takes_nothing)))


LIST_LIES: dict[str, Script] = {
    "more than was asked for": saying(whole(line(INFO) * 11 + line({"truncated": False}))),
    "no end": saying(whole(line(INFO))),
    "no JSON": saying(whole(b"x\n")),
    "another type": saying(whole(line({**INFO, "type": "secret"}))),
    "half a character": saying(whole(line(INFO).replace(b'"x"', b'"\\ud800"'))),
    "a name without end": saying(whole(line({**INFO, "name": "x" * 5000}))),
    "a line without end": for_ever(head("200 OK", None, "Transfer-Encoding: chunked"), b"10000\r\n" + b"x" * 65536 + b"\r\n"),
    "signs of life and nothing else": for_ever(head("200 OK", None, "Transfer-Encoding: chunked"), b"10\r\n" + b"\n" * 16 + b"\r\n"),
    "no number": saying(whole(line(INFO).replace(b"1.5", b"1e999"))),
}  # fmt: skip


@pytest.mark.parametrize("what", LIST_LIES)
async def test_a_lie_in_a_list_is_not_passed_on(lie: Lie, file_link: FileClient, what: str) -> None:
    before = peak_kib()
    liar = await lie(LIST_LIES[what])
    with pytest.raises(ShipError):
        await within(list_all(file_link, liar))
    assert peak_kib() - before < 16 << 10


async def test_what_ship_may_refuse_is_refused_in_its_words(lie: Lie, file_link: FileClient) -> None:
    fault = {"error": {"code": "range_not_satisfiable", "message": "no", "details": {"size": 7}}}
    with pytest.raises(RangeNotSatisfiable) as caught:
        await read_all(file_link, await lie(saying(whole(fault, "416 Range Not Satisfiable"))))
    assert caught.value.details == {"size": 7}


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.binary(max_size=60).map(os.fsdecode))
def test_any_text_is_a_path_or_none(text: str) -> None:
    with suppress(InvalidPath):
        assert sandbox_path(text) == text
        assert "\0" not in text


async def test_a_directory_where_a_file_is_wanted_is_told_from_other_mistakes(
    alice: httpx.AsyncClient,
) -> None:
    box = f"/v1/sandboxes/{(await create(alice))['id']}"
    await shell(alice, box.rpartition("/")[2], "mkdir d; touch f; mkfifo p")
    text = {"path": "d", "content": "x"}
    asked = [
        (await alice.get(f"{box}/files/content", params={"path": "d"}), "is_directory"),
        (await alice.put(f"{box}/files/content", params={"path": "d"}, content=b"x"), "is_directory"),
        (await alice.post(f"{box}/files/edit", json={"path": "d", "old": "a", "new": "b"}), "is_directory"),
        (await alice.get(f"{box}/filesystem/files", params={"path": "d"}), "is_directory"),
        (await alice.put(f"{box}/filesystem/files", json=text), "is_directory"),
        (await alice.get(f"{box}/filesystem/download", params={"path": "d"}), "is_directory"),
        (await alice.get(f"{box}/files/content", params={"path": "p"}), "not_regular_file"),
        (await alice.get(f"{box}/files/list", params={"path": "f"}), "not_directory"),
        (await alice.get(f"{box}/filesystem/directories", params={"path": "f"}), "not_directory"),
        (await alice.put(f"{box}/files/content", params={"path": "f/x"}, content=b"x"), "not_directory"),
    ]
    for answer, reason in asked:
        error = assert_error(answer, 400, "validation_error")
        assert error["details"] == {"field": "path", "reason": reason}, answer.request.url


async def test_a_user_that_is_refused_is_named(alice: httpx.AsyncClient) -> None:
    box = (await create(alice, profile="rootless"))["id"]
    made = await alice.post(f"/v1/sandboxes/{box}/execs", json={"argv": ["id"], "user": "root"})
    assert assert_error(made, 403, "forbidden")["details"] == {"field": "user"}
