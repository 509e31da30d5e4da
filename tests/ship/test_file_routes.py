"""All files of the sandbox: what is served, what is refused, and what is left when a call ends half-way."""

import asyncio
import errno
import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote_from_bytes

import httpx
import pytest
from ship_harness import TOKEN, FirstShip, Ship, eventually, running

from ship.files import listing
from ship.files.actors import Actors
from ship.files.routes import FileRoutes
from ship.files.sandbox_paths import Everywhere
from ship.files.workspace import FileThreads
from ship.files.workspace_paths import Workspace
from ship.http.connection import Connection, PeerGone
from ship.http.conversation import Answer, Conversation, Request
from ship.process.accounts import Accounts
from ship.process.identity import Identity

pytestmark = pytest.mark.host

MIB = 1 << 20
HEAD = f"Host: x\r\nAuthorization: Bearer {TOKEN}\r\n"


@pytest.fixture(scope="module")
def boxed() -> Iterator[Ship]:
    """A Ship as in a container, but for the root of its files: root and first process, its user 1000."""
    with running(first=True) as found:
        yield found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def get(ship: Ship, path: str | Path, **query: Any) -> httpx.Response:
    return ship.http.get("/fs/content", params={"path": str(path), **query})


def put(ship: Ship, path: str | Path, content: Any, **query: Any) -> httpx.Response:
    return ship.http.put("/fs/content", params={"path": str(path), **query}, content=content)


def post(ship: Ship, what: str, **body: Any) -> httpx.Response:
    return ship.http.post(f"/fs/{what}", json=body)


def delete(ship: Ship, path: str | Path, **query: Any) -> httpx.Response:
    return ship.http.delete("/fs", params={"path": str(path), **query})


def listed(ship: Ship, path: str | Path = ".", **query: Any) -> tuple[list[str], bool]:
    """Paths below the workspace, and `truncated`."""
    answer = ship.http.get("/fs/list", params={"path": str(path), **query})
    assert answer.status_code == 200, answer.text
    *entries, end = [json.loads(line) for line in answer.text.splitlines() if line]
    return [e["path"].removeprefix(f"{ship.workspace}/") for e in entries], end["truncated"]


def told(answer: httpx.Response) -> dict[str, Any]:
    return json.loads(answer.headers["x-ship-file"])


# Content


def test_what_is_put_is_what_is_got_by_either_spelling(ship: Ship) -> None:
    content = os.urandom(3 * MIB + 7)
    written = put(ship, "a/b.bin", content, mode="0640", mtime="1234.5")
    assert written.status_code == 200, written.text
    expected = {"name": "b.bin", "path": f"{ship.workspace}/a/b.bin", "type": "file", "size": len(content)}
    assert written.json() == {
        **expected, "mode": "0640", "mtime": 1234.5, "uid": os.getuid(), "gid": os.getgid(), "target": None
    }  # fmt: skip
    for path in ("a/b.bin", ship.workspace / "a/b.bin", "a/../a//./b.bin"):
        got = get(ship, path)
        assert got.content == content
        assert {k: told(got)[k] for k in ("size", "mode", "mtime", "partial")} == {
            "size": len(content), "mode": "0640", "mtime": 1234.5, "partial": False
        }  # fmt: skip


def test_a_replaced_file_keeps_its_mode_and_nothing_else_is_left(ship: Ship) -> None:
    put(ship, "x", b"1", mode="4751")
    assert (ship.workspace / "x").stat().st_mode & 0o7777 == 0o4751
    assert put(ship, "x", b"22").json()["mode"] == "0751"
    assert put(ship, "x", b"333", mode="600").json()["mode"] == "0600"
    assert os.listdir(ship.workspace) == ["x"]


def test_a_part_is_given_as_asked(ship: Ship) -> None:
    put(ship, "x", b"0123456789")
    etag = told(get(ship, "x"))["etag"]
    for query, expected in (
        ({"first": 2, "last": 4}, b"234"), ({"first": 7}, b"789"), ({"first": 0, "last": 99}, b"0123456789"),
        ({"suffix": 3}, b"789"), ({"suffix": 99}, b"0123456789"), ({"first": 9, "if_range": etag}, b"9"),
    ):  # fmt: skip
        got = get(ship, "x", **query)
        assert (got.content, told(got)["partial"]) == (expected, True), query
        assert told(got)["first"] == 10 - len(expected) if "suffix" in query else True
    for query in ({"first": 10}, {"suffix": 0}, {"first": 99, "last": 100}):
        answer = get(ship, "x", **query)
        assert code(answer) == (416, "range_not_satisfiable")
        assert answer.json()["error"]["details"] == {"size": 10}
    put(ship, "x", b"abcdefghij")
    other = get(ship, "x", first=9, if_range=etag)
    assert (other.content, told(other)["partial"]) == (b"abcdefghij", False)


