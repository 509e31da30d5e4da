"""Lists a directory, or the tree below it, a piece at a time.

Memory does not grow with the tree: the sorted names of a directory are held, but only as many as may still be
answered, and never more than a bound for all directories together.
"""

import errno
import heapq
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from operator import attrgetter

from ship.errors import ShipError
from ship.files.globs import Glob
from ship.files.info import describe, look, look_closely
from ship.files.sandbox_paths import MadeUp, refuse_made_up
from ship.files.workspace_paths import Workspace, not_directory
from ship.process.accounts import Accounts
from tree_tar.beneath import closing, closing_on_error, open_directory

_MAX_NAMES = 400_000
_AT_ONCE = 1000
"""Names that are looked at before others get a turn."""
_UNREADABLE = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_READ_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


class Listing:
    """The entries below `path` by name, a directory before what is in it.
    With `closely` each is described so, by those accounts.
    With `follow` a link is described as its target, where `space` has one; no link is entered.
    """

    def __init__(
        self,
        space: Workspace,
        path: str,
        *,
        depth: int,
        glob: Glob | None,
        limit: int,
        follow: bool = False,
        directories_first: bool = False,
        closely: Accounts | None = None,
    ) -> None:
        self._space = space
        self._path = space.check(path)
        self._depth = depth if glob is None or glob.depth is None else min(depth, glob.depth)
        self._glob = glob
        self._left = limit
        self._follow = follow
        self._sort_key = _directories_first if directories_first else attrgetter("name")
        self._closely = closely
        self._held = 0
        self._root = -1
        self.truncated = False

    def open(self) -> None:
        """Raises ShipError when it is no directory that may be read."""
        with self._space.translated(self._path):
            try:
                self._root = self._space.open(self._path, _READ_DIRECTORY)
            except NotADirectoryError as error:
                raise not_directory(self._path) from error

    def close(self) -> None:
        """Call in any case."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def entries(self) -> Generator[dict[str, object] | None]:
        """Each FileInfo, up to the limit, then `truncated`; None where time has passed without one."""
        return self._below(self._root, "", 1)

    def _below(self, directory: int, relative: str, depth: int) -> Generator[dict[str, object] | None]:
        names = yield from self._names(directory, relative, depth < self._depth)
        self._held += len(names)
        while names:
            self._held -= 1
            name = names.pop()
            where = f"{relative}{name}"
            try:
                found, target = _look(directory, name)
            except FileNotFoundError:
                continue  # gone since
            except OSError:
                self.truncated = True  # it is there, but not for this user to look at
                continue
            if self._is_wanted(where):
                if self._left == 0:
                    self.truncated = True
                    return
                self._left -= 1
                yield self._describe(os.path.join(self._path, where), found, target)
            if depth < self._depth and stat.S_ISDIR(found.st_mode):
                with opened_below(directory, name) as below:
                    if below is not None:
                        yield from self._below(below, f"{where}/", depth + 1)
                if self.truncated and self._left == 0:
                    return

    def _names(self, directory: int, relative: str, deeper: bool) -> Generator[None, None, list[str]]:
        """The first names, the very first at the end."""
        most = _MAX_NAMES - self._held
        if self._glob is None:
            most = min(most, self._left + 1)  # one more, to know whether there is one
        keys: list[str] = []
        with os.scandir(directory) as scan:
            for count, entry in enumerate(scan, 1):
                if self._matters(entry, relative, deeper):
                    keys.append(self._sort_key(entry))
                if len(keys) > 2 * most + _AT_ONCE:
                    keys = heapq.nsmallest(most, keys)
                    self.truncated = True
                if count % _AT_ONCE == 0:
                    yield
        if len(keys) > most:
            self.truncated = True
        keys.sort(reverse=True)
        return [os.path.basename(key) for key in keys[-most:]] if most else []

    def _describe(self, path: str, found: os.stat_result, target: str | None) -> dict[str, object]:
        if self._closely is not None:
            with suppress(OSError, ShipError):  # gone since
                return look_closely(self._space, path, self._closely)
        if self._follow and target is not None:
            with suppress(OSError, ShipError):  # it leads nowhere, or where this space does not
                return look(self._space, path, follow=True)
        return describe(self._space.absolute(path), found, target)

    def _matters(self, entry: os.DirEntry[str], relative: str, deeper: bool) -> bool:
        return (deeper and entry.is_dir(follow_symlinks=False)) or self._is_wanted(relative + entry.name)

    def _is_wanted(self, where: str) -> bool:
        return self._glob is None or self._glob.matches(where)


@contextmanager
def opened_below(directory: int, name: str) -> Generator[int | None]:
    """A directory in `directory`; None when it cannot be read, was removed, or is of a kernel file system."""
    try:
        found = open_below(directory, name)
    except (MadeUp, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _UNREADABLE:
            raise
        yield None
        return
    with closing(found):
        yield found


def open_below(directory: int, name: str) -> int:
    """A descriptor of a directory in `directory`, and of no link. Raises OSError and MadeUp."""
    with closing_on_error(open_directory(directory, name)) as found:
        refuse_made_up(found)
    return found


def _directories_first(entry: os.DirEntry[str]) -> str:
    # A slash is in no name: the part before the last one only sorts.
    return ("0/" if entry.is_dir(follow_symlinks=False) else "1/") + entry.name


def _look(directory: int, name: str) -> tuple[os.stat_result, str | None]:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(found.st_mode) else None
    return found, target
