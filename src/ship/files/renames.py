"""Renames that replace nothing, or exchange two files: by renameat2(2) where the file system can.

A file system answers EINVAL for what it cannot do (gVisor's, FUSE's and NFS's cannot), so each call tries it
first. In place of it:

- A file is given the new name beside its old one, which is then taken away. Nothing is ever replaced. For a
  moment the file has both names.
- A directory, and a file that may not have two names, replaces an empty one that was made for it, and which
  claims the name. For a moment the empty one is there. A directory that others put something into by then
  makes the rename fail; a file that they wrote to or put there in that moment is lost.
- Two files change places by way of a temporary name. For a moment the second name is missing. When a step
  fails, the steps before are undone.
"""

import errno
import os
import stat
from contextlib import suppress

from ship.files.temporaries import temporary
from ship.process import syscalls
from tree_tar.beneath import NEW_FILE

_CANNOT = frozenset((errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP))
_NO_SECOND_NAME = frozenset((errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP))


def rename_to_new(parent: int, name: str, to: int, new: str) -> None:
    """Rename where nothing is yet. Raises OSError, FileExistsError when something is."""
    try:
        syscalls.rename(parent, name, to, new)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        rename_to_new_by_steps(parent, name, to, new)


def exchange(parent: int, name: str, to: int, other: str) -> None:
    """Have two files change places. Raises OSError, with both as before."""
    try:
        syscalls.rename(parent, name, to, other, exchange=True)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        exchange_by_steps(parent, name, to, other)


def rename_to_new_by_steps(parent: int, name: str, to: int, new: str) -> None:
    """As `rename_to_new`, without renameat2."""
    is_directory = stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)
    if not is_directory:
        try:
            os.link(name, new, src_dir_fd=parent, dst_dir_fd=to, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_SECOND_NAME:
                raise
        else:
            _take_away(parent, name, to, new)
            return
    _rename_over_empty(parent, name, to, new, is_directory)


def exchange_by_steps(parent: int, name: str, to: int, other: str) -> None:
    """As `exchange`, without renameat2."""
    aside = temporary("removed")
    os.rename(other, aside, src_dir_fd=to, dst_dir_fd=to)
    try:
        rename_to_new(parent, name, to, other)
    except OSError:
        with suppress(OSError):  # another took the name: theirs stays, and the former file aside
            rename_to_new(to, aside, to, other)
        raise
    try:
        rename_to_new(to, aside, parent, name)
    except OSError:
        with suppress(OSError):
            rename_to_new(to, other, parent, name)
            rename_to_new(to, aside, to, other)
        raise


def _take_away(parent: int, name: str, to: int, new: str) -> None:
    """Take the first of two names away; when that may not be, the second."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return  # another program removed or moved it
    except OSError:
        os.unlink(new, dir_fd=to)
        raise


def _rename_over_empty(parent: int, name: str, to: int, new: str, is_directory: bool) -> None:
    if is_directory:
        os.mkdir(new, 0o700, dir_fd=to)
    else:
        os.close(os.open(new, NEW_FILE, 0o600, dir_fd=to))
    try:
        os.rename(name, new, src_dir_fd=parent, dst_dir_fd=to)
    except OSError as error:
        with suppress(OSError):
            (os.rmdir if is_directory else os.unlink)(new, dir_fd=to)
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from error
        raise
