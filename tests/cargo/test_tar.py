"""Trees in a tar and back: everything that a sandbox can make survives, and nothing that an enemy wrote gets
out.
"""

import asyncio
import io
import os
import socket
import stat
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bay.cargo.tar_pack import Packer
from bay.cargo.tar_unpack import RULES, CargoPolicy, Digests
from bay.errors import BadRequest
from bay.linux import remove_tree
from tree_tar.beneath import open_beneath
from tree_tar.extract import Extractor
from tree_tar.reader import Reader

ROOT = os.geteuid() == 0
WS = "cargo/ws-" + "0" * 24


def pack(tree: Path) -> tuple[bytes, Packer]:
    """The directory `tree` as a tar with the names of one workspace."""
    stream = io.BytesIO()
    packer = Packer(stream)
    packer.add_directory("cargo", tree)
    packer.add_tree(WS, tree)
    packer.finish()
    return stream.getvalue(), packer


def unpack(data: bytes, into: Path) -> dict[str, str]:
    """Unpack below `into`; gives the digests."""
    into.mkdir(exist_ok=True)
    top = os.open(into, os.O_RDONLY | os.O_DIRECTORY)
    try:
        policy = CargoPolicy(lambda _parts, _member: True, own=ROOT, depth=2)
        digests = Digests()
        with closing(Extractor(top, policy)) as extractor:
            for event in Reader(RULES).pull(io.BytesIO(data).read):
                digests.take(event)
                extractor.take(event)
            extractor.finish()
    finally:
        os.close(top)
    return digests.by_name()


