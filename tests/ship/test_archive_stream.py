"""Directories as archives: both ways, and what a hostile archive cannot do."""

import gzip
import io
import os
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ship_harness import Ship, eventually, running

from ship.tools import unpack, walk
from tree_tar.reader import BadArchive, Member, Reader

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One Ship for all tests of this file: none of them harms it."""
    with running() as found:
        yield found


@pytest.fixture
def top(ship: Ship, request: pytest.FixtureRequest) -> Path:
    """A directory of the test's own."""
    found = ship.workspace / str(abs(hash(request.node.nodeid)))
    found.mkdir()
    return found


def get(ship: Ship, path: Path, kind: str = "tar") -> httpx.Response:
    return ship.http.get("/fs/archive", params={"path": str(path), "format": kind})


def put(ship: Ship, path: Path, content: bytes | Iterator[bytes], kind: str = "tar") -> httpx.Response:
    return ship.http.put("/fs/archive", params={"path": str(path), "format": kind}, content=content)


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for info, content in members:
            info.size = len(content) or info.size
            made.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.mtime = kind, link, mode, 1_000_000_000
    return info


def facts(top: Path) -> dict[str, tuple[object, ...]]:
    """All there is to compare of a tree."""
    found: dict[str, tuple[object, ...]] = {}
    for path in top.rglob("*"):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        target = os.readlink(path) if path.is_symlink() else None
        found[str(path.relative_to(top))] = (
            oct(info.st_mode),
            info.st_mtime_ns,
            info.st_nlink,
            content,
            target,
        )
    return found


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_a_tree_comes_back_as_it_was(ship: Ship, top: Path, kind: str) -> None:
    tree = top / "from"
    (tree / "d/deep").mkdir(parents=True)
    (tree / "a").write_bytes(os.urandom(700_000))
    os.link(tree / "a", tree / "d/hard")
    (tree / "link").symlink_to("/etc/passwd")
    os.mkfifo(tree / "fifo")
    (tree / os.fsdecode(b"\xffname" + b"x" * 120)).write_text("bytes")
    (tree / "üüü").mkdir()
    with open(tree / "sparse", "wb") as file:
        file.seek(30_000_000)
        file.write(b"end")
    (tree / "d/deep").chmod(0o500)
    os.utime(tree / "d", ns=(0, 1_234_567_890_123_456_789))
    answer = get(ship, tree, kind)
    assert answer.status_code == 200
    assert len(answer.content) < 2_000_000
    taken = put(ship, top / "to/new", answer.content, kind)
    assert taken.json()["files"] == 6
    assert facts(top / "to/new") == facts(tree)
    assert (top / "to/new/sparse").stat().st_blocks < 1000
    (tree / "d/deep").chmod(0o700)


def test_a_file_is_an_archive_of_itself(ship: Ship, top: Path) -> None:
    (top / "one").write_text("content")
    with tarfile.open(fileobj=io.BytesIO(get(ship, top / "one").content)) as found:
        assert found.getnames() == ["one"]
    assert get(ship, top / "none").status_code == 404
    os.mkfifo(top / "fifo")
    assert get(ship, top / "fifo").status_code == 400


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_what_tar_makes_is_taken(ship: Ship, top: Path, form: str) -> None:
    tree = top / "from"
    (tree / "d").mkdir(parents=True)
    (tree / "d" / ("n" * 90)).write_bytes(b"x" * 70_000)
    os.truncate(tree / "d" / ("n" * 90), 5_000_000)
    sparse = ["-S"] if form in ("gnu", "oldgnu", "pax") else []
    command = ["tar", "-C", str(tree), f"--format={form}", *sparse, "-cf", "-", "."]
    made = subprocess.run(command, capture_output=True, check=True).stdout
    assert put(ship, top / "to", made).status_code == 200
    assert (top / "to/d" / ("n" * 90)).read_bytes() == (tree / "d" / ("n" * 90)).read_bytes()


