"""What a sandbox of the `oci` driver cannot do, tried from inside one, through Ship, mostly as its root.

Refusals are not enough on a kernel that lacks the thing: where a line of the seccomp profile is the
protection, the same attempt is made once with that line taken out, and must then get further.
"""

import errno
import fcntl
import json
import os
import secrets
import shlex
import shutil
import subprocess
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from oci_bench import opening

from bay.drivers.base import Handle
from bay.drivers.oci import seccomp
from bay.drivers.oci.driver import OciDriver
from bay.drivers.oci.userns import USER_LIMITS
from bay.linux.btrfs import are_quotas_on
from bay.models import Resources
from bay.places import directory_of
from bay.testing.driver_bench import DriverBench, call, cgroups_of, endpoint_of, mounts_of_the_host, run

pytestmark = [pytest.mark.anyio, pytest.mark.long]

MIB = 1 << 20

_PROBE = """
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

# What removes one protection; and the attempt that it stops. Each is seen to get further without it.
TEETH: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "add_key": lambda profile: _allowing(profile, "add_key"),
    "btrfs subvolume create": lambda profile: _allowing(profile, "ioctl"),
    "btrfs ioctl with bit 32 set": lambda profile: _allowing(profile, "ioctl"),
    "clone of a user namespace": lambda profile: _allowing(profile, "clone"),
    "keyctl": lambda profile: _allowing(profile, "keyctl"),
    "open_by_handle_at": lambda profile: _allowing(profile, "open_by_handle_at"),
    "personality of 32 bits": lambda profile: _allowing(profile, "personality"),
    "socket of AF_ALG": lambda profile: _allowing(profile, "socket"),
    "socket of AF_VSOCK": lambda profile: _allowing(profile, "socket"),
    "socket of nftables": lambda profile: _allowing(profile, "socket"),
    "unshare of a user namespace": lambda profile: _allowing(profile, "unshare"),
    "userfaultfd": lambda profile: _allowing(profile, "userfaultfd"),
}


@pytest.fixture
def btrfs(tmp_path: Path) -> Generator[Path]:
    """A small btrfs with simple quotas, on a loop device."""
    if shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs btrfs-progs")
    image, mount = tmp_path / "image", tmp_path / "btrfs"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(2 << 30)
    _do("mkfs.btrfs", "-q", str(image))
    _do("mount", "-o", "loop", str(image), str(mount))
    try:
        _do("btrfs", "quota", "enable", "--simple", str(mount))
        yield mount
    finally:
        _do("umount", str(mount))


@pytest.fixture
async def inside(any_image: DriverBench) -> AsyncGenerator[Handle]:
    """A running session, of the host's own image and of another."""
    async with any_image.session() as handle:
        yield handle


async def test_root_inside_is_refused_everything_that_rules_a_kernel(inside: Handle) -> None:
    results = {name: await _attempt(inside, attempt) for name, attempt in REFUSED.items()}
    assert {name: code for name, code in results.items() if code != errno.EPERM} == {}


async def test_the_user_inside_is_refused_the_same(inside: Handle) -> None:
    results = {name: await _attempt(inside, attempt, user=None) for name, attempt in REFUSED.items()}
    assert {name: code for name, code in results.items() if code != errno.EPERM} == {}


@pytest.mark.parametrize("name", TEETH)
async def test_without_its_line_of_the_profile_the_attempt_gets_further(oci: DriverBench, name: str) -> None:
    async with _weaker(oci, TEETH[name]) as handle:
        assert await _attempt(handle, REFUSED[name]) != errno.EPERM


async def test_calls_whose_flags_no_filter_sees_do_not_exist(inside: Handle) -> None:
    assert await _attempt(inside, "syscall(435, 0, 0)") == errno.ENOSYS  # clone3
    assert await _attempt(inside, "syscall(425, 1, b'\\0' * 120)") == errno.ENOSYS  # io_uring_setup


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


async def test_what_programs_need_is_allowed(inside: Handle) -> None:
    clone_range = "syscall(16, os.open('/workspace/a', os.O_RDWR | os.O_CREAT), 0x40049409, 0)"
    assert await _attempt(inside, clone_range) in (errno.EBADF, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL)
    assert await _attempt(inside, "python(socket.socket, socket.AF_NETLINK, socket.SOCK_RAW, 0)") == 0
    assert await _attempt(inside, "python(socket.socket, socket.AF_INET6)") == 0
    assert (
        await _attempt(inside, "python(socket.socket(socket.AF_INET).bind, ('127.0.0.1', 80))", user=None)
        == 0
    )
    ask = 'python3 -c \'import subprocess, threading, multiprocessing as m; print(subprocess.check_output(["id", "-u"]))\''
    assert (await run(inside, ask)).stdout == "b'1000\\n'\n"


@pytest.fixture
async def of_the_host(oci: DriverBench) -> AsyncGenerator[Handle]:
    """A running session of the host's own image."""
    async with oci.session() as handle:
        yield handle


