"""Sessions of the `oci` driver hibernate: CRIU saves their processes, which go on from the disk, once."""

import asyncio
import base64
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import shared_cache
from oci_bench import OciBench, opening
from survivor_kept import KEPT

from bay.drivers.base import (
    Exited,
    Gone,
    Handle,
    Hibernated,
    MemoryLost,
    MemoryNotSaved,
    Paused,
    Running,
    SessionSpec,
)
from bay.drivers.health import check_health
from bay.drivers.oci import cgroups
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.launch import unseal_socket_dir
from bay.drivers.oci.savers import CriuSaver
from bay.drivers.oci.userns import USER_LIMITS, limit
from bay.drivers.ship_socket import open_connection
from bay.errors import StorageFull
from bay.linux.processes import closing_fd
from bay.linux.threads import in_new_thread
from bay.models import NetworkPolicy
from bay.places import directory_of
from bay.server.offline import doctor
from bay.server.settings import Settings
from bay.testing.driver_bench import TOKEN, call, cgroups_of, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

SURVIVOR = Path(__file__).parents[1] / "support" / "survivor.py"
_NS_GET_PARENT, _NS_GET_OWNER_UID = 0xB702, 0xB704
_HELD = "python3 -c 'import ctypes, time; q = ctypes.CDLL(None).mq_open(b\"/q\", 0o102, 0o600, None); time.sleep(600)'"
_LINKED = "echo x > a; ln a b; exec 3<a; rm a; echo yes > traces; sleep 600"
_TRACING = """
import ctypes, os, time
if (child := os.fork()) == 0:
    time.sleep(600)
assert ctypes.CDLL(None).ptrace(0x4206, child, 0, 0) == 0
open('/workspace/traces', 'w').write('yes')
time.sleep(600)
"""
_STARTING = """
import os
os.mkfifo('pipe')
open('traces', 'w').write(str(os.getpid()))
opens = (os.POSIX_SPAWN_OPEN, 0, 'pipe', os.O_RDONLY, 0)
pid = os.posix_spawn('/usr/bin/true', ['true'], {}, file_actions=[opens])
os.waitpid(pid, 0)
open('over', 'w').write('yes')
"""
"""Waits in vfork(2) until a program opens the other end of the pipe."""


async def started(bench: OciBench, **changes: Any) -> tuple[SessionSpec, Handle]:
    spec = bench.spec(savable=True, **changes)
    return spec, await bench.start(spec)


async def woken(bench: OciBench, spec: SessionSpec, handle: Handle) -> Handle:
    async with asyncio.timeout(30):
        return [one async for one in bench.driver.start(spec, handle)][-1]


async def hibernated(bench: OciBench, spec: SessionSpec, handle: Handle) -> int:
    size = await bench.driver.hibernate(handle, spec.token)
    assert await bench.driver.observe(handle) == Hibernated(size)
    return size


def image_of(bench: OciBench, spec: SessionSpec) -> Path:
    return bench.driver._layout.session(spec.session_id).memory


async def content_of(handle: Handle, file: str) -> str:
    """The text of a file that a program in the sandbox is to write."""
    return (await run(handle, f"until [ -s {file} ]; do sleep 0.02; done; cat {file}", timeout_s=30)).stdout


