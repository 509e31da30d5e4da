"""Opens files beneath a directory descriptor; the kernel follows no symbolic link on the way.

Each step opens one directory by its name in the one above it, so neither a hostile tree nor a rename that
races leads out of the top, and a path may be longer than PATH_MAX.
"""

import errno
import os
import posixpath
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import cache

Parts = tuple[str, ...]

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(parent: int, name: str) -> int:
    """Open the directory `name` in `parent`; a symbolic link raises NotADirectoryError."""
    descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
    if not _refuses_links():
        with closing_on_error(descriptor):
            _check_is_no_link(descriptor, parent, name)
    return descriptor


@cache
def _refuses_links() -> bool:
    """Whether this kernel heeds O_NOFOLLOW beside O_DIRECTORY; gVisor of 2024 opens the target of a link."""
    try:
        os.close(os.open("/proc/self", OPEN_DIRECTORY))
    except OSError as error:
        return error.errno in (errno.ENOTDIR, errno.ELOOP)  # else there is no link to try it with
    return False


def _check_is_no_link(descriptor: int, parent: int, name: str) -> None:
    # After the open. A link that gave way to its own target meanwhile is none by now, and nothing led out.
    if not os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=parent, follow_symlinks=False)):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)


def open_or_make(parent: int, name: str) -> int:
    """Open the directory `name` in `parent`, and make it where it is missing."""
    try:
        return open_directory(parent, name)
    except FileNotFoundError:
        make_directory(parent, name)
        return open_directory(parent, name)


def make_directory(parent: int, name: str) -> bool:
    """Make the directory `name` in `parent` with mode 0755; False where something has that name."""
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def open_beneath(top: int, parts: Iterable[str], step: Callable[[int, str], int] = open_directory) -> int:
    """A new descriptor of the directory `parts` beneath `top`; `step` opens each from the one above it."""
    here = os.open(".", OPEN_DIRECTORY, dir_fd=top)
    for part in parts:
        try:
            below = step(here, part)
        finally:
            os.close(here)
        here = below
    return here


@contextmanager
def closing_on_error(descriptor: int) -> Generator[int]:
    """Close the descriptor when the block fails; else it is the caller's."""
    try:
        yield descriptor
    except BaseException:
        os.close(descriptor)
        raise


@contextmanager
def closing(descriptor: int) -> Generator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def leads_inside(name: str, target: str) -> bool:
    """Whether a link at `name` to `target` stays in the tree, whatever other links are on its way.

    So no `..` may stand behind a name: that name could be a link, and what is above the place it leads to is
    anywhere.
    """
    if not target or target.startswith("/") or "\0" in target:
        return False
    words = [word for word in target.split("/") if word not in ("", ".")]
    up = next((i for i, word in enumerate(words) if word != ".."), len(words))
    depth = len([word for word in posixpath.dirname(name).split("/") if word not in ("", ".")])
    return up <= depth and ".." not in words[up:]
