"""The suite that every cargo backend passes: a test is a sentence of the contract in `bay.cargo.base`.

A test module imports it whole, and gives it two fixtures:

    from bay.testing.cargo import *

    @pytest.fixture
    async def cargo(tmp_path: Path) -> AsyncGenerator[CargoBackend]:
        backend = MyBackend(tmp_path / "cargo")
        await backend.open()
        yield backend
        await backend.aclose()

    @pytest.fixture
    def reopen(tmp_path: Path) -> Callable[[], CargoBackend]:
        return lambda: MyBackend(tmp_path / "cargo")      # the same files, after a crash

Tests of an optional protocol are skipped for a backend without it. The suite needs root, for the owners of
files.
"""

import errno
import os
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from bay.cargo.base import CargoBackend, DiskUsage, Fence, SizeLimits, StaleGeneration
from bay.errors import InvalidArgument, NotFound
from bay.ids import new_id

MIB = 1 << 20

pytestmark = pytest.mark.anyio


async def test_a_cargo_has_an_open_workspace_of_the_sandboxs_user_and_a_closed_machine(
    cargo: CargoBackend,
) -> None:
    ws = new_id("ws")
    await cargo.create(ws)
    workspace, machine = cargo.path(ws).stat(), cargo.machine(ws).stat()
    assert (stat.S_IMODE(workspace.st_mode), stat.S_IMODE(machine.st_mode)) == (0o755, 0o700)
    assert os.geteuid() != 0 or (workspace.st_uid, machine.st_uid) == (1000, 0)
    assert {stat.S_IMODE(above.stat().st_mode) for above in cargo.path(ws).parents[:2]} == {0o700}
    assert os.listdir(cargo.path(ws)) == os.listdir(cargo.machine(ws)) == []


async def test_each_call_may_be_repeated(cargo: CargoBackend) -> None:
    ws, ckpt, fork = new_id("ws"), new_id("ckpt"), new_id("ws")
    for text in ("first", "second"):
        await cargo.create(ws, limit_bytes=50 * MIB)
        put(cargo, ws, text)
        await cargo.checkpoint(ws, ckpt)
        await cargo.create(fork, origin=ckpt)
        if isinstance(cargo, SizeLimits):
            await cargo.set_limit(ws, 60 * MIB)
        await cargo.settle(ws)
        await cargo.drop_import(new_id("ckpt"))
    assert (got(cargo, ws), got(cargo, fork)) == ("second", "first")
    assert await cargo.list_ids() == {ws, fork}
    assert await cargo.list_checkpoints() == {ckpt}
    for _ in range(2):
        await cargo.remove_checkpoint(ckpt)
        await cargo.remove(ws)
        await cargo.remove(fork)
    assert await cargo.list_ids() == await cargo.list_checkpoints() == set()


async def test_a_restore_puts_back_what_the_checkpoint_has_and_forks_go_their_own_way(
    cargo: CargoBackend,
) -> None:
    ws, ckpt, fork = new_id("ws"), new_id("ckpt"), new_id("ws")
    await cargo.create(ws)
    put(cargo, ws, "then")
    (cargo.machine(ws) / "layer").mkdir()
    await cargo.checkpoint(ws, ckpt)
    put(cargo, ws, "now")
    (cargo.machine(ws) / "layer").rmdir()
    await cargo.create(fork, origin=ckpt)
    put(cargo, fork, "elsewhere")
    for _ in range(2):
        await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    assert got(cargo, ws) == "now"
    await cargo.restore(ws)
    assert (got(cargo, ws), os.listdir(cargo.machine(ws))) == ("then", ["layer"])
    assert got(cargo, fork) == "elsewhere"
    put(cargo, ws, "later")
    await cargo.remove_checkpoint(ckpt)
    assert (got(cargo, ws), got(cargo, fork)) == ("later", "elsewhere")


async def test_a_cargo_that_is_gone_can_be_restored(cargo: CargoBackend) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    put(cargo, ws, "then")
    await cargo.checkpoint(ws, ckpt)
    await cargo.remove(ws)
    await cargo.prepare_restore(ws, ckpt, limit_bytes=MIB)
    await cargo.restore(ws)
    assert got(cargo, ws) == "then"


