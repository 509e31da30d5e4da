"""Walking through a tree that a sandbox filled, and that another may be changing: by descriptors, to any depth, in little memory.

No path is ever resolved by name: each step opens one directory without following a link.
"""

import contextlib
import errno
import os
from collections.abc import Generator
from typing import NamedTuple

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Node(NamedTuple):
    """A directory by its name in the one above it; None above is the top. Deep trees share what is above."""

    above: "Node | None"
    name: str


@contextlib.contextmanager
def opened(top: int, node: Node | None) -> Generator[int]:
    """A descriptor of the directory `node` below `top`, closed at the end. A link on the way is an error."""
    fd = _open(top, node)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def unless_changed() -> Generator[None]:
    """Pass over what was removed, or replaced by something else, after it was listed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise


def _open(top: int, node: Node | None) -> int:
    here = os.open(".", DIRECTORY, dir_fd=top)
    for name in _names(node):
        try:
            below = os.open(name, DIRECTORY, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def _names(node: Node | None) -> list[str]:
    names: list[str] = []
    while node is not None:
        names.append(node.name)
        node = node.above
    return names[::-1]
