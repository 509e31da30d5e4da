"""System calls that Python does not offer, by ctypes."""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_STATFS_BYTES = 256  # more than any architecture's
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_SIGSET_BYTES = 128
_ORIGIN = struct.Struct("=IiiI")  # struct signalfd_siginfo: number, error, code, pid

SIGNAL_BYTES = 128
"""A signal, as a signal descriptor gives it."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getenv.restype = ctypes.c_void_p
_libc.getenv.argtypes = [ctypes.c_char_p]


def filesystem_of(descriptor: int) -> int:
    """The magic number of an open file's file system: the first field of statfs(2)."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(ctypes.c_int(descriptor), buffer) < 0:
        raise last_error()
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFF_FFFF


def rename(parent: int, name: str, to: int, new: str, *, exchange: bool = False) -> None:
    """Rename where nothing is yet; `exchange` swaps the two: renameat2(2). Raises OSError."""
    flags = _RENAME_EXCHANGE if exchange else _RENAME_NOREPLACE
    names = ctypes.c_char_p(os.fsencode(name)), ctypes.c_char_p(os.fsencode(new))
    if _libc.renameat2(ctypes.c_int(parent), names[0], ctypes.c_int(to), names[1], ctypes.c_uint(flags)) < 0:
        raise last_error()


def sync_filesystem(descriptor: int) -> None:
    """Write all of an open file's file system to its disk: syncfs(2). Raises OSError."""
    if _libc.syncfs(ctypes.c_int(descriptor)) < 0:
        raise last_error()


def set_fs_identity(uid: int, gid: int) -> None:
    """From now on this thread alone uses files as `uid` and `gid`. Raises PermissionError when refused."""
    # The calls return the value before and report no error, so ask once more (-1 changes nothing).
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if (_libc.setfsgid(-1), _libc.setfsuid(-1)) != (gid, uid):
        raise PermissionError(f"cannot use files as {uid}:{gid}")


def hide_from_debuggers() -> None:
    """Hide this process's memory and its /proc entries from programs of the sandbox's user."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Descendants whose parent dies become our children, as they do for PID 1 anyway."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def signal_descriptor(numbers: Iterable[int]) -> int:
    """A descriptor to read signals from that are blocked: signalfd(2). Raises OSError."""
    bits = sum(1 << (number - 1) for number in numbers)
    wanted = ctypes.create_string_buffer(bits.to_bytes(8, sys.byteorder), _SIGSET_BYTES)
    descriptor = _libc.signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise last_error()
    return descriptor


def origin_of_signal(read: bytes) -> tuple[int, int]:
    """How a signal was sent, a code of sigaction(2), and the pid of its sender."""
    _number, _error, code, pid = _ORIGIN.unpack_from(read)
    return code, pid


def erase_variable(name: str) -> None:
    """Overwrite the value of an environment variable in place: unsetting leaves it in /proc/PID/environ."""
    address = _libc.getenv(name.encode())
    if address:
        ctypes.memset(address, ord("x"), len(ctypes.string_at(address)))


def last_error() -> OSError:
    """The error that a failed call by ctypes has left."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
