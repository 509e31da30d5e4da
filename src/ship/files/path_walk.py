"""Opens paths as openat2(2) does; on a kernel without that call by a walk of its own, a component at a time.

Linux has the call since 5.6, gVisor since 2026; the seccomp profile of an old container runtime forbids it.

The walk opens each component by its name in the one before it, and never a path: the kernel follows no link
that a program puts there meanwhile. It reads the text of a link that it has open, and goes on with the
components of that text. So a magic link (/proc/PID/root), whose text says less than where the kernel would
lead, opens nothing; the walk refuses it as openat2 does. No file system but procfs has magic links. Beneath
the workspace an absolute link is refused, and so is `..` at the top. After any other `..` the walk compares
the directory with the one that it came down through; when they differ a rename went on, and the error is
EAGAIN, as that of openat2.
"""

import errno
import os
import re
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import NamedTuple

from ship.process import syscalls
from tree_tar.beneath import closing, closing_on_error
from tree_tar.openat2 import openat2

# limits.h, namei.h
_PATH_MAX = 4096
_MAX_LINKS = 40

_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_PLAIN_PROC_LINK = re.compile(rb"\d+(/task/\d+)?|self/(mounts|net)")
"""The texts of those links of procfs that are no magic ones: self, thread-self, mounts and net."""

_Inode = tuple[int, int]


def open_path(root: int, path: bytes, flags: int, *, beneath: bool = True) -> int:
    """A descriptor (close on exec) of `path` from the directory `root`; `beneath`: never outside of it.
    Raises OSError with the errors of `tree_tar.openat2`. It makes no file.
    """
    if has_openat2():
        return openat2(root, path, flags, beneath=beneath)
    return walk(root, path, flags, beneath=beneath)


@cache
def has_openat2() -> bool:
    """Whether this kernel lets us call it."""
    try:
        os.close(openat2(-1, b"/", os.O_PATH, beneath=False))
    except OSError:
        return False
    return True


def walk(root: int, path: bytes, flags: int, *, beneath: bool = True) -> int:
    """As `open_path`, without openat2."""
    if not path:
        raise _error(errno.ENOENT)
    if len(path) >= _PATH_MAX:
        raise _error(errno.ENAMETOOLONG)
    with _Walk(root, beneath=beneath) as here:
        return here.to(path, flags | os.O_CLOEXEC)


class _Found(NamedTuple):
    """The file that a component names, open without any right to it."""

    descriptor: int
    facts: os.stat_result


class _Walk:
    """The directory that a walk has come to."""

    def __init__(self, root: int, *, beneath: bool) -> None:
        self._root = root
        self._beneath = beneath
        self._stack = ExitStack()
        self._here = root
        self._above: list[_Inode] = []
        """The directories between `root` and here, for `..`."""
        self._links = 0

    def __enter__(self) -> "_Walk":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def to(self, path: bytes, flags: int) -> int:
        """A descriptor of `path`."""
        left = self._begin(path)  # the next component is the last of the list
        while True:
            part, is_last = left.pop(), not left
            if part in (b".", b".."):
                if part == b"..":
                    self._go_up()
                if is_last:
                    # By this name the kernel asks for the right to search it.
                    return os.open(".", flags & ~os.O_NOFOLLOW, dir_fd=self._here)
                continue
            with self._looked_at(part) as found:
                if stat.S_ISLNK(found.facts.st_mode) and not (is_last and flags & os.O_NOFOLLOW):
                    left += self._begin(self._text(found, is_last))
                elif is_last:
                    return self._open(part, found, flags)
                else:
                    self._enter(part, found)

    def _begin(self, path: bytes) -> list[bytes]:
        """The components of `path`, last ones first, from where it begins."""
        if path.startswith(b"/"):
            if self._beneath:
                raise _error(errno.EXDEV)
            self._go_to(os.open("/", _ENTER))
        parts = [part for part in path.split(b"/") if part]
        if not parts or path.endswith(b"/"):
            parts.append(b".")  # it must be a directory
        return parts[::-1]

    @contextmanager
    def _looked_at(self, part: bytes) -> Generator[_Found]:
        with closing(os.open(part, _LOOK, dir_fd=self._here)) as descriptor:
            yield _Found(descriptor, os.fstat(descriptor))

    def _text(self, link: _Found, is_last: bool) -> bytes:
        self._links += 1
        if self._links > _MAX_LINKS:
            raise _error(errno.ELOOP)
        if is_last:
            self._check_owner(link.facts)
        text = os.readlink(b"", dir_fd=link.descriptor)
        is_of_proc = syscalls.filesystem_of(link.descriptor) == syscalls.PROC
        if is_of_proc and not _PLAIN_PROC_LINK.fullmatch(text):
            raise _error(errno.ELOOP)
        if not text:
            raise _error(errno.ENOENT)
        return text

    def _check_owner(self, link: os.stat_result) -> None:
        # As with fs.protected_symlinks=1, the setting of all distributions, at the end of a path alone:
        # proc_sys_fs(5). Another user's link in /tmp would else say which file root reads or writes.
        above = os.fstat(self._here)
        is_for_all = above.st_mode & (stat.S_ISVTX | stat.S_IWOTH) == stat.S_ISVTX | stat.S_IWOTH
        if is_for_all and link.st_uid not in (syscalls.files_uid(), above.st_uid):
            raise _error(errno.EACCES)

    def _open(self, part: bytes, found: _Found, flags: int) -> int:
        if flags & os.O_DIRECTORY and not stat.S_ISDIR(found.facts.st_mode):
            raise _error(errno.ENOTDIR)
        if flags & os.O_PATH:
            return os.dup(found.descriptor)
        # By its name once more, since an open one can only be opened again by way of /proc.
        with closing_on_error(self._open_same(part, found, flags | os.O_NOFOLLOW)) as descriptor:
            if not os.path.samestat(os.fstat(descriptor), found.facts):
                raise _error(errno.EAGAIN)
        return descriptor

    def _open_same(self, part: bytes, found: _Found, flags: int) -> int:
        try:
            return os.open(part, flags, dir_fd=self._here)
        except OSError as error:
            was_link = stat.S_ISLNK(found.facts.st_mode)
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT) and not was_link:
                raise _error(errno.EAGAIN) from error  # it was there just now, and no link
            raise

    def _enter(self, part: bytes, found: _Found) -> None:
        if not stat.S_ISDIR(found.facts.st_mode):
            raise _error(errno.ENOTDIR)
        self._above.append(_inode(self._here))
        self._go_to(os.dup(found.descriptor))

    def _go_up(self) -> None:
        if not self._beneath:
            self._go_to(os.open("..", _ENTER, dir_fd=self._here))
            return
        if not self._above:
            raise _error(errno.EXDEV)
        with closing_on_error(os.open("..", _ENTER, dir_fd=self._here)) as above:
            if _inode(above) != self._above.pop():
                raise _error(errno.EAGAIN)
        self._go_to(above)

    def _go_to(self, directory: int) -> None:
        self._stack.close()
        self._stack.callback(os.close, directory)
        self._here = directory


def _inode(directory: int) -> _Inode:
    facts = os.fstat(directory)
    return facts.st_dev, facts.st_ino


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
