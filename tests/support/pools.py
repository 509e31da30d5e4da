"""Backends for the tests of cargos: a btrfs pool on the host's own disk, and directories on the same."""

import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from bay.cargo import backend_detection
from bay.cargo.btrfs import BtrfsCargo
from bay.cargo.directory import DirectoryCargo
from bay.cargo.pool import BtrfsPool, device_at

MIB = 1 << 20
SIZE = 256 * MIB
Backend = BtrfsCargo | DirectoryCargo

needs_btrfs = pytest.mark.skipif(
    backend_detection.look(Path("/tmp")).lacking is not None, reason="needs root, loop devices and btrfs"
)
BACKENDS = [pytest.param("btrfs", marks=needs_btrfs), "directory"]


@asynccontextmanager
async def opened(kind: str, data_dir: Path) -> AsyncGenerator[Backend]:
    """A backend in `data_dir` that is open; nothing of it is mounted afterwards."""
    data_dir.mkdir(exist_ok=True)
    with unmounted_after(data_dir):
        made = make(kind, data_dir)
        await made.open()
        try:
            yield made
        finally:
            await made.aclose()


def make(kind: str, data_dir: Path) -> Backend:
    if kind == "btrfs":
        return BtrfsCargo(data_dir / "cargo", pool_in(data_dir))
    return DirectoryCargo(data_dir / "cargo")


def pool_in(data_dir: Path, max_bytes: int | None = SIZE) -> BtrfsPool:
    return BtrfsPool(data_dir / "pool.img", data_dir / "cargo", max_bytes)


@contextmanager
def unmounted_after(data_dir: Path) -> Generator[None]:
    """Leave nothing mounted and no loop device of a pool in `data_dir`, whatever happened."""
    try:
        yield
    finally:
        for mount in (data_dir / "cargo", data_dir / "other"):
            while device_at(mount):
                subprocess.run(["umount", "--lazy", str(mount)], check=True, timeout=30)
        # Not shutil.rmtree, which gives up on a path as long as some here.
        subprocess.run(["rm", "-rf", "--one-file-system", str(data_dir)], check=True, timeout=60)


@contextmanager
def small_disk(mount: Path, size: int) -> Generator[None]:
    """An ext4 of that size at `mount`, and nothing of it afterwards."""
    file = mount.with_name(f"{mount.name}.disk")
    mount.mkdir()
    with file.open("wb") as made:
        made.truncate(size)
    for command in (["mkfs.ext4", "-q", "-m0", file], ["mount", "-o", "loop", file, mount]):
        subprocess.run(list(map(str, command)), check=True, capture_output=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(mount)], check=True, timeout=30)
        file.unlink()


def loops_of(file: Path) -> list[str]:
    done = subprocess.run(
        ["losetup", "--noheadings", "--output", "NAME", "--associated", str(file)],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return done.stdout.split()


def total_bytes(mount: Path) -> int:
    """The size of the file system at `mount`."""
    facts = os.statvfs(mount)
    return facts.f_blocks * facts.f_frsize
