"""Files: what is served, what is refused, and what a hostile program in the workspace cannot do."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote_from_bytes

import httpx
import pytest
from ship_harness import TOKEN, Ship, eventually

pytestmark = [pytest.mark.long, pytest.mark.host]

SECRET = "never to be seen"
AUTHORIZATION = f"Authorization: Bearer {TOKEN}\r\n"


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error.get("details", {}).get("reason")


@pytest.fixture
def outside(ship: Ship) -> Path:
    """A directory beside the workspace, with a secret in it."""
    found = ship.workspace.parent / "outside"
    found.mkdir()
    (found / "secret").write_text(SECRET)
    return found


def test_what_is_put_is_what_is_got(ship: Ship) -> None:
    for content in (b"", b"hello", os.urandom(3_000_000)):
        answer = ship.put("a/b/c.bin", content).json()
        assert (answer["path"], answer["size"]) == (f"{ship.workspace}/a/b/c.bin", len(content))
        got = ship.get("a/b/c.bin")
        assert got.content == content
        assert got.headers["content-length"] == str(len(content))


def test_a_body_without_length_is_taken(ship: Ship) -> None:
    assert ship.put("x", iter([b"ab", b"cd"])).json()["size"] == 4
    assert (ship.workspace / "x").read_bytes() == b"abcd"


def test_a_new_file_may_be_read_by_all_and_an_old_one_keeps_its_mode(ship: Ship) -> None:
    ship.put("new", b"x")
    assert (ship.workspace / "new").stat().st_mode & 0o7777 == 0o644
    (ship.workspace / "new").chmod(0o750)
    ship.put("new", b"y")
    assert (ship.workspace / "new").stat().st_mode & 0o7777 == 0o750
    assert (ship.workspace / "new").read_text() == "y"


def test_nothing_but_the_file_is_left_after_a_put(ship: Ship) -> None:
    ship.put("only", b"x" * 1_000_000)
    assert os.listdir(ship.workspace) == ["only"]


def test_names_of_every_kind_come_back(ship: Ship) -> None:
    for name in ("文件.txt", "a b+c%20&?#", "-rf", "...", "\\", "x" * 255, "new\nline", "é"):
        assert ship.put(name, name.encode()).status_code == 200
        assert ship.get(name).content == name.encode()
        assert name in [entry["name"] for entry in ship.listed()[0]]
        assert ship.delete(name).status_code == 200
    assert os.listdir(ship.workspace) == []


def test_a_name_that_is_no_utf8_is_shown_with_a_mark_and_can_still_be_read(ship: Ship) -> None:
    raw = os.fsencode(ship.workspace) + b"/\xff\xfe"
    with open(raw, "wb") as file:
        file.write(b"odd")
    assert [entry["name"] for entry in ship.listed()[0]] == ["\ufffd\ufffd"]
    assert (
        ship.http.get(f"/fs/content?beneath=true&path={quote_from_bytes(os.path.basename(raw))}").content
        == b"odd"
    )


# OUTSIDE stands for the directory beside the workspace: were a check missing, a file of the test's own would
# be hit, and none of the host's.
BAD_PATHS = [
    ("..", "path_traversal"),
    ("../outside/secret", "path_traversal"),
    ("a/../../outside/secret", "path_traversal"),
    ("./../outside/secret", "path_traversal"),
    ("a/b/../../../outside/secret", "path_traversal"),
    ("a//..//..//outside/secret", "path_traversal"),
    ("OUTSIDE/secret", "absolute_path"),
    ("/OUTSIDE/secret", "absolute_path"),
    ("a\0b", "null_byte"),
    ("\0", "null_byte"),
    ("", "empty_path"),
    ("link-out/secret", "path_traversal"),
    ("link-up/outside/secret", "path_traversal"),
    ("link-to-secret", "path_traversal"),
    ("link-proc/self/rootOUTSIDE/secret", "path_traversal"),
    ("link-link/secret", "path_traversal"),
    ("loop", "path_traversal"),
]


@pytest.mark.parametrize(("path", "reason"), BAD_PATHS)
@pytest.mark.parametrize("call", ["get", "put", "list"])
def test_a_path_that_leaves_the_workspace_is_refused(
    ship: Ship, outside: Path, call: str, path: str, reason: str
) -> None:
    make_links(ship.workspace, outside)
    path = path.replace("OUTSIDE", str(outside))
    calls: dict[str, Callable[[], httpx.Response]] = {
        "get": lambda: ship.get(path),
        "put": lambda: ship.put(path, b"owned"),
        "list": lambda: ship.entries(path),
    }
    answer = calls[call]()
    assert SECRET not in answer.text
    assert refusal(answer) == (400, "invalid_path", reason)
    assert (outside / "secret").read_text() == SECRET
    assert os.listdir(outside) == ["secret"]


def make_links(workspace: Path, outside: Path) -> None:
    (workspace / "a/b").mkdir(parents=True)
    (workspace / "link-out").symlink_to(outside)
    (workspace / "link-up").symlink_to("..")
    (workspace / "link-to-secret").symlink_to(outside / "secret")
    (workspace / "link-proc").symlink_to("/proc")
    (workspace / "link-link").symlink_to("link-out")
    (workspace / "loop").symlink_to("loop")


@pytest.mark.parametrize("path", ["../outside/secret", "OUTSIDE/secret", "a\0b", "", "link-out/secret", ".."])
def test_delete_does_not_leave_the_workspace(ship: Ship, outside: Path, path: str) -> None:
    make_links(ship.workspace, outside)
    assert refusal(ship.delete(path.replace("OUTSIDE", str(outside))))[:2] == (400, "invalid_path")
    assert (outside / "secret").read_text() == SECRET


def test_delete_of_a_link_removes_the_link_and_not_what_it_names(ship: Ship, outside: Path) -> None:
    make_links(ship.workspace, outside)
    for name in ("link-out", "link-up", "link-to-secret", "loop", "link-link/"):
        assert ship.delete(name).json() == {"status": "ok"}
    assert (outside / "secret").read_text() == SECRET
    assert sorted(os.listdir(ship.workspace)) == ["a", "link-proc"]


@pytest.mark.parametrize("path", [".", "./", "a/..", "./."])
def test_the_workspace_itself_is_not_deleted(ship: Ship, path: str) -> None:
    (ship.workspace / "a").mkdir()
    assert refusal(ship.delete(path))[:2] == (400, "validation_error")
    assert (ship.workspace / "a").is_dir()


def test_links_within_the_workspace_are_followed(ship: Ship) -> None:
    (ship.workspace / "dir").mkdir()
    (ship.workspace / "dir/real").write_text("old")
    (ship.workspace / "link").symlink_to("dir/real")
    (ship.workspace / "to-dir").symlink_to("dir")
    (ship.workspace / "dangling").symlink_to("dir/fresh")
    assert ship.get("link").text == "old"
    ship.put("link", b"new")
    assert (ship.workspace / "link").is_symlink()
    assert (ship.workspace / "dir/real").read_text() == "new"
    ship.put("to-dir/../dir/real", b"newer")
    assert ship.get("to-dir/real").text == "newer"
    ship.put("dangling", b"born")
    assert (ship.workspace / "dir/fresh").read_text() == "born"


@pytest.mark.parametrize("call", ["get", "list", "delete"])
@pytest.mark.parametrize("path", ["missing", "missing/file", "a/missing"])
def test_what_is_not_there_is_not_found(ship: Ship, call: str, path: str) -> None:
    (ship.workspace / "a").mkdir()
    answer = {"get": ship.get, "list": ship.entries, "delete": ship.delete}[call](path)
    assert refusal(answer)[:2] == (404, "file_not_found")


def test_a_file_is_no_directory_and_a_directory_no_file(ship: Ship) -> None:
    (ship.workspace / "dir").mkdir()
    (ship.workspace / "file").touch()
    for answer in (
        ship.get("dir"),
        ship.put("dir", b"x"),
        ship.put("file/below", b"x"),
        ship.put("dir/..", b"x"),
        ship.put(".", b"x"),
        ship.entries("file"),
    ):
        assert refusal(answer)[:2] == (400, "validation_error")
    assert refusal(ship.get("file/below"))[:2] == (404, "file_not_found")


def test_a_name_that_is_too_long_is_refused(ship: Ship) -> None:
    for answer in (ship.get("x" * 256), ship.put("x" * 256, b""), ship.get("x/" * 3000)):
        assert refusal(answer)[:2] == (400, "validation_error")


@contextmanager
def special(path: Path, kind: str) -> Generator[None]:
    if kind == "fifo":
        os.mkfifo(path)
        yield
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            yield
    else:
        os.mknod(path, 0o20666, os.makedev(5, 0))
        yield


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_regular_file_is_neither_read_nor_replaced_and_never_makes_ship_wait(
    ship: Ship, kind: str
) -> None:
    with special(ship.workspace / "odd", kind):
        for _ in range(6):  # more than there are threads
            assert refusal(ship.get("odd"))[:2] == (400, "validation_error")
            assert refusal(ship.put("odd", b"x"))[:2] == (400, "validation_error")
        assert ship.listed()[0][0]["size"] is None
        assert ship.delete("odd").json() == {"status": "ok"}
    assert os.listdir(ship.workspace) == []


def test_a_listing_has_directories_first_and_then_names(ship: Ship, outside: Path) -> None:
    for name in ("b", "d"):
        (ship.workspace / name).mkdir()
    for name in ("a", "c"):
        (ship.workspace / name).write_text("12345")
    (ship.workspace / "b-link").symlink_to("b")
    (ship.workspace / "out-link").symlink_to(outside)
    (ship.workspace / "a-link").symlink_to("c")
    (ship.workspace / "loop").symlink_to("loop")
    entries, truncated = ship.listed(".")
    assert [(e["name"], e["type"], e["size"]) for e in entries] == [
        ("b", "directory", None),
        ("d", "directory", None),
        ("a", "file", 5),
        ("a-link", "file", 5),
        ("b-link", "directory", None),
        ("c", "file", 5),
        ("loop", "symlink", None),
        ("out-link", "symlink", None),
    ]
    assert truncated is False
    assert entries[0]["path"] == f"{ship.workspace}/b"
    assert entries[0]["mtime"] == (ship.workspace / "b").stat().st_mtime


def test_a_listing_below_says_absolute_paths(ship: Ship) -> None:
    ship.put("x/y/z", b"")
    assert ship.listed("x/./y/")[0][0]["path"] == f"{ship.workspace}/x/y/z"


def test_a_huge_directory_is_cut_at_ten_thousand_entries(ship: Ship) -> None:
    for number in range(10_005):
        os.close(os.open(ship.workspace / f"f{number:05}", os.O_CREAT))
    os.mkdir(ship.workspace / "zz")
    entries, truncated = ship.listed()
    assert truncated is True
    assert len(entries) == 10_000
    assert [entries[index]["name"] for index in (0, 1, -1)] == ["zz", "f00000", "f09998"]


def test_delete_is_recursive(ship: Ship) -> None:
    ship.put("a/b/c/file", b"x")
    (ship.workspace / "a/link").symlink_to("b")
    os.mkfifo(ship.workspace / "a/fifo")
    ship.put("keep", b"x")
    assert ship.delete("a").json() == {"status": "ok"}
    assert os.listdir(ship.workspace) == ["keep"]


def test_delete_of_a_very_deep_tree_needs_neither_stack_nor_descriptors(ship: Ship) -> None:
    program = "import os\nfor _ in range(3000): os.mkdir('d'); open('f', 'w'); os.chdir('d')"
    assert ship.run(["/usr/bin/python3", "-c", program]).code == 0
    assert ship.delete("d").json() == {"status": "ok"}
    assert os.listdir(ship.workspace) == ["f"]
    ship.delete("f")


def test_delete_while_others_write_ends_in_time(ship: Ship) -> None:
    (ship.workspace / "busy").mkdir()
    exec_id = ship.start(
        "cd busy; echo up; while :; do mkdir -p a/b 2>/dev/null; echo > a/f; done 2>/dev/null"
    )
    ship.wait_output(exec_id, "up")
    assert ship.delete("busy").status_code in (200, 409)
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})


def test_an_upload_that_is_cut_short_leaves_the_old_file_and_nothing_else(ship: Ship) -> None:
    ship.put("file", b"old")
    for body in (b"half", b"x" * 600_000, b""):
        with ship.connect() as raw:
            head = f"PUT /fs/content?beneath=true&path=file HTTP/1.1\r\nHost: s\r\n{AUTHORIZATION}Content-Length: 1000000\r\n\r\n"
            raw.sendall(head.encode() + body)
            if body:
                assert eventually(lambda: len(os.listdir(ship.workspace)) == 2)
    with ship.connect() as raw:
        head = f"PUT /fs/content?beneath=true&path=file HTTP/1.1\r\nHost: s\r\n{AUTHORIZATION}Transfer-Encoding: chunked\r\n\r\n"
        raw.sendall(head.encode() + b"4\r\nhalf\r\n5\r\nha")
    assert eventually(lambda: os.listdir(ship.workspace) == ["file"])
    assert ship.get("file").text == "old"


def test_an_upload_under_way_when_ship_ends_leaves_no_temporary_file(ship: Ship) -> None:
    ship.put("file", b"old")
    with ship.connect() as raw:
        head = f"PUT /fs/content?beneath=true&path=file HTTP/1.1\r\nHost: s\r\n{AUTHORIZATION}Content-Length: 1000000\r\n\r\n"
        raw.sendall(head.encode() + b"x" * 500_000)
        assert eventually(lambda: len(os.listdir(ship.workspace)) == 2)
        ship.process.terminate()
        assert ship.process.wait(20) == 0
    assert os.listdir(ship.workspace) == ["file"]


def test_of_two_uploads_at_once_one_is_there_whole(ship: Ship) -> None:
    with ship.connect() as raw:
        head = f"PUT /fs/content?beneath=true&path=file HTTP/1.1\r\nHost: s\r\n{AUTHORIZATION}Content-Length: 6\r\n\r\n"
        raw.sendall(head.encode() + b"slo")
        assert ship.put("file", b"quick").status_code == 200
        assert ship.get("file").text == "quick"
        raw.sendall(b"wly")
        assert raw.recv(12) == b"HTTP/1.1 200"
    assert ship.get("file").text == "slowly"


def test_a_file_that_shrinks_while_it_is_read_ends_the_connection_and_not_the_truth(ship: Ship) -> None:
    (ship.workspace / "file").write_bytes(bytes(50_000_000))
    with ship.http.stream("GET", "/fs/content", params={"path": "file", "beneath": "true"}) as answer:
        chunks = answer.iter_raw(1000)
        next(chunks)
        os.truncate(ship.workspace / "file", 1_000_000)
        with pytest.raises(httpx.RemoteProtocolError):
            list(chunks)
    assert ship.get("file").status_code == 200


def test_large_files_go_through_in_constant_memory(ship: Ship) -> None:
    size = 200_000_000
    before = ship.rss()
    block = os.urandom(1_000_000)
    assert ship.put("big", (block for _ in range(200))).json()["size"] == size
    seen = 0
    with ship.http.stream("GET", "/fs/content", params={"path": "big", "beneath": "true"}) as answer:
        for chunk in answer.iter_raw():
            seen += len(chunk)
    assert seen == size
    assert ship.rss() - before < 16 << 20


def test_a_reader_that_stops_reading_is_waited_for_in_constant_memory(ship: Ship) -> None:
    (ship.workspace / "big").write_bytes(b"")
    os.truncate(ship.workspace / "big", 1 << 30)
    before = ship.rss()
    with ship.connect() as raw:
        raw.sendall(
            f"GET /fs/content?beneath=true&path=big HTTP/1.1\r\nHost: s\r\n{AUTHORIZATION}\r\n".encode()
        )
        raw.recv(100)
        for _ in range(200):
            assert ship.http.get("/healthz").status_code == 200
        assert ship.rss() - before < 8 << 20


@pytest.fixture
def full(ship: Ship) -> Iterator[Path]:
    """A directory of the workspace with room for 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    found = ship.workspace / "small"
    found.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(found)], check=True)
    yield found
    subprocess.run(["umount", "-l", str(found)], check=True)


