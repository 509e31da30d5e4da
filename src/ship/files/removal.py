"""Removes whole directories, whatever other programs do in them meanwhile."""

import errno
import os
from collections.abc import Callable

from ship.errors import Conflict
from ship.files.temporaries import temporary
from tree_tar.beneath import closing, open_directory

_DEEPEST = 64
_RESCANS = 16


class Removal:
    """Removes a directory, going down by descriptors only, so that no rename can lead it elsewhere.
    A directory too far down is moved up to the one that is removed and found there again: neither the stack
    nor the number of descriptors grows with the depth of the tree.
    """

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped
        self._top = -1
        self._moved_up = False

    def run(self, parent: int, name: str) -> None:
        with closing(self.open(parent, name)) as self._top:
            self._moved_up = True
            while self._moved_up:
                self._moved_up = False
                self._empty(self._top, 1)
        self._remove(parent, name, 1)

    def open(self, parent: int, name: str) -> int:
        """A descriptor of a directory. Raises OSError for one that its owner may not read."""
        return open_directory(parent, name)

    def _remove(self, parent: int, name: str, depth: int) -> None:
        for _ in range(_RESCANS):
            if _remove_if_empty(parent, name):
                return
            with closing(self.open(parent, name)) as directory:
                self._empty(directory, depth)
        raise Conflict("another program keeps writing into the directory; stop it and try again")

    def _empty(self, directory: int, depth: int) -> None:
        with os.scandir(directory) as scan:
            for entry in scan:
                if self._stopped():
                    raise Conflict("the client disconnected")
                self._remove_entry(directory, entry, depth)

    def _remove_entry(self, directory: int, entry: os.DirEntry[str], depth: int) -> None:
        try:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=directory)
            elif depth < _DEEPEST:
                self._remove(directory, entry.name, depth + 1)
            else:
                self._move_up(directory, entry.name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return  # it is another thing by now; the next scan sees which

    def _move_up(self, directory: int, name: str) -> None:
        os.rename(name, temporary("removed"), src_dir_fd=directory, dst_dir_fd=self._top)
        self._moved_up = True


def _remove_if_empty(parent: int, name: str) -> bool:
    try:
        os.rmdir(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