async def test_what_is_not_there_is_not_found_and_leaves_nothing(cargo: CargoBackend) -> None:
    ws, nothing = new_id("ws"), new_id("ckpt")
    with pytest.raises(NotFound, match="no checkpoint"):
        await cargo.create(ws, origin=nothing)
    with pytest.raises(NotFound, match="no cargo"):
        await cargo.checkpoint(ws, nothing)
    await cargo.create(ws)
    with pytest.raises(NotFound, match="no checkpoint"):
        await cargo.prepare_restore(ws, nothing, limit_bytes=None)
    with pytest.raises(NotFound, match="nothing is prepared"):
        await cargo.restore(ws)
    with pytest.raises(NotFound, match="no import"):
        await cargo.keep_import(nothing)
    assert (await cargo.list_ids(), await cargo.list_checkpoints()) == ({ws}, set())


@pytest.mark.parametrize("name", ["../ws", "", "ws-1", ".trash", "ws-" + "0" * 24 + "/x"])
async def test_what_is_no_id_is_refused_everywhere(cargo: CargoBackend, name: str) -> None:
    good = new_id("ws")
    for call in (
        cargo.create(name),
        cargo.create(good, origin=name),
        cargo.checkpoint(name, new_id("ckpt")),
        cargo.checkpoint(good, name),
        cargo.prepare_restore(name, new_id("ckpt"), limit_bytes=None),
        cargo.prepare_restore(good, name, limit_bytes=None),
        cargo.restore(name),
        cargo.remove_checkpoint(name),
        cargo.begin_import(name, limit_bytes=None),
        cargo.keep_import(name),
        cargo.drop_import(name),
        cargo.settle(name),
        *([cargo.set_limit(name, 1), cargo.charged(name)] if isinstance(cargo, SizeLimits) else []),
        *([cargo.weigh([name])] if isinstance(cargo, DiskUsage) else []),
        cargo.fence(good, name, 1, "s"),
        cargo.fenced(good, name),
        cargo.remove(name),
    ):
        with pytest.raises(InvalidArgument):
            await call


async def test_an_import_is_a_checkpoint_once_it_is_kept(cargo: CargoBackend) -> None:
    ckpt, dropped, ws = new_id("ckpt"), new_id("ckpt"), new_id("ws")
    for _ in range(2):
        target = await cargo.begin_import(ckpt, limit_bytes=None)
        assert os.listdir(target) == []
        for part in ("workspace", "machine"):
            (target / part).mkdir()
        (target / "workspace/file").write_text("from elsewhere")
    (await cargo.begin_import(dropped, limit_bytes=None) / "workspace").mkdir()
    assert await cargo.list_checkpoints() == set()
    await cargo.drop_import(dropped)
    await cargo.keep_import(ckpt)
    await cargo.keep_import(ckpt)
    assert await cargo.list_checkpoints() == {ckpt}
    await cargo.create(ws, origin=ckpt)
    assert got(cargo, ws) == "from elsewhere"


async def test_an_import_may_begin_as_a_copy_of_a_checkpoint(cargo: CargoBackend) -> None:
    ws, ckpt, copy = new_id("ws"), new_id("ckpt"), new_id("ckpt")
    with pytest.raises(NotFound, match="no checkpoint"):
        await cargo.begin_import(copy, limit_bytes=None, origin=ckpt)
    await cargo.create(ws)
    put(cargo, ws, "first")
    await cargo.checkpoint(ws, ckpt)
    for _ in range(2):
        target = await cargo.begin_import(copy, limit_bytes=None, origin=ckpt)
        assert (target / "machine").is_dir()
        (target / "machine").rmdir()
    await cargo.keep_import(copy)
    await cargo.remove_checkpoint(ckpt)
    fork = new_id("ws")
    await cargo.create(fork, origin=copy)
    assert got(cargo, fork) == "first"
    assert await cargo.list_checkpoints() == {copy}