def directory(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def around(tree: Path, into: Path) -> Path:
    """`tree`, packed and unpacked."""
    data, packer = pack(tree)
    assert unpack(data, into) == packer.digests
    return into / WS


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir(mode=0o755)
    return tmp_path / "tree"


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "into"


def facts(path: Path) -> tuple[object, ...]:
    found = path.lstat()
    owner = (found.st_uid, found.st_gid) if ROOT else ()
    mode = 0 if path.is_symlink() else stat.S_IMODE(found.st_mode)
    return stat.S_IFMT(found.st_mode), mode, owner, found.st_mtime_ns


def test_modes_owners_times_and_kinds_survive(tree: Path, into: Path) -> None:
    (tree / "sub").mkdir()
    for name, mode in (("plain", 0o644), ("set-uid", 0o4755), ("closed", 0), ("sub/sticky", 0o1777)):
        (tree / name).write_text(name)
        (tree / name).chmod(mode)
    (tree / "link").symlink_to("/etc/passwd")
    (tree / "dangling").symlink_to("../" * 9)
    os.mkfifo(tree / "pipe", 0o640)
    if ROOT:
        os.chown(tree / "set-uid", 1000, 1000)
        (tree / "set-uid").chmod(0o4755)
        os.chown(tree / "link", 1000, 1000, follow_symlinks=False)
        os.chown(tree / "sub", 65_535, 0)
    os.utime(tree / "plain", (1, 1.25))
    os.utime(tree / "sub", (1, 2))
    made = around(tree, into)
    names = ("", "plain", "set-uid", "closed", "sub", "sub/sticky", "link", "dangling", "pipe")
    assert {name: facts(made / name) for name in names} == {name: facts(tree / name) for name in names}
    assert (made / "plain").read_text() == "plain"
    assert os.readlink(made / "link") == "/etc/passwd"


def test_names_of_any_bytes_and_any_length_survive(tree: Path, into: Path) -> None:
    names = [
        b"\xff\xfe",
        b"new\nline",
        b"-rf",
        b"x" * 255,
        "ünï".encode(),
        b"sp ace",
        b"*",
        b"tab\t",
        b"back\\slash",
    ]
    for name in names:
        (tree / os.fsdecode(name)).write_bytes(name)
    made = around(tree, into)
    assert sorted(os.listdir(os.fsencode(made))) == sorted(names)
    assert (made / os.fsdecode(b"\xff\xfe")).read_bytes() == b"\xff\xfe"


def test_attributes_survive_with_any_bytes_and_those_of_the_system_do_not(tree: Path, into: Path) -> None:
    (tree / "file").touch()
    try:
        os.setxattr(tree / "file", "user.any", bytes(range(256)))
    except OSError:
        pytest.skip("this file system has no attributes")
    os.setxattr(tree, "user.top", b"1")
    if ROOT:
        os.setxattr(tree / "file", "trusted.secret", b"1")
    made = around(tree, into)
    assert {name: os.getxattr(made / "file", name) for name in os.listxattr(made / "file")} == {
        "user.any": bytes(range(256))
    }
    assert os.getxattr(made, "user.top") == b"1"


def test_hard_links_stay_links(tree: Path, into: Path) -> None:
    (tree / "a").write_text("one")
    (tree / "b").hardlink_to(tree / "a")
    (tree / "z").mkdir()
    (tree / "z/c").hardlink_to(tree / "a")
    made = around(tree, into)
    assert {(made / name).stat().st_ino for name in ("a", "b", "z/c")} == {(made / "a").stat().st_ino}
    assert (made / "z/c").read_text() == "one"


@pytest.mark.parametrize(
    "writes",
    [{1 << 40: b"end"}, {0: b"begin", 1 << 30: b"middle"}, {}, {5_000_000: b"x" * 3_000_000}],
    ids=range(4),
)
def test_a_file_with_holes_takes_the_space_of_its_data_only(
    tree: Path, into: Path, writes: dict[int, bytes]
) -> None:
    with (tree / "sparse").open("wb") as file:
        for offset, data in writes.items():
            os.pwrite(file.fileno(), data, offset)
        file.truncate((1 << 40) + 4096)
    data, packer = pack(tree)
    assert len(data) < 4 << 20
    assert unpack(data, into) == packer.digests
    with (into / WS / "sparse").open("rb") as file:
        assert os.fstat(file.fileno()).st_size == (1 << 40) + 4096
        assert os.fstat(file.fileno()).st_blocks * 512 < 8 << 20
        for offset, written in writes.items():
            assert os.pread(file.fileno(), len(written), offset) == written


def test_other_programs_can_read_it(tree: Path, tmp_path: Path) -> None:
    (tree / "plain").write_bytes(os.urandom(3_000_000))
    with (tree / "sparse").open("wb") as file:
        os.pwrite(file.fileno(), b"end", 10_000_000)
    with tarfile.open(fileobj=io.BytesIO(pack(tree)[0])) as tar:
        for name in ("plain", "sparse"):
            content = tar.extractfile(f"{WS}/{name}")
            assert content is not None
            assert content.read() == (tree / name).read_bytes()


@pytest.mark.host
def test_a_tree_deeper_than_any_path_survives(tree: Path, into: Path) -> None:
    here = os.open(tree, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deep" * 4, dir_fd=here)
        below = os.open("deep" * 4, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    data, packer = pack(tree)
    assert unpack(data, into) == packer.digests
    top = os.open(into, os.O_RDONLY)
    bottom = open_beneath(top, (*WS.split("/"), *["deep" * 4] * 1200))
    assert os.listdir(bottom) == ["bottom"]
    for fd in (top, bottom):
        os.close(fd)
    asyncio.run(remove_tree.remove(tree, into))  # pytest cannot


def test_no_link_is_followed_while_packing_and_a_socket_is_left_out(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("not yours")
    (tree / "link").symlink_to(tmp_path / "secret")
    (tree / "up").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        data, packer = pack(tree)
    assert b"not yours" not in data
    assert packer.left_out == [f"{WS}/socket"]


def test_a_file_in_too_many_pieces_is_left_out_or_refused(
    tree: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bay.cargo.tar_pack.MAX_PIECES", 3)
    for count, name in ((3, "few"), (4, "many")):
        with (tree / name).open("wb") as file:
            for number in range(count):
                os.pwrite(file.fileno(), b"x", number << 20)
            os.truncate(file.fileno(), count << 20)
    data, packer = pack(tree)
    unpack(data, into)
    assert [Path(name).name for name in packer.left_out] == ["many"]
    with pytest.raises(BadRequest, match="more than 3 pieces"):
        Packer(io.BytesIO(), strict=True).add_tree("workspace", tree)


def test_a_file_that_shrinks_while_it_is_read_is_filled_up(tree: Path, into: Path) -> None:
    (tree / "file").write_bytes(b"x" * 5_000_000)
    stream = _Cutting(tree / "file")
    packer = Packer(stream)
    packer.add_directory("cargo", tree)
    packer.add_tree(WS, tree)
    packer.finish()
    assert unpack(stream.getvalue(), into) == packer.digests
    assert len((into / WS / "file").read_bytes()) == 5_000_000


class _Cutting(io.BytesIO):
    """Cuts the file short when its header was written, and its content was not."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def write(self, data: Any, /) -> int:
        if b"/file" in bytes(data)[:512]:
            os.truncate(self._path, 1000)
        return super().write(data)


# What an enemy writes


def tar_of(*members: tuple[str, Callable[[tarfile.TarInfo], None], bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("cargo", WS, f"{WS}/dir"):
            tar.addfile(directory(name))
        for name, change, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def plain(_info: tarfile.TarInfo) -> None:
    pass


def kind(number: bytes, target: str = "") -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = number, target

    return change


def device(number: bytes, major: int) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.devmajor = number, major

    return change


def attributed(number: bytes) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.pax_headers = number, {"SCHILY.xattr.user.x": "y"}

    return change


def owned(uid: int) -> Callable[[tarfile.TarInfo], None]:
    def change(info: tarfile.TarInfo) -> None:
        info.uid = uid

    return change


OTHER = "cargo/ws-" + "1" * 24
EVIL = {
    "up": [("../escaped", plain, b"x")],
    "up inside": [(f"{WS}/../../../escaped", plain, b"x")],
    "absolute": [("/tmp/escaped-from-a-backup", plain, b"x")],
    "dot": [(f"{WS}/./x", plain, b"x")],
    "twice": [(f"{WS}/x", plain, b"x"), (f"{WS}/x", plain, b"y")],
    "through a link": [
        (f"{WS}/out", kind(tarfile.SYMTYPE, "../../.."), b""),
        (f"{WS}/out/escaped", plain, b"x"),
    ],
    "over a link": [
        (f"{WS}/out", kind(tarfile.SYMTYPE, "../../../escaped"), b""),
        (f"{WS}/out", plain, b"x"),
    ],
    "a directory over a link": [
        (f"{WS}/out", kind(tarfile.SYMTYPE, "../../.."), b""),
        (f"{WS}/out", kind(tarfile.DIRTYPE), b""),
    ],
    "hard link out": [(f"{WS}/x", kind(tarfile.LNKTYPE, "../outside"), b"")],
    "hard link to another": [(f"{WS}/x", kind(tarfile.LNKTYPE, f"{OTHER}/file"), b"")],
    "hard link to the database": [(f"{WS}/x", kind(tarfile.LNKTYPE, "bay.db"), b"")],
    "hard link through a link": [
        (f"{WS}/out", kind(tarfile.SYMTYPE, "../../.."), b""),
        (f"{WS}/x", kind(tarfile.LNKTYPE, f"{WS}/out/outside"), b""),
    ],
    "a pipe with an attribute": [(f"{WS}/pipe", attributed(tarfile.FIFOTYPE), b"")],
    "device": [(f"{WS}/sda", device(tarfile.BLKTYPE, 8), b"")],
    "terminal": [(f"{WS}/tty", device(tarfile.CHRTYPE, 5), b"")],
    "no parent": [(f"{WS}/nowhere/x", plain, b"x")],
}


@pytest.mark.parametrize("name", EVIL)
def test_what_would_leave_its_place_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("untouched")
    data = tar_of((f"{WS}/good", plain, b"good"), *EVIL[name])
    with pytest.raises(BadRequest, match="the backup has a member"):
        unpack(data, tmp_path / "into")
    assert sorted(os.listdir(tmp_path)) == ["into", "outside"]
    assert (tmp_path / "outside").stat().st_nlink == 1
    assert not Path("/tmp/escaped-from-a-backup").exists()


@pytest.mark.skipif(not ROOT, reason="only root restores owners")
@pytest.mark.parametrize("uid", [65_536, 100_000, (1 << 32) - 1])
def test_an_owner_that_no_sandbox_has_is_refused(uid: int, into: Path) -> None:
    with pytest.raises(BadRequest, match="belongs to nobody"):
        unpack(tar_of((f"{WS}/x", owned(uid), b"x")), into)


def test_bays_own_files_are_private_whatever_the_tar_says(into: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("bay.db", "admin.key"):
            info = tarfile.TarInfo(name)
            info.mode, info.uid, info.gid = 0o4777, 1000, 1000
            tar.addfile(info)
        open_to_all = directory("cargo")
        open_to_all.mode = 0o777
        tar.addfile(open_to_all)
    unpack(stream.getvalue(), into)
    found = {path.name: (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) for path in into.iterdir()}
    own = os.geteuid()
    assert found == {"bay.db": (0o600, own), "admin.key": (0o600, own), "cargo": (0o700, own)}
