"""System calls that reach code of the kernel which no sandbox needs, or take what no limit counts."""

import ast
import errno
import shlex
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from oci_bench import opening

from bay.drivers.base import Handle
from bay.drivers.oci import seccomp
from bay.drivers.oci.driver import OciDriver
from bay.testing.driver_bench import DriverBench, run

pytestmark = [pytest.mark.host, pytest.mark.anyio]

_PROBE = """
import ctypes, mmap, os, resource, socket
from socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def call(name, *arguments):
    ctypes.set_errno(0)
    getattr(libc, name)(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    return ctypes.get_errno()
def number(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return error.errno
    return 0
DCCP = 6
tcp, limit = socket.socket(), (ctypes.c_long * 2)(0, 0)
print([%s])
"""

# What is tried, what it answers, and the call whose line in the profile is what stops it.
REFUSED: dict[str, tuple[str, int, str]] = {
    "SCTP": ("number(socket.socket, AF_INET, SOCK_STREAM, 132)", errno.EPERM, "socket"),
    "SCTP for IPv6": ("number(socket.socket, AF_INET6, SOCK_STREAM, 132)", errno.EPERM, "socket"),
    "SCTP by its type": ("number(socket.socket, AF_INET, SOCK_SEQPACKET, 0)", errno.EPERM, "socket"),
    "DCCP": ("number(socket.socket, AF_INET, DCCP, 33)", errno.EPERM, "socket"),
    "DCCP by its type": ("number(socket.socket, AF_INET, DCCP, 0)", errno.EPERM, "socket"),
    "L2TP": ("number(socket.socket, AF_INET, SOCK_DGRAM, 115)", errno.EPERM, "socket"),
    "SMC": ("number(socket.socket, AF_INET, SOCK_STREAM, 256)", errno.EPERM, "socket"),
    "MPTCP": ("number(socket.socket, AF_INET, SOCK_STREAM, 262)", errno.EPERM, "socket"),
    "UDP-Lite": ("number(socket.socket, AF_INET6, SOCK_DGRAM, 136)", errno.EPERM, "socket"),
    "kernel TLS": ("number(tcp.setsockopt, 6, 31, b'tls')", errno.EPERM, "setsockopt"),
    "kernel TLS behind the upper half of a register": (
        "call('syscall', 54, tcp.fileno(), 6 | 1 << 32, 31 | 1 << 40, b'tls', 4)",
        errno.EPERM,
        "setsockopt",
    ),
    "huge pages": ("call('mmap', None, 2 << 20, 3, 0x44022, -1, 0)", errno.ENOMEM, "mmap"),
    "huge pages of 1 GiB": (
        "call('mmap', None, 1 << 30, 3, 0x44022 | 30 << 26, -1, 0)",
        errno.ENOMEM,
        "mmap",
    ),
    "a file of huge pages": ("call('memfd_create', b'x', 4)", errno.ENOMEM, "memfd_create"),
    "a segment of huge pages": ("call('shmget', 0, 2 << 20, 0o5600)", errno.ENOMEM, "shmget"),
    "a core limit of another process": (
        "number(resource.prlimit, os.getpid(), resource.RLIMIT_CORE, (0, 0))",
        errno.EPERM,
        "prlimit64",
    ),
    "the audit log": ("number(socket.socket, AF_NETLINK, SOCK_RAW, 9)", errno.EPROTONOSUPPORT, "socket"),
}

