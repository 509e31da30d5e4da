"""`…/filesystem/*`: the files of a workspace."""

import json
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, Served, World, assert_error, create, shell, until, within

from bay.places import directory_of

pytestmark = pytest.mark.anyio

NAMES = ["plain.txt", "报告 2024.csv", "a'b\"c.txt", "ünï;=%.bin", "🦆", "line\nbreak", "-rf", "x" * 255]
MIB = 1 << 20


@pytest.fixture
async def made(alice: httpx.AsyncClient) -> Json:
    return await create(alice, wait=15)


@pytest.fixture
def base(made: Json) -> str:
    return f"/v1/sandboxes/{made['id']}/filesystem"


async def test_a_text_file_is_written_read_and_deleted(alice: httpx.AsyncClient, base: str) -> None:
    text = "héllo\r\n报告\0end\ufeff"
    written = await alice.put(f"{base}/files", json={"path": "a/b/c.txt", "content": text})
    assert (written.status_code, written.json()) == (200, {"status": "ok"})
    read = await alice.get(f"{base}/files", params={"path": "a/b/c.txt"})
    assert (read.status_code, read.json()) == (200, {"content": text})
    deleted = await alice.delete(f"{base}/files", params={"path": "a"})
    assert (deleted.status_code, deleted.json()) == (200, {"status": "ok"})
    assert_error(await alice.get(f"{base}/files", params={"path": "a/b/c.txt"}), 404, "file_not_found")


