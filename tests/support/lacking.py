"""Runs a program on a kernel that lacks the calls which Ship can do without, as gVisor's and old Linux do.

    python lacking.py COMMAND…

A seccomp filter answers them as such a kernel does. It holds for all that the program starts.
"""

import ctypes
import errno
import os
import platform
import struct
import sys
from pathlib import Path

COMMAND = (sys.executable, str(Path(__file__).resolve()))

_SET_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER = 38, 22, 2
_ALLOW, _ERRNO = 0x7FFF_0000, 0x0005_0000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ARGUMENTS = 16  # their offset in struct seccomp_data
_TIOCGPTPEER = 0x5441

_IS_X86 = platform.machine() == "x86_64"
_ANSWERS = (
    (437, errno.ENOSYS),  # openat2
    (326 if _IS_X86 else 285, errno.ENOSYS),  # copy_file_range
    (122 if _IS_X86 else 151, errno.ENOSYS),  # setfsuid
    (123 if _IS_X86 else 152, errno.ENOSYS),  # setfsgid
    (316 if _IS_X86 else 276, errno.EINVAL),  # renameat2
)
_BY_ARGUMENT = (
    (16 if _IS_X86 else 29, 1, _TIOCGPTPEER, errno.ENOTTY),  # ioctl
    (8 if _IS_X86 else 62, 2, os.SEEK_DATA, errno.EINVAL),  # lseek
    (8 if _IS_X86 else 62, 2, os.SEEK_HOLE, errno.EINVAL),
)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def lack() -> None:
    """Have this process, and all that it starts, lack them."""
    lines = [(_LOAD, 0, 0, 0)]
    for number, answer in _ANSWERS:
        lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | answer)]
    for number, argument, value, answer in _BY_ARGUMENT:
        lines += [
            (_JUMP_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            (_JUMP_EQUAL, 0, 1, value),
            (_RETURN, 0, 0, _ERRNO | answer),
            (_LOAD, 0, 0, 0),
        ]
    lines.append((_RETURN, 0, 0, _ALLOW))
    program = b"".join(struct.pack("HBBI", *line) for line in lines)
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(_Program(len(lines), program)), 0, 0))


def _check(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    lack()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  that is what it is for
