"""The suite of the walls of isolation `container`: a test is a sentence of what programs inside cannot do.

`bay.testing.drivers` is about a driver's own work, and a runtime that ignores a filter or a limit would pass
it. This suite is for drivers that run containers on this host, and for their runtimes. A test module imports
it whole and gives it a fixture `bench`, as for the other. All is tried through Ship, mostly as root.
"""

import errno
import fcntl
import json
import os
import platform
import shlex
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from bay.drivers.base import Handle
from bay.drivers.oci.spec import CAPABILITIES
from bay.drivers.oci.userns import USER_LIMITS
from bay.models import Resources
from bay.testing.driver_bench import DriverBench, call, cgroups_of, endpoint_of, mounts_of_the_host, run
from bay.units import MIB

pytestmark = pytest.mark.anyio

_numbered = pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls have the numbers of x86-64")

PROBE = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def syscall(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return 0 if result >= 0 else ctypes.get_errno()
def python(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0
print(json.dumps(CALL))
"""

_NEW_USER = 0x1000_0000

REFUSED = {
    "add_key": "syscall(248, b'user', b'bay', b'x', 1, -3)",
    "bpf": "syscall(321, 0, b'\\0' * 128, 128)",
    "btrfs subvolume create": "syscall(16, os.open('/workspace', os.O_RDONLY), 0x5000940e, b'\\0' * 4096)",
    "btrfs ioctl with bit 32 set": "syscall(16, os.open('/workspace', os.O_RDONLY), (1 << 32) | 0x5000940e, b'\\0' * 4096)",
    "clone of a user namespace": f"syscall(56, {_NEW_USER} | 17, 0, 0, 0, 0) if os.getpid() > 1 else 0",
    "fsopen": "syscall(430, b'tmpfs', 0)",
    "keyctl": "syscall(250, 0, -3, 1)",
    "mknod of a disk": "python(os.mknod, '/workspace/disk', 0o60600, os.makedev(254, 0))",
    "mount": "libc.mount(b'tmpfs', b'/mnt', b'tmpfs', 0, None) and ctypes.get_errno()",
    "open_by_handle_at": "syscall(304, -100, b'\\0' * 64, 0)",
    "perf_event_open": "syscall(298, b'\\0' * 128, 0, -1, -1, 0)",
    "personality of 32 bits": "syscall(135, 8)",
    "pivot_root": "syscall(155, b'/', b'/')",
    "setns": "syscall(308, os.open('/proc/self/ns/net', os.O_RDONLY), 0)",
    "socket of AF_ALG": "python(socket.socket, 38, socket.SOCK_SEQPACKET)",
    "socket of AF_PACKET": "python(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)",
    "socket of AF_VSOCK": "python(socket.socket, 40, socket.SOCK_STREAM)",
    "socket of nftables": "python(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 12)",
    "socket, raw": "python(socket.socket, socket.AF_INET, socket.SOCK_RAW, 1)",
    "umount": "libc.umount2(b'/proc', 2) and ctypes.get_errno()",
    "unshare of a mount namespace": "syscall(272, 0x20000)",
    "unshare of a user namespace": f"syscall(272, {_NEW_USER})",
    "userfaultfd": "syscall(323, 1)",
}


_LEASE = """
import errno, fcntl, os
with open("leased", "w") as file:
    for command in (fcntl.F_SETLEASE, 1040):
        try:
            fcntl.fcntl(file, command, fcntl.F_WRLCK)
        except OSError as error:
            print(errno.errorcode[error.errno])
    fcntl.lockf(file, fcntl.LOCK_EX)
    print(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, 9) > 8, fcntl.fcntl(os.pipe()[1], 1031, 65536))
"""


@pytest.fixture
async def inside(bench: DriverBench) -> AsyncGenerator[Handle]:
    """A running session."""
    async with bench.session() as handle:
        yield handle


@_numbered
async def test_root_inside_is_refused_everything_that_rules_a_kernel(inside: Handle) -> None:
    results = {name: await errno_of(inside, attempt) for name, attempt in REFUSED.items()}
    assert {name: code for name, code in results.items() if code != errno.EPERM} == {}


@_numbered
async def test_the_user_inside_is_refused_the_same(inside: Handle) -> None:
    results = {name: await errno_of(inside, attempt, user=None) for name, attempt in REFUSED.items()}
    assert {name: code for name, code in results.items() if code != errno.EPERM} == {}


@_numbered
async def test_calls_whose_flags_no_filter_sees_do_not_exist(inside: Handle) -> None:
    assert await errno_of(inside, "syscall(435, 0, 0)") == errno.ENOSYS  # clone3
    assert await errno_of(inside, "syscall(425, 1, b'\\0' * 120)") == errno.ENOSYS  # io_uring_setup


@_numbered
async def test_a_32_bit_system_call_ends_the_process(inside: Handle) -> None:
    # mov eax, 20 (getpid in the 32-bit table); int 0x80; ret
    code = "b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3'"
    script = (
        "import ctypes, mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        f"page.write({code})\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "print('answered', call())\n"
    )
    answer = await run(inside, f"python3 -c {shlex.quote(script)}; echo ended")
    assert "answered" not in answer.stdout
    assert "ended" in answer.stdout


@_numbered
async def test_what_programs_need_is_allowed(inside: Handle) -> None:
    clone_range = "syscall(16, os.open('/workspace/a', os.O_RDWR | os.O_CREAT), 0x40049409, 0)"
    assert await errno_of(inside, clone_range) in (errno.EBADF, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL)
    assert await errno_of(inside, "python(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0)") == 0
    assert await errno_of(inside, "python(socket.socket, socket.AF_INET6)") == 0
    assert (
        await errno_of(inside, "python(socket.socket(socket.AF_INET).bind, ('127.0.0.1', 80))", user=None)
        == 0
    )
    ask = 'python3 -c \'import subprocess, threading, multiprocessing as m; print(subprocess.check_output(["id", "-u"]))\''
    assert (await run(inside, ask)).stdout == "b'1000\\n'\n"


async def test_sandboxes_share_no_ids_no_processes_and_no_files(bench: DriverBench) -> None:
    async with bench.session() as first, bench.session() as second:
        bases = [endpoint_of(handle).peer_uid for handle in (first, second)]
        assert None not in bases
        assert abs(int(bases[0] or 0) - int(bases[1] or 0)) >= 65_536
        await run(first, "echo secret > /workspace/mine; echo secret > /tmp/mine; sleep 1000 &", user="root")
        seen = await run(
            second, "cat /workspace/mine /tmp/mine; cat /proc/*/cmdline | tr '\\0' ' '", user="root"
        )
        assert "secret" not in seen.stdout
        assert "sleep 1000" not in seen.stdout
        uids = {_real_uid(pid) for pid in _pids_of(bench, first)}
        assert uids <= set(range(int(bases[0] or 0), int(bases[0] or 0) + 65_536))


async def test_each_process_has_the_filter_no_new_privileges_and_few_capabilities(inside: Handle) -> None:
    allowed = sum(1 << number for number in CAPABILITIES.values())
    for user in ("root", None):
        for process in ("1", "self"):
            status = (await run(inside, f"cat /proc/{process}/status", user=user)).stdout
            seen = dict(line.split(":\t", 1) for line in status.splitlines())
            assert (seen["NoNewPrivs"], seen["Seccomp"]) == ("1", "2")
            assert int(seen["CapBnd"], 16) & ~allowed == 0
    assert int(seen["CapEff"], 16) == 0  # of a user's program


async def test_a_set_uid_program_gives_nothing(inside: Handle) -> None:
    for place in ("/workspace", "/usr/local/bin", "/tmp"):  # noqa: S108 - inside
        made = await run(inside, f"cp /usr/bin/id {place}/myid && chmod 4755 {place}/myid", user="root")
        assert made.exit_code == 0, made
        assert (await run(inside, f"{place}/myid -u")).stdout == "1000\n"


async def test_root_inside_may_chroot_as_package_managers_do_and_leads_no_higher_by_it(
    inside: Handle,
) -> None:
    script = (
        "import os\n"
        "os.makedirs('/tmp/new/deeper', exist_ok=True)\n"
        "os.chroot('/tmp/new')\n"
        "assert os.listdir('/') == ['deeper'], os.listdir('/')\n"
        "os.chroot('/deeper')\n"  # the present directory is outside of the new root: from there one gets up
        "for _ in range(100): os.chdir('..')\n"
        "os.chroot('.')\n"
        "print(sorted({'.ship', '.ship-run', 'workspace'} & set(os.listdir('/'))))\n"
    )
    found = await run(inside, f"cd / && python3 -c {shlex.quote(script)}", user="root")
    assert found.stdout == "['.ship', '.ship-run', 'workspace']\n", found
    assert await errno_of(inside, "python(os.chroot, '/tmp')", user=None) == errno.EPERM


async def test_the_first_process_has_no_descriptor_of_the_host(inside: Handle) -> None:
    links = (
        await run(inside, "for fd in /proc/1/fd/*; do readlink $fd; done", user="root")
    ).stdout.splitlines()
    paths = [link for link in links if link.startswith("/")]
    assert set(paths) <= {"/dev/null"}
    assert {link.split(":")[0] for link in links if not link.startswith("/")} <= {
        "pipe",
        "socket",
        "anon_inode",
    }
    mine = await run(inside, "ls /proc/self/fd")
    assert mine.stdout.split() == ["0", "1", "2", "3"]  # the last one is of ls itself


async def test_the_environment_and_the_mount_table_name_no_directory_of_bay(
    inside: Handle, bench: DriverBench
) -> None:
    table = (await run(inside, "cat /proc/self/mountinfo; env; cat /proc/1/cgroup", user="root")).stdout
    options = [line.split(" - ")[-1] for line in table.splitlines()]
    assert not any(bench.instance in option for option in options)
    assert "TOKEN" not in table


async def test_the_socket_cannot_be_replaced_and_its_directory_cannot_be_filled(inside: Handle) -> None:
    for command in (
        "rm /.ship-run/ship.sock",
        "touch /.ship-run/x",
        "mv /.ship-run /gone",
        "chmod 777 /.ship-run",
    ):
        assert (await run(inside, command, user="root")).exit_code != 0, command
    assert (await run(inside, "ls /.ship-run")).exit_code != 0
    assert await call(endpoint_of(inside), "GET", "/healthz") == {"status": "ok"}


async def test_ship_cannot_be_changed_and_runs_without_writing(inside: Handle) -> None:
    assert (await run(inside, "touch /.ship/x", user="root")).exit_code != 0
    # The modules of kernels come with byte code for the interpreters of two sides; Ship's own have none.
    others = "-path /.ship/kernel -prune -o -path /.ship/jupyter -prune"
    assert (await run(inside, f"find /.ship {others} -o -name '__pycache__' -print")).stdout == ""


async def test_devices_are_the_harmless_ones(inside: Handle) -> None:
    kinds = (await run(inside, "stat -c '%F:%n' /dev/* /dev/pts/*", user="root")).stdout.splitlines()
    nodes = {name for kind, name in (line.split(":") for line in kinds) if "special file" in kind}
    assert nodes == {
        f"/dev/{name}" for name in ("full", "null", "pts/ptmx", "random", "tty", "urandom", "zero")
    }
    assert (await run(inside, "chmod 777 /dev/null; chown 1000 /dev/zero", user="root")).exit_code != 0


async def test_kernel_settings_cannot_be_written(inside: Handle) -> None:
    for path in (
        "/proc/sys/kernel/hostname",
        "/proc/sys/kernel/core_pattern",
        "/proc/sysrq-trigger",
        "/proc/sys/vm/drop_caches",
    ):
        assert (await run(inside, f"echo x > {path}", user="root")).stdout == ""
    assert Path("/proc/sys/kernel/core_pattern").read_text() != "x\n"
    assert (await run(inside, "ls -A /sys", user="root")).stdout == ""
    assert (
        await run(inside, "cat /proc/kcore /proc/keys /proc/timer_list | wc -c", user="root")
    ).stdout == "0\n"


async def test_the_limits_of_the_user_namespace_are_set_and_cannot_be_raised(inside: Handle) -> None:
    for name, value in USER_LIMITS.items():
        path = f"/proc/sys/user/{name}"
        if Path(path).exists():
            raised = await run(inside, f"echo 999999 > {path}; cat {path}", user="root")
            assert raised.stdout == f"{value}\n", name


async def test_the_network_namespace_belongs_to_the_host_and_has_loopback_and_its_line_to_it(
    bench: DriverBench, inside: Handle
) -> None:
    pid = endpoint_of(inside).peer_pid
    namespace, mine = (os.open(path, os.O_RDONLY) for path in (f"/proc/{pid}/ns/net", "/proc/self/ns/user"))
    owner = fcntl.ioctl(namespace, 0xB701)  # NS_GET_USERNS
    try:
        assert os.fstat(owner).st_ino == os.fstat(mine).st_ino
        assert os.fstat(namespace).st_ino != Path("/proc/self/ns/net").stat().st_ino
    finally:
        for fd in (namespace, mine, owner):
            os.close(fd)
    devices = (await run(inside, "tail -n +3 /proc/net/dev | cut -d: -f1")).stdout.split()
    assert sorted(devices) == (["eth0", "lo"] if bench.has_network else ["lo"])
    ping = "python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); socket.create_connection(s.getsockname())'"
    assert (await run(inside, ping)).exit_code == 0


async def test_every_namespace_is_its_own(inside: Handle) -> None:
    pid = endpoint_of(inside).peer_pid
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


async def test_a_running_sandbox_leaves_no_mount_on_the_host(bench: DriverBench) -> None:
    before = mounts_of_the_host()
    async with bench.session() as handle:
        assert mounts_of_the_host() == before
        assert (await run(handle, "ls /workspace /usr/bin /.ship >/dev/null")).exit_code == 0


async def test_a_memory_hog_is_killed_and_the_sandbox_answers_on(bench: DriverBench) -> None:
    async with bench.session(resources=Resources(memory=160 * MIB)) as handle:
        hog = await run(
            handle, "python3 -c 'x = bytearray(1 << 30); x[::4096] = b\"x\" * len(x[::4096])'; echo $?"
        )
        assert hog.stdout.split()[-1:] in (["137"], [])
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_a_fork_bomb_is_bounded_by_the_pids_limit(bench: DriverBench) -> None:
    async with bench.session(resources=Resources(pids=64)) as handle:
        bomb = "import os, time\nfor i in range(500):\n    if os.fork() == 0: time.sleep(1000)"
        failed = await run(handle, f"python3 -c {shlex.quote(bomb)}", user="root")
        assert "BlockingIOError" in failed.stderr
        assert len(_pids_of(bench, handle)) <= 64
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}


async def test_a_flood_of_tmp_stops_at_half_of_the_memory(bench: DriverBench) -> None:
    async with bench.session(resources=Resources(memory=256 * MIB)) as handle:
        for place in ("/tmp", "/dev/shm"):  # noqa: S108 - inside
            flood = await run(
                handle,
                f"dd if=/dev/zero of={place}/flood bs=1M count=10240; stat -c %s {place}/flood; rm {place}/flood",
            )
            assert int(flood.stdout.split()[-1]) <= 128 * MIB
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_processor_time_is_what_was_granted(bench: DriverBench) -> None:
    async with bench.session(resources=Resources(cpus=0.2)) as handle:
        spin = "python3 -c 'import time; e = time.monotonic() + 1\nwhile time.monotonic() < e: pass\nprint(time.process_time())'"
        assert float((await run(handle, spin)).stdout) < 0.5


async def test_no_program_keeps_the_host_waiting_for_a_file_by_a_lease(bench: DriverBench) -> None:
    """Else a backup, a copy or a measurement of the host's would wait for it, or fail."""
    async with bench.session() as handle:
        answer = await run(handle, f"python3 -c '{_LEASE}'")
        assert answer.stdout.split() == ["EPERM", "EPERM", "True", "65536"], answer


async def errno_of(handle: Handle, call: str, *, user: str | None = "root") -> int:
    """The error number of one attempt inside, 0 when it succeeded."""
    answer = await run(handle, f"python3 -c {shlex.quote(PROBE.replace('CALL', call))}", user=user)
    assert answer.exit_code == 0, answer
    return int(json.loads(answer.stdout.splitlines()[0]))


def _pids_of(bench: DriverBench, handle: Handle) -> list[int]:
    (group, *_) = (one for one in cgroups_of(bench) if one.name == handle.session_id)
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def _real_uid(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid
