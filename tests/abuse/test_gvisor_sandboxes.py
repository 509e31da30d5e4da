"""A sandbox in gVisor reaches nothing of the host, and neither do gVisor's own processes have more than it.

gVisor answers many calls by itself that a container is refused, with other error numbers: what counts is what
the host has afterwards. The network's part is in `tests/network/test_gvisor.py`.
"""

import asyncio
import base64
import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterator
from pathlib import Path

import pytest
from hostile_attempts import codes_of, tries
from oci_bench import OciBench, real_oci
from test_oci_isolation import test_nothing_of_the_host_but_usr_is_there

from bay.drivers.base import Handle
from bay.drivers.oci import cgroups
from bay.drivers.oci.spec import OOM_SCORE_ADJ
from bay.drivers.oci.userns import IDS
from bay.testing.driver_bench import call, endpoint_of, run
from bay.testing.walls import (
    test_a_set_uid_program_gives_nothing,
    test_sandboxes_share_no_ids_no_processes_and_no_files,
    test_ship_cannot_be_changed_and_runs_without_writing,
    test_the_environment_and_the_mount_table_name_no_directory_of_bay,
)

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

# Tests are found by their names here.
__all__ = [
    "test_a_set_uid_program_gives_nothing",
    "test_nothing_of_the_host_but_usr_is_there",
    "test_sandboxes_share_no_ids_no_processes_and_no_files",
    "test_ship_cannot_be_changed_and_runs_without_writing",
    "test_the_environment_and_the_mount_table_name_no_directory_of_bay",
]

# gVisor has keyrings of its own.
ITS_OWN = {"keyctl"}
# Of the namespace below: what opens files for the sentry, and what a sentry needs to become another's tracer.
MOST_CAPABILITIES = 0x0C01FF

# By each name, descriptor and link that could lead out of the sandbox to the file; it prints those that do.
_LOOKS = """
import glob, os, sys
path = sys.stdin.read()
word, up = path.split("/")[-2], "../" * 20 + path
def opens(name, directory=None):
    try:
        os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=directory))
    except OSError:
        return False
    return True
links = {f"/workspace/up-{word}": up, f"/workspace/down-{word}": path}
for link, to in links.items():
    os.symlink(to, link)
tries = set(links)
for top in ("/", "/workspace", "/.ship", "/.ship-run", "/usr", "/tmp", "/proc/1", *glob.glob("/proc/*/root"), *glob.glob("/proc/*/cwd")):
    tries |= {top + path, f"{top}/{up}"}
    if opens(top):
        directory = os.open(top, os.O_RDONLY)
        tries.add(f"/proc/self/fd/{directory}/{up}")
        if opens(up, directory):
            print("from", top)
print(*filter(opens, tries))
for link in glob.glob("/proc/*/fd/*") + glob.glob("/proc/*/exe"):
    try:
        if word in os.readlink(link):
            print(link)
    except OSError:
        pass
for told in ("cmdline", "environ", "maps", "mountinfo"):
    for file in glob.glob("/proc/*/" + told):
        if opens(file) and word.encode() in open(file, "rb").read():
            print(file)
print("looked for", len(tries))
"""
_WRITES = """
import os
for top in ("/proc", "/sys"):
    for directory, below, files in os.walk(top):
        if directory == "/proc":
            below[:] = [name for name in below if not name.isdecimal()]
        for file in files:
            path = os.path.join(directory, file)
            try:
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            except OSError:
                continue
            for value in (b"b", b"7", b"|/workspace/handler"):
                try:
                    os.write(fd, value)
                except OSError:
                    pass
            print(path)
"""