async def test_opening_again_throws_away_what_is_half_made_and_keeps_the_rest(
    cargo: CargoBackend, reopen: Callable[[], CargoBackend]
) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    put(cargo, ws, "kept")
    await cargo.checkpoint(ws, ckpt)
    await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    await cargo.begin_import(new_id("ckpt"), limit_bytes=None)
    again = reopen()
    await again.open()
    assert (await again.list_ids(), await again.list_checkpoints()) == ({ws}, {ckpt})
    with pytest.raises(NotFound):
        await again.restore(ws)
    assert got(again, ws) == "kept"


async def test_opening_beside_others_leaves_their_work_alone(
    cargo: CargoBackend, reopen: Callable[[], CargoBackend]
) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    put(cargo, ws, "old")
    await cargo.checkpoint(ws, ckpt)
    put(cargo, ws, "new")
    await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    again = reopen()
    await again.open(beside_others=True)
    assert await again.list_ids() == {ws}
    await cargo.restore(ws)
    assert got(cargo, ws) == "old"


async def test_every_kind_of_file_comes_back_exactly(cargo: CargoBackend) -> None:
    ws, ckpt, fork = new_id("ws"), new_id("ckpt"), new_id("ws")
    await cargo.create(ws)
    fill(cargo.path(ws))
    before = facts(cargo.path(ws))
    await cargo.checkpoint(ws, ckpt)
    await cargo.create(fork, origin=ckpt)
    await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    await cargo.restore(ws)
    assert (
        facts(cargo.path(fork)) == facts(cargo.path(ws)) == facts(cargo.checkpoint_path(ckpt) / "workspace")
    )
    assert facts(cargo.path(ws)) == before
    assert (cargo.path(ws) / "sparse").stat().st_blocks < 64
    assert (cargo.path(ws) / "one").stat().st_ino == (cargo.path(ws) / "far/two").stat().st_ino


async def test_a_hundred_levels_and_names_that_are_no_text_come_back(cargo: CargoBackend) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    name = os.fsdecode(b"\xff" + b"n" * 199)
    bottom = dig(cargo.path(ws), name, 120)
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=bottom))
    os.close(bottom)
    await cargo.checkpoint(ws, ckpt)
    found = dig(cargo.checkpoint_path(ckpt) / "workspace", name, 120)
    assert os.listdir(found) == ["bottom"]
    os.close(found)


async def test_a_link_in_place_of_a_directory_leads_nowhere(cargo: CargoBackend, tmp_path: Path) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("secret")
    (cargo.path(ws) / "link").symlink_to(tmp_path / "secret")
    await cargo.checkpoint(ws, ckpt)
    assert (cargo.checkpoint_path(ckpt) / "workspace/link").is_symlink()
    if isinstance(cargo, DiskUsage):
        weights = await cargo.weigh([ws, ckpt])
        assert weights[ws].used_inodes == weights[ckpt].used_inodes == 4


async def test_sandboxes_that_share_a_cargo_have_a_fence_each(cargo: CargoBackend) -> None:
    ws, one, other = new_id("ws"), new_id("sandbox"), new_id("sandbox")
    await cargo.create(ws)
    await cargo.fence(ws, one, 5, "sess-a")
    await cargo.fence(ws, other, 1, "sess-b")
    with pytest.raises(StaleGeneration):
        await cargo.fence(ws, one, 4, "sess-c")
    assert await cargo.fenced(ws, one) == Fence(sandbox_id=one, generation=5, session_id="sess-a")
    await cargo.remove(ws)
    assert await cargo.fenced(ws, other) is None


async def test_a_weight_counts_a_file_once_and_says_what_is_shared(cargo: CargoBackend) -> None:
    if not isinstance(cargo, DiskUsage):
        pytest.skip("this backend measures nothing")
    ws, ckpt, absent = new_id("ws"), new_id("ckpt"), new_id("ws")
    await cargo.create(ws)
    write(cargo.path(ws) / "a", 4 * MIB)
    os.link(cargo.path(ws) / "a", cargo.path(ws) / "b")
    await cargo.checkpoint(ws, ckpt)
    write(cargo.path(ws) / "own", 2 * MIB)
    found = await cargo.weigh([ws, ckpt, absent])
    assert set(found) == {ws, ckpt}
    assert 6 * MIB <= found[ws].used_bytes < 7 * MIB
    assert (found[ws].used_inodes, found[ckpt].used_inodes) == (5, 4)
    assert 4 * MIB <= found[ckpt].used_bytes < 5 * MIB
    assert 2 * MIB <= found[ws].exclusive_bytes <= found[ws].used_bytes


