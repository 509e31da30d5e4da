"""The open directories on the way to the member that is being made.

The kernel follows no symbolic link here: each step opens one name in the directory above it. A link of the
same layer is read and resolved beneath the top, as a chroot would (RESOLVE_IN_ROOT of openat2(2)), and what
it leads to is made where it is missing.

A directory's time is read when it is opened and put back when it is left, since what is made in it changes
it. So no list of directories has to be kept, of which a hostile layer could have millions.
"""

import os
import stat
from collections.abc import Callable
from typing import NamedTuple

from layer_unpack.refusals import Refused, invalid, shown
from tree_tar.beneath import OPEN_DIRECTORY, Parts
from tree_tar.extract import parts_of

MAX_DEPTH = 256
_MAX_LINKS = 40  # as the kernel has it
_MAX_STEPS = 4096
_STEPS_AT_FIRST = 1 << 20
_STEPS_FOR_ONE = 16
"""Each member brings so many more. Steps are of the whole layer: a few bytes of a tar can name a long way,
again and again.
"""


class _Level(NamedTuple):
    name: str
    fd: int
    mtime_ns: int
    is_setgid: bool


class Directories:
    """`make` is called with a descriptor and a name where a directory on the way is missing, or hidden by a
    whiteout, which is `shadowed` then.
    """

    def __init__(self, top: int, make: Callable[[int, str, bool], None]) -> None:
        self._make = make
        self._asked: Parts | None = ()
        self._levels = [_level("", os.open(".", OPEN_DIRECTORY, dir_fd=top))]
        self._steps_left = _STEPS_AT_FIRST

    @property
    def here(self) -> Parts:
        """The real place of the directory that was entered last."""
        return tuple(level.name for level in self._levels[1:])

    @property
    def is_setgid(self) -> bool:
        """Whether what is made here gets the directory's group."""
        return self._levels[-1].is_setgid

    def enter(self, parts: Parts) -> int:
        """A descriptor of the directory `parts`, which stays this object's. Raises Refused or OSError."""
        if parts != self._asked:
            self._steps_left += _STEPS_FOR_ONE
            self._asked = None
            self._asked = parts if self._walk(parts) else None
        return self._levels[-1].fd

    def look_again(self) -> int:
        """The top, whose own time or mode was set."""
        top = self._levels[0]
        self._levels[0] = _level("", top.fd)
        return top.fd

    def finish(self) -> None:
        """Leave all, and put their times back."""
        self._leave(0)

    def close(self) -> None:
        """Let go of what is still open."""
        while self._levels:
            os.close(self._levels.pop().fd)

    def _walk(self, parts: Parts) -> bool:
        """Go there; False when a link was on the way."""
        known = self._known(parts)
        self._leave(known + 1)
        if self._descend(list(parts[known:])):
            return True
        self._follow(parts)
        return False

    def _known(self, parts: Parts) -> int:
        known = 0
        for level, part in zip(self._levels[1:], parts, strict=False):
            if level.name != part:
                break
            known += 1
        return known

    def _descend(self, names: list[str]) -> bool:
        return all(self._step(name) for name in names)

    def _follow(self, parts: Parts) -> None:
        self._leave(1)
        wanted = list(reversed(parts))
        links, steps = 0, 0
        while wanted:
            steps += 1
            name = wanted.pop()
            if name == "..":
                self._count_step()
                self._leave(max(1, len(self._levels) - 1))
            elif not self._step(name):
                links += 1
                target = os.readlink(name, dir_fd=self._levels[-1].fd)
                if target.startswith("/"):
                    self._leave(1)
                wanted += reversed(parts_of(target))
            if links > _MAX_LINKS or steps > _MAX_STEPS:
                raise invalid("/".join(parts), "lies behind too many symbolic links")

    def _step(self, name: str) -> bool:
        """Enter the directory `name`, and make it where it is missing; False when it is a link."""
        self._count_step()
        parent = self._levels[-1].fd
        if len(self._levels) > MAX_DEPTH:
            raise Refused("invalid", f"the layer has directories more than {MAX_DEPTH} deep")
        try:
            self._levels.append(_level(name, os.open(name, OPEN_DIRECTORY, dir_fd=parent)))
        except FileNotFoundError:
            self._make(parent, name, False)
        except OSError:
            facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISLNK(facts.st_mode):
                return False
            if not is_whiteout(facts):
                path = "/".join((*self.here, name))
                raise Refused("invalid", f"the layer has files below {shown(path)}, which is none") from None
            os.unlink(name, dir_fd=parent)
            self._make(parent, name, True)
        else:
            return True
        self._levels.append(_level(name, os.open(name, OPEN_DIRECTORY, dir_fd=parent)))
        return True

    def _count_step(self) -> None:
        self._steps_left -= 1
        if self._steps_left < 0:
            raise Refused("invalid", "the layer's files lie behind too many directories and symbolic links")

    def _leave(self, kept: int) -> None:
        """Leave all but so many levels, and put their times back."""
        while len(self._levels) > kept:
            level = self._levels.pop()
            try:
                os.utime(level.fd, ns=(level.mtime_ns, level.mtime_ns))
            finally:
                os.close(level.fd)


def is_whiteout(facts: os.stat_result) -> bool:
    """Whether it is overlayfs's mark for a deleted name."""
    return stat.S_ISCHR(facts.st_mode) and facts.st_rdev == 0


def _level(name: str, fd: int) -> _Level:
    facts = os.fstat(fd)
    return _Level(name, fd, facts.st_mtime_ns, bool(facts.st_mode & stat.S_ISGID))