@pytest.mark.parametrize("record", [{"uid": "-2"}, {"gid": ""}, {"mtime": ""}, {"mtime": "1700000000000"}])
def test_an_owner_or_a_time_that_is_not_used_refuses_no_archive(
    ship: Ship, top: Path, record: dict[str, str]
) -> None:
    told = member("file")
    told.pax_headers = record
    assert put(ship, top, archive((told, b"x"))).status_code == 200
    assert (top / "file").read_bytes() == b"x"


def test_what_was_there_is_replaced_and_what_is_beside_stays(ship: Ship, top: Path) -> None:
    outside = top / "outside"
    outside.write_text("safe")
    (top / "to").mkdir()
    (top / "to/link").symlink_to(outside)
    (top / "to/other").write_text("stays")
    held = os.open(top / "to/other", os.O_RDONLY)
    content = archive((member("link"), b"new"), (member("suid", mode=0o6755), b"x"))
    assert put(ship, top / "to", content).json() == {"files": 2, "bytes": 4}
    assert outside.read_text() == "safe"
    assert (top / "to/link").read_text() == "new"
    assert not (top / "to/link").is_symlink()
    assert stat.S_IMODE((top / "to/suid").stat().st_mode) == 0o755
    assert sorted(os.listdir(top / "to")) == ["link", "other", "suid"]
    os.close(held)