async def test_a_limit_holds_and_can_be_changed(cargo: CargoBackend) -> None:
    if not isinstance(cargo, SizeLimits) or not cargo.enforced:
        pytest.skip("this backend enforces no limits")
    ws = new_id("ws")
    await cargo.create(ws, limit_bytes=10 * MIB)
    assert full(cargo.path(ws) / "a", 20 * MIB)
    assert (await cargo.charged(ws) or 0) <= 10 * MIB
    await cargo.set_limit(ws, 40 * MIB)
    write(cargo.path(ws) / "b", 20 * MIB)
    await cargo.set_limit(ws, None)
    write(cargo.path(ws) / "c", 20 * MIB)
    await cargo.set_limit(ws, MIB)
    assert full(cargo.path(ws) / "d", MIB)
    for name in "abc":
        (cargo.path(ws) / name).unlink()


def put(cargo: CargoBackend, ws: str, text: str) -> None:
    (cargo.path(ws) / "file").write_text(text)


def got(cargo: CargoBackend, ws: str) -> str:
    return (cargo.path(ws) / "file").read_text()


def fill(top: Path) -> None:
    """One of everything that a sandbox can make."""
    (top / "one").write_text("linked")
    (top / "far").mkdir(mode=0o2770)
    os.link(top / "one", top / "far/two")
    (top / "set-uid").write_text("#!")
    os.chown(top / "set-uid", 1000, 1001)
    (top / "set-uid").chmod(0o6751)
    os.setxattr(
        top / "set-uid", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")
    )
    with (top / "sparse").open("wb") as file:
        file.seek(64 * MIB)
        file.write(b"end")
        file.truncate(80 * MIB)
    os.mkfifo(top / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(top, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    os.mknod(top / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    os.link(top / "whiteout", top / "far/whiteout")
    (top / "link").symlink_to("nowhere")
    os.chown(top / "link", 1000, 1000, follow_symlinks=False)
    for name in ("user.colour", "trusted.overlay.opaque"):
        os.setxattr(top / "far", name, b"y\0z")
    subprocess.run(
        ["touch", "-h", "-d", "2001-02-03 04:05:06.789", str(top / "link")], check=True, timeout=10
    )
    os.utime(top / "far", ns=(10**18, 123_456_789_012_345_678))


def facts(top: Path) -> dict[str, object]:
    """All that is to be the same of a copy, by path."""
    return {str(path.relative_to(top)): facts_of(path) for path in [top, *sorted(top.rglob("*"))]}


def facts_of(path: Path) -> object:
    found = path.lstat()
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else None
    target = os.readlink(path) if path.is_symlink() else None
    links = None if path.is_dir() else found.st_nlink
    return (
        found.st_mode, found.st_uid, found.st_gid, found.st_rdev, links, found.st_mtime_ns, hash(content),
        target, xattrs,
    )  # fmt: skip


def dig(top: Path, name: str, levels: int) -> int:
    """The directory that many levels below, which is made when it is not there."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        if name not in os.listdir(here):
            os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    return here


def full(path: Path, size: int, number: int = errno.EDQUOT) -> bool:
    """Whether writing that much is refused."""
    try:
        write(path, size)
    except OSError as error:
        if error.errno != number:
            raise
        return True
    return False


def write(path: Path, size: int) -> None:
    """Write that many bytes that cannot be compressed, and have them on the disk. Raises OSError."""
    with path.open("wb") as file:
        for _ in range(0, size, MIB):
            file.write(os.urandom(MIB))
            file.flush()
            os.fsync(file.fileno())