def test_a_full_disk_is_said_and_leaves_the_old_file(ship: Ship, full: Path) -> None:
    (full / "file").write_text("old")
    assert refusal(ship.put("small/file", bytes(2 << 20)))[:2] == (507, "storage_full")
    assert os.listdir(full) == ["file"]
    assert ship.get("small/file").text == "old"
    assert ship.put("small/other", b"fits").status_code == 200


SWAPPER = """
import os, sys, time
os.chdir(sys.argv[1])
end = time.monotonic() + 20
print('up', flush=True)
while time.monotonic() < end:
    os.rename('dir', 'aside'); os.rename('evil', 'dir')
    os.rename('dir', 'evil'); os.rename('aside', 'dir')
"""


def test_a_link_put_in_place_of_a_directory_again_and_again_never_leads_out(
    ship: Ship, outside: Path
) -> None:
    (ship.workspace / "dir").mkdir()
    (ship.workspace / "dir/secret").write_text("harmless")
    (ship.workspace / "evil").symlink_to(outside)
    command = [sys.executable, "-c", SWAPPER, str(ship.workspace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout
            assert swapper.stdout.readline() == b"up\n"
            for _ in range(300):
                assert SECRET not in ship.get("dir/secret").text
                ship.put("dir/planted", b"x")
                assert SECRET not in ship.entries("dir").text
                ship.delete("dir/planted")
            ship.delete("dir")
        finally:
            swapper.kill()
    assert os.listdir(outside) == ["secret"]
    assert (outside / "secret").read_text() == SECRET


DELETE_SWAPPER = """
import os, sys, time
os.chdir(sys.argv[1])
end = time.monotonic() + 20
print('up', flush=True)
while time.monotonic() < end:
    try:
        os.makedirs('tree/a/b', exist_ok=True)
        open('tree/a/b/secret', 'w').close()
        os.rename('tree/a', 'aside'); os.symlink(sys.argv[2], 'tree/a')
        os.unlink('tree/a'); os.rename('aside', 'tree/a')
    except OSError:
        continue
"""


def test_delete_under_a_race_of_renames_removes_nothing_outside(ship: Ship, outside: Path) -> None:
    (outside / "b").mkdir()
    (outside / "b/secret").write_text(SECRET)
    command = [sys.executable, "-c", DELETE_SWAPPER, str(ship.workspace), str(outside)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as swapper:
        try:
            assert swapper.stdout
            assert swapper.stdout.readline() == b"up\n"
            for _ in range(300):
                assert ship.delete("tree").status_code in (200, 404, 409)
        finally:
            swapper.kill()
    assert (outside / "secret").read_text() == SECRET
    assert (outside / "b/secret").read_text() == SECRET
    shutil.rmtree(ship.workspace / "tree", ignore_errors=True)


def test_a_file_under_a_lease_does_not_make_ship_wait(ship: Ship) -> None:
    (ship.workspace / "leased").write_text("x")
    with open(ship.workspace / "leased", "r+") as held:
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import fcntl, sys, time; fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_WRLCK); print('up', flush=True); import signal; signal.signal(signal.SIGIO, signal.SIG_IGN); sys.stdout.close(); time.sleep(60)",
            ],
            stdin=held,
            stdout=subprocess.PIPE,
        )
    try:
        assert holder.stdout
        assert holder.stdout.readline() in (b"up\n", b"")
        assert ship.get("leased").status_code in (200, 409)
        assert ship.http.get("/healthz").status_code == 200
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
