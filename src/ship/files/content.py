"""Copies the content of files, by the kernel where it can."""

import errno
import fcntl
import os
from collections.abc import Generator

from tree_tar.sparse import data_extents

_BLOCK_BYTES = 8 << 20
_PLAIN_BYTES = 1 << 20
_FICLONE = 0x40049409  # ioctl_ficlone(2)
_NO_CLONE = frozenset(
    (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS, errno.EPERM, errno.EISDIR)
)


def copy_data(source: int, target: int, size: int) -> Generator[None]:
    """Copy the content of an open file, and its holes, a step at a time. Raises OSError."""
    if _clone(source, target):
        return
    for start, end in data_extents(source, size):
        while start < end:
            copied = _copy_block(source, target, start, min(_BLOCK_BYTES, end - start))
            if not copied:
                break  # it became shorter
            start += copied
            yield
    os.ftruncate(target, size)


def _clone(source: int, target: int) -> bool:
    """Whether the file system could let both have the same blocks."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _NO_CLONE:
            return False
        raise
    return True


def _copy_block(source: int, target: int, start: int, count: int) -> int:
    try:
        return os.copy_file_range(source, target, count, start, start)
    except OSError as error:
        if error.errno not in _NO_CLONE:
            raise
    return os.pwrite(target, os.pread(source, min(count, _PLAIN_BYTES), start), start)