HOSTILE = {
    "up": [(member("../out"), b"x")],
    "up inside": [(member("a/../../out"), b"x")],
    "absolute": [(member("/tmp/bay-out"), b"x")],
    "through a link of its own": [(member("l", tarfile.SYMTYPE, ".."), b""), (member("l/out"), b"x")],
    "through a link that was there": [(member("there/out"), b"x")],
    "a directory over a link": [(member("there", tarfile.DIRTYPE), b"")],
    "a hard link to outside": [(member("h", tarfile.LNKTYPE, "../secret"), b"")],
    "a hard link to an absolute name": [(member("h", tarfile.LNKTYPE, "/etc/passwd"), b"")],
    "a hard link through a link": [(member("h", tarfile.LNKTYPE, "there/secret"), b"")],
    "a device": [(member("null", tarfile.CHRTYPE), b"")],
    "a file over a directory": [(member("full/x"), b"x"), (member("full"), b"x")],
    "below a file": [(member("f"), b"x"), (member("f/x"), b"x")],
    "a name too long": [(member("n" * 300), b"x")],
    "no name": [(member("."), b"x")],
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_nothing_outside_is_touched(
    ship: Ship, top: Path, what: str
) -> None:
    (top / "secret").write_text("secret")
    (top / "to").mkdir()
    (top / "to/there").symlink_to(top)
    before = {name: (top / name).lstat().st_mtime_ns for name in ("secret",)}
    first = (member("first"), b"made before")
    answer = put(ship, top / "to", archive(first, *HOSTILE[what]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error"), answer.text
    assert sorted(os.listdir(top)) == ["secret", "to"]
    assert {name: (top / name).lstat().st_mtime_ns for name in before} == before
    assert (top / "secret").stat().st_nlink == 1
    assert not Path("/tmp/bay-out").exists()
    assert (top / "to/first").read_text() == "made before"
    assert not [name for name in os.listdir(top / "to") if name.startswith(".ship-")]


def test_a_bomb_of_headers_or_of_zeros_is_refused(ship: Ship, top: Path) -> None:
    promised = member("x", tarfile.XHDTYPE)
    promised.size = (1 << 33) - 1
    huge = promised.tobuf(tarfile.USTAR_FORMAT)
    assert put(ship, top, huge + b"9" * 100_000).status_code == 400
    zeros = gzip.compress(archive((member("zeros"), bytes(60_000_000))), 1)
    assert put(ship, top, zeros, "tar.gz").json() == {"files": 1, "bytes": 60_000_000}


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_what_is_cut_off_or_no_archive_is_refused(ship: Ship, top: Path, kind: str) -> None:
    whole = archive((member("a"), os.urandom(5000)), (member("b"), os.urandom(5000)))
    given = gzip.compress(whole) if kind == "tar.gz" else whole
    for content in (b"", b"no archive" * 200, given[: len(given) // 2], given[:700]):
        answer = put(ship, top, content, kind)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")
    assert not [name for name in os.listdir(top) if name.startswith(".ship-")]


def test_a_caller_who_leaves_leaves_nothing_half_made(ship: Ship, top: Path) -> None:
    head = f"PUT /fs/archive?path={top} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-token-of-the-tests\r\n"
    with ship.connect() as raw:
        raw.sendall(
            f"{head}Content-Length: 1000000\r\n\r\n".encode() + archive((member("a"), b"x" * 90_000))[:50_000]
        )
        assert eventually(lambda: bool(os.listdir(top)))
    assert eventually(lambda: not os.listdir(top))


def test_a_reader_who_leaves_ends_the_packing(ship: Ship, top: Path) -> None:
    os.truncate(os.open(top / "large", os.O_CREAT | os.O_WRONLY), 0)
    (top / "large").write_bytes(bytes(40_000_000))
    with ship.connect() as raw:
        head = f"GET /fs/archive?path={top} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-token-of-the-tests\r\n\r\n"
        raw.sendall(head.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
    started = time.monotonic()
    assert ship.http.get("/healthz").status_code == 200
    assert time.monotonic() - started < 5


def pax(records: bytes) -> bytes:
    """A tar of one file with that pax header before it."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    padded = records + bytes(-len(records) % 512)
    return info.tobuf(tarfile.USTAR_FORMAT) + padded + member("f").tobuf(tarfile.USTAR_FORMAT) + bytes(1024)


def test_a_pax_record_without_a_space_is_refused() -> None:
    read = io.BytesIO(pax(b"11 path=aa\n" + b"x" * 40)).read
    with limited_to(5), pytest.raises(BadArchive):
        next(Reader(unpack.RULES).pull(read))


def test_a_list_of_holes_that_ends_in_the_middle_is_refused() -> None:
    read = io.BytesIO(pax(b"28 GNU.sparse.map=0,512,512\n23 GNU.sparse.size=512\n")).read
    with pytest.raises(BadArchive, match="ends in the middle"):
        next(Reader(unpack.RULES).pull(read))


def test_a_tree_that_is_too_deep_is_not_passed_off_as_whole(ship: Ship, top: Path) -> None:
    here = os.open(top, os.O_RDONLY)
    for _ in range(walk.DEEPEST + 5):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    try:
        with pytest.raises(httpx.RemoteProtocolError):
            get(ship, top)
    finally:
        assert ship.http.delete("/fs", params={"path": str(top / "d")}).status_code == 200


@contextmanager
def limited_to(seconds: int) -> Generator[None]:
    """Ends what would go on for ever."""

    def give_up(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class _Stream:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        assert 0 <= size <= 1 << 20
        return self._file.read(size)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_tar_is_read_or_refused(data: st.DataObject) -> None:
    made = bytearray(
        archive(
            (member("a" * 150), b"x" * 700),
            (member("l", tarfile.SYMTYPE, "b" * 120), b""),
            (member("ü"), b""),
        )
    )
    for _ in range(data.draw(st.integers(0, 6))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    for start in range(0, len(made), 512):  # or nothing behind the sum would ever be looked at
        block = made[start : start + 512]
        made[start + 148 : start + 156] = b"%06o\0 " % (sum(block[:148]) + 256 + sum(block[156:]))
    cut = data.draw(st.integers(0, len(made)))
    data_bytes = left = 0
    try:
        for event in Reader(unpack.RULES).pull(_Stream(bytes(made[:cut])).read):
            if isinstance(event, Member):
                assert left == 0
                unpack._parts(event, event.name)  # pyright: ignore[reportPrivateUsage]
                left = event.data_bytes
            else:
                left -= len(event.data)
                data_bytes += len(event.data)
    except BadArchive:
        return
    assert (left, data_bytes <= len(made)) == (0, True)