def test_parents_are_made_unless_they_shall_not_be(ship: Ship) -> None:
    assert code(put(ship, "a/b", b"", mkdir="false")) == (404, "file_not_found")
    assert put(ship, "a/b", b"").status_code == 200
    assert code(put(ship, "a/b/c", b"")) == (400, "validation_error")
    assert put(ship, ship.workspace / "n/e/w", b"").status_code == 200


def test_a_link_at_the_end_is_written_through(ship: Ship) -> None:
    put(ship, "d/real", b"old")
    (ship.workspace / "link").symlink_to("d/real")
    assert put(ship, "link", b"new").status_code == 200
    assert (ship.workspace / "d/real").read_bytes() == b"new"
    assert (ship.workspace / "link").is_symlink()


def begin_upload(ship: Ship, path: str, sent: bytes) -> socket.socket:
    """A connection on which a body of 10 MiB has begun."""
    raw = ship.connect()
    raw.sendall(f"PUT /fs/content?path={path} HTTP/1.1\r\n{HEAD}Content-Length: {10 * MIB}\r\n\r\n".encode())
    raw.sendall(sent)
    assert eventually(lambda: any(".ship-upload" in name for name in os.listdir(ship.workspace)))
    return raw


@pytest.mark.parametrize("sent", [b"", b"x" * (2 * MIB)], ids=["nothing", "some"])
def test_a_body_that_is_cut_off_leaves_the_old_file_and_no_other(ship: Ship, sent: bytes) -> None:
    put(ship, "x", b"old")
    begin_upload(ship, "x", sent).close()
    assert eventually(lambda: os.listdir(ship.workspace) == ["x"])
    assert (ship.workspace / "x").read_bytes() == b"old"


def test_a_file_that_grows_or_shrinks_while_it_is_read_is_never_passed_off_as_whole(ship: Ship) -> None:
    path = ship.workspace / "x"
    for size, whole in ((40 * MIB, True), (5 * MIB, False)):
        path.write_bytes(b"")
        os.truncate(path, 30 * MIB)
        received = 0
        try:
            with ship.http.stream("GET", "/fs/content", params={"path": "x"}) as answer:
                for data in answer.iter_bytes(64 << 10):
                    if not received:
                        os.truncate(path, size)
                    received += len(data)
        except httpx.RemoteProtocolError:
            assert not whole
        assert received == 30 * MIB if whole else received < 30 * MIB


# What there is


def test_stat_tells_of_the_link_or_of_what_is_behind_it(ship: Ship) -> None:
    put(ship, "real", b"12345")
    (ship.workspace / "link").symlink_to("real")
    os.mkfifo(ship.workspace / "pipe")

    def at(path: str, **query: Any) -> dict[str, Any]:
        return ship.http.get("/fs/stat", params={"path": path, **query}).json()

    assert (at("link")["type"], at("link")["size"], at("link")["name"]) == ("file", 5, "link")
    link = at("link", follow="false")
    assert (link["type"], link["target"], link["size"]) == ("symlink", "real", None)
    assert (at("pipe")["type"], at(".")["type"]) == ("fifo", "directory")
    assert at("nope")["error"]["code"] == "file_not_found"
    assert at("real/below")["error"]["code"] == "file_not_found"


def test_a_list_goes_down_in_order_and_follows_no_link(ship: Ship) -> None:
    for path in ("b/2", "b/1/x", "a", "b.txt", "c/d/e/f"):
        put(ship, path, b"")
    (ship.workspace / "c/up").symlink_to("..")
    assert listed(ship) == (["a", "b", "b.txt", "c"], False)
    assert listed(ship, depth=2)[0] == ["a", "b", "b/1", "b/2", "b.txt", "c", "c/d", "c/up"]
    everything = listed(ship, depth=64)[0]
    assert everything[-4:] == ["c/d", "c/d/e", "c/d/e/f", "c/up"]
    for limit in range(1, len(everything) + 2):
        assert listed(ship, depth=64, limit=limit) == (everything[:limit], limit < len(everything))
    assert listed(ship, "c/up", depth=1)[0] == [f"c/up/{name}" for name in ("a", "b", "b.txt", "c")]
    assert code(ship.http.get("/fs/list", params={"path": "a"})) == (400, "validation_error")


