"""The pool: made whole or not at all, mounted once, as large as the host can back."""

import asyncio
import os
import subprocess
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from dying import lines_of, run_and_die

from bay.cargo.btrfs import BtrfsCargo
from bay.cargo.pool import BtrfsPool, device_at
from bay.cargo.pool_sizing import SMALLEST, Host, next_size, wanted
from bay.errors import DriverUnavailable, StorageFull
from bay.ids import new_id
from bay.linux import btrfs, loops
from bay.testing.cargo import write
from bay.units import GIB
from pools import MIB, loops_of, needs_btrfs, opened, pool_in, small_disk, total_bytes, unmounted_after

pytestmark = [pytest.mark.anyio, needs_btrfs]


@pytest.fixture
def data_dir(tmp_path: Path) -> Generator[Path]:
    (tmp_path / "data").mkdir()
    with unmounted_after(tmp_path / "data"):
        yield tmp_path / "data"


async def test_a_pool_is_private_and_nothing_in_it_is_a_device_or_set_uid_on_the_host(data_dir: Path) -> None:
    async with opened("btrfs", data_dir):
        assert (data_dir / "pool.img").stat().st_mode & 0o777 == 0o600
        assert (data_dir / "cargo").stat().st_mode & 0o777 == 0o700
        options = options_of(data_dir / "cargo")
        assert {"nosuid", "nodev", "noatime"} <= options
        assert btrfs.are_quotas_on(data_dir / "cargo")
        assert (data_dir / "pool.img").stat().st_blocks * 512 < 32 * MIB
    assert device_at(data_dir / "cargo") is None
    assert loops_of(data_dir / "pool.img") == []


async def test_a_pool_that_is_open_is_opened_again_on_the_same_device(data_dir: Path) -> None:
    ws = new_id("ws")
    async with opened("btrfs", data_dir) as cargo:
        await cargo.create(ws)
        before = loops_of(data_dir / "pool.img")
        again = BtrfsCargo(data_dir / "cargo", pool_in(data_dir))  # as after kill -9
        await again.open()
        assert await again.list_ids() == {ws}
        assert loops_of(data_dir / "pool.img") == before
        assert mounts_at(data_dir / "cargo") == 1


@pytest.mark.host
async def test_commits_at_once_do_not_wait_for_the_next_one_that_is_due(data_dir: Path) -> None:
    """The kernel may overlook a request, and commits by itself after 30 s."""

    def commits(name: str) -> float:
        began = time.monotonic()
        for number in range(3):
            btrfs.create(data_dir / "cargo" / f"{name}-{number}")
            btrfs.commit(data_dir / "cargo")
        return time.monotonic() - began

    async with opened("btrfs", data_dir):
        for turn in range(60):
            names = [f"{turn}-{number}" for number in range(6)]
            taken = await asyncio.gather(*(asyncio.to_thread(commits, name) for name in names))
            assert max(taken) < 20


async def test_a_pool_that_only_a_sandbox_still_holds_is_found_again(data_dir: Path) -> None:
    ws = new_id("ws")
    async with opened("btrfs", data_dir) as cargo:
        await cargo.create(ws)
        (cargo.place(ws) / "file").write_text("kept")
        script = f"mount --bind {cargo.place(ws)} {data_dir / 'other'} && echo ready && read end && cat {data_dir / 'other/file'}"
        (data_dir / "other").mkdir()
        holder = hold(script)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "ready\n"
            before = loops_of(data_dir / "pool.img")
            await cargo.aclose()
            assert device_at(data_dir / "cargo") is None
            assert loops_of(data_dir / "pool.img") == before
            await cargo.open()
            assert await cargo.list_ids() == {ws}
            assert loops_of(data_dir / "pool.img") == before
            (cargo.place(ws) / "file").write_text("changed")
        finally:
            printed, _ = holder.communicate("\n", timeout=10)
        assert printed == "changed"


async def test_what_else_is_mounted_in_the_pools_place_is_refused(data_dir: Path) -> None:
    (data_dir / "cargo").mkdir()
    (data_dir / "pool.img").touch()
    said("mount", "-t", "tmpfs", "none", str(data_dir / "cargo"))
    with pytest.raises(DriverUnavailable, match=r"is not the pool.*umount"):
        await BtrfsCargo(data_dir / "cargo", pool_in(data_dir)).open()


async def test_a_close_while_somebody_is_in_there_leaves_the_mount(data_dir: Path) -> None:
    async with opened("btrfs", data_dir) as cargo:
        held = os.open(data_dir / "cargo", os.O_RDONLY)
        try:
            await cargo.aclose()
            assert device_at(data_dir / "cargo") is not None
        finally:
            os.close(held)


def test_two_who_attach_at_once_get_one_device(data_dir: Path) -> None:
    file = data_dir / "file"
    with file.open("wb") as made:
        made.truncate(MIB)
    with loops.attached(file) as device, loops.attached(file) as again:
        assert again == device == Path(loops_of(file)[0])
    assert loops.device_of(file) is None


