"""Loop devices: one for each file, never two, which would each assume that they own the disk.

The kernel detaches the device when nothing is mounted from it. Blocks, raises OSError.
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Generator, Iterator
from pathlib import Path

from bay.linux.processes import closing_fd

# From linux/loop.h.
_GET_STATUS, _SET_CAPACITY, _CONFIGURE, _CTL_GET_FREE = 0x4C05, 0x4C07, 0x4C0A, 0x4C82
_AUTOCLEAR, _DIRECT_IO = 4, 16
_INFO = struct.Struct("=5Q4L64s64s32s2Q")
_CONFIG_SIZE = 304
_TRIES = 64
_BLOCKS = Path("/sys/block")
_DEVICES = Path("/dev")


@contextlib.contextmanager
def attached(file: Path) -> Generator[Path]:
    """The loop device of `file`, made when there is none; it stays for the block and while mounted from."""
    with closing_fd(os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)) as fd:
        device, held = _found(os.fstat(fd)) or _attach(fd, file)
    with closing_fd(held):
        yield device


def device_of(file: Path) -> Path | None:
    """The device that `file` is attached to, if it is."""
    if found := _found(file.stat(follow_symlinks=False)):
        os.close(found[1])
        return found[0]
    return None


def see_size(file: Path) -> None:
    """Have the device of `file` take over its size."""
    with attached(file) as device, closing_fd(os.open(device, os.O_RDWR | os.O_CLOEXEC)) as fd:
        fcntl.ioctl(fd, _SET_CAPACITY)


def _found(facts: os.stat_result) -> tuple[Path, int] | None:
    for device in _busy():
        with contextlib.suppress(OSError):  # it went away meanwhile
            fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
            if _shows(fd, facts):
                return device, fd
            os.close(fd)
    return None


def _busy() -> Iterator[Path]:
    return (_DEVICES / path.parents[1].name for path in _BLOCKS.glob("loop*/loop/backing_file"))


def _shows(fd: int, facts: os.stat_result) -> bool:
    info = bytearray(_INFO.size)
    try:
        fcntl.ioctl(fd, _GET_STATUS, info)
    except OSError:
        return False  # detached already
    device, inode, *_ = _INFO.unpack(info)
    return (device, inode) == (facts.st_dev, facts.st_ino)


def _attach(file: int, path: Path) -> tuple[Path, int]:
    for _ in range(_TRIES):
        device = _free()
        held = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            _configure(held, file, path)
        except OSError as error:
            os.close(held)
            if error.errno != errno.EBUSY:  # EBUSY: another was quicker
                raise
        else:
            return device, held
    raise OSError(errno.EBUSY, "every loop device is in use", str(path))


def _free() -> Path:
    with closing_fd(os.open(_DEVICES / "loop-control", os.O_RDWR | os.O_CLOEXEC)) as control:
        return _DEVICES / f"loop{fcntl.ioctl(control, _CTL_GET_FREE)}"


def _configure(held: int, file: int, path: Path) -> None:
    # Direct I/O, where the host's file system has it: the pool's page cache holds the same data already.
    flags = _AUTOCLEAR | _DIRECT_IO
    info = _INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, os.fsencode(path)[-63:], b"", b"", 0, 0)
    fcntl.ioctl(held, _CONFIGURE, bytearray((struct.pack("=2L", file, 0) + info).ljust(_CONFIG_SIZE, b"\0")))
