"""No file that every sandbox has is the same file in two: what one does with it the other can neither see nor
hinder.
"""

import shlex
from pathlib import Path

import pytest

from bay.testing.driver_bench import DriverBench, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

LOCK = """
import fcntl, os, time
for name in ("null", "zero", "full", "random", "urandom"):
    fcntl.flock(os.open(f"/dev/{name}", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
fcntl.flock(os.open("/.ship/bin/python3", os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked", flush=True)
time.sleep(%d)
"""
WATCH = """
import ctypes, os, time
libc = ctypes.CDLL(None)
watching = libc.inotify_init1(os.O_NONBLOCK)
assert libc.inotify_add_watch(watching, b"/.ship/bin/python3", 0x20) == 1  # IN_OPEN
def seen():
    try:
        return len(os.read(watching, 4096)) // 16
    except BlockingIOError:
        return 0
print("watching", flush=True)
while not os.path.exists("go"):
    time.sleep(0.05)
print(seen(), flush=True)
open("/.ship/bin/python3", "rb").close()
print(seen(), flush=True)
"""
IDENTITY = "stat -L -c '%d %i' /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /proc/keys /proc/1/fd/0 /.ship/bin/python3"


@pytest.mark.parametrize("user", [None, "root"])
async def test_a_lock_holds_in_one_sandbox_alone(oci: DriverBench, user: str | None) -> None:
    async with oci.session() as first, oci.session() as second:
        hold = f"python3 -c {shlex.quote(LOCK % 600)} > held 2>&1 & until grep -q . held; do sleep 0.05; done; cat held"
        assert (await run(first, hold, user=user)).stdout == "locked\n"
        assert (await run(second, f"python3 -c {shlex.quote(LOCK % 0)}", user=user)).stdout == "locked\n"


async def test_devices_and_ships_files_are_neither_the_hosts_nor_another_sandboxs(oci: DriverBench) -> None:
    async with oci.session() as first, oci.session() as second:
        files = [set((await run(one, IDENTITY, user="root")).stdout.splitlines()) for one in (first, second)]
        assert len(files[0]) == len(files[1]) == 7
        assert files[0].isdisjoint(files[1])
        mine = {f"{info.st_dev} {info.st_ino}" for info in map(Path.stat, Path("/dev").glob("*"))}
        assert mine.isdisjoint(files[0] | files[1])


async def test_who_watches_ships_files_does_not_learn_of_other_sandboxes(oci: DriverBench) -> None:
    async with oci.session() as watcher:
        until = "until grep -q . seen; do sleep 0.05; done"
        await run(watcher, f"python3 -c {shlex.quote(WATCH)} > seen 2>&1 & {until}")
        async with oci.session() as other:
            assert (await run(other, "true")).exit_code == 0
        seen = await run(watcher, "touch go; until [ $(wc -l < seen) -ge 3 ]; do sleep 0.05; done; cat seen")
        assert seen.stdout.split() == ["watching", "0", "1"]