# Each way in a process of its own; the last has a tracer, which may answer calls that a filter leaves to it.
_NAMESPACES = """
import ctypes, os, signal, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
NEW_USER, CLONE3, OPTIONS, CONTINUE = 0x10000000, 435, 0x4200, 7
wanted = ctypes.create_string_buffer(struct.pack("8Q", NEW_USER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0) + bytes(24))
def call(*arguments):
    return libc.syscall(*(ctypes.c_long(one) if isinstance(one, int) else one for one in arguments))
def get_stopped():
    libc.ptrace(0, 0, None, None)
    os.kill(os.getpid(), signal.SIGSTOP)
ways = {
    "unshare": lambda: call(272, NEW_USER),
    "clone": lambda: call(56, NEW_USER | signal.SIGCHLD, 0, 0, 0, 0),
    "clone3": lambda: call(CLONE3, wanted, 88),
    "traced clone3": lambda: get_stopped() or call(CLONE3, wanted, 88),
}
for way, makes in ways.items():
    if (child := os.fork()) == 0:
        said = "refused" if makes() < 0 else "made one"
        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x300)
            said += ", and has packets"
        except OSError:
            pass
        os.write(1, f"{way}: {said}\\n".encode())
        os._exit(0)
    while os.WIFSTOPPED(os.waitpid(child, 0)[1]):
        libc.ptrace(OPTIONS, child, None, ctypes.c_long(0x80))
        libc.ptrace(CONTINUE, child, None, None)
"""
_THREAD = "import threading; threading.Thread(target=print, args=('thread',)).start()"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The same, for fixtures of this scope."""
    return "asyncio"


@pytest.fixture(scope="module")
def workspaces() -> Generator[Path]:
    """Where workspaces are made."""
    with tempfile.TemporaryDirectory(prefix="bay-ws-") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
async def oci(workspaces: Path, oci_root: Path) -> AsyncGenerator[OciBench]:
    """One for all of these tests, whose Bay has a secret in its environment."""
    if shutil.which("runsc") is None:
        pytest.skip("needs runsc; apt-get install runsc")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAY_API_KEY", "the-key-of-bay")
        async for bench in real_oci(workspaces, oci_root, fork_ships=False, isolation="gvisor"):
            yield bench


@pytest.fixture
def bench(oci: OciBench) -> OciBench:
    """The same, as the suite of the walls asks for it."""
    return oci


@pytest.fixture(scope="module")
async def inside(oci: OciBench) -> AsyncGenerator[Handle]:
    """A running session."""
    async with oci.session() as handle:
        yield handle


@pytest.fixture
def of_the_host(inside: Handle) -> Handle:
    """The same: it has the host's own image."""
    return inside


async def test_nothing_rules_a_kernel_but_gvisors_own(inside: Handle) -> None:
    for user in ("ship", "root"):
        said = f"/workspace/{user}"
        ended = await run(inside, shlex.join(tries("/", said)), user=user)
        assert ended.exit_code == 0, ended
        codes = await codes_of(inside, said)
        assert {name for name, code in codes.items() if code == 0} <= ITS_OWN, user


