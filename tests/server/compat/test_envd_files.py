"""envd's files: listed, moved, watched and carried as clients of E2B do it."""

import asyncio
import gzip
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from envd_calls import Envd, basic, envd_of, signed_query
from server_harness import Json, Served, eventually, until

from bay.models import FileInfo
from bay.server.compat.e2b.entries import entry_of, list_of
from bay.server.files.ship_client import FileDetails

pytestmark = pytest.mark.anyio

FS = "filesystem.Filesystem"
OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
async def envd(live: Served) -> AsyncGenerator[Envd]:
    async with envd_of(live) as made:
        yield made


async def write(envd: Envd, path: str, data: bytes = b"", **headers: str) -> Json:
    """Write one file as the newer SDKs do; its facts."""
    answer = await envd.http.post(
        envd.url("/files"), params={"path": path}, content=data, headers=OCTETS | headers
    )
    assert answer.status_code == 200, answer.text
    return answer.json()[0]


async def read(envd: Envd, path: str, **headers: str) -> httpx.Response:
    return await envd.http.get(envd.url("/files"), params={"path": path}, headers=headers)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


async def test_a_file_is_written_with_its_parents_and_read_whole_or_in_part(envd: Envd) -> None:
    made = await write(envd, "new/deep/a.bin", b"0123456789")
    assert made == {"path": made["path"], "name": "a.bin", "type": "file"}
    assert made["path"].endswith("/new/deep/a.bin")
    whole = await read(envd, "~/new/deep/a.bin")
    assert (whole.status_code, whole.content) == (200, b"0123456789")
    part = await read(envd, made["path"], Range="bytes=2-4")
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")


async def test_what_cannot_be_read_says_why(envd: Envd) -> None:
    missing = await read(envd, "nothing")
    assert (missing.status_code, missing.json()["message"]) == (404, "path 'nothing' does not exist")
    await envd.ok(f"{FS}/MakeDir", path="folder")
    assert (await read(envd, "folder")).status_code == 400
    stranger = await envd.http.get(envd.url("/files"), params={"path": "a", "username": "no-one"})
    assert (stranger.status_code, stranger.json()["message"]) == (401, "invalid username: 'no-one'")


async def test_a_form_carries_many_files_by_their_full_names(envd: Envd) -> None:
    names = [
        "form/one.txt",
        "form/two words.txt",
        "form/ünïcode.txt",
        'form/q"uote.txt',
        *(f"n/{n}" for n in range(80)),
    ]
    files = [("file", (name, name.encode(), "text/plain")) for name in names]
    answer = await envd.http.post(envd.url("/files"), files=files)
    assert answer.status_code == 200, answer.text
    assert [one["name"] for one in answer.json()[:3]] == ["one.txt", "two words.txt", "ünïcode.txt"]
    assert len(answer.json()) == len(names)
    assert (await read(envd, "form/ünïcode.txt")).content == "form/ünïcode.txt".encode()
    assert (await read(envd, "n/79")).content == b"n/79"
    one = await envd.http.post(envd.url("/files"), params={"path": "named"}, files=[("file", ("x", b"y"))])
    assert one.json()[0]["name"] == "named"


async def test_a_form_without_a_file_or_a_body_without_a_path_is_refused(envd: Envd) -> None:
    for sent in ({"files": [("other", ("x", b"y"))]}, {"content": b"x", "headers": OCTETS}):
        answer = await envd.http.post(envd.url("/files"), **sent)  # pyright: ignore[reportArgumentType]
        assert answer.status_code == 400, answer.text


async def test_a_packed_body_is_unpacked_and_a_broken_one_leaves_the_old_file(envd: Envd) -> None:
    data = os.urandom(300_000) + bytes(3_000_000)
    await write(envd, "packed", gzip.compress(data), **{"Content-Encoding": "gzip"})
    assert (await read(envd, "packed")).content == data
    for body in (b"no gzip", gzip.compress(data)[:-20], gzip.compress(b"other") + b"more"):
        answer = await envd.http.post(
            envd.url("/files"), params={"path": "packed"}, content=body,
            headers=OCTETS | {"Content-Encoding": "gzip"},
        )  # fmt: skip
        assert answer.status_code == 400
    assert (await read(envd, "packed")).content == data


async def test_metadata_stays_with_a_file(envd: Envd) -> None:
    made = await write(envd, "marked", b"x", **{"X-Metadata-Author": "me", "X-Metadata-Kind": "a b"})
    assert made["metadata"] == {"author": "me", "kind": "a b"}
    entry = (await envd.ok(f"{FS}/Stat", path="marked"))["entry"]
    assert entry["metadata"] == {"author": "me", "kind": "a b"}
    await envd.ok(f"{FS}/Move", source="marked", destination="away/marked")
    assert (await envd.ok(f"{FS}/Stat", path="away/marked"))["entry"]["metadata"]["author"] == "me"
    many = {f"X-Metadata-{n}": "v" * 100 for n in range(60)}
    answer = await envd.http.post(
        envd.url("/files"), params={"path": "marked"}, content=b"", headers=OCTETS | many
    )
    assert answer.status_code == 400


async def test_an_entry_has_every_fact(envd: Envd) -> None:
    await write(envd, "dir/file.txt", b"hello")
    await envd.ran("cd ~/dir; chmod 640 file.txt; ln -s file.txt link; ln -s nowhere broken; ln -s . up")
    entry = (await envd.ok(f"{FS}/Stat", path="dir/file.txt"))["entry"]
    assert entry | {"path": "", "modifiedTime": "", "owner": "", "group": ""} == {
        "name": "file.txt", "type": "FILE_TYPE_FILE", "path": "", "size": "5", "mode": 0o640,
        "permissions": "-rw-r-----", "owner": "", "group": "", "modifiedTime": "",
    }  # fmt: skip
    assert entry["owner"]
    assert entry["group"]
    assert entry["modifiedTime"].endswith("Z")
    link = (await envd.ok(f"{FS}/Stat", path="dir/link"))["entry"]
    assert (link["type"], link["symlinkTarget"]) == ("FILE_TYPE_FILE", entry["path"])
    broken = (await envd.ok(f"{FS}/Stat", path="dir/broken"))["entry"]
    assert (broken["type"], broken["symlinkTarget"]) == ("FILE_TYPE_UNSPECIFIED", "nowhere")
    assert (await envd.ok(f"{FS}/Stat", path="dir/up"))["entry"]["type"] == "FILE_TYPE_DIRECTORY"
    assert code_of(await envd.call(f"{FS}/Stat", path="dir/gone")) == (404, "not_found")


async def test_a_directory_is_made_once_and_listed_as_deep_as_asked(envd: Envd) -> None:
    made = (await envd.ok(f"{FS}/MakeDir", path="tree/one/two"))["entry"]
    assert (made["name"], made["type"]) == ("two", "FILE_TYPE_DIRECTORY")
    assert code_of(await envd.call(f"{FS}/MakeDir", path="tree/one")) == (409, "already_exists")
    await write(envd, "tree/one/file")
    assert code_of(await envd.call(f"{FS}/MakeDir", path="tree/one/file")) == (400, "invalid_argument")

    async def names(**asked: Any) -> list[str]:
        return [e["name"] for e in (await envd.ok(f"{FS}/ListDir", path="tree", **asked))["entries"]]

    assert await names() == await names(depth=0) == ["one"]
    assert await names(depth=2) == ["one", "file", "two"]
    assert code_of(await envd.call(f"{FS}/ListDir", path="tree/none")) == (404, "not_found")
    assert code_of(await envd.call(f"{FS}/ListDir", path="tree/one/file")) == (400, "invalid_argument")


async def test_a_move_makes_parents_and_a_removal_may_be_repeated(envd: Envd) -> None:
    await write(envd, "from.txt", b"x")
    moved = (await envd.ok(f"{FS}/Move", source="from.txt", destination="to/here.txt"))["entry"]
    assert moved["name"] == "here.txt"
    assert code_of(await envd.call(f"{FS}/Move", source="from.txt", destination="b")) == (404, "not_found")
    for _ in range(2):
        assert await envd.ok(f"{FS}/Remove", path="to") == {}
    assert code_of(await envd.call(f"{FS}/Stat", path="to/here.txt")) == (404, "not_found")


async def test_a_user_that_is_not_there_may_touch_nothing(envd: Envd) -> None:
    answer = await envd.call(f"{FS}/Stat", user="no-one", path=".")
    assert code_of(answer) == (401, "unauthenticated")
    assert answer.json()["message"] == "invalid username: 'no-one'"
    upload = await envd.http.post(
        envd.url("/files"), params={"path": "a"}, content=b"", headers=OCTETS | basic("no-one")
    )
    assert upload.status_code == 401


