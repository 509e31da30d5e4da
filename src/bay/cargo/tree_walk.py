"""A walk descends a tree that a sandbox filled, and may be changing, by descriptors and to any depth."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from tree_tar.beneath import closing, open_beneath


class Node(NamedTuple):
    """A directory by its name in the one above it; None above is the top. Deep trees share what is above."""

    above: "Node | None"
    name: str


@contextmanager
def opened(top: int, node: Node | None) -> Generator[int]:
    """A descriptor of the directory `node` beneath `top`, closed at the end; no link on the way."""
    with closing(open_beneath(top, _names(node))) as descriptor:
        yield descriptor


@contextmanager
def unless_changed() -> Generator[None]:
    """Pass over what was removed, or replaced by something else, after it was listed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise


def _names(node: Node | None) -> list[str]:
    names: list[str] = []
    while node is not None:
        names.append(node.name)
        node = node.above
    return names[::-1]
