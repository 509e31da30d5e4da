"""System calls that Python does not offer, by ctypes."""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from functools import cache

SETRESUID, SETRESGID = {"x86_64": (117, 119), "aarch64": (147, 149)}[os.uname().machine]
"""The numbers of calls that change the ids of one thread, where the C library's change those of all."""

# Source: linux/magic.h.
PROC = 0x9FA0
DEVPTS = 0x1CD1

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
_libc.syscall.restype = ctypes.c_long
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
    """From now on this thread alone uses files as `uid` and `gid`. Raises PermissionError when refused.

    Where the kernel has no ids for files alone these are its effective ids. As with those for files nobody
    may signal or trace it who could not before: both look at real and saved ids, which stay.
    """
    if _has_ids_for_files():
        # The calls return the value before and report no error, so ask once more (-1 changes nothing).
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        is_set = (_libc.setfsgid(-1), _libc.setfsuid(-1)) == (gid, uid)
    else:
        # Root's group first, which takes root's capabilities. To be root again takes none: it is the real id.
        ids = ((SETRESUID, 0), (SETRESGID, gid), (SETRESUID, uid))
        is_set = all(_set_effective(call, number) for call, number in ids)
    if _is_shown:
        _settle()
    if not is_set:
        raise PermissionError(f"cannot use files as {uid}:{gid}")


def files_uid() -> int:
    """The uid by which this thread uses files."""
    return _libc.setfsuid(-1) if _has_ids_for_files() else os.geteuid()


@cache
def _has_ids_for_files() -> bool:
    """Whether the kernel has setfsuid(2); gVisor has not."""
    ctypes.set_errno(0)
    return _libc.setfsuid(-1) != -1 or ctypes.get_errno() != errno.ENOSYS


def _set_effective(call: int, number: int) -> bool:
    kept = ctypes.c_long(-1)
    return _libc.syscall(ctypes.c_long(call), kept, ctypes.c_long(number), kept) == 0


_is_shown = False


def hide_from_debuggers() -> None:
    """Hide this process's memory and its /proc entries from programs of the sandbox's user."""
    global _is_shown
    _is_shown = False
    _settle()


def show_to_debuggers() -> None:
    """Undo `hide_from_debuggers`. A thread that changes its ids hides the process for a moment."""
    global _is_shown
    _is_shown = True
    _settle()


def _settle() -> None:
    # Threads do this at once, and without a lock, which a fork would leave held: the last one has it right.
    while True:
        wanted = _is_shown
        _libc.prctl(_PR_SET_DUMPABLE, int(wanted), 0, 0, 0)
        if wanted == _is_shown:
            return


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
