"""Compiles a seccomp profile, as the OCI runtime specification writes it, with the host's libseccomp.

By ctypes: the one package that offers it, pyseccomp, runs ldconfig at import, which takes a tenth of a
second, and cannot be imported where the library is missing.
"""

import ctypes
import os
import struct
import tempfile
from collections.abc import Mapping
from typing import Any

LIBRARY = "libseccomp.so.2"
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_MASKED_EQ = 7
_ENOSYS = 38

# Instructions of classic BPF (filter.h), and the offsets of struct seccomp_data.
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _JUMP_FROM, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x4000_0000
_ARCHITECTURES = {"SCMP_ARCH_X86_64": 0xC000_003E, "SCMP_ARCH_AARCH64": 0xC000_00B7}


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("index", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("mask", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
    )


def compile_profile(profile: Mapping[str, Any]) -> bytes:
    """The BPF program of `profile`, which is for this machine's architecture, an array of struct sock_filter.

    As runc does, it answers calls that are newer than all that the profile names with ENOSYS.
    Raises OSError where the host has no libseccomp, or it refuses a rule.
    """
    library = ctypes.CDLL(LIBRARY)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(_ERRNO | profile["defaultErrnoRet"])))
    if not context:
        raise OSError("seccomp_init failed")
    try:
        newest = max(_add(library, context, rule) for rule in profile["syscalls"])
        return _unknown_calls(profile["architectures"][0], newest) + _exported(library, context)
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: ctypes.c_void_p, rule: Mapping[str, Any]) -> int:
    """The highest number among the rule's calls."""
    action = _ALLOW if rule["action"] == "SCMP_ACT_ALLOW" else _ERRNO | rule["errnoRet"]
    given = rule.get("args", [])
    comparisons = (_Comparison * len(given))(
        *((one["index"], _MASKED_EQ, one["value"], one["valueTwo"]) for one in given)
    )
    newest = 0
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # a call of other architectures, or newer than the library: no call of this profile
            continue
        _check(
            name,
            library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, ctypes.c_uint(len(given)), comparisons
            ),
        )
        newest = max(newest, number)
    return newest


def _exported(library: ctypes.CDLL, context: ctypes.c_void_p) -> bytes:
    with tempfile.TemporaryFile() as file:
        _check("seccomp_export_bpf", library.seccomp_export_bpf(context, file.fileno()))
        file.seek(0)
        return file.read()


def _unknown_calls(architecture: str, newest: int) -> bytes:
    """A head that answers calls above `newest` with ENOSYS; other architectures' go to the profile."""
    known = _ARCHITECTURES[architecture]
    x32 = [(_JUMP_FROM, 2, 0, _X32)] if architecture == "SCMP_ARCH_X86_64" else []
    lines = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_JUMP_EQUAL, 0, 3 + len(x32), known),
        (_LOAD, 0, 0, _NUMBER),
        *x32,
        (_JUMP_ABOVE, 0, 1, newest),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    return b"".join(struct.pack("HBBI", *line) for line in lines)


def _check(name: str, result: int) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp refuses {name}: {os.strerror(-result)}")