@pytest.mark.parametrize(
    ("glob", "expected"),
    [("*.py", ["x.py"]), ("**/*.py", ["a/b/y.py", "a/z.py", "x.py"]), ("a/**", ["a", "a/b", "a/b/y.py", "a/z.py"]),
     ("a/*.py", ["a/z.py"]), ("[xy].p?", ["x.py"]), ("[!x].py", []), ("**/b/**/y.py", ["a/b/y.py"])],
)  # fmt: skip
def test_a_glob_chooses_by_the_path_below(ship: Ship, glob: str, expected: list[str]) -> None:
    for path in ("x.py", "a/z.py", "a/b/y.py", "c/d"):
        put(ship, path, b"")
    assert listed(ship, depth=9, glob=glob) == (expected, False)


def test_a_long_list_comes_whole_and_is_not_held(ship: Ship) -> None:
    folder = ship.workspace / "many"
    folder.mkdir()
    for number in range(10_000):
        os.close(os.open(folder / f"{number:05}-{'x' * 100}", os.O_CREAT))
    before = ship.rss()
    with ship.http.stream("GET", "/fs/list", params={"path": "many", "limit": "200000"}) as answer:
        assert sum(1 for _ in answer.iter_lines()) == 10_001
    assert ship.rss() - before < 24 * MIB
    assert listed(ship, "many", limit=2) == ([f"many/0000{n}-{'x' * 100}" for n in (0, 1)], True)


def test_any_name_and_any_bytes_of_it_are_reached(ship: Ship) -> None:
    names = [b"line\nbreak", b"bad\xff", "\u62a5\u544a".encode(), b"x" * 255, b"-rf", b" ", b"%41"]
    for name in names:
        query = f"/fs/content?path={quote_from_bytes(name)}"
        assert ship.http.put(query, content=name).status_code == 200
        assert ship.http.get(query).content == name
        assert ship.http.get(f"/fs/stat?path={quote_from_bytes(name)}").json()["type"] == "file"
    assert sorted(os.listdir(bytes(ship.workspace))) == sorted(names)
    assert code(put(ship, "x" * 256, b"")) == (400, "validation_error")
    deep = "/".join(["d" * 200] * 19)
    assert put(ship, f"{deep}/x", b"deep").status_code == 200
    assert get(ship, f"{deep}/x").content == b"deep"
    for path in ("a/" * 2048 + "b", "x/" * 4000):
        assert get(ship, path).status_code == 400
    for path in ("", "a\0b"):
        assert code(get(ship, path)) == (400, "invalid_path")


# Changes


def test_a_copy_is_the_same_in_every_way(ship: Ship) -> None:
    tree = ship.workspace / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "one").write_bytes(b"data")
    os.link(tree / "one", tree / "sub" / "two")
    (tree / "link").symlink_to("nowhere")
    os.mkfifo(tree / "pipe", 0o600)
    with (tree / "holes").open("wb") as file:
        file.seek(64 * MIB)
        file.write(b"end")
        file.truncate(128 * MIB)
    os.setxattr(tree / "one", "user.color", b"red")
    (tree / "one").chmod(0o4710)
    os.utime(tree / "one", ns=(1, 1_500_000_000_123_456_789))
    (tree / "sub").chmod(0o555)
    os.utime(tree / "sub", ns=(1, 2_000_000_000))
    made = post(ship, "copy", source="tree", destination="again")
    assert (made.status_code, made.json()["path"]) == (200, f"{ship.workspace}/again")
    again = ship.workspace / "again"
    one = (again / "one").stat()
    assert (again / "one").read_bytes() == b"data"
    assert (stat.S_IMODE(one.st_mode), one.st_mtime_ns) == (0o4710, 1_500_000_000_123_456_789)
    assert os.path.samefile(again / "one", again / "sub" / "two")
    assert not os.path.samefile(again / "one", tree / "one")
    assert os.getxattr(again / "one", "user.color") == b"red"
    assert os.readlink(again / "link") == "nowhere"
    assert stat.S_ISFIFO((again / "pipe").stat().st_mode)
    holes = (again / "holes").stat()
    assert (holes.st_size, holes.st_blocks * 512 < MIB) == (128 * MIB, True)
    with (again / "holes").open("rb") as file:
        file.seek(64 * MIB)
        assert file.read(5) == b"end\0\0"
    assert (stat.S_IMODE((again / "sub").stat().st_mode), (again / "sub").stat().st_mtime) == (0o555, 2.0)


