"""A workspace as a whole: the archive that a checkpoint of a volume claim is, and its way back."""

import asyncio
import io
import os
import socket
import stat
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from ship_harness import Ship, running

from bay.cargo import export_process
from bay.cargo.claim_archives import archived, tar_of
from bay.cargo.manifest import Manifest
from bay.errors import BadRequest
from bay.server.ship.carriers import read_trailer
from bay.testing.cargo import facts
from ship.tools import pack
from ship.tools.checkpoint import WORKSPACE, WholePacker
from ship.tools.pack import Plain
from ship_protocol import CHECKPOINT_TRAILER
from tree_tar.beneath import OPEN_DIRECTORY, closing
from tree_tar.headers import DIRECTORY, END, FILE, header, padding

pytestmark = pytest.mark.host

FACTS = Manifest(bay="0.1", persist="workspace", image="host", created_at=datetime(2026, 11, 30, tzinfo=UTC))
MIB = 1 << 20


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One without any right, as in the pod of a carrier."""
    with running(pod=True) as found:
        yield found


@pytest.fixture
def top(ship: Ship, request: pytest.FixtureRequest) -> Path:
    """The top of a claim of the test's own."""
    return claim(ship, str(abs(hash(request.node.nodeid))))


def claim(ship: Ship, name: str) -> Path:
    made = ship.workspace / name
    made.mkdir()
    os.chown(made, 0, 1000)
    made.chmod(0o2775)  # as a kubelet has it
    return made


def given(ship: Ship, top: Path) -> bytes:
    """All that the carrier sends."""
    answer = ship.http.get("/fs/checkpoint", params={"path": str(top)})
    assert answer.status_code == 200, answer.text
    return answer.content


def packed(ship: Ship, top: Path) -> bytes:
    """The archive."""
    found = given(ship, top)
    read_trailer(found[-CHECKPOINT_TRAILER:])
    return zipped(found[:-CHECKPOINT_TRAILER])


def zipped(members: bytes) -> bytes:
    async def chunks() -> AsyncGenerator[bytes]:
        yield members

    async def whole() -> bytes:
        return b"".join([chunk async for chunk in archived(chunks(), FACTS)])

    return asyncio.run(whole())


def unzipped(archive: bytes) -> bytes:
    async def chunks() -> AsyncGenerator[bytes]:
        yield archive

    async def whole() -> bytes:
        return b"".join([chunk async for chunk in tar_of(chunks())])

    return asyncio.run(whole())


def put(ship: Ship, top: Path, tar: bytes | Iterator[bytes], **query: int) -> httpx.Response:
    return ship.http.put("/fs/checkpoint", params={"path": str(top), **query}, content=tar)


def tar(*members: tuple[str, str, bytes, str]) -> bytes:
    """A tar that has an end, of kinds, names, contents and links."""
    told = [("file", "checkpoint.json", b"{}", ""), ("directory", "workspace", b"", ""), *members]
    blocks = [
        header(name, kind, mode=0o755, size=len(content), link=link) + content + padding(len(content))
        for kind, name, content, link in [*told, ("file", "sha256", b"0" * 64, "")]
    ]
    return b"".join(blocks) + END


