"""Forks, limits, shared cargos and restores under load, with real runc on a real pool."""

import asyncio
import json
from collections.abc import Awaitable, Iterable
from typing import Any

import pytest
from storage_bay import MIB, Pooled

from bay.linux import btrfs

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

FORKS = 20
LOOP = "while :; do echo $$ > churn; cat churn churn > again; rm again; done"
FLOOD = r"""
import os, sys
try:
    with open(sys.argv[1], "wb", buffering=0) as file:
        while True:
            file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
except OSError as error:
    print(os.strerror(error.errno))
"""
"""Writes until it is refused, with the refusal seen by who writes and not at some later write-back."""

LOCKER = r"""
import fcntl, time
with open("lock", "r+") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    time.sleep(600)
"""
COUNT = r"""
import fcntl
for _ in range(200):
    with open("counter", "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        number = int(file.read())
        file.seek(0)
        file.write(str(number + 1))
"""
NOT_MINE = r"""
import errno, fcntl, os, struct
SUBVOL_CREATE, SNAP_CREATE_V2, SNAP_DESTROY, TREE_SEARCH, SETFLAGS = 0x5000940E, 0x50009417, 0x5000940F, 0xD0009411, 0x4008941A
fd = os.open("/workspace", os.O_RDONLY)
named = bytearray(struct.pack("=q4088s", 0, b"nested"))
calls = {
    "create": (SUBVOL_CREATE, named),
    "snapshot": (SNAP_CREATE_V2, bytearray(struct.pack("=q2Q32s4040s", fd, 0, 0, b"", b"nested"))),
    "destroy": (SNAP_DESTROY, named),
    "search": (TREE_SEARCH, bytearray(struct.pack("=7Q4L4Q", 1, 0, 2**64 - 1, 0, 2**64 - 1, 0, 2**64 - 1, 0, 255, 100, 0, 0, 0, 0, 0) + bytes(3992))),
    "flags": (SETFLAGS, bytearray(struct.pack("=Q", 2))),
}
for name, (request, argument) in calls.items():
    for number in (request, request | 1 << 32):
        try:
            fcntl.ioctl(fd, number, argument)
            print(name, "was done")
        except OSError as error:
            if error.errno != errno.EPERM:
                print(name, error)
        except OverflowError:
            pass
print(sorted(os.listdir("/workspace")))
print([line.split()[5] for line in open("/proc/self/mountinfo") if line.split()[4] == "/workspace"])
"""


async def all_of(calls: Iterable[Awaitable[Any]]) -> list[Any]:
    """What all of them give, made at once."""
    return list(await asyncio.gather(*calls))


