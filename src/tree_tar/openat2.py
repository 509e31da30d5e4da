"""openat2(2) by ctypes, which Python does not offer: the kernel resolves a whole path beneath a directory."""

import ctypes
import os

_NUMBER = 437  # on every architecture: numbers are common since 424
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x02, 0x04, 0x08, 0x10

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(
    root: int, path: bytes, flags: int, *, beneath: bool = True, links: bool = True, in_root: bool = False
) -> int:
    """A descriptor (close on exec) of `path`, resolved by the kernel; `beneath`: never outside of `root`.
    Without `links` a symbolic link is an error; `in_root`: absolute paths and links begin at `root`. Raises
    OSError; EXDEV when the path leads out, ELOOP at a link that is not followed, EAGAIN when renames went on
    while it looked.
    """
    within = _RESOLVE_IN_ROOT if in_root else _RESOLVE_BENEATH if beneath else 0
    resolve = _RESOLVE_NO_MAGICLINKS | within
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve | (0 if links else _RESOLVE_NO_SYMLINKS))
    # Variadic: an int would travel as 32 bits with an undefined upper half.
    size = ctypes.c_size_t(ctypes.sizeof(how))
    arguments = ctypes.c_long(root), ctypes.c_char_p(path), ctypes.byref(how), size
    descriptor: int = _libc.syscall(ctypes.c_long(_NUMBER), *arguments)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return descriptor
