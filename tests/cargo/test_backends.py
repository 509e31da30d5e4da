"""Both backends pass the suite of the contract, and keep what else their users rely on."""

import errno
import os
import subprocess
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from bay.cargo.base import CargoBackend
from bay.cargo.btrfs import BtrfsCargo
from bay.errors import NotFound, StorageFull
from bay.ids import new_id
from bay.linux import btrfs
from bay.testing.cargo import *  # noqa: F403 - the suite is the module's functions
from bay.testing.cargo import dig, full, write
from pools import BACKENDS, MIB, Backend, make, needs_btrfs, opened, small_disk

pytestmark = pytest.mark.anyio


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
async def cargo(kind: str, data_dir: Path) -> AsyncGenerator[Backend]:
    async with opened(kind, data_dir) as backend:
        with blockbuster_ctx(["bay.cargo", "bay.linux.btrfs"]):
            yield backend


@pytest.fixture
def reopen(kind: str, data_dir: Path) -> Callable[[], CargoBackend]:
    return lambda: make(kind, data_dir)


@pytest.fixture
async def limited(data_dir: Path) -> AsyncGenerator[BtrfsCargo]:
    async with opened("btrfs", data_dir) as backend:
        assert isinstance(backend, BtrfsCargo)
        yield backend


async def test_what_fails_leaves_nothing_half_made(cargo: Backend, data_dir: Path) -> None:
    ws, nothing = new_id("ws"), new_id("ckpt")
    with pytest.raises(NotFound):
        await cargo.create(ws, origin=nothing)
    await cargo.create(ws)
    with pytest.raises(NotFound):
        await cargo.prepare_restore(ws, nothing, limit_bytes=None)
    assert os.listdir(data_dir / "cargo/.making") == os.listdir(data_dir / "cargo/.checkpoints") == []


async def test_opening_again_empties_the_place_where_things_are_made(
    cargo: Backend, kind: str, data_dir: Path
) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    await cargo.checkpoint(ws, ckpt)
    await cargo.prepare_restore(ws, ckpt, limit_bytes=None)
    await cargo.begin_import(new_id("ckpt"), limit_bytes=None)
    await make(kind, data_dir).open()
    assert os.listdir(data_dir / "cargo/.making") == []


async def test_exclusive_bytes_are_those_that_no_checkpoint_shares(cargo: Backend) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await cargo.create(ws)
    write(cargo.place(ws) / "a", 4 * MIB)
    await cargo.checkpoint(ws, ckpt)
    write(cargo.place(ws) / "own", 2 * MIB)
    found = await cargo.weigh([ws, ckpt])
    own, kept = found[ws].exclusive_bytes, found[ckpt].exclusive_bytes
    assert own is not None
    assert kept is not None
    if cargo.name == "btrfs":
        assert 2 * MIB <= own < 3 * MIB
        assert kept < MIB
    else:
        assert found[ws].exclusive_bytes == found[ws].used_bytes


@needs_btrfs
async def test_a_limit_holds_in_subvolumes_that_were_made_inside(limited: BtrfsCargo) -> None:
    ws = new_id("ws")
    await limited.create(ws, limit_bytes=10 * MIB)
    inner = limited.place(ws) / "inner"
    btrfs.create(inner)
    btrfs.snapshot(limited.place(ws).parent, limited.place(ws) / "copy")
    assert full(inner / "a", 20 * MIB)
    assert full(limited.place(ws) / "copy/workspace/a", 20 * MIB)
    assert full(limited.place(ws) / "b", MIB)


@needs_btrfs
async def test_checkpoint_and_restore_again_and_again_is_no_way_around_a_limit(limited: BtrfsCargo) -> None:
    ws = new_id("ws")
    await limited.create(ws, limit_bytes=20 * MIB)
    refused = False
    for _ in range(5):
        refused = refused or full(limited.place(ws) / "a", 8 * MIB)
        ckpt = new_id("ckpt")
        await limited.checkpoint(ws, ckpt)
        await limited.prepare_restore(ws, ckpt, limit_bytes=20 * MIB)
        await limited.restore(ws)
        (limited.place(ws) / "a").unlink(missing_ok=True)
    assert refused
    assert (await limited.charged(ws) or 0) <= 21 * MIB  # the tree of a new snapshot itself may go beyond