async def test_the_pool_follows_the_room_on_the_host(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 900 * MIB), unmounted_after(disk / "data"):
        (disk / "data").mkdir()
        pool = pool_in(disk / "data", None)
        cargo = BtrfsCargo(disk / "data/cargo", pool)
        await cargo.open()
        ws = new_id("ws")
        await cargo.create(ws)
        write(cargo.place(ws) / "file", 20 * MIB)
        large = total_bytes(disk / "data/cargo")
        assert large > 600 * MIB
        reserve = disk / "somebody's"
        fallocate(reserve, 350 * MIB)
        await asyncio.to_thread(refit, pool)
        assert SMALLEST <= total_bytes(disk / "data/cargo") <= large - 300 * MIB
        assert (disk / "data/pool.img").stat().st_size == total_bytes(disk / "data/cargo")
        fallocate(disk / "more", os.statvfs(disk).f_bavail * 4096 - 30 * MIB)
        with pytest.raises(StorageFull, match="reserved for existing sandboxes"):
            await cargo.create(new_id("ws"))
        write(cargo.place(ws) / "goes on", MIB)
        for name in (reserve, disk / "more"):
            name.unlink()
        await asyncio.to_thread(refit, pool)
        assert total_bytes(disk / "data/cargo") >= large - 64 * MIB
        await cargo.create(new_id("ws"))
        await cargo.aclose()


async def test_a_host_without_room_for_a_pool_says_so(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, 200 * MIB):
        with pytest.raises(StorageFull, match=r"smallest is 256 MiB.*`directory`"):
            await BtrfsCargo(disk / "cargo", pool_in(disk)).open()
        assert sorted(os.listdir(disk)) == ["lost+found"]


async def test_groups_of_what_is_gone_are_removed_and_the_others_stay(data_dir: Path) -> None:
    async with opened("btrfs", data_dir) as cargo:
        gone, stays = new_id("ws"), new_id("ws")
        for ws in (gone, stays):
            await cargo.create(ws, limit_bytes=10 * MIB)
        btrfs.destroy(cargo.place(gone).parent)
        mount = str(data_dir / "cargo")
        said("btrfs", "filesystem", "sync", mount)  # wakes the one who cleans up
        said("btrfs", "subvolume", "sync", "-s", "1", mount)
        btrfs.remove_stale_groups(data_dir / "cargo")
        listed = said("btrfs", "qgroup", "show", mount)
        number = btrfs.subvolume_id(cargo.place(stays))
        groups = {line.split()[0] for line in listed.splitlines() if line[:1].isdigit()}
        assert groups == {"0/5", f"0/{number}", f"1/{number}"}


STEPS = {
    "pool.py": {"open", "attach", "_make", "_mount"},
    "loops.py": {"attached", "_attach", "_configure"},
}


@pytest.mark.parametrize("file", STEPS)
def test_a_pool_whose_making_is_killed_anywhere_is_made_by_the_next_open(tmp_path: Path, file: str) -> None:
    for turn, line in enumerate(lines_of(file, lambda: use(tmp_path / "first"), STEPS[file])):
        data_dir = tmp_path / str(turn)
        run_and_die(line, lambda where=data_dir: use(where, keep=True))
        use(data_dir)


def use(data_dir: Path, *, keep: bool = False) -> None:
    """Open a pool, do something with it, and close it."""

    async def work() -> None:
        cargo = BtrfsCargo(data_dir / "cargo", pool_in(data_dir))
        await cargo.open()
        await cargo.create(new_id("ws"))
        await cargo.aclose()
        async with asyncio.timeout(10):  # whoever looks at all devices of the host keeps it for a moment
            while loops_of(data_dir / "pool.img"):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    data_dir.mkdir(exist_ok=True)
    if keep:
        asyncio.run(work())
        return
    with unmounted_after(data_dir):
        asyncio.run(work())


@pytest.mark.parametrize(
    ("host", "max_bytes", "size"),
    [
        (Host(total=100 * GIB, free=50 * GIB, held=0), None, 45 * GIB),
        (Host(total=100 * GIB, free=50 * GIB, held=10 * GIB), None, 55 * GIB),
        (Host(total=100 * GIB, free=50 * GIB, held=0), 7 * GIB, 7 * GIB),
        (Host(total=10 * GIB, free=2 * GIB, held=0), None, GIB),
        (Host(total=GIB, free=GIB, held=0), None, GIB - 128 * MIB),
        (Host(total=GIB, free=0, held=0), None, 0),
    ],
)
def test_a_pool_takes_what_the_host_can_back_less_a_reserve(
    host: Host, max_bytes: int | None, size: int
) -> None:
    assert wanted(host, max_bytes) == size


@pytest.mark.parametrize(
    ("now", "aim", "then"),
    [
        (GIB, GIB + 32 * MIB, GIB),
        (GIB, 5 * GIB, 5 * GIB),
        (10 * GIB, 5 * GIB, 10 * GIB - 512 * MIB),
        (GIB, 800 * MIB, 800 * MIB),
        (GIB, 0, 512 * MIB),
        (SMALLEST, 0, SMALLEST),
    ],
)
def test_a_pool_grows_at_once_and_shrinks_in_steps(now: int, aim: int, then: int) -> None:
    assert next_size(now, aim) == then


def refit(pool: BtrfsPool) -> None:
    while pool.refit():
        pass


def fallocate(path: Path, size: int) -> None:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def options_of(mount: Path) -> set[str]:
    return set(said("findmnt", "--noheadings", "--output", "OPTIONS", str(mount)).strip().split(","))


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def hold(script: str) -> subprocess.Popen[str]:
    """A shell in mounts of its own, as a sandbox is; it outlives what unmounts here."""
    command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def mounts_at(mount: Path) -> int:
    return sum(
        line.split()[4] == str(mount) for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )
