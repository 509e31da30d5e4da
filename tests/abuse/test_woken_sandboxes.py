"""A sandbox that was hibernated and woken confines as a new one, and so does a live fork of it.

CRIU makes their processes and namespaces, not runc, from an image that has all that it must bring back. So
what is looked at is what the host sees of each process, before and after, and what programs can do: those
that were saved and those that begin afterwards.
"""

import asyncio
import errno
import fcntl
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hostile_attempts import codes_of, tries
from oci_bench import LentZygote, OciBench, real_oci
from test_host_files import (
    test_files_that_tell_of_the_host_are_empty,
    test_no_file_of_the_kernel_can_be_opened_to_write,
)
from test_oci_hibernation import mounts_of

from bay.drivers.base import Handle, SessionSpec
from bay.drivers.oci import cgroups
from bay.drivers.oci.userns import IDS
from bay.places import directory_of
from bay.testing.driver_bench import call, endpoint_of, run
from bay.testing.walls import (
    REFUSED,
    test_a_32_bit_system_call_ends_the_process,
    test_a_set_uid_program_gives_nothing,
    test_devices_are_the_harmless_ones,
    test_every_namespace_is_its_own,
    test_kernel_settings_cannot_be_written,
    test_root_inside_may_chroot_as_package_managers_do_and_leads_no_higher_by_it,
    test_ship_cannot_be_changed_and_runs_without_writing,
    test_the_environment_and_the_mount_table_name_no_directory_of_bay,
    test_the_first_process_has_no_descriptor_of_the_host,
    test_the_limits_of_the_user_namespace_are_set_and_cannot_be_raised,
    test_the_network_namespace_belongs_to_the_host_and_has_loopback_and_its_line_to_it,
    test_the_socket_cannot_be_replaced_and_its_directory_cannot_be_filled,
)

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

# Tests are found by their names here.
__all__ = [
    "test_a_32_bit_system_call_ends_the_process",
    "test_a_set_uid_program_gives_nothing",
    "test_devices_are_the_harmless_ones",
    "test_every_namespace_is_its_own",
    "test_files_that_tell_of_the_host_are_empty",
    "test_kernel_settings_cannot_be_written",
    "test_no_file_of_the_kernel_can_be_opened_to_write",
    "test_root_inside_may_chroot_as_package_managers_do_and_leads_no_higher_by_it",
    "test_ship_cannot_be_changed_and_runs_without_writing",
    "test_the_environment_and_the_mount_table_name_no_directory_of_bay",
    "test_the_first_process_has_no_descriptor_of_the_host",
    "test_the_limits_of_the_user_namespace_are_set_and_cannot_be_raised",
    "test_the_network_namespace_belongs_to_the_host_and_has_loopback_and_its_line_to_it",
    "test_the_socket_cannot_be_replaced_and_its_directory_cannot_be_filled",
]