@pytest.mark.parametrize("what", ["copy", "move"])
def test_what_is_at_the_destination_is_only_replaced_when_asked(ship: Ship, what: str) -> None:
    put(ship, "new/file", b"new")
    put(ship, "old/other", b"old")
    assert code(post(ship, what, source="new", destination="old")) == (409, "conflict")
    assert listed(ship, "old")[0] == ["old/other"]
    assert post(ship, what, source="new", destination="old", overwrite=True).status_code == 200
    assert listed(ship, depth=2)[0] == (["new", "new/file"] if what == "copy" else []) + ["old", "old/file"]
    assert code(post(ship, what, source="nope", destination="x")) == (404, "file_not_found")
    assert code(post(ship, what, source="old", destination="no/x")) == (404, "file_not_found")
    assert code(post(ship, what, source="old", destination="old/in/side"))[0] in (400, 404)
    assert code(post(ship, what, source="old", destination="old/inside")) == (400, "validation_error")
    assert listed(ship, "old", depth=9)[0] == ["old/file"]
    assert code(post(ship, what, source="old", destination="x", overwrite="yes")) == (400, "validation_error")


def test_a_copy_nobody_waits_for_ends_and_leaves_nothing(ship: Ship) -> None:
    for folder in range(20):
        (ship.workspace / "many" / str(folder)).mkdir(parents=True)
        for number in range(300):
            os.close(os.open(ship.workspace / f"many/{folder}/{number}", os.O_CREAT))
    body = json.dumps({"source": "many", "destination": "again"}).encode()
    raw = ship.connect()
    raw.sendall(f"POST /fs/copy HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    assert eventually(lambda: len(os.listdir(ship.workspace)) > 1)
    raw.close()
    assert eventually(lambda: os.listdir(ship.workspace) == ["many"])


def test_directories_are_made_and_modes_are_set(ship: Ship) -> None:
    assert post(ship, "mkdir", path="a/b", mode="0700").json()["mode"] == "0700"
    assert post(ship, "mkdir", path="a/b", mode="0755").json()["mode"] == "0700"
    assert code(post(ship, "mkdir", path="x/y", parents=False)) == (404, "file_not_found")
    put(ship, "a/file", b"")
    (ship.workspace / "a/link").symlink_to("file")
    (ship.workspace / "a/out").symlink_to("/etc/passwd")
    assert code(post(ship, "mkdir", path="a/file")) == (409, "conflict")
    before = Path("/etc/passwd").stat().st_mode
    assert post(ship, "chmod", path="a", mode="0700", recursive=True).json()["mode"] == "0700"
    assert (ship.workspace / "a/file").stat().st_mode & 0o7777 == 0o700
    assert Path("/etc/passwd").stat().st_mode == before
    assert post(ship, "chmod", path="a/link", mode="640").json()["mode"] == "0640"
    assert (ship.workspace / "a/file").stat().st_mode & 0o7777 == 0o640
    for mode in ("999", "", "07777777", 7):
        assert code(post(ship, "chmod", path="a", mode=mode)) == (400, "validation_error")


def test_a_directory_with_something_in_it_is_deleted_only_when_asked(ship: Ship) -> None:
    put(ship, "a/b/c", b"")
    (ship.workspace / "link").symlink_to("a")
    assert delete(ship, "link").status_code == 200
    assert code(delete(ship, "a", recursive="false")) == (409, "conflict")
    assert (ship.workspace / "a/b/c").exists()
    assert delete(ship, "a").status_code == 200
    assert code(delete(ship, "a")) == (404, "file_not_found")
    put(ship, "kept", b"")
    for path in (".", "./", "x/..", str(ship.workspace), "/"):
        assert delete(ship, path).status_code in (400, 403, 404), path
    assert (ship.workspace / "kept").exists()


def test_an_edit_replaces_exactly_what_is_there_once(ship: Ship) -> None:
    put(ship, "x", "eins zwei zw\u00f6lf zwei".encode(), mode="0600")

    def edit(**body: Any) -> httpx.Response:
        return post(ship, "edit", path="x", **body)

    for old, matches in (("drei", 0), ("zwei", 2)):
        answer = edit(old=old, new="x")
        assert code(answer) == (409, "conflict")
        assert answer.json()["error"]["details"]["matches"] == matches
    assert edit(old="zw\u00f6lf", new="12").json() == {"replaced": 1}
    assert edit(old="zwei", new="2", all=True).json() == {"replaced": 2}
    assert (ship.workspace / "x").read_text() == "eins 2 12 2"
    assert (ship.workspace / "x").stat().st_mode & 0o7777 == 0o600
    assert code(edit(old="", new="x")) == (400, "validation_error")
    put(ship, "x", b"\xff")
    assert code(edit(old="a", new="b")) == (400, "validation_error")
    with (ship.workspace / "x").open("wb") as file:
        file.truncate((16 << 20) + 1)
    assert code(edit(old="a", new="b")) == (413, "payload_too_large")


# Boundaries


def test_without_a_container_nothing_outside_of_the_workspace_is_touched(ship: Ship) -> None:
    outside = ship.workspace.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    (ship.workspace / "file").symlink_to(outside / "secret")
    (ship.workspace / "dir").symlink_to("../outside")
    (ship.workspace / "proc").symlink_to("/proc/self/root")
    put(ship, "mine", b"mine")
    for path in (
        "/etc/passwd", outside / "secret", f"{ship.workspace}/../outside/secret", "../outside/secret", "file",
        "dir/secret", "/", "/proc/self/environ", f"proc{outside}/secret", f"{ship.workspace}er/x", ship.workspace.parent,
    ):  # fmt: skip
        answers = [
            get(ship, path), put(ship, f"{path}" if path == "file" else f"{path}x", b"changed"),
            ship.http.get("/fs/list", params={"path": str(path)}), post(ship, "chmod", path=str(path), mode="777"),
            post(ship, "copy", source=f"{path}/secret", destination="got"), post(ship, "edit", path=str(path), old="s", new="t"),
            post(ship, "copy", source="mine", destination=f"{path}/out"), post(ship, "mkdir", path=f"{path}/new"),
        ]  # fmt: skip
        for answer in answers:
            inside = str(answer.request.url).endswith("filex") or str(answer.request.url).endswith("secretx")
            assert answer.status_code in (400, 403, 404) or inside, (path, answer.request.url, answer.text)
            assert b'"secret"' not in answer.content or answer.status_code != 200
    assert {p.name: p.read_text() for p in outside.iterdir()} == {"secret": "secret"}
    assert not (ship.workspace / "got").exists()


def test_what_the_kernel_makes_up_is_refused_whoever_could_read_it(boxed: Ship) -> None:
    assert isinstance(boxed, FirstShip)
    for link, target in (("env", "/proc/1/environ"), ("root", "/proc/self/root"), ("me", "/proc/self")):
        (boxed.workspace / link).symlink_to(target)
    for path in (
        "/proc/self/environ", "/proc/self/mem", "/proc/self/maps", "/proc/self/status", "/proc/1/environ", "/proc/1/cmdline",
        "/proc/kcore", "/proc/self/fd/0", "/proc/self/fd/3", "/proc/thread-self/environ", "/proc/self/root/etc/passwd",
        "/proc/self/cwd/etc/passwd", "/proc/meminfo", "/proc", "/sys/kernel/uevent_seqnum", "env", "root/etc/passwd", "me/environ",
    ):  # fmt: skip
        answers = [
            get(boxed, path), boxed.http.get("/fs/stat", params={"path": path}), put(boxed, f"{path}", b"x"),
            boxed.http.get("/fs/list", params={"path": path}), post(boxed, "edit", path=path, old="a", new="b"),
            post(boxed, "chmod", path=path, mode="777", recursive=True),
        ]  # fmt: skip
        if path != "env":  # the link itself may be copied
            answers.append(post(boxed, "copy", source=path, destination="got"))
        for answer in answers:
            assert code(answer)[1] in ("validation_error", "file_not_found", "forbidden"), (path, answer.text)
            assert TOKEN not in answer.text
    assert not (boxed.workspace / "got").exists()
    paths = listed(boxed, "/", depth=1)[0]
    assert "/proc" in paths
    assert not any(path.startswith("/proc/") for path in listed(boxed, "/", depth=2, glob="proc/*")[0])


def test_the_user_decides_what_may_be_done(boxed: Ship) -> None:
    private = boxed.workspace.parent / "private"
    private.mkdir(mode=0o700)
    (private / "x").write_text("root's")
    roots = boxed.workspace / "roots"
    roots.write_text("root's")
    roots.chmod(0o600)
    for answer in (
        get(boxed, "/etc/shadow"), get(boxed, private / "x"), get(boxed, "roots"), put(boxed, private / "y", b""),
        put(boxed, "/etc/new", b""), put(boxed, "/etc/passwd", b""), delete(boxed, "/etc/passwd"), delete(boxed, private),
        post(boxed, "chmod", path="roots", mode="666"), post(boxed, "mkdir", path="/usr/new"),
        post(boxed, "move", source="/etc/hostname", destination="/etc/other"), post(boxed, "copy", source="roots", destination="mine"),
        post(boxed, "edit", path="/etc/passwd", old="root", new="boot", all=True), boxed.http.get("/fs/list", params={"path": str(private)}),
    ):  # fmt: skip
        assert code(answer) == (403, "forbidden"), answer.request.url
    assert get(boxed, "/etc/passwd").content == Path("/etc/passwd").read_bytes()
    (boxed.workspace / "target").symlink_to(boxed.workspace / "written")
    assert put(boxed, "target", b"through").status_code == 200
    assert (boxed.workspace / "written").read_bytes() == b"through"
    (boxed.workspace / "absolute").symlink_to("/etc/passwd")
    assert get(boxed, "absolute").content == Path("/etc/passwd").read_bytes()
    assert put(boxed, "mine", b"").json()["uid"] == 1000
    assert listed(boxed, glob=".ship-*")[0] == []


def test_ships_socket_and_token_are_not_to_be_had(boxed: Ship) -> None:
    there = boxed.http.get("/fs/stat", params={"path": str(boxed.socket_path)}).json()
    assert (there["type"], there["mode"]) == ("socket", "0600")
    assert code(get(boxed, boxed.socket_path)) == (400, "validation_error")
    assert code(put(boxed, boxed.socket_path, b"")) == (400, "validation_error")
    assert code(delete(boxed, boxed.socket_path)) == (403, "forbidden")  # its directory is root's


def test_nothing_that_is_no_file_is_waited_for(boxed: Ship) -> None:
    os.mkfifo(boxed.workspace / "pipe", 0o666)
    began = time.monotonic()
    for path in ("pipe", "/dev/zero", "/dev/tty", "/dev/null", "/dev/ptmx", "."):
        assert code(get(boxed, path))[0] in (400, 403, 404), path
        assert code(put(boxed, path, b"x"))[0] in (400, 403), path
        assert code(post(boxed, "edit", path=path, old="a", new="b"))[0] in (400, 403, 404), path
    assert time.monotonic() - began < 5
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    # Nor is it opened, which alone would let a writer go on.
    writer = threading.Thread(target=lambda: os.close(os.open(boxed.workspace / "pipe", os.O_WRONLY)))
    writer.start()
    for _ in range(50):
        get(boxed, "pipe")
    assert writer.is_alive()
    os.close(os.open(boxed.workspace / "pipe", os.O_RDONLY | os.O_NONBLOCK))
    writer.join(10)
    loop = boxed.workspace / "loop"
    loop.symlink_to("loop")
    assert code(get(boxed, "loop")) == (400, "validation_error")
    assert code(put(boxed, "loop", b"")) == (400, "validation_error")


def test_a_full_disk_leaves_the_old_file(boxed: Ship) -> None:
    small = boxed.workspace / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "tmpfs", str(small)]
    subprocess.run(["nsenter", "-m", "-t", str(boxed.pid), *mount], check=True)
    try:
        assert put(boxed, "small/x", b"old").status_code == 200
        assert code(put(boxed, "small/x", b"x" * (8 * MIB))) == (507, "storage_full")
        put(boxed, "big", b"x" * (8 * MIB))
        assert code(post(boxed, "copy", source="big", destination="small/copy")) == (507, "storage_full")
        assert code(post(boxed, "move", source="big", destination="small/moved")) == (507, "storage_full")
        assert listed(boxed, "small")[0] == ["small/x"]
        assert get(boxed, "small/x").content == b"old"
        put(boxed, "tree/a", b"1")
        assert (
            post(boxed, "move", source="tree", destination="small/tree").status_code == 200
        )  # another file system
        assert listed(boxed, "small/tree")[0] == ["small/tree/a"]
        assert code(get(boxed, "tree/a")) == (404, "file_not_found")
    finally:
        subprocess.run(["nsenter", "-m", "-t", str(boxed.pid), "umount", str(small)], check=True)