async def test_forks_at_once_are_whole_and_their_own_while_what_they_came_from_is_deleted(
    bay: Pooled,
) -> None:
    await settled(bay)
    before = await asyncio.to_thread(groups, bay)
    box = await bay.create()
    await bay.write(box, "kept", b"kept" * 10_000)
    await bay.write(box, "own", b"source")
    checkpoint = await bay.checkpoint(box)
    await bay.write(box, "own", b"later")
    forks = await bay.fork(box, count=FORKS, checkpoint=checkpoint)
    doomed = forks.pop(FORKS // 2)
    gone = (f"/sandboxes/{box}/checkpoints/{checkpoint}", f"/sandboxes/{doomed}", f"/sandboxes/{box}")
    removal = asyncio.create_task(all_of(bay.call("DELETE", path) for path in gone))

    async def use(number: int, fork: str) -> str:
        own = await bay.sh(fork, f"cat own; echo -n {number} > own; cat own; md5sum < kept")
        return f"{own} {(await bay.read(fork, 'own')).decode()}"

    said = await all_of(use(number, fork) for number, fork in enumerate(forks))
    assert {answer.status_code for answer in await removal} <= {204, 404}
    digest = said[0].split(" ")[0].removeprefix("source0")
    assert said == [f"source{number}{digest}  - {number}" for number in range(FORKS - 1)]
    await all_of(bay.delete(fork) for fork in forks)
    await settled(bay)
    assert await asyncio.to_thread(groups, bay) <= before + 2 * FORKS + 6
    await asyncio.to_thread(btrfs.commit, bay.place.data_dir / "cargo")


async def settled(bay: Pooled) -> None:
    """Return when nothing in the pool waits for its removal."""
    async with asyncio.timeout(20):
        while bay.leftovers():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def groups(bay: Pooled) -> int:
    """How many groups the pool counts in, without those that can go."""
    pool = bay.place.data_dir / "cargo"
    btrfs.commit(pool)
    btrfs.remove_stale_groups(pool)
    with btrfs.opened(pool) as fd:
        last = (1 << 64) - 1
        return len(
            list(
                btrfs._search(
                    fd, btrfs._QUOTA_TREE, (0, btrfs._QGROUP_INFO, 0), (0, btrfs._QGROUP_INFO, last)
                )
            )
        )


async def test_a_full_sandbox_is_told_so_hinders_no_other_and_works_again_with_room(bay: Pooled) -> None:
    box, other = await bay.create("tight"), await bay.create("tight")
    for each in (box, other):
        await bay.ask("PATCH", f"/cargos/{await bay.cargo_of(each)}", json={"size_limit_mb": 32})
    await bay.write(box, "old", b"as it was")
    assert await bay.python(box, FLOOD, "flood", user="ship") == "Disk quota exceeded\n"
    refused = await bay.write(box, "old", b"x" * 4 * MIB)
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
    assert await bay.read(box, "old") == b"as it was"
    assert await bay.sh(box, "ls -A | sort | tr '\\n' ' '") == "flood old"
    checkpoint = await bay.checkpoint(box)
    assert (await bay.write(other, "file", b"x" * 8 * MIB)).status_code == 200
    await bay.restore(box, checkpoint)
    assert await bay.read(box, "old") == b"as it was"
    await bay.ask("DELETE", f"/sandboxes/{box}/checkpoints/{checkpoint}")
    await settled(bay)
    await bay.ask("DELETE", f"/sandboxes/{box}/files", params={"path": "flood"})
    async with asyncio.timeout(10):  # by itself the kernel gives the room back after half a minute
        while (await bay.write(box, "old", b"new" * MIB)).status_code == 507:
            pass
    assert await bay.sh(box, "head -c 3 old") == "new"
    cargo = await bay.cargo_of(box)
    assert (await bay.write(box, "big", b"x" * 48 * MIB)).status_code == 507
    changed = await bay.ask("PATCH", f"/cargos/{cargo}", json={"size_limit_mb": 96})
    assert (changed["size_limit_mb"], changed["size_limit_enforced"]) == (96, True)
    assert (await bay.write(box, "big", b"x" * 48 * MIB)).status_code == 200
    assert await bay.python(box, FLOOD, "flood", user="root") == "Disk quota exceeded\n"
    await bay.delete(box)


async def test_a_restore_under_load_ends_what_runs_and_leaves_exactly_the_checkpoint(bay: Pooled) -> None:
    box = await bay.create()
    await bay.write(box, "kept", b"kept")
    checkpoint = await bay.checkpoint(box)
    await bay.begin(box, "sh", "-c", LOOP)
    execs = [await bay.begin(box, "sh", "-c", f"echo {n} > file-{n}; exec sleep 600") for n in range(5)]
    ready = [asyncio.Event() for _ in execs]
    attached = [
        asyncio.create_task(bay.attach(box, one, told)) for one, told in zip(execs, ready, strict=True)
    ]
    async with asyncio.timeout(20):
        for is_attached in ready:
            await is_attached.wait()
    await bay.sh(box, "until test -e file-4 -a -e churn; do sleep 0.01; done; echo changed > kept")
    await bay.restore(box, checkpoint)
    for exec_id in execs:
        ended = await bay.ask("GET", f"/sandboxes/{box}/execs/{exec_id}")
        assert (ended["state"], ended["reason"]) == ("lost", "restored")
    for told in await all_of(attached):
        assert (told.get("type"), told.get("state")) == ("exit", "lost"), told
    assert await bay.sh(box, "ls -A; cat kept; pgrep -c sleep") == "kept\nkept0"


async def test_one_that_is_frozen_and_one_that_is_starting_are_restored(bay: Pooled) -> None:
    box = await bay.create()
    await bay.write(box, "kept", b"kept")
    checkpoint = await bay.checkpoint(box)
    await bay.write(box, "kept", b"changed")
    await bay.ask("POST", f"/sandboxes/{box}/pause")
    await bay.restore(box, checkpoint)
    assert await bay.read(box, "kept") == b"kept"
    await bay.write(box, "kept", b"changed")
    await bay.ask("POST", f"/sandboxes/{box}/stop")
    await bay.ask("POST", f"/sandboxes/{box}/start")
    seen = await bay.restore(box, checkpoint)
    assert seen["checkpoint_id"] == checkpoint
    assert await bay.sh(box, "cat kept") == "kept"


async def test_sandboxes_that_share_a_cargo_see_lock_and_fill_it_together(bay: Pooled) -> None:
    cargo = (await bay.ask("POST", "/cargos", json={"size_limit_mb": 64}))["id"]
    one, two = await all_of(bay.create(cargo_id=cargo) for _ in range(2))
    await bay.write(one, "lock", b"")
    await bay.write(one, "counter", b"0")
    assert await bay.read(two, "counter") == b"0"
    locker = await bay.begin(one, "python3", "-c", LOCKER)
    while not await bay.ask("GET", f"/sandboxes/{one}/execs/{locker}/output"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert await bay.sh(two, "flock -n lock true; echo $?") == "1"
    await bay.ask("POST", f"/sandboxes/{one}/execs/{locker}/signal", json={"signal": "KILL"})
    assert await bay.sh(two, "flock lock true; echo $?") == "0"
    await all_of(bay.python(box, COUNT, user="ship") for box in (one, two))
    assert await bay.read(one, "counter") == b"400"
    await bay.begin(two, "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >> log; done")
    await bay.sh(two, "until test -s log; do sleep 0.01; done")
    checkpoint = await bay.checkpoint(one)
    log = (bay.checkpoint_files(checkpoint) / "log").read_text().split("\n")
    assert log[:-1] == [str(n) for n in range(1, len(log))]
    assert (await bay.write(one, "half", b"x" * 40 * MIB)).status_code == 200
    assert (await bay.write(two, "other", b"x" * 40 * MIB)).status_code == 507
    refused = await bay.call("POST", f"/sandboxes/{one}/checkpoints/{checkpoint}/restore")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    await bay.ask("POST", f"/sandboxes/{two}/stop")
    await bay.restore(one, checkpoint)
    assert await bay.sh(one, "ls -A | tr '\\n' ' '") == "counter lock log"
    await _moved(bay, cargo, one, two)


async def _moved(bay: Pooled, cargo: str, one: str, two: str) -> None:
    third = await bay.create()
    refused = await bay.call("POST", f"/cargos/{cargo}/move", json={"sandbox": third})
    assert refused.status_code == 409
    await all_of(bay.ask("POST", f"/sandboxes/{box}/stop") for box in (one, third))
    await bay.ask("POST", f"/cargos/{cargo}/move", json={"sandbox": third})
    assert await bay.read(third, "counter") == b"400"
    await all_of(bay.delete(box) for box in (one, two))
    assert (await bay.ask("GET", f"/cargos/{cargo}"))["sandbox_ids"] == [third]


async def test_root_inside_reaches_nothing_of_the_pool_but_its_own_files(bay: Pooled) -> None:
    box = await bay.create("machine")
    other = await bay.cargo_of(await bay.create())
    await bay.write(box, "mine", b"")
    said = (await bay.python(box, NOT_MINE)).splitlines()
    assert json.loads(said[-2].replace("'", '"')) == ["mine"]
    assert said[:-2] == [], "btrfs refuses by seccomp, and with nothing but EPERM"
    (options,) = json.loads(said[-1].replace("'", '"'))
    assert {"nosuid", "nodev"} <= set(options.split(","))
    for command in (
        "mount -o remount,bind,suid,dev /workspace",
        "mount -t btrfs /dev/loop0 /mnt",
        "mknod device b 7 0",
    ):
        assert (
            await bay.sh(box, f"{command} >/dev/null 2>&1 && echo done || echo refused", user="root")
            == "refused"
        )
    assert await bay.sh(
        box, f"find / -xdev -name '{other}' 2>/dev/null; ls -d /workspace/../ws-*", user="root"
    ) == ("ls: cannot access '/workspace/../ws-*': No such file or directory")