def fill(top: Path) -> Path:
    """One of everything that a program without rights can make, some of which it may not read any more."""
    workspace = top / "workspace"
    workspace.mkdir()
    (workspace / "one").write_text("linked")
    (workspace / "shut").mkdir()
    (workspace / "shut/inner").mkdir()
    os.link(workspace / "one", workspace / "shut/inner/two")
    (workspace / "unreadable").write_text("kept")
    os.link(workspace / "shut/inner/two", workspace / "zz")
    (workspace / "set-id").write_text("#!")
    with (workspace / "sparse").open("wb") as file:
        file.seek(64 * MIB)
        file.write(b"end")
        file.truncate(66 * MIB)
    os.mkfifo(workspace / "fifo", 0o640)
    os.mknod(workspace / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.close(os.open(os.fsencode(workspace) + b"/\xff\xfe", os.O_CREAT | os.O_WRONLY))
    (workspace / "link").symlink_to("/etc/passwd")
    (workspace / "empty").touch()
    os.setxattr(workspace / "shut", "user.colour", b"y\0z")
    os.setxattr(workspace / "unreadable", "user.colour", b"green")
    for path in [workspace, *sorted(workspace.rglob("*"))]:
        os.chown(path, 1000, 1000, follow_symlinks=False)
    (workspace / "set-id").chmod(0o6751)
    os.utime(workspace / "one", ns=(10**18, 123_456_789_012_345_678))
    os.utime(workspace / "link", ns=(10**18, 999_999_999), follow_symlinks=False)
    (workspace / "unreadable").chmod(0)
    (workspace / "shut/inner").chmod(0o100)
    (workspace / "shut").chmod(0)
    workspace.chmod(0o1711)
    return workspace


def test_every_kind_of_file_comes_back_exactly_and_stays_as_it_was(ship: Ship, top: Path) -> None:
    workspace = fill(top)
    before = facts(workspace)
    archive = packed(ship, top)
    assert len(archive) < 100_000
    assert facts(workspace) == before
    other = claim(ship, f"{top.name}-other")
    answer = put(ship, other, unzipped(archive))
    assert answer.json() == {"entries": len(before)}, answer.text
    assert facts(other / "workspace") == before
    assert (other / "workspace/sparse").stat().st_blocks < 1000
    assert os.listdir(other) == ["workspace"]


def test_an_archive_is_one_that_any_bay_imports(ship: Ship, top: Path, tmp_path: Path) -> None:
    workspace = fill(top)
    read = io.BytesIO(packed(ship, top)).read
    made = export_process.unpack(read, tmp_path, None)
    assert made.facts == FACTS
    assert facts(tmp_path / "workspace") == facts(workspace)


def test_a_claim_that_was_never_used_has_an_empty_workspace(ship: Ship, top: Path) -> None:
    found = given(ship, top)
    assert read_trailer(found[-CHECKPOINT_TRAILER:]) == {"entries": 1, "bytes": 0}
    put(ship, top, tar(("file", "workspace/new", b"new", ""))).raise_for_status()
    assert put(ship, top, unzipped(zipped(found[:-CHECKPOINT_TRAILER]))).json() == {"entries": 1}
    assert os.listdir(top / "workspace") == []


def test_a_file_of_a_terabyte_of_holes_is_small(ship: Ship, top: Path) -> None:
    (top / "workspace").mkdir()
    with (top / "workspace/huge").open("wb") as file:
        file.seek(1 << 39)
        file.write(b"in the middle")
        file.truncate(1 << 40)
    archive = packed(ship, top)
    assert len(archive) < 10_000
    put(ship, top, unzipped(archive), most_mb=1).raise_for_status()
    with (top / "workspace/huge").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == 1 << 40
        assert os.fstat(file.fileno()).st_blocks < 1000
        file.seek(1 << 39)
        assert file.read(14) == b"in the middle\0"


class Counted(Plain):
    """Counts what it is given, and reads no file."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def write(self, data: bytes) -> None:
        self.bytes += len(data)

    def copy(self, descriptor: int, offset: int, size: int) -> int:
        self.bytes += size
        return size


def test_files_with_too_many_holes_to_keep_are_no_copy_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "_MAX_SEGMENTS", 4)
    for number in range(8):
        with (tmp_path / f"file{number}").open("wb") as file:
            for at in range(8):
                file.seek(at * 64 * MIB)
                file.write(b"x")
    out = Counted()
    packer = WholePacker(out, most_bytes=1 << 30)
    with (
        closing(os.open(tmp_path, OPEN_DIRECTORY)) as directory,
        pytest.raises(SystemExit, match="more than 4 times its file system"),
    ):
        packer.add_directory(directory, WORKSPACE)
    assert 0 < out.bytes <= (1 << 30) + MIB


def test_sockets_alone_are_left_out(ship: Ship, top: Path) -> None:
    (top / "workspace").mkdir(mode=0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(top / "workspace", os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
        assert put(ship, top, unzipped(packed(ship, top))).json() == {"entries": 1}


def test_what_cannot_be_read_is_said_and_is_no_archive(ship: Ship, top: Path) -> None:
    (top / "workspace").mkdir()
    (top / "workspace/of-root").write_text("secret")
    (top / "workspace/of-root").chmod(0o600)
    with pytest.raises(BadRequest, match=r"'workspace/of-root' cannot be read: Permission denied"):
        read_trailer(given(ship, top)[-CHECKPOINT_TRAILER:])
    deep = top / "workspace/of-root"
    deep.unlink()
    here = os.open(top / "workspace", os.O_RDONLY)
    for _ in range(402):
        os.mkdir("d", 0o755, dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(BadRequest, match="directories are more than 400 deep"):
        read_trailer(given(ship, top)[-CHECKPOINT_TRAILER:])


def test_the_workspace_that_a_kubelet_has_made_goes_as_well(ship: Ship, top: Path) -> None:
    (top / "workspace").mkdir()
    (top / "workspace").chmod(0o2775)
    (top / "workspace/file").write_text("former")
    os.chown(top / "workspace/file", 1000, 1000)
    for _ in range(2):
        put(ship, top, tar(("file", "workspace/new", b"new", ""))).raise_for_status()
        assert (os.listdir(top), os.listdir(top / "workspace")) == (["workspace"], ["new"])


def test_the_former_files_go_however_deep_and_shut_they_are(ship: Ship, top: Path) -> None:
    workspace = fill(top)
    here = os.open(workspace, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", 0o700, dir_fd=here)
        os.chown("d", 1000, 1000, dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    put(ship, top, tar(("file", "workspace/new", b"new", ""))).raise_for_status()
    assert os.listdir(top) == ["workspace"]
    assert (top / "workspace/new").read_text() == "new"


def test_a_restore_that_was_killed_is_begun_anew(ship: Ship, top: Path) -> None:
    for name in ("workspace", "restore-0123456789abcdef", "replaced"):
        (top / name).mkdir()
        (top / name / "file").write_text(name)
        for path in (top / name, top / name / "file"):
            os.chown(path, 1000, 1000)
    assert read_trailer(given(ship, top)[-CHECKPOINT_TRAILER:]) == {"entries": 2, "bytes": 9}
    assert (top / "workspace/file").read_text() == "workspace"
    put(ship, top, tar(("file", "workspace/new", b"new", ""))).raise_for_status()
    assert os.listdir(top) == ["workspace"]


def test_a_node_that_went_down_between_two_renames_has_the_former_files(ship: Ship, top: Path) -> None:
    (top / "replaced").mkdir()
    os.chown(top / "replaced", 1000, 1000)
    (top / "replaced/file").write_text("former")
    assert read_trailer(given(ship, top)[-CHECKPOINT_TRAILER:]) == {"entries": 2, "bytes": 6}
    assert (top / "workspace/file").read_text() == "former"


BAD = {
    "truncated": (tar()[: -len(END)], "ends too early"),
    "no digest": (header("workspace", DIRECTORY, mode=0o755) + END, "has no end"),
    "no workspace": (header("sha256", FILE, size=0) + END, "has no end"),
    "something after the digest": (
        tar()[: -len(END)] + header("workspace/late", FILE, mode=0o644) + END,
        "comes after its end",
    ),
    "a name that leads out": (tar(("file", "workspace/../out", b"x", "")), "has no place in a workspace"),
    "another place": (tar(("file", "machine/x", b"x", "")), "has no place in a workspace"),
    "an absolute name": (tar(("file", "/etc/x", b"x", "")), "has no place in a workspace"),
    "a link out": (tar(("link", "workspace/x", b"", "../../etc/passwd")), "has no place in a workspace"),
    "through a link": (
        tar(("symlink", "workspace/l", b"", "/"), ("file", "workspace/l/x", b"x", "")),
        "cannot be made",
    ),
    "a file as the top": (header("workspace", FILE, mode=0o644) + END, "is no directory"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_archive_is_refused_and_the_files_are_as_before(ship: Ship, top: Path, name: str) -> None:
    workspace = fill(top)
    before = facts(workspace)
    archive, message = BAD[name]
    answer = put(ship, top, archive)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")
    assert message in answer.json()["error"]["message"]
    assert facts(workspace) == before
    assert os.listdir(top) == ["workspace"]


def test_a_body_that_breaks_off_changes_nothing(ship: Ship, top: Path) -> None:
    workspace = fill(top)
    before = facts(workspace)

    def broken() -> Iterator[bytes]:
        yield tar(("file", "workspace/new", b"x" * MIB, ""))[:-2048]
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        put(ship, top, broken())
    again = put(ship, top, b"")  # which waits for its turn on nothing, and clears what the first has left
    assert again.status_code == 400
    assert facts(workspace) == before


@pytest.mark.parametrize("query", [{"most_mb": 1}, {"room_mb": 999_999_999}])
def test_more_than_there_is_room_for_is_a_full_disk_and_the_files_are_as_before(
    ship: Ship, top: Path, query: dict[str, int]
) -> None:
    workspace = fill(top)
    before = facts(workspace)
    answer = put(ship, top, tar(("file", "workspace/new", b"x" * 2 * MIB, "")), **query)
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
    assert facts(workspace) == before
    assert os.listdir(top) == ["workspace"]


def test_an_archive_that_was_altered_or_cut_never_gives_its_end() -> None:
    whole = zipped(header("workspace", DIRECTORY, mode=0o755) + os.urandom(3 * MIB)[: 512 * 4000])
    for damaged in (whole[:-1], whole[:-5] + b"\0" + whole[-4:], whole + b"x", whole[: len(whole) // 2]):
        with pytest.raises(BadRequest, match="archive"):
            unzipped(damaged)


def test_an_archive_of_zeros_takes_little_memory() -> None:
    archive = zipped(bytes(200 * MIB))

    async def chunks() -> AsyncGenerator[bytes]:
        yield archive

    async def largest() -> int:
        return max([len(chunk) async for chunk in tar_of(chunks())])

    assert asyncio.run(largest()) <= MIB + 4096