@pytest.fixture
def canary() -> Generator[Path]:
    """A file of the host's that everybody may read, and a process that has its directory's name."""
    with tempfile.TemporaryDirectory(prefix="bay-canary-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        file = Path(directory, "file")
        file.write_text("of the host")
        with subprocess.Popen(["sh", "-c", "sleep 600; :", directory]) as sleeper:
            yield file
            sleeper.kill()


async def test_no_way_leads_to_a_file_or_a_process_of_the_host(inside: Handle, canary: Path) -> None:
    async def looked_for(path: str) -> list[str]:
        stdin = base64.b64encode(path.encode()).decode()
        found = await run(inside, f"python3 -c {shlex.quote(_LOOKS)}", user="root", stdin=stdin)
        assert found.exit_code == 0, found
        return found.stdout.split("looked for")[0].split()

    assert await looked_for(str(canary)) == []
    assert len(await looked_for("/usr/bin/env")) > 20  # as would be found


async def test_what_is_written_to_the_kernels_files_stays_inside(inside: Handle) -> None:
    def settings() -> dict[str, str]:
        names = (
            "kernel/core_pattern",
            "kernel/hostname",
            "kernel/shmmax",
            "net/ipv4/ip_forward",
            "vm/overcommit_memory",
        )
        return {name: Path("/proc/sys", name).read_text() for name in names}

    before = await asyncio.to_thread(settings)
    wrote = (await run(inside, f"python3 -c {shlex.quote(_WRITES)}", user="root")).stdout.split()
    assert wrote
    assert await asyncio.to_thread(settings) == before
    assert await call(endpoint_of(inside), "GET", "/healthz") == {"status": "ok"}


async def test_the_socket_is_ships_whatever_root_inside_does(inside: Handle) -> None:
    def seen() -> list[tuple[str, int, int, int]]:
        socket = Path(endpoint_of(inside).socket_path or "")
        places = (socket.parent, *socket.parent.iterdir())
        return [
            (place.name, place.stat().st_ino, place.stat().st_mode, place.stat().st_uid) for place in places
        ]

    before = await asyncio.to_thread(seen)
    at_it = (
        "rm -f /.ship-run/ship.sock; mv /.ship-run/ship.sock /tmp; mv /.ship-run /gone; ln -sf /tmp/mine /.ship-run/ship.sock; "
        "chmod 777 /.ship-run /.ship-run/ship.sock; chown 1000 /.ship-run /.ship-run/ship.sock; touch /.ship-run/x; mknod /.ship-run/y p; "
        "mount -o remount,rw /.ship-run; umount /.ship-run; umount -l /.ship-run; "
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/.ship-run/ship.sock\")'; "
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/.ship-run/other.sock\")'; "
    )
    deeper = f"unshare --user --map-root-user --mount sh -c {shlex.quote(at_it + 'mount -t tmpfs none /.ship-run; mount --bind /tmp /workspace')}"
    for user in ("root", "ship"):
        for program in (at_it, deeper):
            await run(inside, program, user=user)
            assert await asyncio.to_thread(seen) == before
            assert await call(endpoint_of(inside), "GET", "/healthz") == {"status": "ok"}


async def test_no_program_makes_a_user_namespace_and_so_none_has_the_sandboxs_packets_or_devices(
    inside: Handle,
) -> None:
    """gVisor would give it all rights over the network of the sandbox, also where it is no root there."""
    for user in ("ship", "root"):
        ended = await run(inside, f"python3 -c {shlex.quote(_NAMESPACES)}", user=user)
        ways = ["unshare", "clone", "clone3", "traced clone3"]
        assert sorted(ended.stdout.splitlines()) == sorted(f"{way}: refused" for way in ways), ended
        assert (await run(inside, f"python3 -c {shlex.quote(_THREAD)}", user=user)).stdout == "thread\n"


async def test_gvisors_processes_have_no_more_than_their_sandbox(oci: OciBench, inside: Handle) -> None:
    """An attacker who has broken the sentry or the gofer has what these have."""
    found = await asyncio.to_thread(_processes, oci, inside)
    assert len(found) >= 3  # the gofer, the sentry and a process that runs the programs
    assert found == [
        {
            "name": one["name"],
            "ids": True,
            "groups": "",
            "bonds": ("1", "2"),
            "capabilities": True,
            "namespaces": set(),
            "knows": set(),
            "root": False,
            "files": set(),
            "score": f"{OOM_SCORE_ADJ}\n",
        }
        for one in found
    ]


def _processes(bench: OciBench, handle: Handle) -> list[dict[str, object]]:
    return [
        _process(pid, int(handle.data["id_base"]), handle.session_id)
        for pid in cgroups.processes(f"/bay/{bench.instance}/{handle.session_id}")
    ]


def _process(pid: int, base: int, session: str) -> dict[str, object]:
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines())
    ids = {int(word) for name in ("Uid", "Gid") for word in status[name].split()}
    names = {
        entry.partition(b"=")[0].decode() for entry in (proc / "environ").read_bytes().split(b"\0") if entry
    }
    targets = set(_targets(proc / "fd"))
    of_its_root = ("/root", "/null", "/memfd:", "/dev/null")
    return {
        "name": status["Name"],
        "ids": all(base <= one < base + IDS for one in ids),
        "groups": status["Groups"].strip(),
        "bonds": (status["NoNewPrivs"], status["Seccomp"]),
        "capabilities": int(status["CapBnd"], 16) | MOST_CAPABILITIES == MOST_CAPABILITIES,
        "namespaces": {
            kind
            for kind in ("ipc", "mnt", "net", "user", "uts")
            if os.path.samestat(os.stat(proc / "ns" / kind), os.stat(f"/proc/self/ns/{kind}"))
        },
        "knows": names - {"PATH", "PWD"},
        "root": os.path.samestat(os.stat(proc / "root"), os.stat("/")),
        "files": {
            target
            for target in targets
            if target.startswith("/")
            and not target.startswith(of_its_root)
            and session not in target
            and target != "/"
        },
        "score": (proc / "oom_score_adj").read_text(),
    }


def _targets(descriptors: Path) -> Iterator[str]:
    """Of a process that goes on opening and closing files."""
    for fd in os.listdir(descriptors):
        with contextlib.suppress(FileNotFoundError):
            yield os.readlink(descriptors / fd)