@needs_btrfs
async def test_a_fork_has_a_limit_of_its_own(limited: BtrfsCargo) -> None:
    ws, ckpt, fork = new_id("ws"), new_id("ckpt"), new_id("ws")
    await limited.create(ws, limit_bytes=30 * MIB)
    write(limited.place(ws) / "a", 20 * MIB)
    await limited.checkpoint(ws, ckpt)
    await limited.create(fork, limit_bytes=10 * MIB, origin=ckpt)
    write(limited.place(fork) / "b", 5 * MIB)
    assert full(limited.place(fork) / "c", 20 * MIB)
    write(limited.place(ws) / "d", 5 * MIB)


@needs_btrfs
async def test_a_full_cargo_with_read_only_subvolumes_inside_is_checkpointed_restored_and_removed(
    limited: BtrfsCargo, data_dir: Path
) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await limited.create(ws, limit_bytes=10 * MIB)
    inner = limited.place(ws) / "inner"
    btrfs.create(inner)
    btrfs.create(inner / "innermost")
    dig_and_make(limited.place(ws))
    assert full(inner / "innermost/a", 20 * MIB)
    for path in (inner / "innermost", inner, limited.place(ws).parent):
        unguarded_read_only(path)
    await limited.checkpoint(ws, ckpt)
    await limited.prepare_restore(ws, ckpt, limit_bytes=10 * MIB)
    await limited.restore(ws)
    assert os.listdir(inner) == []
    await limited.remove(ws)
    await limited.remove_checkpoint(ckpt)
    trash = data_dir / "cargo/.trash"
    for name in os.listdir(trash):
        btrfs.destroy(trash / name)
    assert subvolumes(data_dir / "cargo") == 0


@needs_btrfs
async def test_a_checkpoint_cannot_be_written_to(limited: BtrfsCargo) -> None:
    ws, ckpt = new_id("ws"), new_id("ckpt")
    await limited.create(ws)
    await limited.checkpoint(ws, ckpt)
    imported = new_id("ckpt")
    (await limited.begin_import(imported, limit_bytes=None) / "workspace").mkdir()
    await limited.keep_import(imported)
    for name in (ckpt, imported):
        with pytest.raises(OSError, match="Read-only"):
            (limited.checkpoint_path(name) / "workspace/file").touch()


async def test_when_the_disk_is_full_new_things_are_refused_and_nothing_is_half_made(
    kind: str, data_dir: Path
) -> None:
    with small_disk(data_dir, (400 if kind == "btrfs" else 100) * MIB):
        async with opened(kind, data_dir / "data") as cargo:
            ws, ckpt, ckpt2 = new_id("ws"), new_id("ckpt"), new_id("ckpt")
            await cargo.create(ws)
            write(cargo.place(ws) / "small", MIB)
            await cargo.checkpoint(ws, ckpt)
            assert full(cargo.place(ws) / "big", 1024 * MIB, errno.ENOSPC)
            for call in (
                cargo.checkpoint(ws, ckpt2),
                cargo.create(new_id("ws")),
                cargo.create(new_id("ws"), origin=ckpt),
                cargo.prepare_restore(ws, ckpt, limit_bytes=None),
                cargo.begin_import(ckpt2, limit_bytes=None),
            ):
                with pytest.raises(StorageFull, match="delete files, checkpoints or sandboxes"):
                    await call
            assert (await cargo.list_ids(), await cargo.list_checkpoints()) == ({ws}, {ckpt})
            assert (cargo.place(ws) / "small").stat().st_size == MIB
            (cargo.place(ws) / "big").unlink()
            await cargo.remove_checkpoint(ckpt)


async def test_a_copy_that_runs_out_of_disk_leaves_nothing(data_dir: Path) -> None:
    with small_disk(data_dir, 100 * MIB):
        async with opened("directory", data_dir / "data") as cargo:
            ws, ckpt = new_id("ws"), new_id("ckpt")
            await cargo.create(ws)
            write(cargo.place(ws) / "half", 50 * MIB)
            with pytest.raises(StorageFull, match="no space left"):
                await cargo.checkpoint(ws, ckpt)
            assert await cargo.list_checkpoints() == set()
            assert os.listdir(data_dir / "data/cargo/.making") == []


def dig_and_make(top: Path) -> None:
    """Make a subvolume whose path is longer than any path may be."""
    bottom, here = dig(top, "d" * 200, 40), Path.cwd()
    try:
        os.fchdir(bottom)
        btrfs.create(Path("sub"))
    finally:
        os.chdir(here)
        os.close(bottom)


def unguarded_read_only(path: Path) -> None:
    subprocess.run(["btrfs", "property", "set", str(path), "ro", "true"], check=True, timeout=30)


def subvolumes(mount: Path) -> int:
    done = subprocess.run(
        ["btrfs", "subvolume", "list", str(mount)], capture_output=True, text=True, check=True, timeout=30
    )
    return len(done.stdout.splitlines())
