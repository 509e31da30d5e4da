"""Ships that the zygote forks: the same rights as those that runc starts, and no loss when it ends."""

import asyncio
import contextlib
import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from crashing_bay import STEPS

from bay.drivers.base import Handle
from bay.drivers.oci import driver, probe, seccomp, zygote
from bay.drivers.oci.driver import OciDriver
from bay.errors import BayError, DriverUnavailable
from bay.linux import libseccomp
from bay.linux.processes import closing_fd, ends_within
from bay.linux.threads import in_new_thread
from bay.models import Resources
from bay.testing.driver_bench import DriverBench, call, cgroups_of, endpoint_of, run

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]


@pytest.fixture(scope="module")
def lent_zygote() -> None:
    """None: each driver of this file has a zygote of its own."""


# Of the process, not of its rights: numbers, memory, and what it does just now.
_OWN = re.compile(r"(Name|State|Tgid|Pid|PPid|NS\w+|Vm\w+|Rss\w+|SigCgt|Threads|\w*voluntary_ctxt_switches)$")

_PTRACE_SEIZE, _PTRACE_INTERRUPT, _PTRACE_DETACH, _PTRACE_SECCOMP_GET_FILTER = 0x4206, 0x4207, 17, 0x420C
_WALL = 0x4000_0000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long


async def test_a_forked_ship_has_the_rights_of_one_that_runc_starts(oci: DriverBench) -> None:
    async with _by_runc(oci) as plain, oci.session() as forked, plain.session() as started:
        for look in (
            _status,
            _ids,
            _limits,
            _namespaces,
            _descriptors,
            _groups,
            _places,
            _root_mounts,
            _score,
        ):
            await _same(look, forked, started)
        inside = "umask; cat /proc/self/status; ulimit -a; env | sort"
        for user in ("root", None):
            answers = [await run(one, inside, user=user) for one in (forked, started)]
            first, second = (_without_own(answer.stdout) for answer in answers)
            assert first == second


async def test_a_forked_ship_is_alone_in_its_sandbox(oci: DriverBench) -> None:
    """The process by which runc made the namespaces has ended."""
    async with oci.session() as handle:
        for group in cgroups_of(oci):
            assert (group / "cgroup.procs").read_text().split() == [str(_pid(handle))]


async def test_each_forked_ship_has_a_keyring_of_its_own(oci: DriverBench) -> None:
    ask = "import ctypes; print(ctypes.CDLL(None).syscall(250, 0, -3, 0))"
    async with (
        _other(oci, seccomp_profile=_with_keyctl) as weaker,
        weaker.session() as first,
        weaker.session() as second,
    ):
        rings = [int((await run(one, f'python3 -c "{ask}"')).stdout) for one in (first, second)]
    own = ctypes.CDLL(None).syscall(250, 0, -3, 0)
    assert min(rings) > 0
    assert len({*rings, own}) == 3


async def test_a_long_environment_reaches_it(oci: DriverBench) -> None:
    async with oci.session(kernel_env={"LONG": '"' * 47_000}) as handle:
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_a_worn_zygote_is_replaced_and_a_failed_replacement_is_tried_again(
    oci: DriverBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygote, "_MAX_FORKS", 1)
    worn, start = _zygote(), zygote.Zygote._start

    def refuse(_: object) -> object:
        raise OSError(errno.EMFILE, "no descriptor")

    monkeypatch.setattr(zygote.Zygote, "_start", refuse)
    with pytest.raises(DriverUnavailable):
        await oci.start(oci.spec())
    monkeypatch.setattr(zygote.Zygote, "_start", start)
    async with oci.session() as handle:
        assert (await run(handle, "echo alive")).stdout == "alive\n"
    assert _zygote() != worn


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
        for name in ("environ", "maps", "exe", "fd/1", "root/etc/passwd"):
            answer = await run(handle, f"head -c 1 /proc/1/{name}", user="root")
            assert (answer.exit_code, answer.stdout) == (1, ""), name