async def test_a_long_list_leaves_others_their_turn() -> None:
    info = FileInfo(
        name="ü", path="/ü", type="file", size=1, mode="0644", uid=0, gid=0, mtime=0.0, target=None
    )
    found = [FileDetails(info, "root", "root", {}, None)] * 5000
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(count())
    text = await list_of(found)
    beside.cancel()
    assert turns >= 10
    assert json.loads(text) == {"entries": [entry_of(one) for one in found]}
    assert json.loads(await list_of([])) == {"entries": []}


async def test_a_watcher_tells_of_a_new_file_in_three_steps(envd: Envd) -> None:
    await envd.ok(f"{FS}/MakeDir", path="seen")
    watcher = await envd.ok(f"{FS}/CreateWatcher", path="seen", recursive=False)

    async def events(least: int) -> list[tuple[str, str]]:
        found: list[Json] = []

        async def enough() -> bool:
            found.extend((await envd.ok(f"{FS}/GetWatcherEvents", **watcher))["events"])
            return len(found) >= least

        await eventually(enough)
        return [(event["type"].removeprefix("EVENT_TYPE_"), event["name"]) for event in found]

    await write(envd, "seen/new.txt", b"x")
    assert await events(3) == [("CREATE", "new.txt"), ("CHMOD", "new.txt"), ("WRITE", "new.txt")]
    await write(envd, "seen/new.txt", b"y")
    assert await events(2) == [("CHMOD", "new.txt"), ("WRITE", "new.txt")]
    await envd.ok(f"{FS}/Move", source="seen/new.txt", destination="seen/old.txt")
    assert await events(2) == [("RENAME", "new.txt"), ("CREATE", "old.txt")]
    await envd.ok(f"{FS}/Remove", path="seen/old.txt")
    assert await events(1) == [("REMOVE", "old.txt")]
    await envd.ok(f"{FS}/RemoveWatcher", **watcher)
    assert code_of(await envd.call(f"{FS}/GetWatcherEvents", **watcher)) == (404, "not_found")
    assert code_of(await envd.call(f"{FS}/RemoveWatcher", **watcher)) == (404, "not_found")


async def test_a_stream_of_events_has_entries_where_it_is_asked_for_them(envd: Envd) -> None:
    await envd.ok(f"{FS}/MakeDir", path="live/below")
    message = {"path": "live", "recursive": True, "includeEntry": True}
    async with envd.stream(f"{FS}/WatchDir", message, {"Keepalive-Ping-Interval": "1"}) as events:
        assert await events.next() == {"start": {}}
        assert await events.next() == {"keepalive": {}}
        await write(envd, "live/below/a", b"abc")
        found: list[Json] = []
        while len(found) < 3:
            event = await events.next()
            assert event is not None, events.end
            found += [event["filesystem"]] if "filesystem" in event else []
    assert [event["name"] for event in found] == ["below/a"] * 3
    assert found[-1]["entry"]["size"] == "3"


async def test_only_directories_that_are_there_can_be_watched(envd: Envd) -> None:
    await write(envd, "file")
    for path, code in (("none", "not_found"), ("file", "invalid_argument")):
        async with envd.stream(f"{FS}/WatchDir", {"path": path}) as events:
            assert await events.rest() == []
        assert events.end is not None
        assert events.end["error"]["code"] == code
        assert (await envd.call(f"{FS}/CreateWatcher", path=path)).json()["code"] == code


async def test_forgotten_watchers_keep_nobody_from_a_new_one(envd: Envd) -> None:
    watchers = [await envd.ok(f"{FS}/CreateWatcher", path=".") for _ in range(40)]
    assert (await envd.ok(f"{FS}/GetWatcherEvents", **watchers[-1]))["events"] == []
    assert code_of(await envd.call(f"{FS}/GetWatcherEvents", **watchers[0])) == (404, "not_found")


async def test_a_flood_of_events_is_said_to_be_lost_and_costs_bounded_memory(
    live: Served, envd: Envd
) -> None:
    watcher = await envd.ok(f"{FS}/CreateWatcher", path=".")
    (kept,) = live.bay.envd_watchers._all.values()
    await envd.ran("for n in $(seq 6000); do : > flood-with-a-rather-long-name-$n; done")
    await until(lambda: kept.lost)
    assert kept.bytes <= 256 << 10
    answer = await envd.call(f"{FS}/GetWatcherEvents", **watcher)
    assert code_of(answer) == (429, "resource_exhausted")
    await envd.ok(f"{FS}/GetWatcherEvents", **watcher)


