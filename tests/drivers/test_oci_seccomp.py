"""The seccomp profile as data: what is on no list, and which arguments are looked at."""

import errno
from typing import Any

import pytest

from bay.drivers.oci.seccomp import ALLOWED, FICLONE, FICLONERANGE, FIDEDUPERANGE, NEW_NAMESPACES, profile

pytestmark = pytest.mark.host

PROFILE = profile("x86_64")

NEVER = [
    "acct",
    "add_key",
    "adjtimex",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "fanotify_mark",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "listmount",
    "lookup_dcookie",
    "mbind",
    "migrate_pages",
    "modify_ldt",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "socketcall",
    "statmount",
    "swapoff",
    "swapon",
    "syslog",
    "sysfs",
    "umount",
    "umount2",
    "uselib",
    "userfaultfd",
    "ustat",
    "vhangup",
    "vm86",
    "io_setup",
    "io_uring_enter",
    "io_uring_register",
]


def rules(name: str, action: str = "SCMP_ACT_ALLOW") -> list[dict[str, Any]]:
    return [line for line in PROFILE["syscalls"] if name in line["names"] and line["action"] == action]


def allows(name: str, *arguments: int) -> bool:
    """Whether a call would pass, as libseccomp reads the lines."""
    return any(all(_holds(one, arguments) for one in line.get("args", [])) for line in rules(name))


def answers(name: str, *arguments: int) -> set[int]:
    """The errors that a refused call gets: one, or the answer would be libseccomp's choice."""
    lines = rules(name, "SCMP_ACT_ERRNO")
    return {line["errnoRet"] for line in lines if all(_holds(one, arguments) for one in line["args"])}


