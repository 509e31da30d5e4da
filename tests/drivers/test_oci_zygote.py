"""Ships that the zygote forks: the same rights as those that runc starts, and no loss when it ends."""

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bay.drivers.base import Handle
from bay.drivers.oci.driver import OciDriver
from bay.errors import BayError
from bay.linux import libseccomp
from bay.linux.processes import closing_fd, ends_within
from bay.models import Resources
from bay.testing.driver_bench import DriverBench, call, endpoint_of, run

pytestmark = pytest.mark.anyio

# Of the process, not of its rights: numbers, memory, and what it does just now.
_OWN = re.compile(r"(Name|State|Tgid|Pid|PPid|NS\w+|Vm\w+|Rss\w+|SigCgt|Threads|\w*voluntary_ctxt_switches)$")

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH, _PTRACE_SECCOMP_GET_FILTER = 0x4206, 0x4207, 17, 0x420C
_WALL = 0x4000_0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long


async def test_a_forked_ship_has_the_rights_of_one_that_runc_starts(oci: DriverBench) -> None:
    async with _by_runc(oci) as plain, oci.session() as forked, plain.session() as started:
        for look in (_status, _limits, _namespaces, _descriptors, _groups, _places, _root_mounts):
            assert look(_pid(forked)) == look(_pid(started)), look.__name__
        inside = "umask; cat /proc/self/status; ulimit -a; env | sort; cat /proc/1/oom_score_adj"
        for user in ("root", None):
            answers = [await run(one, inside, user=user) for one in (forked, started)]
            first, second = (_without_own(answer.stdout) for answer in answers)
            assert first == second


async def test_a_forked_ship_has_the_filter_of_one_that_runc_starts(oci: DriverBench) -> None:
    async with _by_runc(oci) as plain, oci.session() as forked, plain.session() as started:
        ours, runcs = _filter(_pid(forked)), _filter(_pid(started))
    # Both begin with lines of their own for calls that are newer than the profile.
    assert ours[6 * 8 :] == runcs[9 * 8 :]


@pytest.mark.parametrize("number", [463, 467, 1000, 0x4000_0000 + 101, 0xFFFF_FFFF])
async def test_unknown_calls_get_the_same_answer(oci: DriverBench, number: int) -> None:
    ask = f"import ctypes; l = ctypes.CDLL(None, use_errno=True); l.syscall({number}); print(ctypes.get_errno())"
    async with _by_runc(oci) as plain, oci.session() as forked, plain.session() as started:
        answers = [await run(one, f'python3 -c "{ask}"') for one in (forked, started)]
    assert answers[0] == answers[1]


async def test_its_secrets_are_hidden_from_root_inside(oci: DriverBench) -> None:
    async with oci.session() as handle:
        for name in ("environ", "mem", "maps", "exe", "fd/1", "root/etc/passwd"):
            answer = await run(handle, f"head -c 1 /proc/1/{name}", user="root")
            assert (answer.exit_code, answer.stdout) == (1, ""), name


async def test_root_inside_cannot_end_or_stop_it(oci: DriverBench) -> None:
    async with oci.session() as handle:
        for name in ("KILL", "STOP", "HUP"):
            await run(handle, f"kill -{name} 1", user="root")
        assert (await run(handle, "kill -9 -1; echo alive", user="root")).stdout in ("alive\n", "")
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_the_zygote_has_nothing_of_bay(oci: DriverBench) -> None:
    zygote = _zygote()
    assert Path(f"/proc/{zygote}/environ").read_bytes() == b"LANG=C.UTF-8\0"
    assert {kind.split(":")[0] for kind in _descriptors(zygote).values()} == {"/dev/null", "socket"}
    mounts = [line.split()[4] for line in Path(f"/proc/{zygote}/mountinfo").read_text().splitlines()]
    assert sorted(mounts) == ["/", "/.ship", "/proc"]
    async with oci.session():
        assert _zygote() == zygote


async def test_starts_wait_for_a_new_zygote_when_one_is_killed(oci: DriverBench) -> None:
    os.kill(_zygote(), signal.SIGKILL)
    async with oci.session() as first:
        os.kill(_zygote(), signal.SIGKILL)
        handles = await asyncio.gather(*(oci.start(oci.spec()) for _ in range(6)))
        for handle in (first, *handles):
            assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_starts_go_on_when_the_zygote_stands_still(oci: DriverBench) -> None:
    os.kill(_zygote(), signal.SIGSTOP)
    handles = await asyncio.gather(*(oci.start(oci.spec()) for _ in range(6)))
    for handle in handles:
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_a_killed_bay_leaves_no_zygote(oci: DriverBench) -> None:
    program = """
import asyncio, pathlib, sys
from bay.drivers.oci.driver import OciDriver

async def main():
    root, run_dir, ids = map(pathlib.Path, sys.argv[1:])
    driver = OciDriver(root=root, run_dir=run_dir, ids_dir=ids)
    await driver.open()
    print(driver._zygote._current.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
    bay = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *map(str, oci.kept), stdout=asyncio.subprocess.PIPE
    )
    assert bay.stdout is not None
    async with asyncio.timeout(60):
        while not (line := await bay.stdout.readline()).strip().isdigit():
            assert line, "it ended"
    with closing_fd(os.pidfd_open(int(line))) as zygote:
        bay.kill()
        await bay.wait()
        assert ends_within(zygote, 10)


async def test_no_process_is_left_of_a_start_whose_container_dies_at_the_join(
    oci: DriverBench, tmp_path: Path
) -> None:
    killing = tmp_path / "runc"
    killing.write_text(
        '#!/bin/sh\nrunc "$@" || exit\ncase "$*" in *pid-file*) '
        'while [ "$1" != --pid-file ]; do shift; done; kill -9 "$(cat "$2")";; esac\n'
    )
    killing.chmod(0o755)
    async with _other(oci, runc=str(killing)) as bench:
        with pytest.raises(BayError):
            await bench.start(bench.spec())
        await bench.clear()
        assert all(_has_ended(pid) for pid in _others_in_the_mount_namespace_of(_zygote()))


@pytest.mark.parametrize("resources", [Resources(pids=1), Resources(memory=1 << 20)])
async def test_a_session_too_small_for_ship_fails_alike(oci: DriverBench, resources: Resources) -> None:
    async with _by_runc(oci) as plain:
        outcomes = [await _outcome(bench, resources) for bench in (oci, plain)]
    assert outcomes[0] == outcomes[1]


async def test_a_host_without_libseccomp_starts_ship_by_runc(
    oci: DriverBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libseccomp, "LIBRARY", "libseccomp-there-is-none.so")
    async with _other(oci) as bench, bench.session() as handle:
        assert b"\0ship\0" in Path(f"/proc/{_pid(handle)}/cmdline").read_bytes()
        assert (await run(handle, "echo alive")).stdout == "alive\n"


def test_a_bay_that_is_the_first_process_removes_its_sessions() -> None:
    program = """