async def test_all_that_a_program_holds_lives_on(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await run(handle, "cat > /workspace/survivor.py", stdin=base64.b64encode(SURVIVOR.read_bytes()).decode())
    order = {"id": "exec-1", "command": "exec python3 /workspace/survivor.py > /workspace/said 2>&1"}
    await call(endpoint_of(handle), "POST", "/execs", order)
    before = json.loads(await content_of(handle, "/workspace/ready"))
    for _ in range(2):  # one that was restored is saved again
        await hibernated(oci_criu, spec, handle)
        handle = await woken(oci_criu, spec, handle)
    await oci_criu.touch(spec, "go")
    found = json.loads(await content_of(handle, "/workspace/found"))
    connection = found.pop("connection")
    assert found == {"value": before["value"], **KEPT}, await oci_criu.read(spec, "said")
    assert connection != "open"  # closed, as a read or as an error
    ended = await call(endpoint_of(handle), "GET", "/execs/exec-1?wait=20")
    assert ended["exit_code"] == 0


async def test_a_terminal_and_its_jobs_go_on(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    order = {"id": "exec-t", "argv": ["/bin/bash", "--norc"], "tty": True, "rows": 30, "cols": 100}
    await call(endpoint_of(handle), "POST", "/execs", order)
    await typed(handle, b"word=kept; sleep 1000\n")
    await run(handle, "until pgrep -x sleep; do :; done", timeout_s=20)
    await typed(handle, b"\x1a")
    await run(handle, "until ps -o stat= -C sleep | grep T; do :; done", timeout_s=20)
    await hibernated(oci_criu, spec, handle)
    handle = await woken(oci_criu, spec, handle)
    await typed(handle, b"stty size; jobs; echo $word; kill %1; exit 3\nexit 3\n")
    ended = await call(endpoint_of(handle), "GET", "/execs/exec-t?wait=20")
    said = base64.b64decode(ended["stdout"]).decode()
    assert (ended["exit_code"], "30 100" in said, "Stopped" in said) == (3, True, True), said
    assert "\r\nkept\r\n" in said


async def test_nothing_of_a_hibernated_session_is_left_but_files_that_root_alone_reads(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu)
    size = await hibernated(oci_criu, spec, handle)
    assert cgroups_of(oci_criu) == []
    assert list(oci_criu.kept[-1].glob("[0-9]*")) == []  # claims of id ranges
    assert not oci_criu.driver._layout.session(spec.session_id).run.exists()
    image = image_of(oci_criu, spec)
    files = list(image.iterdir())
    assert {path.stat().st_uid for path in (image, *files)} == {0}
    assert {path.stat().st_mode & 0o077 for path in (image, *files)} == {0}
    assert sum(path.stat().st_size for path in files if path.suffix == ".img") == size
    assert [owned.session_id async for owned in oci_criu.driver.list_owned()] == [spec.session_id]


async def test_a_session_whose_socket_is_on_a_tmpfs_goes_on(oci_criu: OciBench) -> None:
    """As on most hosts, whose /run is one."""
    sessions = oci_criu.driver._layout.run_dir / "sessions"
    mount = ["mount", "-t", "tmpfs", "-o", "mode=0700", "sessions", str(sessions)]
    await in_new_thread(lambda: subprocess.run(mount, check=True))
    try:
        spec, handle = await started(oci_criu)
        await run(handle, "echo here > /tmp/mine")
        await hibernated(oci_criu, spec, handle)
        handle = await woken(oci_criu, spec, handle)
        assert (await run(handle, "cat /tmp/mine")).stdout == "here\n"
        await oci_criu.driver.destroy(handle)
    finally:
        await in_new_thread(lambda: subprocess.run(["umount", "--lazy", sessions], check=True))


async def test_a_destroyed_session_takes_its_memory_with_it(oci_criu: OciBench) -> None:
    before = await oci_criu.traces()
    spec, handle = await started(oci_criu)
    await hibernated(oci_criu, spec, handle)
    await oci_criu.driver.destroy(oci_criu.handle(spec.session_id))
    after = await oci_criu.traces()
    (oci_criu.workspaces / spec.session_id).rmdir()
    assert await oci_criu.traces() == before, after
    assert await oci_criu.driver.observe(handle) == Gone()


async def test_a_restored_session_has_the_rights_that_it_had(oci_criu: OciBench) -> None:
    """Also when its id range is another one, because another session has got the first meanwhile."""
    spec, handle = await started(oci_criu, hostname="alpha")
    inside = "umask; grep -E '^(Cap|NoNew|Seccomp:|Uid|Gid)' /proc/self/status; ulimit -a; env | grep -v _ID= | sort; hostname"
    rights = await run(handle, inside, user="root")
    outside = rights_of(handle)
    await hibernated(oci_criu, spec, handle)
    async with oci_criu.session() as other:
        assert other.data["id_base"] == handle.data["id_base"]
        handle = await woken(oci_criu, replace(spec, hostname="beta"), handle)
        assert handle.data["id_base"] != other.data["id_base"]
        again = await run(handle, inside, user="root")
        assert again.stdout == rights.stdout.replace("alpha", "beta")
        assert rights_of(handle) == outside
        sealed = await run(handle, "touch /.ship-run/mine", user="root")
        assert "Read-only file system" in sealed.stderr


def rights_of(handle: Handle) -> dict[str, object]:
    """Of its first process as the host sees it, with ids counted from the first of the session."""
    pid, base = handle.data["pid"], int(handle.data["id_base"])
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    kept = ("Cap", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
    found = {line for line in status if line.startswith(kept)}
    return {
        "status": {
            " ".join(str(int(w) - base) if w.isdigit() and int(w) >= base else w for w in line.split())
            for line in found
        },
        "limits": Path(f"/proc/{pid}/limits").read_text(),
        "score": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "map": Path(f"/proc/{pid}/uid_map").read_text().split()[2],
        "descriptors": sorted(
            os.readlink(f"/proc/{pid}/fd/{fd}").split("[")[0] for fd in os.listdir(f"/proc/{pid}/fd")
        ),
        "mounts": mounts_of(str(pid)),
    }


def mounts_of(pid: str) -> list[tuple[str, ...]]:
    lines = (line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return sorted((fields[4], *sorted(fields[5].split(","))) for fields in lines)


async def test_what_a_restored_session_takes_is_charged_to_its_own_first_id(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await hibernated(oci_criu, spec, handle)
    handle = await woken(oci_criu, spec, handle)
    assert ancestors(int(handle.data["pid"])) == [0, handle.data["id_base"]]
    limits = await run(handle, f"cd /proc/sys/user; head -n1 {' '.join(USER_LIMITS)} | grep -v -e == -e ^$")
    assert limits.stdout.split() == [str(limit) for limit in USER_LIMITS.values()]


def ancestors(pid: int) -> list[int]:
    """The owners of the user namespace of `pid` and of those above it, but the host's."""
    owners: list[int] = []
    fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY)
    while not os.path.samestat(os.fstat(fd), os.stat("/proc/self/ns/user")):
        owner = bytearray(4)
        fcntl.ioctl(fd, _NS_GET_OWNER_UID, owner)
        owners.append(int.from_bytes(owner, sys.byteorder))
        above = fcntl.ioctl(fd, _NS_GET_PARENT)
        os.close(fd)
        fd = above
    os.close(fd)
    return owners


@pytest.mark.parametrize(
    ("program", "words"), [(_HELD, "message queue"), (_TRACING, "traced"), (_LINKED, "other names")]
)
async def test_a_session_that_cannot_be_saved_goes_on_and_the_refusal_says_why(
    oci_criu: OciBench, program: str, words: str
) -> None:
    spec, handle = await started(oci_criu)
    command = f'exec python3 -c "{program}"' if program == _TRACING else program
    await call(endpoint_of(handle), "POST", "/execs", {"id": "exec-1", "command": command, "tty": True})
    wait = "until [ -e /workspace/traces ] || [ -e /dev/mqueue/q ]; do sleep 0.05; done"
    assert (await run(handle, wait, timeout_s=20)).exit_code == 0
    with pytest.raises(MemoryNotSaved, match=words):
        await oci_criu.driver.hibernate(handle, spec.token)
    await goes_on(oci_criu, spec, handle)


async def test_a_job_that_waits_for_the_terminal_cannot_be_saved_and_the_refusal_says_so(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu)
    order = {"id": "exec-t", "argv": ["/bin/bash", "--norc"], "tty": True, "rows": 30, "cols": 100}
    await call(endpoint_of(handle), "POST", "/execs", order)
    await typed(handle, b"cat &\n")
    assert (await run(handle, "until ps -o stat= -C cat | grep T; do :; done", timeout_s=20)).exit_code == 0
    with pytest.raises(MemoryNotSaved, match="waits for the terminal"):
        await oci_criu.driver.hibernate(handle, spec.token)
    await goes_on(oci_criu, spec, handle)


async def starting(handle: Handle) -> None:
    order = {"id": "exec-1", "argv": ["python3", "-c", _STARTING]}
    await call(endpoint_of(handle), "POST", "/execs", order)
    waits = "until [ -s traces ] && grep -q 'State:.D' /proc/$(cat traces)/status; do sleep 0.01; done"
    assert (await run(handle, waits, timeout_s=20)).exit_code == 0


async def test_a_program_that_starts_another_is_saved_once_that_has_started(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await starting(handle)
    pipe, cgroup = directory_of(spec.workspace) / "pipe", oci_criu.driver._cgroup_of(spec.session_id)

    async def open_pipe() -> int:
        async with asyncio.timeout(20):
            while not await in_new_thread(lambda: cgroups.is_frozen(cgroup)):
                pass
        return os.open(pipe, os.O_RDWR)

    opening = asyncio.create_task(open_pipe())
    await hibernated(oci_criu, spec, handle)
    os.close(await opening)
    assert await content_of(await woken(oci_criu, spec, handle), "over") == "yes"


async def test_a_program_that_waits_for_one_that_does_not_start_cannot_be_saved(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await starting(handle)
    with pytest.raises(MemoryNotSaved, match=r"process \d+ in it waits in vfork"):
        await oci_criu.driver.hibernate(handle, spec.token)
    await goes_on(oci_criu, spec, handle)
    # Open for both: the program that starts may end before one line is written, which would be a SIGPIPE.
    waits = "exec 3<>pipe; until [ -s over ]; do sleep 0.01; done"
    assert (await run(handle, waits, timeout_s=30)).exit_code == 0


async def test_one_that_was_woken_is_saved_again_while_its_runtime_uses_files(oci_criu: OciBench) -> None:
    """Its threads do that under the ids of the sandbox's user, which hides it from CRIU for a moment."""
    spec, handle = await started(oci_criu)
    await hibernated(oci_criu, spec, handle)
    handle = await woken(oci_criu, spec, handle)

    async def use_files() -> None:
        with contextlib.suppress(OSError, ValueError, EOFError):  # its connection ends with the save
            while True:
                await call(endpoint_of(handle), "GET", "/fs/list?path=/workspace")

    using = [asyncio.create_task(use_files()) for _ in range(8)]
    await hibernated(oci_criu, spec, handle)
    for task in using:
        task.cancel()
    await asyncio.wait(using, timeout=20)
    assert (await run(await woken(oci_criu, spec, handle), "echo awake")).stdout == "awake\n"


async def test_a_session_from_before_its_profile_could_hibernate_says_so_and_how_it_can(
    oci_criu: OciBench,
) -> None:
    spec = oci_criu.spec()
    handle = await oci_criu.start(spec)
    with pytest.raises(MemoryNotSaved, match="before its profile had `hibernate`; stop it and start it"):
        await oci_criu.driver.hibernate(handle, spec.token)
    await goes_on(oci_criu, spec, handle)


async def goes_on(bench: OciBench, spec: SessionSpec, handle: Handle, *, has_image: bool = False) -> None:
    """It is paused, and as before once it is resumed."""
    assert isinstance(await bench.driver.observe(handle), Paused)
    assert image_of(bench, spec).exists() is has_image
    await bench.driver.resume(handle)
    await check_health(endpoint_of(handle), spec.token)
    await is_closed(bench, handle)


async def is_closed(bench: OciBench, handle: Handle) -> None:
    """It has the limits that a session has, and nobody inside changes the directory of Ship's socket."""
    said = await run(handle, "cat /proc/sys/user/max_mnt_namespaces; touch /.ship-run/mine", user="root")
    assert said.stdout == ("1\n" if bench.isolation == "container" else "")
    assert "Read-only" in said.stderr


async def test_a_full_disk_in_the_middle_of_a_save_loses_nothing(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    memories = oci_criu.driver._layout.memories
    await in_new_thread(
        lambda: done("mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "none", str(memories))
    )
    try:
        with pytest.raises(StorageFull):
            await oci_criu.driver.hibernate(handle, spec.token)
        await goes_on(oci_criu, spec, handle)
    finally:
        await in_new_thread(lambda: done("umount", str(memories)))


def done(*command: str) -> None:
    subprocess.run(command, check=True, timeout=20)


@pytest.mark.parametrize("does", ["exec sleep 60", "kill -9 $$", "exit 0"])
async def test_a_criu_that_hangs_or_crashes_at_a_save_loses_nothing(
    oci_criu: OciBench, tmp_path: Path, does: str
) -> None:
    spec, handle = await started(oci_criu)
    replaced(oci_criu, tmp_path, does)
    if does == "exit 0":  # and says nothing: its files are missed at the restore at the latest
        await oci_criu.driver.hibernate(handle, spec.token)
        with pytest.raises(MemoryLost):
            await woken(oci_criu, spec, handle)
        return
    with pytest.raises(MemoryNotSaved):
        await oci_criu.driver.hibernate(handle, spec.token)
    await goes_on(oci_criu, spec, handle)


def replaced(bench: OciBench, directory: Path, does: str) -> None:
    program = directory / "criu"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    directory.chmod(0o711)
    bench.driver._criu = criu = replace(bench.driver._criu, binary=str(program), timeout_s=1.0)
    bench.driver._memory.savers["container"] = CriuSaver(criu)


@pytest.mark.parametrize("does", ["exec sleep 60", "kill -9 $$", "exit 1"])
async def test_a_criu_that_hangs_or_crashes_at_a_restore_starts_nothing_and_the_files_are_there(
    oci_criu: OciBench, tmp_path: Path, does: str
) -> None:
    spec, handle = await started(oci_criu)
    await run(handle, "echo kept > /workspace/file")
    await hibernated(oci_criu, spec, handle)
    replaced(oci_criu, tmp_path, does)
    for _ in range(2):  # the memory is used once only
        with pytest.raises(MemoryLost):
            await woken(oci_criu, spec, handle)
    assert await oci_criu.read(spec, "file") == "kept\n"
    await oci_criu.driver.destroy(handle)
    assert cgroups_of(oci_criu) == []
    assert await oci_criu.driver.observe(handle) == Gone()


def pages_of(image: Path) -> Path:
    return max(image.glob("pages*.img"), key=lambda file: file.stat().st_size)


def cut(image: Path) -> None:
    os.truncate(pages_of(image), 4096)


def alter(image: Path) -> None:
    with pages_of(image).open("r+b") as file:
        file.seek(8192)
        file.write(b"altered")


def of_another_kernel(image: Path) -> None:
    manifest = image / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"kernel": "', '"kernel": "5.'))


def of_another_ship(image: Path) -> None:
    manifest = json.loads((image / "manifest.json").read_text())
    (image / "manifest.json").write_text(json.dumps({**manifest, "closure": "gone"}))


def not_json(image: Path) -> None:
    (image / "manifest.json").write_text("{")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut, "cut short"),
        (alter, "altered"),
        (of_another_kernel, "kernel"),
        (of_another_ship, "version"),
        (not_json, "read"),
    ],
)
async def test_an_image_that_this_host_cannot_trust_is_refused_with_the_reason(
    oci_criu: OciBench, change: Callable[[Path], None], words: str
) -> None:
    spec, handle = await started(oci_criu)
    await hibernated(oci_criu, spec, handle)
    await in_new_thread(lambda: change(image_of(oci_criu, spec)))
    with pytest.raises(MemoryLost, match=words):
        await woken(oci_criu, spec, handle)
    assert not isinstance(await oci_criu.driver.observe(handle), Running | Paused)
    await oci_criu.driver.destroy(handle)
    assert cgroups_of(oci_criu) == []


async def test_a_session_that_runs_is_not_started_from_an_older_image_of_it(oci_criu: OciBench) -> None:
    """A Bay that is killed between the save and the end of the processes leaves both."""
    spec, handle = await started(oci_criu)

    async def not_ended(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    oci_criu.driver._clear_run, kept = not_ended, oci_criu.driver._clear_run  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await oci_criu.driver.hibernate(handle, spec.token)
    oci_criu.driver._clear_run = kept  # type: ignore[method-assign]
    assert isinstance(await oci_criu.driver.observe(handle), Paused)
    await oci_criu.driver.resume(handle)
    assert isinstance(await oci_criu.driver.observe(handle), Running)
    os.kill(int(handle.data["pid"]), signal.SIGKILL)
    await oci_criu.driver.wait(handle)
    assert await oci_criu.driver.observe(handle) == Exited(None)  # and not Hibernated


async def test_a_save_that_a_killed_bay_left_under_way_is_undone_before_the_session_goes_on(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu)
    pid = int(handle.data["pid"])
    await oci_criu.driver.pause(handle)
    with closing_fd(os.pidfd_open(pid)) as pidfd:
        await in_new_thread(lambda: unseal_socket_dir(pidfd))
    await in_new_thread(lambda: limit(pid, max_mnt_namespaces=3))
    await in_new_thread(image_of(oci_criu, spec).mkdir)
    assert isinstance(await oci_criu.driver.observe(handle), Paused)
    await goes_on(oci_criu, spec, handle, has_image=True)
    assert not image_of(oci_criu, spec).exists()


async def test_a_restore_that_a_killed_bay_left_half_way_is_not_begun_again(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await run(handle, "echo kept > /workspace/file")
    before = await oci_criu.traces()
    await hibernated(oci_criu, spec, handle)
    left = handle
    async with aclosing(oci_criu.driver.start(spec, handle)) as handles:
        async for left in handles:
            if left.data["step"] == "launched":
                break
    with pytest.raises(MemoryLost, match="used once"):
        await woken(oci_criu, spec, left)
    assert isinstance(await oci_criu.driver.observe(left), Paused)  # what is not settled never runs
    await oci_criu.driver.destroy(left)
    assert cgroups_of(oci_criu) == []
    assert not image_of(oci_criu, spec).exists()
    assert await oci_criu.read(spec, "file") == "kept\n"
    assert before["workspaces"] == (await oci_criu.traces())["workspaces"]


async def test_a_restore_that_had_ended_when_its_bay_was_killed_goes_on_and_is_lost_when_it_died(
    oci_criu: OciBench,
) -> None:
    """A Bay that is killed between the last step and the row has saved the step before."""
    spec, handle = await started(oci_criu)
    await run(handle, "echo in memory > /tmp/file")
    await hibernated(oci_criu, spec, handle)
    steps = [one async for one in oci_criu.driver.start(spec, handle)]
    launched = next(one for one in steps if one.data["step"] == "launched")
    assert await woken(oci_criu, spec, launched) == steps[-1]
    assert (await run(steps[-1], "cat /tmp/file")).stdout == "in memory\n"
    os.kill(int(launched.data["pid"]), signal.SIGKILL)
    await oci_criu.driver.wait(launched)
    with pytest.raises(MemoryLost, match="used once"):
        await woken(oci_criu, spec, launched)


async def test_another_bay_restores_what_the_one_before_saved(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await run(handle, "echo in memory > /tmp/file")
    await hibernated(oci_criu, spec, handle)
    first = oci_criu.driver
    second = OciDriver(
        root=first._layout.root,
        run_dir=first._layout.run_dir,
        ids_dir=first._ids.directory,
        criu=first._criu.binary,
    )
    async with opening(second):
        assert isinstance(await second.observe(handle), Hibernated)
        handle = [one async for one in second.start(spec, handle)][-1]
        assert (await run(handle, "cat /tmp/file")).stdout == "in memory\n"


async def test_a_network_is_held_to_the_policy_of_the_restore_from_its_first_packet(
    oci_criu: OciBench,
) -> None:
    spec, handle = await started(oci_criu, network=NetworkPolicy(mode="open"))
    await hibernated(oci_criu, spec, handle)
    assert (await oci_criu.driver.network_state(handle)).mode == "none"
    handle = await woken(oci_criu, replace(spec, network=NetworkPolicy(mode="allowlist")), handle)
    assert (await oci_criu.driver.network_state(handle)).mode == "allowlist"
    links = await run(handle, "ls /sys/class/net 2>/dev/null || cat /proc/net/dev | tail -n +3 | cut -d: -f1")
    assert len(links.stdout.split()) == 2


async def test_a_host_whose_criu_fails_its_trial_offers_no_memory(oci: OciBench) -> None:
    first = oci.driver
    for binary in ("/nonexistent/criu", "/bin/false"):
        driver = OciDriver(
            root=first._layout.root, run_dir=first._layout.run_dir, ids_dir=first._ids.directory, criu=binary
        )
        async with opening(driver):
            assert driver.capabilities.memory == ()
            assert driver.memory_problems.keys() == {"container"}
    assert [owned async for owned in oci.driver.list_owned()] == []


async def test_a_trial_that_a_killed_bay_left_half_way_leaves_nothing(oci_criu: OciBench) -> None:
    first = oci_criu.driver
    driver = OciDriver(
        root=first._layout.root,
        run_dir=first._layout.run_dir,
        ids_dir=first._ids.directory,
        fork_ships=False,
        criu=first._criu.binary,
    )

    async def killed(*_: object) -> int:
        raise asyncio.CancelledError

    driver.hibernate = driver.destroy = killed  # type: ignore[method-assign]
    before = set(os.listdir(first._layout.run_dir))
    with pytest.raises(asyncio.CancelledError):
        await driver.open()
    assert set(os.listdir(first._layout.run_dir)) != before
    async for owned in first.list_owned():
        await first.destroy(owned.handle)
    await first.open()
    assert set(os.listdir(first._layout.run_dir)) == before


async def test_files_outside_of_the_workspace_are_kept_with_the_memory(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    await run(handle, "echo one > /var/tmp/file; echo two > /usr/local/file", user="root")
    await hibernated(oci_criu, spec, handle)
    handle = await woken(oci_criu, spec, handle)
    assert (await run(handle, "cat /var/tmp/file /usr/local/file")).stdout == "one\ntwo\n"


async def test_connections_that_are_open_end_with_a_hibernation(oci_criu: OciBench) -> None:
    spec, handle = await started(oci_criu)
    order = {"id": "exec-l", "command": "until [ -e /workspace/go ]; do seq 1000; done"}
    await call(endpoint_of(handle), "POST", "/execs", order)
    for _ in range(2):  # one that was restored is saved again
        opened = [await open_connection(endpoint_of(handle), limit=1 << 20) for _ in range(3)]
        asked = (
            "GET /execs/exec-l/output?follow=true HTTP/1.1\r\n",
            "GET /execs/exec-l?wait=300 HTTP/1.1\r\n",
            "PUT /fs/content?path=half HTTP/1.1\r\nContent-Length: 1000\r\n",
        )
        for (_, writer), head in zip(opened, asked, strict=True):
            writer.write(f"{head}Host: ship\r\nAuthorization: Bearer {TOKEN}\r\n\r\nhalf".encode())
        await opened[0][0].readuntil(b"\r\n\r\n")
        await hibernated(oci_criu, spec, handle)
        async with asyncio.timeout(10):
            for reader, writer in opened:
                with contextlib.suppress(ConnectionResetError):
                    await reader.read()
                writer.close()
        handle = await woken(oci_criu, spec, handle)
    await oci_criu.touch(spec, "go")
    assert (await call(endpoint_of(handle), "GET", "/execs/exec-l?wait=20"))["exit_code"] == 0
    assert (await run(handle, "ls -A /workspace")).stdout == "go\n"


async def typed(handle: Handle, data: bytes) -> None:
    """Type into the exec `exec-t`."""
    reader, writer = await open_connection(endpoint_of(handle), limit=1 << 20)
    head = (
        f"POST /execs/exec-t/stdin HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + data)
    assert (await reader.read()).startswith(b"HTTP/1.1 200")
    writer.close()


def test_the_doctor_tries_it_where_a_profile_asks_for_it(criu_program: str, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path,
            "cache_dir": shared_cache.filled(),
            "criu": criu_program,
            "profiles": {"sleeps": {"hibernate": True}},
        }
    )
    for given, found in (
        (settings, "a sandbox was saved and went on"),
        (settings.model_copy(update={"criu": "/nonexistent"}), "does not run"),
    ):
        (check,) = doctor._memory(given)
        assert found in check.found
        assert check.ok is (given is settings)
    assert list(doctor._memory(settings.model_copy(update={"profiles": {}}))) == []