def _holds(condition: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    assert condition["op"] == "SCMP_CMP_MASKED_EQ"
    index, mask, expected = int(condition["index"]), int(condition["value"]), int(condition["valueTwo"])
    return arguments[index] & mask == expected


def test_what_is_not_listed_is_refused() -> None:
    assert (PROFILE["defaultAction"], PROFILE["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)


def test_there_is_one_architecture() -> None:
    assert PROFILE["architectures"] == ["SCMP_ARCH_X86_64"]
    assert profile("aarch64")["architectures"] == ["SCMP_ARCH_AARCH64"]


@pytest.mark.parametrize("name", NEVER)
def test_it_is_never_allowed(name: str) -> None:
    assert name not in ALLOWED
    assert rules(name) == []


@pytest.mark.parametrize(
    "name",
    [
        *("socket", "socketpair", "clone", "clone3", "unshare", "ioctl", "fcntl", "personality"),
        *("setsockopt", "setrlimit", "prlimit64", "mmap", "memfd_create", "shmget"),
    ],
)
def test_a_call_with_conditions_is_not_allowed_without_them_elsewhere(name: str) -> None:
    assert name not in ALLOWED
    assert all(line.get("args") for line in rules(name))


@pytest.mark.parametrize("family", range(64))
def test_socket_families_are_an_allow_list(family: int) -> None:
    assert allows("socket", family, 1, 0) == (family in (1, 2, 10, 16))
    assert allows("socket", family, 2, 17) == (family in (1, 2, 10))
    assert allows("socketpair", family, 1, 0) == (family == 1)


@pytest.mark.parametrize("protocol", range(32))
def test_of_netlink_only_route(protocol: int) -> None:
    assert allows("socket", 16, 3, protocol) == (protocol == 0)


def test_the_audit_log_is_said_not_to_exist() -> None:
    (line,) = rules("socket", "SCMP_ACT_ERRNO")
    assert all(_holds(one, (16, 3, 9)) for one in line["args"])
    assert line["errnoRet"] == errno.EPROTONOSUPPORT


@pytest.mark.parametrize("family", [2, 10])
@pytest.mark.parametrize("kind", range(16))
def test_of_the_internet_only_tcp_udp_and_ping(family: int, kind: int) -> None:
    passing = {1: {0, 6}, 2: {0, 1, 17, 58}}.get(kind, set())
    assert {
        protocol for protocol in range(300) if allows("socket", family, kind | 0o2004000, protocol)
    } == passing


@pytest.mark.parametrize("option", range(64))
def test_of_the_options_of_tcp_only_kernel_tls_is_refused(option: int) -> None:
    assert allows("setsockopt", 3, 6, option) == (option != 31)
    assert allows("setsockopt", 3, 6 | 1 << 32, option | 1 << 32) == (option != 31)


@pytest.mark.parametrize("level", [0, 1, 17, 41, 58, 270])
def test_options_of_other_levels_are_allowed(level: int) -> None:
    assert all(allows("setsockopt", 3, level, option) for option in range(128))


@pytest.mark.parametrize("resource", range(16))
def test_every_limit_but_that_of_cores_can_be_set(resource: int) -> None:
    for number in (resource, resource | 1 << 32):
        assert allows("setrlimit", number, 1) == (resource != 4)
        assert allows("prlimit64", 0, number, 1, 0) == (resource != 4)
        assert allows("prlimit64", 0, number, 0, 1)


@pytest.mark.parametrize(("name", "arguments"), [("setrlimit", (4, 1)), ("prlimit64", (0, 4, 1, 0))])
def test_who_limits_cores_is_told_that_it_is_done(name: str, arguments: tuple[int, ...]) -> None:
    (line,) = rules(name, "SCMP_ACT_ERRNO")
    assert all(_holds(one, arguments) for one in line["args"])
    assert line["errnoRet"] == 0


@pytest.mark.parametrize(
    ("name", "index", "flag"), [("mmap", 3, 0x40000), ("memfd_create", 1, 4), ("shmget", 2, 0o4000)]
)
def test_huge_pages_are_refused(name: str, index: int, flag: int) -> None:
    others = [0, 0x22] if name == "mmap" else [0, 0o1600 & ~flag]
    for other in others:
        assert allows(name, *[0] * index, other)
        assert not allows(name, *[0] * index, other | flag)


@pytest.mark.parametrize("seals", [0, 0x8, 0x10])
def test_a_huge_memfd_is_said_not_to_fit_in_memory(seals: int) -> None:
    assert answers("memfd_create", 0, 0x4 | seals) == {errno.ENOMEM}


def test_who_asks_whether_memfds_exist_by_flags_that_exclude_each_other_is_told_so() -> None:
    assert answers("memfd_create", 0, 0xFFFF_FFFF) == {errno.EINVAL}  # as Chromium does


@pytest.mark.parametrize("family", [40, 38, 17])
def test_a_family_cannot_hide_behind_the_upper_half_of_its_register(family: int) -> None:
    assert not allows("socket", (1 << 32) | family, 1, 0)


@pytest.mark.parametrize("bit", range(256))
def test_of_ioctls_only_those_of_btrfs_are_refused(bit: int) -> None:
    request = (bit << 8) | 0x0E
    assert allows("ioctl", 0, request) == (bit != 0x94)
    assert allows("ioctl", 0, (1 << 32) | request) == (bit != 0x94)


@pytest.mark.parametrize("command", [1024, 1040, 1024 | 1 << 32, 1040 | 1 << 40])
def test_no_file_is_leased_to_a_sandbox(command: int) -> None:
    assert not allows("fcntl", 3, command)


@pytest.mark.parametrize("command", [*range(17), 36, 37, 38, *range(1025, 1040)])
def test_every_other_fcntl_is_allowed(command: int) -> None:
    assert allows("fcntl", 3, command)


@pytest.mark.parametrize("request_", [FICLONE, FICLONERANGE, FIDEDUPERANGE])
def test_copies_by_reference_are_allowed(request_: int) -> None:
    assert allows("ioctl", 0, request_)


@pytest.mark.parametrize("flag", [1 << bit for bit in range(32) if NEW_NAMESPACES & (1 << bit)])
def test_every_new_namespace_is_refused(flag: int) -> None:
    assert not allows("clone", flag | 17)
    assert not allows("unshare", flag)


def test_threads_and_processes_can_be_made() -> None:
    assert allows("clone", 17)
    assert allows("clone", 0x3D0F00)
    assert allows("unshare", 0x200)
    assert not allows("unshare", 0x80)


def test_clone3_and_io_uring_do_not_exist() -> None:
    for name in ("clone3", "io_uring_setup"):
        assert [line["errnoRet"] for line in rules(name, "SCMP_ACT_ERRNO")] == [38]


def test_personality_changes_no_architecture() -> None:
    assert [allows("personality", value) for value in (0, 0x40000, 0xFFFFFFFF)] == [True] * 3
    assert not any(allows("personality", value) for value in (8, 0x20008, 0x400000))