async def test_the_first_file_call_starts_the_sandbox(alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    answer = await alice.put(
        f"/v1/sandboxes/{made['id']}/filesystem/files", json={"path": "x", "content": ""}
    )
    assert answer.status_code == 200
    read = await alice.get(f"/v1/sandboxes/{made['id']}/filesystem/files", params={"path": "x"})
    assert read.json() == {"content": ""}


async def test_a_directory_lists_directories_first(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    where = bay.workspace(made)
    (where / "b.txt").write_text("12345")
    (where / "z").mkdir()
    (where / "a.txt").write_text("")
    entries = (await alice.get(f"{base}/directories")).json()["entries"]
    assert [(e["name"], e["is_file"], e["is_dir"]) for e in entries] == [
        ("z", False, True),
        ("a.txt", True, False),
        ("b.txt", True, False),
    ]
    assert set(entries[0]) == {"name", "path", "is_file", "is_dir", "size", "modified_time"}
    assert (entries[2]["size"], entries[0]["size"]) == (5, None)
    assert (
        entries[2]["path"] == f"{where}/b.txt"
    )  # the workspace of the fake driver is where it is on the host
    assert abs(entries[2]["modified_time"] - (where / "b.txt").stat().st_mtime) < 1
    assert (await alice.get(f"{base}/directories", params={"path": "z"})).json() == {"entries": []}


async def test_what_is_missing_is_404_everywhere(alice: httpx.AsyncClient, base: str) -> None:
    for answer in (
        await alice.get(f"{base}/files", params={"path": "nope"}),
        await alice.delete(f"{base}/files", params={"path": "nope"}),
        await alice.get(f"{base}/directories", params={"path": "nope"}),
        await alice.get(f"{base}/download", params={"path": "nope/nope"}),
    ):
        assert_error(answer, 404, "file_not_found")


@pytest.mark.parametrize(
    ("path", "reason"),
    [("", "empty_path"), ("/nowhere/secret", "absolute_path"), ("../x", "path_traversal"), ("..", "path_traversal"),
     ("a/../../x", "path_traversal"), ("a\0b", "null_byte"), ("//nowhere", "absolute_path")],
)  # fmt: skip
async def test_a_path_that_leaves_the_workspace_is_refused_before_anything_starts(
    bay: World, alice: httpx.AsyncClient, path: str, reason: str
) -> None:
    made = await create(alice)
    base = f"/v1/sandboxes/{made['id']}/filesystem"
    for answer in (
        await alice.get(f"{base}/files", params={"path": path}),
        await alice.put(f"{base}/files", json={"path": path, "content": ""}),
        await alice.delete(f"{base}/files", params={"path": path}),
        await alice.get(f"{base}/directories", params={"path": path}),
        await alice.get(f"{base}/download", params={"path": path}),
        await alice.post(f"{base}/upload", files={"file": b"x"}, data={"path": path}),
    ):
        if answer.status_code == 422:
            assert path == ""  # a form field that is empty counts as missing
            assert_error(answer, 422, "validation_error")
        else:
            assert assert_error(answer, 400, "invalid_path")["details"] == {"field": "path", "reason": reason}
    assert (await bay.record(made["id"])).session is None


async def test_a_path_inside_may_wander(alice: httpx.AsyncClient, base: str) -> None:
    await alice.put(f"{base}/files", json={"path": "a/../b/./c//d", "content": "x"})
    assert (await alice.get(f"{base}/files", params={"path": "b/c/d"})).json() == {"content": "x"}


async def test_a_link_out_of_the_workspace_is_refused_and_nothing_is_read_or_written(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    where = bay.workspace(made)
    (where / "file").symlink_to(secret)
    (where / "dir").symlink_to(tmp_path)
    (where / "proc").symlink_to("/proc/self/root")
    for path in ("file", "dir/secret", f"proc{secret}"):
        for answer in (
            await alice.get(f"{base}/files", params={"path": path}),
            await alice.get(f"{base}/download", params={"path": path}),
        ):
            assert_error(answer, 400, "invalid_path")
            assert "secret" not in answer.text.replace("dir/secret", "")
    for path in ("dir/new", "dir/secret"):
        answer = await alice.put(f"{base}/files", json={"path": path, "content": "overwritten"})
        assert_error(answer, 400, "invalid_path")
    assert_error(await alice.get(f"{base}/directories", params={"path": "dir"}), 400, "invalid_path")
    await alice.delete(f"{base}/files", params={"path": "dir"})
    assert secret.read_text() == "secret"
    assert os.listdir(tmp_path) == ["secret"]


async def test_the_workspace_itself_is_not_deleted(alice: httpx.AsyncClient, base: str) -> None:
    await alice.put(f"{base}/files", json={"path": "x", "content": "kept"})
    answer = await alice.delete(f"{base}/files", params={"path": "."})
    assert answer.status_code in (400, 422), answer.text
    assert (await alice.get(f"{base}/files", params={"path": "x"})).json() == {"content": "kept"}


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
async def test_any_name_and_any_bytes_go_up_and_come_down(
    alice: httpx.AsyncClient, base: str, name: str
) -> None:
    content = bytes(range(256)) * 3
    sent = await alice.post(
        f"{base}/upload", files={"file": ("ignored", content)}, data={"path": f"d/{name}"}
    )
    assert sent.status_code == 200, sent.text
    assert (sent.json()["status"], sent.json()["size"]) == ("ok", len(content))
    assert sent.json()["path"].endswith(f"/d/{name}")
    got = await alice.get(f"{base}/download", params={"path": f"d/{name}"})
    assert (got.status_code, got.content) == (200, content)
    disposition = got.headers["content-disposition"]
    assert disposition.isascii()
    assert disposition.startswith("attachment; filename*=UTF-8''")
    assert httpx.URL(f"http://x/{disposition.partition(chr(39) * 2)[2]}").path == f"/{name}"
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-length"] == str(len(content))
    names = [
        e["name"] for e in (await alice.get(f"{base}/directories", params={"path": "d"})).json()["entries"]
    ]
    assert names == [name]


async def test_a_name_that_is_no_text_does_not_spoil_the_list(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    (Path(os.fsdecode(bytes(bay.workspace(made)) + b"/bad\xff"))).write_text("x")
    (bay.workspace(made) / "good").write_text("x")
    entries = (await alice.get(f"{base}/directories")).json()["entries"]
    assert {"good"} < {e["name"] for e in entries}


async def test_an_empty_file_goes_up_and_comes_down(alice: httpx.AsyncClient, base: str) -> None:
    sent = await alice.post(f"{base}/upload", files={"file": b""}, data={"path": "empty"})
    assert (sent.status_code, sent.json()["size"]) == (200, 0)
    got = await alice.get(f"{base}/download", params={"path": "empty"})
    assert (got.content, got.headers["content-length"]) == (b"", "0")


async def test_an_upload_lacking_a_part_is_422(alice: httpx.AsyncClient, base: str) -> None:
    for parts in ({"files": {"file": b"x"}}, {"data": {"path": "x"}}, {"json": {"path": "x"}}):
        assert_error(await alice.post(f"{base}/upload", **parts), 422, "validation_error")  # pyright: ignore[reportArgumentType]
    broken = await alice.post(
        f"{base}/upload",
        content=b"--x\r\nbroken",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert broken.status_code in (400, 422)
    assert_error(broken, broken.status_code, "validation_error")


async def test_an_upload_that_cannot_be_written_says_so(
    alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    await shell(alice, made["id"], "mkdir dir; touch file")
    for path in ("dir", "file/below"):
        answer = await alice.post(f"{base}/upload", files={"file": b"x"}, data={"path": path})
        assert 400 <= answer.status_code < 500, answer.text
        assert_error(answer, answer.status_code, answer.json()["error"]["code"])


@pytest.mark.parametrize("path", ["x" * 256, "a/" * 2048 + "b", "x" * 9000])
async def test_a_path_that_is_too_long_is_the_callers_mistake(
    alice: httpx.AsyncClient, base: str, path: str
) -> None:
    for answer in (
        await alice.get(f"{base}/files", params={"path": path}),
        await alice.put(f"{base}/files", json={"path": path, "content": "x"}),
    ):
        assert 400 <= answer.status_code < 500, answer.text
        assert_error(answer, answer.status_code, answer.json()["error"]["code"])


async def test_what_is_no_regular_file_is_refused_at_once(
    alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    await shell(alice, made["id"], "mkdir dir; mkfifo pipe")
    for path in ("dir", "pipe", "."):
        for call in ("files", "download"):
            answer = await within(alice.get(f"{base}/{call}", params={"path": path}), 10)
            assert_error(answer, 400, "validation_error")
    assert_error(await alice.get(f"{base}/directories", params={"path": "pipe"}), 400, "validation_error")


async def test_a_file_that_is_not_text_or_too_large_for_json_is_told_to_be_downloaded(
    bay: World, alice: httpx.AsyncClient, made: Json, base: str
) -> None:
    (bay.workspace(made) / "binary").write_bytes(b"\xff\xfe")
    error = assert_error(await alice.get(f"{base}/files", params={"path": "binary"}), 400, "validation_error")
    assert "download" in error["message"]
    with (bay.workspace(made) / "large").open("wb") as file:
        file.truncate(16 * MIB + 1)
    error = assert_error(await alice.get(f"{base}/files", params={"path": "large"}), 413, "payload_too_large")
    assert "download" in error["message"]
    with (bay.workspace(made) / "large").open("wb") as file:
        file.truncate(16 * MIB)
    assert (await alice.get(f"{base}/files", params={"path": "large"})).status_code == 200


@pytest.mark.parametrize(
    "body",
    [{"path": "x"}, {"content": "x"}, {"path": 1, "content": "x"}, {"path": "x", "content": 1},
     {"path": "x", "content": "\ud800"}, {"path": "\ud800", "content": "x"}],
    ids=str,
)  # fmt: skip
async def test_a_write_of_the_wrong_form_is_422(alice: httpx.AsyncClient, base: str, body: Any) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await alice.put(f"{base}/files", content=json.dumps(body), headers=headers)
    assert_error(answer, 422, "validation_error")


async def test_fifty_megabytes_go_through_without_being_held_in_memory(live: Served) -> None:
    """The server runs in this process, so its memory is ours; the client holds 1 MiB of it."""
    size = 50 * MIB
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=60) as client:
        box = (await create(client, wait=15))["id"]
        base = f"/v1/sandboxes/{box}/filesystem"
        before = resident()
        boundary = b"--limit\r\n"

        async def body() -> AsyncGenerator[bytes]:
            yield boundary + b'Content-Disposition: form-data; name="path"\r\n\r\nbig\r\n'
            yield boundary + b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
            for number in range(size // MIB):
                yield bytes([number]) * MIB
            yield b"\r\n--limit--\r\n"

        sent = await client.post(
            f"{base}/upload", content=body(), headers={"Content-Type": "multipart/form-data; boundary=limit"}
        )
        assert (sent.status_code, sent.json()["size"]) == (200, size)
        seen, peak = 0, resident()
        async with client.stream("GET", f"{base}/download", params={"path": "big"}) as got:
            assert got.headers["content-length"] == str(size)
            async for chunk in got.aiter_bytes(MIB):
                assert chunk == bytes([seen // MIB]) * MIB
                seen += len(chunk)
                peak = max(peak, resident())
        assert seen == size
        assert peak - before < 25 * MIB


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_client_that_leaves_in_the_middle_of_a_download_leaves_nothing_open(live: Served) -> None:
    async with httpx.AsyncClient(base_url=live.url, headers=live.headers, timeout=20) as client:
        made = await create(client, wait=15)
        with (directory_of(live.bay.cargo.place(made["cargo_id"])) / "big").open("wb") as file:
            file.truncate(200 * MIB)
        path = f"/v1/sandboxes/{made['id']}/filesystem/download"
        async with client.stream("GET", path, params={"path": "big"}) as got:
            await anext(got.aiter_bytes(1024))
        caller = live.bay.keys.authenticate(f"Bearer {live.key}")
        session = (await live.bay.waker.find(caller, made["id"])).session
        assert session is not None
        await until(lambda: not live.bay.ship.busy(session.id))


PART = b'--x\r\nContent-Disposition: form-data; name="path"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "boundary", "said"),
    [
        (PART + b"a" * 100_000 + b"\r\n--x--\r\n", "x", "has more than"),
        (PART + b"\xff\r\n--x--\r\n", "x", "not UTF-8"),
        ((PART + b"a\r\n") * 65 + b"--x--\r\n", "x", "more than 64 parts"),
        (b"--x\r\nno header\r\n\r\na\r\n--x--\r\n", "x", "broke off"),
        (b"another boundary", "x", "broke off"),
        (PART + b"a", "x", "broke off"),
        (PART + b"a\r\n--x--\r\n", "x" * 300, "broke off"),
    ],
    ids=["long", "bytes", "many", "headless", "other", "cut", "boundary"],
)
async def test_a_hostile_form_is_refused_and_writes_nothing(
    bay: World, alice: httpx.AsyncClient, body: bytes, boundary: str, said: str
) -> None:
    made = await create(alice)
    call = f"/v1/sandboxes/{made['id']}/filesystem/upload"
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = await alice.post(call, content=body, headers=headers)
    assert said in assert_error(answer, 400, "validation_error")["message"]
    assert list(bay.workspace(made).glob("*")) == []