import asyncio, shutil, tempfile
from pathlib import Path
from bay.drivers.oci.driver import OciDriver
from bay.testing.driver_bench import DriverBench, call, endpoint_of, run

async def main():
    top, run_dir = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp(dir="/run"))
    run_dir.chmod(0o711)
    driver = OciDriver(root=top / "root", run_dir=run_dir / "run", ids_dir=run_dir / "ids")
    await driver.open()
    (top / "workspaces").mkdir()
    bench = DriverBench(driver, top / "workspaces", (), "none", 1000)
    async with asyncio.timeout(30), bench.session() as handle:
        print((await run(handle, "echo alive")).stdout, end="")
    await driver.aclose()
    shutil.rmtree(top)
    shutil.rmtree(run_dir)

asyncio.run(main())
print("removed")
"""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout.splitlines()[-2:] == ["alive", "removed"], done.stderr


def _by_runc(bench: DriverBench) -> contextlib.AbstractAsyncContextManager[DriverBench]:
    return _other(bench, fork_ships=False)


@asynccontextmanager
async def _other(bench: DriverBench, **changes: Any) -> AsyncGenerator[DriverBench]:
    """A bench of the same places whose driver is another."""
    root, run_dir, ids = bench.kept
    driver = OciDriver(root=root, run_dir=run_dir, ids_dir=ids, **changes)
    await driver.open()
    other = DriverBench(driver, bench.workspaces, bench.kept, bench.instance, 1000)
    try:
        yield other
    finally:
        await other.clear()
        await driver.aclose()


async def _outcome(bench: DriverBench, resources: Resources) -> object:
    try:
        async with bench.session(resources=resources) as handle:
            order = {"id": "exec-0123456789abcdef", "command": "echo alive"}
            return await call(endpoint_of(handle), "POST", "/execs?wait=30", order)
    except BayError as error:
        return type(error)


def _pid(handle: Handle) -> int:
    return int(handle.data["pid"])


def _zygote() -> int:
    """The newest one: a test's second driver has its own."""
    children = Path(f"/proc/{os.getpid()}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    return max(pid for pid in pids if b"ship.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes())


def _others_in_the_mount_namespace_of(zygote: int) -> list[int]:
    """Where a first process is until it enters the container's."""
    its = os.readlink(f"/proc/{zygote}/ns/mnt")
    found: list[int] = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with contextlib.suppress(OSError):  # it ended, or it is the machine's own
            if os.readlink(f"/proc/{pid}/ns/mnt") == its and pid != zygote:
                found.append(pid)
    return found


def _has_ended(pid: int) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    with closing_fd(pidfd):
        return ends_within(pidfd, 10)


def _status(pid: int) -> dict[str, str]:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        name: value for name, value in lines.items() if not _OWN.match(name) and name not in ("Uid", "Gid")
    }


def _limits(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text()


def _namespaces(pid: int) -> dict[str, bool]:
    """Which namespaces are the host's."""
    names = os.listdir(f"/proc/{pid}/ns")
    return {
        name: os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}") for name in names
    }


def _descriptors(pid: int) -> dict[str, str]:
    links = sorted(os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))
    return {str(at): re.sub(r"\d+", "N", link) for at, link in enumerate(links)}


def _groups(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {re.sub(r"sess-\w+", "SESSION", line) for line in lines}


def _places(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "root")]


def _root_mounts(pid: int) -> list[tuple[str, ...]]:
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return [(line[4], line[5], line[-3]) for line in lines]


def _without_own(text: str) -> list[str]:
    return [
        line for line in text.splitlines() if not _OWN.match(line.split(":")[0]) and "SHIP_EXEC" not in line
    ]


def _filter(pid: int) -> bytes:
    """The seccomp filter of a process, by ptrace(2)."""

    def ask(request: int, address: int = 0, data: Any = None) -> int:
        answer: int = _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), ctypes.c_void_p(address), data)
        assert answer >= 0, os.strerror(ctypes.get_errno())
        return answer

    ask(_PTRACE_SEIZE)
    ask(_PTRACE_INTERRUPT)
    os.waitpid(pid, _WALL)
    try:
        room = ctypes.create_string_buffer(8 * ask(_PTRACE_SECCOMP_GET_FILTER))
        ask(_PTRACE_SECCOMP_GET_FILTER, 0, room)
        return room.raw
    finally:
        ask(_PTRACE_DETACH)
