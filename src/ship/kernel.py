"""The system calls that Python does not offer, by ctypes."""

import ctypes
import os

_OPENAT2 = 437  # on every architecture: numbers are common since 424
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.getenv.restype = ctypes.c_void_p
_libc.getenv.argtypes = [ctypes.c_char_p]


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(root: int, path: bytes, flags: int) -> int:
    """A descriptor (close on exec) of `path`, resolved by the kernel and never outside the directory `root`.

    Source: openat2(2). Raises OSError; EXDEV when the path leads out, ELOOP at a magic link, EAGAIN when
    renames went on while it looked.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    args = (
        ctypes.c_long(root),
        ctypes.c_char_p(path),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    descriptor: int = _libc.syscall(ctypes.c_long(_OPENAT2), *args)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(path))
    return descriptor


def set_fs_identity(uid: int, gid: int) -> None:
    """From now on this thread, and it alone, uses files as `uid` and `gid`. Raises PermissionError when refused."""
    # The calls return the value before and report no error, so ask once more (-1 changes nothing).
    _libc.setfsgid(gid)
    _libc.setfsuid(uid)
    if (_libc.setfsgid(-1), _libc.setfsuid(-1)) != (gid, uid):
        raise PermissionError(f"cannot use files as {uid}:{gid}")


def hide_from_debuggers() -> None:
    """Programs of the sandbox's user can read neither this process's memory nor what /proc says of it."""
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def adopt_orphans() -> None:
    """Descendants whose parent dies become our children, as they do for PID 1 anyway."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def erase_variable(name: str) -> None:
    """Overwrite the value of an environment variable where exec put it: unsetting leaves it in /proc/PID/environ."""
    address = _libc.getenv(name.encode())
    if address:
        ctypes.memset(address, ord("x"), len(ctypes.string_at(address)))