SAVED = "ckpt-1"
_NS_GET_USERNS = 0xB701
_CONFINING = ("Cap", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Uid", "Umask")
_LIMITS = (
    *("cpu.cfs_quota_us", "cpu.cfs_period_us", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
    *("cpu.max", "memory.max", "memory.swap.max", "pids.max", "devices.list", "hugetlb.2MB.limit_in_bytes"),
)

# Ship has the session's token, and connections to Bay.
_OPENED_OF_SHIP = """
import os
for name in ("environ", "mem", "maps", "root", "cwd", "exe", "fd", "auxv", "stack", "syscall", "ns/mnt"):
    path = "/proc/1/" + name
    try:
        if os.listdir(path) if name == "fd" else os.stat(path) and open(path, "rb").read(1):
            print(name)
    except OSError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Woken:
    """A session that was hibernated, woken and saved again, and another that is its live fork."""

    handles: dict[str, Handle]
    workspaces: dict[str, Path]
    before: dict[str, object]
    portraits: dict[str, dict[str, object]]
    opened_before: set[str]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The same, for fixtures of this scope."""
    return "asyncio"


@pytest.fixture(scope="module")
def place() -> Generator[Path]:
    """Where workspaces are made."""
    with tempfile.TemporaryDirectory(prefix="bay-ws-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
async def oci(
    place: Path, oci_root: Path, lent_zygote: LentZygote | None, criu_program: str
) -> AsyncGenerator[OciBench]:
    """One for all of these tests."""
    async for bench in real_oci(place, oci_root, fork_ships=True, zygote=lent_zygote, criu=criu_program):
        yield bench


@pytest.fixture
def bench(oci: OciBench) -> OciBench:
    """The same, as the suite of the walls asks for it."""
    return oci


@pytest.fixture(scope="module")
async def both(oci: OciBench) -> AsyncGenerator[Woken]:
    spec = oci.spec(savable=True)
    handle = await oci.start(spec)
    for user in ("ship", "root"):
        order = {"id": f"exec-{user}", "argv": tries("/workspace/go", f"/workspace/{user}"), "user": user}
        await call(endpoint_of(handle), "POST", "/execs", order)
        await run(handle, f"until [ -e /workspace/{user}.ready ]; do sleep 0.02; done")
    before, opened = await portrait(handle, oci.instance), await opened_of_ship(handle)
    await oci.driver.hibernate(handle, spec.token)
    handle = await begun(oci, spec, handle)

    async def copy_files() -> None:
        await asyncio.to_thread(shutil.copytree, directory_of(spec.workspace), oci.workspaces / SAVED)

    await oci.driver.save_memory(handle, spec.token, SAVED, copy_files)
    fork = oci.spec(savable=True, memory=SAVED)
    shutil.copytree(oci.workspaces / SAVED, directory_of(fork.workspace), dirs_exist_ok=True)
    for path in (directory_of(fork.workspace), *directory_of(fork.workspace).iterdir()):
        os.chown(path, 1000, 1000)
    try:
        handles = {"woken": handle, "fork": await begun(oci, fork, None)}
        places = {"woken": directory_of(spec.workspace), "fork": directory_of(fork.workspace)}
        portraits = {name: await portrait(one, oci.instance) for name, one in handles.items()}
        yield Woken(handles, places, before, portraits, opened)
    finally:
        await oci.driver.remove_memory(SAVED)


async def begun(bench: OciBench, spec: SessionSpec, handle: Handle | None) -> Handle:
    async with asyncio.timeout(60):
        return [one async for one in bench.driver.start(spec, handle)][-1]


@pytest.fixture(params=["woken", "fork"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the two."""
    return request.param


@pytest.fixture
def inside(both: Woken, kind: str) -> Handle:
    """Its session."""
    return both.handles[kind]


async def portrait(handle: Handle, instance: str) -> dict[str, object]:
    """All that confines a session: of each of its processes, as the host sees it, and of its control groups.
    Ids are counted from the first of the session.
    """
    return await asyncio.to_thread(_seen_from_outside, handle, instance)


async def opened_of_ship(handle: Handle) -> set[str]:
    """Those parts of Ship's process that root inside may look into."""
    looks = f"python3 -c {shlex.quote(_OPENED_OF_SHIP)}"
    return set((await run(handle, looks, user="root")).stdout.split())


def _seen_from_outside(handle: Handle, instance: str) -> dict[str, object]:
    base, first = int(handle.data["id_base"]), int(handle.data["pid"])
    pids = [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _is_of(pid, first)]
    seen = {
        f"{name} of {_status(pid)['NSpid'].split()[-1]}": found
        for pid in pids
        for name, found in _process(pid, base, handle.session_id).items()
    }
    return seen | _limits(f"/bay/{instance}/{handle.session_id}")


def _is_of(pid: int, first: int) -> bool:
    """Whether it lives and is in the process namespace of the session's first one, in whatever groups."""
    try:
        return os.path.samestat(os.stat(f"/proc/{pid}/ns/pid"), os.stat(f"/proc/{first}/ns/pid"))
    except OSError:  # it has ended, or is no business of ours
        return False


def _process(pid: int, base: int, session: str) -> dict[str, object]:
    confining = {name: words for name, words in _status(pid).items() if name.startswith(_CONFINING)}
    fds = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    return {
        **{name: _inside(words, base) for name, words in confining.items()},
        **{name: _inside(_text(pid, name), base) for name in ("uid_map", "gid_map")},
        **{name: _text(pid, name) for name in ("setgroups", "limits", "oom_score_adj", "cmdline")},
        "groups": [line.partition(":")[2].replace(session, "") for line in _text(pid, "cgroup").splitlines()],
        "owners": {kind: _owner(pid, kind) for kind in ("ipc", "mnt", "net", "pid", "uts")},
        "files": sorted(re.split(r"[\[:]", target)[0] for target in fds),
        "places": [os.readlink(f"/proc/{pid}/{name}") for name in ("root", "cwd", "exe")],
        "mounts": mounts_of(str(pid)),
    }


def _status(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in _text(pid, "status").splitlines())


def _text(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text(errors="replace")


def _inside(words: str, base: int) -> list[str]:
    return [str(int(w) - base) if w.isdigit() and base <= int(w) < base + IDS else w for w in words.split()]


def _owner(pid: int, kind: str) -> str:
    """Whose a namespace is: the session's, the host's, or that of one which is neither."""
    namespace = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC)
    owner = fcntl.ioctl(namespace, _NS_GET_USERNS)
    try:
        known = {
            os.stat(f"/proc/{one}/ns/user").st_ino: name
            for one, name in ((pid, "its own"), ("self", "the host's"))
        }
        assert os.fstat(namespace).st_ino != os.stat(f"/proc/self/ns/{kind}").st_ino
        return known.get(os.fstat(owner).st_ino, "another's")
    finally:
        os.close(owner)
        os.close(namespace)


def _limits(cgroup: str) -> dict[str, str]:
    return {
        f"{directory.parts[4]} {file.name}": file.read_text()
        for directory in cgroups.directories(cgroup)
        for file in directory.iterdir()
        if file.name in _LIMITS
    }


async def test_each_process_is_confined_as_before(both: Woken, kind: str) -> None:
    now, before = both.portraits[kind], both.before
    assert {name: now.get(name) for name in now | before if now.get(name) != before.get(name)} == {}
    assert (now["CapEff of 1"], now["Seccomp of 1"], now["NoNewPrivs of 1"]) == (
        ["00000000000401fb"],
        ["2"],
        ["1"],
    )


async def test_root_inside_sees_no_more_of_ship_than_before(both: Woken, kind: str) -> None:
    opened = await opened_of_ship(both.handles[kind])
    assert opened <= both.opened_before
    assert opened.isdisjoint({"environ", "mem", "maps", "root"})


async def test_what_was_saved_is_refused_as_much_as_what_begins_now(both: Woken, kind: str) -> None:
    (both.workspaces[kind] / "go").touch()
    for user in ("ship", "root"):
        later = shlex.join(tries("/workspace/go", f"/workspace/{user}-later"))
        assert (await run(both.handles[kind], later, user=user)).exit_code == 0
        for name in (user, f"{user}-later"):
            codes = await codes_of(both.handles[kind], f"/workspace/{name}")
            assert codes == dict.fromkeys(REFUSED, errno.EPERM), name