async def test_root_inside_cannot_end_or_stop_it(oci: DriverBench) -> None:
    async with oci.session() as handle:
        for name in ("KILL", "STOP", "HUP"):
            await run(handle, f"kill -{name} 1", user="root")
        assert (await run(handle, "kill -9 -1; echo alive", user="root")).stdout in ("alive\n", "")
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_signals_that_bay_ignores_are_not_ignored_inside(oci: DriverBench) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGQUIT)}
    try:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        async with _other(oci) as bench, bench.session() as handle:
            ignored = _status(handle)["SigIgn"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert int(ignored, 16) & (1 << (signal.SIGHUP - 1) | 1 << (signal.SIGQUIT - 1)) == 0


async def test_the_zygote_has_nothing_of_bay(oci: DriverBench) -> None:
    pid = _zygote()
    assert Path(f"/proc/{pid}/environ").read_bytes() == b"LANG=C.UTF-8\0"
    assert {kind.split(":")[0] for kind in _descriptors_of(pid).values()} == {"/dev/null", "socket"}
    mounts = [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    assert sorted(mounts) == ["/", "/.ship", "/proc"]
    async with oci.session():
        assert _zygote() == pid


async def test_starts_wait_for_a_new_zygote_when_one_is_killed(oci: DriverBench) -> None:
    os.kill(_zygote(), signal.SIGKILL)
    async with oci.session() as first:
        os.kill(_zygote(), signal.SIGKILL)
        handles = await asyncio.gather(*(oci.start(oci.spec()) for _ in range(6)))
        for handle in (first, *handles):
            assert (await run(handle, "echo alive")).stdout == "alive\n"


def test_the_parts_that_every_ship_uses_are_loaded_before_the_zygote_forks() -> None:
    """What is loaded after that, each Ship has for itself."""
    program = (
        "import sys, ship.zygote; before = set(sys.modules); "
        "from ship.process.init import Nursery; Nursery(); print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("step", STEPS)
async def test_a_zygote_that_is_killed_between_fork_and_seal_fails_no_start(
    oci: DriverBench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    place, name = STEPS[step]
    does = getattr(place, name)
    killed: list[int] = []

    def do_and_kill(*arguments: Any, **named: Any) -> Any:
        done = does(*arguments, **named)
        if not killed:
            killed.append(_zygote())
            os.kill(killed[0], signal.SIGKILL)
        return done

    monkeypatch.setattr(place, name, do_and_kill)
    async with oci.session() as first, oci.session() as second:
        assert _zygote() not in killed
        for handle in (first, second):
            assert (await run(handle, "echo alive")).stdout == "alive\n"
    assert len(killed) == 1


@pytest.mark.timeout(400)
async def test_a_hundred_starts_go_on_when_the_zygote_stands_still(oci: DriverBench) -> None:
    os.kill(_zygote(), signal.SIGSTOP)
    specs = [oci.spec() for _ in range(100)]
    async with asyncio.timeout(300):
        handles = await asyncio.gather(*(_last(oci.driver.start(spec, None)) for spec in specs))
    for handle in handles:
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_a_zygote_that_outlives_its_bay_is_in_no_way_of_the_next(oci: DriverBench) -> None:
    """As at an upgrade: the old one does not hear that its Bay has ended, until it goes on."""
    async with _another_bay(oci) as (bay, old):
        os.kill(old, signal.SIGSTOP)
        bay.kill()
        await bay.wait()
        with closing_fd(os.pidfd_open(old)) as zygote:
            async with oci.session() as handle, _other(oci) as later, later.session() as another:
                for one in (handle, another):
                    assert (await run(one, "echo alive")).stdout == "alive\n"
            assert not ends_within(zygote, 0)
            os.kill(old, signal.SIGCONT)
            assert ends_within(zygote, 10)


async def test_a_process_that_cannot_run_runc_says_why(oci: DriverBench) -> None:
    assert isinstance(oci.driver, OciDriver)
    running = oci.driver._zygote
    assert running is not None
    before = _zygote()
    with (
        closing_fd(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) as no_namespace,
        pytest.raises(DriverUnavailable, match="refused a step of the start: setns: Invalid argument"),
    ):
        await in_new_thread(lambda: running.run(["/bin/true"], no_namespace, no_namespace, no_namespace))
    assert _zygote() == before


async def test_a_killed_bay_leaves_no_zygote(oci: DriverBench) -> None:
    async with _another_bay(oci) as (bay, its):
        with closing_fd(os.pidfd_open(its)) as zygote:
            bay.kill()
            await bay.wait()
            assert ends_within(zygote, 10)


@asynccontextmanager
async def _another_bay(bench: DriverBench) -> AsyncGenerator[tuple[asyncio.subprocess.Process, int]]:
    """A process with a driver of the same places, and the pid of its zygote."""
    program = """
import asyncio, pathlib, sys
from bay.drivers.oci import probe, seccomp, zygote
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
        sys.executable, "-c", program, *map(str, bench.kept), stdout=asyncio.subprocess.PIPE
    )
    assert bay.stdout is not None
    try:
        async with asyncio.timeout(60):
            while not (line := await bay.stdout.readline()).strip().isdigit():
                assert line, "it ended"
        yield bay, int(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            bay.kill()
        await bay.wait()


async def _last(handles: AsyncGenerator[Handle, None]) -> Handle:
    return [handle async for handle in handles][-1]


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
    rows = [row for row in await asyncio.to_thread(probe.checks) if row.name == "libseccomp"]
    assert [(row.ok, row.required) for row in rows] == [(False, False)]
    said = structlog.testing.CapturingLogger()
    monkeypatch.setattr(driver, "log", said)
    async with _other(oci) as bench, bench.session() as handle:
        assert ("zygote.unavailable",) in [call.args for call in said.calls]
        assert b"\0ship\0" in Path(f"/proc/{_pid(handle)}/cmdline").read_bytes()
        assert (await run(handle, "echo alive")).stdout == "alive\n"


def test_a_bay_that_is_the_first_process_removes_its_sessions() -> None:
    program = """
import asyncio, shutil, tempfile
from pathlib import Path
from bay.drivers.oci import probe, seccomp, zygote
from bay.drivers.oci.driver import OciDriver
from bay.testing.driver_bench import DriverBench, call, cgroups_of, endpoint_of, run

async def main():
    top, run_dir = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp(dir="/run"))
    run_dir.chmod(0o711)
    driver = OciDriver(root=top / "root", run_dir=run_dir / "run", ids_dir=run_dir / "ids")
    await driver.open()
    (top / "workspaces").mkdir()
    bench = DriverBench(driver, top / "workspaces", (), "none", 1000)
    async with asyncio.timeout(30), bench.session() as handle:
        print((await run(handle, "echo alive")).stdout, end="")
    spec = bench.spec()
    steps = driver.start(spec, None)
    async for handle in steps:
        if handle.data["step"] == "launched":
            break
    await steps.aclose()
    await driver.destroy(bench.handle(spec.session_id))
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


def _with_keyctl(machine: str) -> dict[str, Any]:
    profile = seccomp.profile(machine)
    return {**profile, "syscalls": [*profile["syscalls"], {"names": ["keyctl"], "action": "SCMP_ACT_ALLOW"}]}


async def _same(look: Callable[[Handle], object], forked: Handle, started: Handle) -> None:
    """Bounded: a connection of the first health check may still be open."""
    async with asyncio.timeout(10):
        # What the kernel shows of a process has no event to wait for.
        while (first := _seen(look, forked)) != (second := _seen(look, started)) or first is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert first == second


def _seen(look: Callable[[Handle], object], handle: Handle) -> object:
    try:
        return look(handle)
    except FileNotFoundError:  # a descriptor that was closed just then
        return None


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
    pids: set[int] = set()
    for file in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread ended; its children are another's now
            pids |= {int(pid) for pid in file.read_text().split()}
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


def _status(handle: Handle) -> dict[str, str]:
    pid = _pid(handle)
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        name: value for name, value in lines.items() if not _OWN.match(name) and name not in ("Uid", "Gid")
    }


def _limits(handle: Handle) -> str:
    pid = _pid(handle)
    return Path(f"/proc/{pid}/limits").read_text()


def _namespaces(handle: Handle) -> dict[str, bool]:
    """Which namespaces are the host's."""
    pid = _pid(handle)
    names = os.listdir(f"/proc/{pid}/ns")
    return {
        name: os.readlink(f"/proc/{pid}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}") for name in names
    }


def _ids(handle: Handle) -> list[int]:
    """Real, effective, saved and for files, as inside; and that it leads its session and its group."""
    pid, base = _pid(handle), int(handle.data["id_base"])
    found = re.findall(r"^[UG]id:\t(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    group, session = os.getpgid(pid), os.getsid(pid)
    return [int(number) - base for line in found for number in line.split()] + [group - pid, session - pid]


def _score(handle: Handle) -> str:
    return Path(f"/proc/{_pid(handle)}/oom_score_adj").read_text()


def _descriptors(handle: Handle) -> list[str]:
    """But for the socket of sock_diag, which only a forked Ship can have."""
    found = sorted(_descriptors_of(_pid(handle)).values())
    return found if b"zygote" not in Path(f"/proc/{_pid(handle)}/cmdline").read_bytes() else found[:-1]


def _descriptors_of(pid: int) -> dict[str, str]:
    links = sorted(os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd"))
    return {str(at): re.sub(r"\d+", "N", link) for at, link in enumerate(links)}


def _groups(handle: Handle) -> set[str]:
    pid = _pid(handle)
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {re.sub(r"sess-\w+", "SESSION", line) for line in lines}


def _places(handle: Handle) -> list[str]:
    pid = _pid(handle)
    return [os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "root")]


def _root_mounts(handle: Handle) -> list[tuple[str, ...]]:
    pid = _pid(handle)
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
