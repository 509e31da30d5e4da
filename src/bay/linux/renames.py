"""Atomic replacement: puts a prepared file or directory in place by one rename. Blocks and raises OSError."""

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bay.linux.processes import closing_fd

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


def place(made: Path, target: Path) -> bool:
    """Give `made` the name `target`; False, with nothing done, when that name is taken."""
    try:
        _rename(made, target, _NOREPLACE)
    except FileExistsError:
        return False
    return True


def exchange(one: Path, other: Path) -> bool:
    """Give each of the two the other's name; False, with nothing done, when the file system cannot."""
    try:
        _rename(one, other, _EXCHANGE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


@contextmanager
def built_beside(target: Path) -> Generator[Path]:
    """A new directory beside `target`, which takes that name when the block ends; nothing stays on an error.
    Of concurrent builds the first keeps the name, and its copy is as good.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        yield building
        try:
            building.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def sync_directory(path: Path) -> None:
    """Have the names in the directory reach the disk."""
    with closing_fd(os.open(path, _DIRECTORY)) as fd:
        os.fsync(fd)


def sync_file_system(path: Path) -> None:
    """Have everything that was written to the file system of `path` reach the disk."""
    with closing_fd(os.open(path, _DIRECTORY)) as fd:
        sync_open_file_system(fd)


def sync_open_file_system(fd: int) -> None:
    """The same for the file system of an open file."""
    if _libc.syncfs(fd):
        raise _last_error("a file system")


def _rename(old: Path, new: Path, flags: int) -> None:
    if _libc.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), flags):
        raise _last_error(old)


def _last_error(path: Path | str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), str(path))