# What must not happen to Ship or to what it does half-way


def test_an_edit_whose_result_would_be_too_large_is_refused_before_it_is_made(ship: Ship) -> None:
    put(ship, "a", b"a" * MIB)
    before = ship.rss()
    answer = post(ship, "edit", path="a", old="a", new="b" * 17, all=True)
    assert code(answer) == (413, "payload_too_large")
    assert get(ship, "a").content == b"a" * MIB
    assert ship.rss() < before + 16 * MIB
    assert post(ship, "edit", path="a", old="a", new="b" * 16, all=True).json() == {"replaced": MIB}
    assert code(post(ship, "edit", path="a", old="b", new="c" * (34 * MIB))) == (413, "payload_too_large")


def test_a_move_over_another_name_of_the_same_file_takes_the_first_name_away(ship: Ship) -> None:
    put(ship, "a", b"x")
    os.link(ship.workspace / "a", ship.workspace / "b")
    assert post(ship, "move", source="a", destination="b", overwrite=True).status_code == 200
    assert os.listdir(ship.workspace) == ["b"]
    assert post(ship, "move", source="b", destination="./b", overwrite=True).status_code == 200
    assert get(ship, "b").content == b"x"


def test_what_may_not_be_removed_of_an_old_destination_is_not_left_as_the_source(boxed: Ship) -> None:
    top = boxed.workspace / "half"
    for name in ("from", "to/roots"):
        (top / name).mkdir(parents=True)
    (top / "from/new").touch()
    (top / "to/roots/kept").touch()
    for path in (top, top / "from", top / "from/new", top / "to"):
        os.chown(path, 1000, 1000)
    answer = post(boxed, "move", source="half/from", destination="half/to", overwrite=True)
    assert answer.status_code == 200, answer.text
    assert os.listdir(top / "to") == ["new"]
    hidden, shown = sorted(os.listdir(top))
    assert (hidden[:14], shown) == (".ship-removed-", "to")
    assert os.listdir(top / hidden / "roots") == ["kept"]


