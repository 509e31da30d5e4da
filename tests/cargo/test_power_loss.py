"""A power cut under a pool: everything that was answered is there afterwards, and the file system is sound.

The pool's file lies on an ext4 of its own, which is shut down in the middle of the work, by the call that
ext4 has for such tests (EXT4_IOC_SHUTDOWN, without writing its log). From that moment no write reaches the
disk any more; what ext4 held back, of the file's content and of where it lies, is lost, as it is when the
current fails. It is mounted again, which replays its log, and the pool is looked at. What this does not show
is a disk that says it has flushed and has not.
"""

import asyncio
import contextlib
import fcntl
import os
import random
import struct
import subprocess
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bay.cargo.btrfs import BtrfsCargo
from bay.errors import BayError
from bay.ids import new_id
from pools import MIB, loops_of, make, needs_btrfs, unmounted_after

pytestmark = [pytest.mark.host, needs_btrfs]

SHUTDOWN = 0x8004_587D
NO_LOG_FLUSH = 2


@dataclass
class Disk:
    """An ext4 that can lose its power."""

    file: Path
    mount: Path

    def plug_in(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.file), str(self.mount)], check=True, timeout=30)

    def cut(self) -> None:
        fd = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("=L", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def pull_out(self) -> None:
        subprocess.run(["umount", str(self.mount)], check=True, timeout=30)


@dataclass
class Answered:
    """What calls that came back said; `enough` is how many checkpoints there are to be before
    the power goes.
    """

    checkpoints: dict[str, str] = field(default_factory=dict[str, str])
    cargos: dict[str, str] = field(default_factory=dict[str, str])
    enough: int = 0
    is_enough: asyncio.Event = field(default_factory=asyncio.Event)

    def count(self) -> None:
        if len(self.checkpoints) >= self.enough:
            self.is_enough.set()


@pytest.fixture
def disk(tmp_path: Path) -> Generator[Disk]:
    made = Disk(tmp_path / "disk.img", tmp_path / "disk")
    made.mount.mkdir()
    with made.file.open("wb") as file:
        file.truncate(500 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-m0", str(made.file)], check=True, timeout=30)
    made.plug_in()
    try:
        with unmounted_after(made.mount / "data"):
            yield made
    finally:
        subprocess.run(["umount", "--lazy", str(made.mount)], check=False, timeout=30, capture_output=True)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_answered_survives_a_power_cut(disk: Disk, seed: int) -> None:
    data_dir = disk.mount / "data"
    data_dir.mkdir()
    answered = Answered()
    asyncio.run(work_until_cut(data_dir, disk, answered, random.Random(seed)))  # noqa: S311
    subprocess.run(["umount", str(data_dir / "cargo")], check=True, timeout=30)
    assert loops_of(data_dir / "pool.img") == []
    disk.pull_out()
    disk.plug_in()
    sound = ["btrfs", "check", "--readonly", str(data_dir / "pool.img")]
    checked = subprocess.run(sound, capture_output=True, text=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr
    asyncio.run(look(data_dir, answered))


async def work_until_cut(data_dir: Path, disk: Disk, answered: Answered, chance: random.Random) -> None:
    """Checkpoint, fork and restore in several tasks until the power goes, in the middle of whatever they do
    then.
    """
    cargo = make("btrfs", data_dir)
    assert isinstance(cargo, BtrfsCargo)
    await cargo.open()
    answered.enough = chance.randint(10, 60)
    async with asyncio.TaskGroup() as tasks:
        for number in range(4):
            tasks.create_task(live(cargo, answered, random.Random(f"{number} {answered.enough}")))  # noqa: S311
        await answered.is_enough.wait()
        await asyncio.to_thread(disk.cut)


async def live(cargo: BtrfsCargo, answered: Answered, chance: random.Random) -> None:
    """One sandbox's life. Ends when the disk fails."""
    ws, word = new_id("ws"), "nothing yet"
    with contextlib.suppress(BayError, OSError):
        await cargo.create(ws, limit_bytes=50 * MIB)
        for turn in range(100_000):
            word = f"{ws} {turn} " + "x" * chance.randint(0, 9000)
            await asyncio.to_thread((cargo.place(ws) / "file").write_text, word)
            ckpt, fork = new_id("ckpt"), new_id("ws")
            await cargo.checkpoint(ws, ckpt)
            answered.checkpoints[ckpt] = word
            answered.count()
            if chance.random() < 0.4:
                await cargo.create(fork, origin=ckpt, limit_bytes=50 * MIB)
                answered.cargos[fork] = word
            if chance.random() < 0.4:
                chosen = chance.choice(
                    [name for name in answered.checkpoints if answered.checkpoints[name].startswith(ws)]
                )
                answered.cargos.pop(ws, None)
                await cargo.prepare_restore(ws, chosen, limit_bytes=50 * MIB)
                await cargo.restore(ws)
                answered.cargos[ws] = answered.checkpoints[chosen]
                await asyncio.sleep(0)
                del answered.cargos[ws]  # it is written to again


async def look(data_dir: Path, answered: Answered) -> None:
    cargo = make("btrfs", data_dir)
    await cargo.open()
    try:
        assert await cargo.list_checkpoints() >= set(answered.checkpoints)
        assert await cargo.list_ids() >= set(answered.cargos)
        for ckpt, word in answered.checkpoints.items():
            assert (cargo.checkpoint_path(ckpt) / "workspace/file").read_text() == word
        for ws, word in answered.cargos.items():
            assert (cargo.place(ws) / "file").read_text() == word
        await cargo.create(new_id("ws"), origin=next(iter(answered.checkpoints)))
    finally:
        await cargo.aclose()