NEEDED = {
    "TCP": "number(socket.socket, AF_INET, SOCK_STREAM)",
    "TCP by its number": "number(socket.socket, AF_INET6, SOCK_STREAM | socket.SOCK_CLOEXEC, 6)",
    "UDP": "number(socket.socket, AF_INET6, SOCK_DGRAM)",
    "UDP by its number": "number(socket.socket, AF_INET, SOCK_DGRAM | socket.SOCK_NONBLOCK, 17)",
    "ping": "number(socket.socket, AF_INET, SOCK_DGRAM, 1)",
    "ping for IPv6": "number(socket.socket, AF_INET6, SOCK_DGRAM, 58)",
    "no delay": "number(tcp.setsockopt, socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)",
    "a limit of open files": "number(resource.setrlimit, resource.RLIMIT_NOFILE, (512, 1024))",
    "reading the core limit": "number(resource.getrlimit, resource.RLIMIT_CORE)",
    "pages": "call('mmap', None, 2 << 20, 3, 0x22, -1, 0)",
    "a file in memory": "call('memfd_create', b'x', 1)",
    "a segment": "call('shmget', 0, 4096, 0o1600)",
}

CORE = """
import ctypes, resource
libc = ctypes.CDLL(None, use_errno=True)
zero = (ctypes.c_long * 2)(0, 0)
for number in (160, 302):
    arguments = (4 | 1 << 32, zero) if number == 160 else (0, 4 | 1 << 32, zero, None)
    print(libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print(*resource.getrlimit(resource.RLIMIT_CORE))
"""


@pytest.fixture
async def inside(any_image: DriverBench) -> AsyncGenerator[Handle]:
    """A running session, of the host's own image and of another."""
    async with any_image.session() as handle:
        yield handle


@pytest.mark.parametrize("user", [None, "root"])
async def test_they_are_refused(inside: Handle, user: str | None) -> None:
    answers = await attempt(inside, *(call for call, _, _ in REFUSED.values()), user=user)
    expected = {name: code for name, (_, code, _) in REFUSED.items()}
    assert dict(zip(REFUSED, answers, strict=True)) == expected


async def test_what_programs_need_passes(inside: Handle) -> None:
    answers = await attempt(inside, *NEEDED.values())
    # Whether ping may do without root is up to the host (net.ipv4.ping_group_range).
    assert {n for n, code in zip(NEEDED, answers, strict=True) if code} <= {"ping", "ping for IPv6"}


async def test_without_its_line_each_gets_further(oci: DriverBench) -> None:
    root, run_dir, ids = oci.kept
    weaker = OciDriver(root=root, run_dir=run_dir, ids_dir=ids, seccomp_profile=_allowing_all_of_it)
    twin = DriverBench(weaker, oci.workspaces, oci.kept, oci.instance, 1000)
    async with opening(weaker), twin.session() as handle:
        answers = await attempt(handle, *(call for call, _, _ in REFUSED.values()))
        guarded = {name for name, code in zip(REFUSED, answers, strict=True) if code == REFUSED[name][1]}
        assert guarded <= {"the audit log"}  # a kernel without it gives the same answer
        assert (await run(handle, f"python3 -c {shlex.quote(CORE)}")).stdout.split()[-2:] == ["0", "0"]


@pytest.mark.parametrize("user", [None, "root"])
async def test_no_program_lowers_the_limit_that_keeps_a_crash_from_the_hosts_handler(
    inside: Handle, user: str | None
) -> None:
    """A core_pattern program of the host would start as its root, unless RLIMIT_CORE is exactly 1: see
    core(5).
    """
    said = await run(inside, f"ulimit -c 0; python3 -c {shlex.quote(CORE)}", user=user)
    assert (said.stdout.split(), said.stderr) == (["0", "0", "1", "1"], "")


async def attempt(handle: Handle, *calls: str, user: str | None = None) -> list[int]:
    """The error number of each, 0 where it succeeded."""
    answer = await run(handle, f"python3 -c {shlex.quote(_PROBE % ', '.join(calls))}", user=user)
    assert answer.exit_code == 0, answer
    numbers: list[int] = ast.literal_eval(answer.stdout)
    return numbers


def _allowing_all_of_it(machine: str) -> dict[str, Any]:
    given = seccomp.profile(machine)
    names = {name for _, _, name in REFUSED.values()} | {"setrlimit"}
    kept = [line for line in given["syscalls"] if not names & set(line["names"])]
    return {**given, "syscalls": [*kept, {"names": sorted(names), "action": "SCMP_ACT_ALLOW"}]}