def test_a_list_says_that_it_is_not_whole_when_entries_may_not_be_looked_at(boxed: Ship) -> None:
    locked = boxed.workspace / "locked"
    locked.mkdir()
    (locked / "x").touch()
    locked.chmod(0o744)
    assert listed(boxed, "locked") == ([], True)


def test_a_directory_that_cannot_be_opened_for_want_of_descriptors_is_not_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened(number: int) -> bool:
        def fail(*_: object, **__: object) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(listing, "open_below", fail)
        with listing.opened_below(0, "x") as found:
            return found is not None

    assert not opened(errno.EACCES)
    for number in (errno.EMFILE, errno.ENOMEM, errno.EIO):
        with pytest.raises(OSError, match=os.strerror(number)):
            opened(number)


class DeadWire:
    """A wire whose peer is gone."""

    async def send(self, _data: bytes) -> None:
        raise PeerGone


def test_an_answer_that_never_begins_lets_go_of_what_it_holds() -> None:
    let_go: list[bool] = []

    async def close() -> None:
        let_go.append(True)

    async def body() -> AsyncGenerator[bytes]:
        yield b"never"

    async def run() -> None:
        talk = Conversation(cast("Connection", DeadWire()), None)
        talk._http.receive_data(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # pyright: ignore[reportPrivateUsage]
        await talk.next_request()
        with pytest.raises(PeerGone):
            await talk.answer(Answer(200, body(), close=close))

    asyncio.run(run())
    assert let_go == [True]


class Anyone:
    """An identity that is already had."""

    def become_for_files(self) -> None:
        """Nothing to become."""


@pytest.mark.parametrize("what", ["content", "list"])
def test_the_answers_of_files_hold_nothing_once_they_are_closed(tmp_path: Path, what: str) -> None:
    (tmp_path / "large").write_bytes(bytes(3 * MIB))
    path = str(tmp_path / "large" if what == "content" else tmp_path)
    request = Request("GET", ("fs", what), {"path": path}, None, None, None, cast("Conversation", None))

    async def run() -> list[int]:
        top = str(tmp_path)
        threads = FileThreads(cast("Identity", Anyone()))
        own = Identity("ship", os.geteuid(), os.getegid(), top, switch=False)
        actors = Actors(threads, Accounts(own, None, None))
        routes = FileRoutes(Everywhere(top), Workspace(top), actors)
        answer = await routes.answer(request)
        assert isinstance(answer, Answer)
        assert answer.close is not None
        before = held_of(tmp_path)
        await answer.close()
        return [before, held_of(tmp_path)]

    # One is the workspace's own, as long as there are routes.
    before, after = asyncio.run(run())
    assert before == after + 1


def held_of(top: Path) -> int:
    """How many descriptors this process has of what is at `top` or below."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found += os.readlink(f"/proc/self/fd/{name}").startswith(str(top))
    return found


def test_a_call_that_cannot_be_confined_to_the_workspace_is_not_taken_for_one(ship: Ship) -> None:
    for what in ("move", "copy", "mkdir", "chmod", "chown", "edit"):
        answer = ship.http.post(f"/fs/{what}", params={"beneath": "true"}, json={"path": "unconfined"})
        assert code(answer) == (400, "validation_error")
    assert "unconfined" not in listed(ship)[0]


def test_a_path_may_begin_at_home_and_a_user_must_be_one(ship: Ship) -> None:
    put(ship, "~/deep/a", b"x", home="true")
    assert get(ship, "deep/a", home="true").content == b"x"
    made = ship.http.post("/fs/mkdir", params={"home": "true"}, json={"path": "~"})
    assert made.json()["type"] == "directory"
    assert code(ship.http.get("/fs/stat", params={"path": ".", "user": "nobody-here"})) == (
        400,
        "validation_error",
    )


def test_a_file_seen_closely_has_names_attributes_and_the_end_of_a_link(ship: Ship) -> None:
    kept = {"author": "me", "ünï": "çöde"}
    assert put(ship, "marked", b"x", attributes=json.dumps(kept)).status_code == 200
    (ship.workspace / "link").symlink_to("marked")
    (ship.workspace / "broken").symlink_to("nowhere")
    listing = ship.http.get("/fs/list", params={"closely": "true"}).text.splitlines()[:-1]
    found = {one["name"]: one for one in map(json.loads, listing)}
    assert found["marked"]["attributes"] == kept
    assert found["marked"]["owner"]
    assert found["marked"]["group"]
    assert found["marked"]["end"] is None
    assert (found["link"]["type"], found["link"]["end"]["type"]) == ("symlink", "file")
    assert found["link"]["end"]["path"].endswith("/marked")
    assert (found["broken"]["target"], found["broken"]["end"]) == ("nowhere", None)
    assert ship.http.get("/fs/stat", params={"path": "link", "closely": "true"}).json() == found["link"]


def test_attributes_of_any_bytes_are_shown_as_text(ship: Ship) -> None:
    put(ship, "marked", b"x")
    os.setxattr(ship.workspace / "marked", b"user.\xff", b"\xfe")
    answer = ship.http.get("/fs/stat", params={"path": "marked", "closely": "true"})
    assert answer.json()["attributes"] == {"\ufffd": "\ufffd"}


@pytest.mark.parametrize(
    "attributes",
    ["[]", "{", '{"a": 1}', json.dumps({"a": "x" * 5000}), json.dumps({"": "x"}), json.dumps({"n" * 201: ""}),
     json.dumps({f"{n}": "" for n in range(65)}), '{"a": "\\ud800"}'],
    ids=["list", "no-json", "number", "long", "no-name", "long-name", "many", "surrogate"],
)  # fmt: skip
def test_attributes_beyond_their_bounds_leave_no_file(ship: Ship, attributes: str) -> None:
    assert code(put(ship, "bad", b"x", attributes=attributes)) == (400, "validation_error")
    assert "bad" not in listed(ship)[0]