async def test_nothing_of_the_host_but_usr_is_there(of_the_host: Handle, workspaces: Path) -> None:
    inside = of_the_host
    canary = f"canary-{secrets.token_hex(8)}"
    (workspaces / canary).touch()
    names = set((await run(inside, "ls -A /", user="root")).stdout.split())
    assert names == {
        *[
            ".ship",
            ".ship-run",
            "bin",
            "dev",
            "etc",
            "home",
            "lib",
            "lib64",
            "mnt",
            "opt",
            "proc",
            "root",
            "run",
            "sbin",
            "srv",
            "sys",
            "tmp",
            "usr",
            "var",
            "workspace",
        ]
    }
    found = await run(
        inside, f"find / -xdev -name '{canary}'; ls -A /sys /home /mnt /opt /srv /root", user="root"
    )
    assert canary not in found.stdout
    assert "\n\n" in found.stdout
    assert (await run(inside, "cat /etc/machine-id; ls /etc/ssl/private", user="root")).stdout == ""
    shadow = (await run(inside, "cat /etc/shadow", user="root")).stdout.splitlines()
    assert {line.partition(":")[2] for line in shadow} == {"*:::::::"}  # no hash of anybody's password


async def test_what_root_does_to_usr_stays_inside(oci: DriverBench) -> None:
    host = Path("/usr/bin/env").read_bytes()
    async with oci.session() as first, oci.session() as second:
        done = await run(
            first,
            "echo evil > /usr/bin/env; rm -rf /usr/share; touch /usr/new && cat /usr/bin/env",
            user="root",
        )
        assert done.stdout == "evil\n"
        assert Path("/usr/bin/env").read_bytes() == host
        assert Path("/usr/share").is_dir()
        assert not Path("/usr/new").exists()
        assert (await run(second, "/usr/bin/env true && ls -d /usr/share")).exit_code == 0


async def test_sandboxes_share_no_ids_no_processes_and_no_files(oci: DriverBench) -> None:
    async with oci.session() as first, oci.session() as second:
        bases = [endpoint_of(handle).peer_uid for handle in (first, second)]
        assert None not in bases
        assert abs(int(bases[0] or 0) - int(bases[1] or 0)) >= 65_536
        await run(first, "echo secret > /workspace/mine; echo secret > /tmp/mine; sleep 1000 &", user="root")
        seen = await run(
            second, "cat /workspace/mine /tmp/mine; cat /proc/*/cmdline | tr '\\0' ' '", user="root"
        )
        assert "secret" not in seen.stdout
        assert "sleep 1000" not in seen.stdout
        uids = {_real_uid(pid) for pid in _pids_of(oci, first)}
        assert uids <= set(range(int(bases[0] or 0), int(bases[0] or 0) + 65_536))


async def test_files_are_owned_by_inside_ids_on_disk_and_hidden_from_the_hosts_users(
    oci: DriverBench, oci_root: Path
) -> None:
    spec = oci.spec()
    handle = await oci.start(spec)
    await run(handle, "touch mine")
    await run(handle, "touch roots; chmod 4755 roots", user="root")
    assert (directory_of(spec.workspace) / "mine").stat().st_uid == 1000
    assert (directory_of(spec.workspace) / "roots").stat().st_uid == 0
    assert (oci_root / "sessions").stat().st_mode & 0o777 == 0o700


async def test_a_set_uid_program_gives_nothing(inside: Handle) -> None:
    for place in ("/workspace", "/usr/local/bin", "/tmp"):
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
    assert await _attempt(inside, "python(os.chroot, '/tmp')", user=None) == errno.EPERM


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
    inside: Handle, oci: DriverBench
) -> None:
    table = (await run(inside, "cat /proc/self/mountinfo; env; cat /proc/1/cgroup", user="root")).stdout
    options = [line.split(" - ")[-1] for line in table.splitlines()]
    assert not any(oci.instance in option for option in options)
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
    # What kernels import comes with byte code for the interpreters of two sides; Ship's own has none beside
    # it.
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
    inside: Handle,
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
    assert sorted(devices) == ["eth0", "lo"]
    ping = "python3 -c 'import socket; s = socket.create_server((\"127.0.0.1\", 0)); socket.create_connection(s.getsockname())'"
    assert (await run(inside, ping)).exit_code == 0


async def test_every_namespace_is_its_own(inside: Handle) -> None:
    pid = endpoint_of(inside).peer_pid
    for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind


async def test_a_running_sandbox_leaves_no_mount_on_the_host(oci: DriverBench) -> None:
    before = mounts_of_the_host()
    async with oci.session() as handle:
        assert mounts_of_the_host() == before
        assert (await run(handle, "ls /workspace /usr/bin /.ship >/dev/null")).exit_code == 0


