"""Gives up every right that unpacking a layer does not need, before a byte of the layer is read."""

import ctypes
import os
import resource
import signal
from collections.abc import Mapping

_CLONE_NEWUSER = 0x1000_0000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_SECCOMP = 1, 4, 24, 22
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION_3 = 0x2008_0522
_CAPABILITIES = 64
_INSTRUCTION_BYTES = 8  # struct sock_filter

# CHOWN, DAC_OVERRIDE, FOWNER, FSETID and SETFCAP (see capability.h), over the ids of the namespace alone.
UNPACKING = sum(1 << number for number in (0, 1, 3, 4, 31))

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def limit(limits: Mapping[str, int]) -> None:
    """Set resource limits, by their names in `resource`."""
    for name, most in limits.items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (most, most))


def become_root_of(users: int) -> None:
    """Become root of the user namespace behind the descriptor, and lose every right outside of it.
    The process ends with the thread of Bay that started it. It must have one thread.
    """
    _check("setns", _libc.setns(users, _CLONE_NEWUSER))
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    for number in range(_CAPABILITIES):
        if not UNPACKING >> number & 1:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # refused for numbers that the kernel lacks
    _check("prctl", _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    keep_capabilities(UNPACKING)
    _check("prctl", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    # After the change of ids, which takes both back.
    _check("prctl", _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _check("prctl", _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def keep_capabilities(capabilities: int) -> None:
    """Keep `capabilities` (a set of bits) alone."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: the low bits, then the high ones
    for half in (0, 1):
        sets[3 * half] = sets[3 * half + 1] = capabilities >> (32 * half) & 0xFFFF_FFFF
    _check("capset", _libc.capset(header, sets))


def install_filter(program: bytes) -> None:
    """Install a seccomp filter, an array of struct sock_filter, for good."""
    filters = _Program(len(program) // _INSTRUCTION_BYTES, program)
    result = _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(filters), 0, 0)
    _check("seccomp", result)


def _check(name: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