async def test_a_watcher_is_its_owners_alone(live: Served, envd: Envd) -> None:
    watcher = await envd.ok(f"{FS}/CreateWatcher", path=".")
    key = await live.bay.keys.add("bob", "bob", "write")
    async with httpx.AsyncClient(base_url=live.url, headers={"X-API-Key": key}) as http:
        answer = await Envd(http, envd.sandbox).call(f"{FS}/GetWatcherEvents", **watcher)
        assert answer.status_code in (401, 404)


async def test_the_variables_of_a_sandbox_are_shown(envd: Envd) -> None:
    answer = await envd.http.get(envd.url("/envs"))
    assert answer.json() == {}


async def test_a_key_that_only_reads_sees_no_variables(live: Served) -> None:
    writer = {"X-API-Key": live.key, "Authorization": f"Bearer {live.key}"}
    async with httpx.AsyncClient(base_url=live.url, timeout=30) as http:
        given = {"env": {"TOKEN": "a secret"}}
        made = (await http.post("/v1/sandboxes", json=given, headers=writer)).json()
        assert "a secret" not in json.dumps(made)
        path = f"/e2b/sandboxes/{made['id']}/envd/envs"
        assert (await http.get(path, headers=writer)).json() == given["env"]
        owner = live.bay.keys.authenticate(writer["Authorization"]).owner
        reader = await live.bay.keys.add(owner, "reader", "read")
        assert (await http.get(path, headers={"X-API-Key": reader})).status_code == 403


async def test_uploads_at_once_do_not_mix(envd: Envd) -> None:
    async with asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(write(envd, f"at-once/{n}", b"%d" % n * 10_000))
    for n in range(20):
        assert (await read(envd, f"at-once/{n}")).content == b"%d" % n * 10_000
    assert json.loads((await envd.http.get(envd.url("/envs"))).text) == {}


@asynccontextmanager
async def stranger(envd: Envd) -> AsyncGenerator[tuple[httpx.AsyncClient, str]]:
    """A client without a key, and the token that signs for it."""
    made = await envd.http.post(f"/e2b/sandboxes/{envd.sandbox}/connect", json={"timeout": 300})
    async with httpx.AsyncClient(base_url=envd.http.base_url, timeout=30) as http:
        yield http, made.json()["envdAccessToken"]


async def test_a_signed_url_acts_as_the_user_that_was_signed_and_never_as_a_headers(envd: Envd) -> None:
    await write(envd, "signed.txt", b"mine")
    async with stranger(envd) as (http, token):
        for user, status in (("", 200), ("no-one", 401)):
            query = signed_query(token, "signed.txt", user=user)
            for headers in ({}, basic("no-one"), basic("root"), {"Authorization": "Basic !"}):
                answer = await http.get(envd.url("/files"), params=query, headers=headers)
                assert answer.status_code == status, answer.text
                query = signed_query(token, "signed.txt", operation="write", user=user)
                sent = OCTETS | headers
                answer = await http.post(envd.url("/files"), params=query, content=b"mine", headers=sent)
                assert answer.status_code == status, answer.text
                query = signed_query(token, "signed.txt", user=user)


async def test_a_signed_upload_goes_to_the_path_that_was_signed(envd: Envd) -> None:
    async with stranger(envd) as (http, token):
        query = signed_query(token, "signed here", operation="write")
        files = [("file", ("/tmp/elsewhere", b"data", "text/plain"))]
        answer = await http.post(envd.url("/files"), params=query, files=files)
        assert (answer.status_code, answer.json()[0]["name"]) == (200, "signed here")
        odd = signed_query(token, "signed here", operation="write") | {"path": "signed%20here"}
        assert (await http.post(envd.url("/files"), params=odd, files=files)).status_code == 401


async def test_an_upload_signed_without_a_path_stays_below_the_home(envd: Envd) -> None:
    async with stranger(envd) as (http, token):
        query = signed_query(token, "", operation="write")
        for name, status in (
            *(("a.txt", 200), ("folder/a.txt", 200)),
            *(("/tmp/a.txt", 400), ("../a.txt", 400), ("folder/../../a.txt", 400), ("~root/a.txt", 400)),
        ):
            files = [("file", (name, b"data", "text/plain"))]
            answer = await http.post(envd.url("/files"), params=query, files=files)
            assert answer.status_code == status, (name, answer.text)
        assert (await http.post(envd.url("/files"), params=query, content=b"data")).status_code == 400
    assert (await read(envd, "folder/a.txt")).content == b"data"
