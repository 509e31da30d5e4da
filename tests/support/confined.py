"""Starts a program as systemd starts the service of a unit file, as far as the kernel can be told without it.

    python confined.py UNIT COMMAND…

It has systemd's umask, the unit's capabilities, `NoNewPrivileges=`, system call filter and families of
sockets, and hands them on to what it starts.
"""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bay.drivers.oci import seccomp
from bay.linux.libseccomp import compile_profile

_CAPBSET_DROP, _SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 24, 38, 22, 2
_EPERM = 1
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
_CAPABILITIES = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]  # in the order of <linux/capability.h>


def values(unit: str, name: str) -> list[str]:
    """The words of an option in the text of a unit file, of all its lines."""
    lines = (line.partition("=") for line in unit.splitlines() if line.startswith(f"{name}="))
    return [word for _, _, value in lines for word in value.split()]


def groups_of_calls() -> dict[str, list[str]]:
    """The groups of system calls that systemd knows, with what they name."""
    done = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        if line.startswith("@"):
            found[line] = []
        elif line.startswith("    ") and not line.lstrip().startswith("#"):
            found[[*found][-1]].append(line.strip())
    return found


def _calls(names: list[str], groups: dict[str, list[str]]) -> Iterator[str]:
    for name in names:
        if name.startswith("@"):
            yield from _calls(groups[name], groups)
        else:
            yield name


def _profile(unit: str) -> dict[str, Any]:
    groups = groups_of_calls()
    first, *rest = values(unit, "SystemCallFilter")
    named = {*_calls([first.removeprefix("~"), *rest], groups)}
    known = {*_calls(["@known"], groups)}
    allowed = sorted(
        (known - named if first.startswith("~") else {*_calls(["@default"], groups), *named}) - {"socket"}
    )
    families = [_FAMILIES[name] for name in values(unit, "RestrictAddressFamilies")]
    by_family = [{"index": 0, "value": (1 << 64) - 1, "valueTwo": family} for family in families]
    return {
        "defaultErrnoRet": _EPERM,
        "architectures": seccomp.profile(platform.machine())["architectures"],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            *({"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [one]} for one in by_family),
        ],
    }


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def confine(unit: str) -> None:
    """Confine this process as the unit says."""
    libc = ctypes.CDLL(None, use_errno=True)
    program = compile_profile(_profile(unit))
    os.umask(0o022)  # systemd's own, where a unit has none
    kept = values(unit, "CapabilityBoundingSet")
    for number, name in enumerate(_CAPABILITIES):
        if f"CAP_{name}" not in kept:
            _check(libc.prctl(_CAPBSET_DROP, number, 0, 0, 0))
    if values(unit, "NoNewPrivileges") == ["yes"]:
        _check(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(_Program(len(program) // 8, program)), 0, 0))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text(encoding="utf-8"))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606  that is what it is for