async def test_a_memory_hog_is_killed_and_the_sandbox_answers_on(oci: DriverBench) -> None:
    async with oci.session(resources=Resources(memory=160 * MIB)) as handle:
        hog = await run(
            handle, "python3 -c 'x = bytearray(1 << 30); x[::4096] = b\"x\" * len(x[::4096])'; echo $?"
        )
        assert hog.stdout.split()[-1:] in (["137"], [])
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_a_fork_bomb_is_bounded_by_the_pids_limit(oci: DriverBench) -> None:
    async with oci.session(resources=Resources(pids=64)) as handle:
        bomb = "import os, time\nfor i in range(500):\n    if os.fork() == 0: time.sleep(1000)"
        failed = await run(handle, f"python3 -c {shlex.quote(bomb)}", user="root")
        assert "BlockingIOError" in failed.stderr
        assert len(_pids_of(oci, handle)) <= 64
        assert await call(endpoint_of(handle), "GET", "/healthz") == {"status": "ok"}


async def test_a_flood_of_tmp_stops_at_half_of_the_memory(oci: DriverBench) -> None:
    async with oci.session(resources=Resources(memory=256 * MIB)) as handle:
        for place in ("/tmp", "/dev/shm"):
            flood = await run(
                handle,
                f"dd if=/dev/zero of={place}/flood bs=1M count=10240; stat -c %s {place}/flood; rm {place}/flood",
            )
            assert int(flood.stdout.split()[-1]) <= 128 * MIB
        assert (await run(handle, "echo alive")).stdout == "alive\n"


async def test_a_flood_of_the_root_file_system_stops_at_the_layers_limit(
    oci: DriverBench, btrfs: Path
) -> None:
    run_dir, ids = oci.kept[1:]
    driver = OciDriver(root=btrfs, cache=oci.kept[0], run_dir=run_dir, ids_dir=ids)
    bench = DriverBench(driver, oci.workspaces, (btrfs, run_dir, ids), oci.instance, 1000)
    assert are_quotas_on(btrfs)
    async with opening(driver), bench.session(layer_bytes=64 * MIB) as handle:
        flood = (
            "dd if=/dev/zero of=/usr/flood bs=1M count=10240; dd if=/dev/zero of=/opt/flood bs=1M count=10240"
        )
        await run(handle, f"{flood}; sync", user="root")
        sizes = await run(handle, "stat -c %s /usr/flood /opt/flood", user="root")
        assert sum(map(int, sizes.stdout.split())) <= 65 * MIB
        assert (await run(handle, "echo alive > /workspace/x; cat /workspace/x")).stdout == "alive\n"
    assert os.listdir(btrfs / "sessions") == []


async def test_processor_time_is_what_was_granted(oci: DriverBench) -> None:
    async with oci.session(resources=Resources(cpus=0.2)) as handle:
        spin = "python3 -c 'import time; e = time.monotonic() + 1\nwhile time.monotonic() < e: pass\nprint(time.process_time())'"
        assert float((await run(handle, spin)).stdout) < 0.5


async def test_a_deep_tree_of_odd_modes_is_removed(oci: DriverBench) -> None:
    spec = oci.spec()
    handle = await oci.start(spec)
    dig = "import os\nos.chdir('/opt')\nfor i in range(3000):\n os.mkdir('d'); os.chdir('d')\n"
    made = await run(
        handle,
        f"python3 -c {shlex.quote(dig)}; mkdir -m 0 /opt/none; ln -s / /opt/link; mkfifo /opt/fifo",
        user="root",
    )
    assert made.exit_code == 0, made
    await oci.driver.destroy(handle)
    assert Path("/usr/bin").is_dir()
    assert [one async for one in oci.driver.list_owned()] == []


def _do(*command: str) -> None:
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def _allowing(profile: dict[str, Any], name: str) -> dict[str, Any]:
    lines = [line for line in profile["syscalls"] if line["names"] != [name]]
    return {**profile, "syscalls": [*lines, {"names": [name], "action": "SCMP_ACT_ALLOW"}]}


@asynccontextmanager
async def _weaker(
    bench: DriverBench, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> AsyncGenerator[Handle]:
    """A session of a driver whose profile lacks a line."""
    root, run_dir, ids = bench.kept
    driver = OciDriver(
        root=root,
        run_dir=run_dir,
        ids_dir=ids,
        seccomp_profile=lambda machine: change(seccomp.profile(machine)),
    )
    weaker = DriverBench(driver, bench.workspaces, bench.kept, bench.instance, 1000)
    async with opening(driver), weaker.session() as handle:
        yield handle


async def _attempt(handle: Handle, call: str, *, user: str | None = "root") -> int:
    """The error number of one attempt inside, 0 when it succeeded."""
    answer = await run(handle, f"python3 -c {shlex.quote(_PROBE.replace('CALL', call))}", user=user)
    assert answer.exit_code == 0, answer
    return int(json.loads(answer.stdout.splitlines()[0]))


def _pids_of(bench: DriverBench, handle: Handle) -> list[int]:
    (group, *_) = (one for one in cgroups_of(bench) if one.name == handle.session_id)
    return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]


def _real_uid(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


LEASE = """
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


async def test_no_program_keeps_the_host_waiting_for_a_file_by_a_lease(oci: DriverBench) -> None:
    """Else a backup, a copy or a measurement of the host's would wait for it, or fail."""
    async with oci.session() as handle:
        answer = await run(handle, f"python3 -c '{LEASE}'")
        assert answer.stdout.split() == ["EPERM", "EPERM", "True", "65536"], answer
