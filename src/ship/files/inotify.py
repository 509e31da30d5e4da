"""A binding of inotify(7), by ctypes."""

import ctypes
import os
import struct
from collections.abc import Iterator
from typing import NamedTuple

from ship.process.syscalls import last_error

MODIFY, ATTRIB = 0x2, 0x4
MOVED_FROM, MOVED_TO = 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x100, 0x200, 0x400, 0x800
UNMOUNT, Q_OVERFLOW, IGNORED, ISDIR = 0x2000, 0x4000, 0x8000, 0x4000_0000
_ONLYDIR, _EXCL_UNLINK = 0x0100_0000, 0x0400_0000
_ALL = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF

_READ_BYTES = 64 * 1024
_HEAD = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """An event of the kernel: the watch, its bits, the cookie of a move, and the name in the directory."""

    watch: int
    mask: int
    cookie: int
    name: str


class Inotify:
    """One instance, of which a user has few. Raises OSError (EMFILE) when there is none left."""

    def __init__(self) -> None:
        self.descriptor: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise last_error()

    def add(self, directory: int) -> int:
        """Watch an open directory, as the calling thread. Raises OSError: ENOSPC beyond the user's number."""
        path = ctypes.c_char_p(b"/proc/self/fd/%d" % directory)
        number: int = _libc.inotify_add_watch(
            ctypes.c_int(self.descriptor), path, ctypes.c_uint32(_ALL | _ONLYDIR | _EXCL_UNLINK)
        )
        if number < 0:
            raise last_error()
        return number

    def remove(self, watch: int) -> None:
        """Idempotent."""
        _libc.inotify_rm_watch(ctypes.c_int(self.descriptor), ctypes.c_int(watch))

    def read(self) -> list[Event]:
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return []
        return list(_events(data))

    def close(self) -> None:
        """Give it back, with all its watches."""
        os.close(self.descriptor)


def _events(data: bytes) -> Iterator[Event]:
    at = 0
    while at < len(data):
        watch, mask, cookie, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        name = data[at : at + size].split(b"\0", 1)[0]
        yield Event(watch, mask, cookie, os.fsdecode(name))
        at += size
