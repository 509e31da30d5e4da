"""Moves and copies files by descriptors of directories, a step at a time (see `FileThreads.run_steps`).

A copy is whole or absent: it is made under a temporary name beside its destination.
"""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from ship.errors import Conflict, InvalidArgument
from ship.files.content import copy_data
from ship.files.info import as_utf8, look
from ship.files.listing import open_below
from ship.files.removal import Removal
from ship.files.renames import exchange, rename_to_new
from ship.files.replacing import look_at_replaced
from ship.files.sandbox_paths import refuse_made_up
from ship.files.temporaries import temporary
from ship.files.workspace_paths import Workspace
from tree_tar.beneath import closing

DEEPEST = 200
"""Directories; each costs two descriptors while it is copied."""

_IN_THE_WAY = (errno.ENOTEMPTY, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_MAKE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Steps = Generator[None, None, dict[str, object]]


@dataclass(frozen=True, slots=True)
class Place:
    """A name in an open directory."""

    directory: int
    name: str

    def look(self) -> os.stat_result:
        """The file there, links as such. Raises OSError."""
        return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)


@contextmanager
def placed(space: Workspace, path: str, field: str) -> Generator[Place]:
    """Where `path` is: links on the way are followed, one at its end is not. Raises ShipError."""
    name = space.check_name(path)
    with space.translated(name):
        directory = space.open_parent(name)
    with closing(directory):
        yield Place(directory, os.path.basename(name))


def move(space: Workspace, source: str, destination: str, *, overwrite: bool) -> Steps:
    """Rename; from one file system to another copy and then remove. Raises ShipError."""
    with ExitStack() as stack:
        here = stack.enter_context(placed(space, source, "source"))
        there = stack.enter_context(placed(space, destination, "destination"))
        stack.enter_context(space.translated(source))
        here.look()
        if overwrite and _is_same_name(here, there):
            return look(space, space.check(destination), follow=False)
        if overwrite:
            look_at_replaced(there.directory, there.name, destination)
        try:
            _put(here, there, overwrite=overwrite)
        except OSError as error:
            if error.errno == errno.EINVAL:
                problem = "a directory cannot be moved into itself"
                raise InvalidArgument(problem, field="destination") from error
            if error.errno != errno.EXDEV:
                raise
            yield from _copy(here, there, overwrite=overwrite)
            remove(here)
        return look(space, space.check(destination), follow=False)


def copy(space: Workspace, source: str, destination: str, *, overwrite: bool) -> Steps:
    """Copy a file or a whole directory: hard links, modes, times, user xattrs, holes. Raises ShipError."""
    with ExitStack() as stack:
        here = stack.enter_context(placed(space, source, "source"))
        there = stack.enter_context(placed(space, destination, "destination"))
        with space.translated(source):
            here.look()
        stack.enter_context(space.translated(destination))
        if overwrite:
            look_at_replaced(there.directory, there.name, destination)
        yield from _copy(here, there, overwrite=overwrite)
        return look(space, space.check(destination), follow=False)


def remove(place: Place) -> None:
    """Remove what is there, all of it. Raises OSError, or Conflict when others keep writing into it."""
    if stat.S_ISDIR(place.look().st_mode):
        Removal(lambda: False).run(place.directory, place.name)
    else:
        os.unlink(place.name, dir_fd=place.directory)


def _copy(here: Place, there: Place, *, overwrite: bool) -> Generator[None]:
    if not overwrite and _is_there(there):
        raise _taken(there.name)
    made = Place(there.directory, temporary("copy"))
    try:
        yield from _Copier(made).copy(here, made, 1)
        _put(made, there, overwrite=overwrite)
    finally:
        if _is_there(made):  # it failed, or its caller has left
            with suppress(OSError, Conflict):
                remove(made)


def _put(here: Place, there: Place, *, overwrite: bool) -> None:
    """Put it in its place, atomically where the file system can (see `renames`). A replaced file is removed
    afterwards.
    """
    if not overwrite:
        try:
            rename_to_new(here.directory, here.name, there.directory, there.name)
        except FileExistsError as error:
            raise _taken(there.name) from error
        return
    one_file = _are_one_file(here, there)
    try:
        os.rename(here.name, there.name, src_dir_fd=here.directory, dst_dir_fd=there.directory)
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise
        exchange(here.directory, here.name, there.directory, there.name)
        _remove_replaced(here)
        return
    if one_file:
        with suppress(FileNotFoundError):
            os.unlink(here.name, dir_fd=here.directory)  # rename(2) does nothing then


def _remove_replaced(place: Place) -> None:
    """Remove the file that was just exchanged away. If that fails it stays, under a temporary name."""
    hidden = Place(place.directory, temporary("removed"))
    with suppress(FileNotFoundError):  # another was quicker
        rename_to_new(place.directory, place.name, hidden.directory, hidden.name)
        with suppress(OSError, Conflict):
            remove(hidden)


def _are_one_file(here: Place, there: Place) -> bool:
    """Whether they are two names of one file."""
    try:
        found, other = here.look(), there.look()
    except FileNotFoundError:
        return False
    return found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode) and os.path.samestat(found, other)


def _is_same_name(here: Place, there: Place) -> bool:
    return here.name == there.name and os.path.samestat(os.fstat(here.directory), os.fstat(there.directory))


class _Copier:
    """Copies one tree. `top` is what it makes."""

    def __init__(self, top: Place) -> None:
        self._top = top
        self._top_inode: tuple[int, int] | None = None
        self._links: dict[tuple[int, int], str] = {}
        """Where the first name of a file with several is, below the directory that `top` is in."""

    def copy(self, here: Place, there: Place, depth: int, where: str = "") -> Generator[None]:
        """Make `there` what `here` is; `where` is the path of its directory, below that of `top`."""
        found = here.look()
        yield
        if stat.S_ISDIR(found.st_mode):
            yield from self._copy_directory(here, there, depth, f"{where}{there.name}/")
            return
        if found.st_nlink > 1 and self._link(found, there, where):
            return
        match stat.S_IFMT(found.st_mode):
            case stat.S_IFREG:
                yield from _copy_file(here, there)
            case stat.S_IFLNK:
                os.symlink(os.readlink(here.name, dir_fd=here.directory), there.name, dir_fd=there.directory)
                _keep_times(there, found)
            case stat.S_IFIFO | stat.S_IFSOCK:
                os.mknod(there.name, found.st_mode, dir_fd=there.directory)
                _keep_times(there, found)
            case _:
                problem = f"{as_utf8(here.name)!a} is a device, which cannot be copied"
                raise InvalidArgument(problem, field="source")

    def _link(self, found: os.stat_result, there: Place, where: str) -> bool:
        """Whether it could be made another name of a file that is copied already."""
        key = found.st_dev, found.st_ino
        first = self._links.setdefault(key, f"{where}{there.name}")
        if first == f"{where}{there.name}":
            return False
        top = self._top.directory
        try:
            os.link(first, there.name, src_dir_fd=top, dst_dir_fd=there.directory, follow_symlinks=False)
        except OSError as error:
            if error.errno in (errno.ENAMETOOLONG, errno.EMLINK, errno.ENOENT, errno.EPERM):
                return False
            raise
        return True

    def _copy_directory(self, here: Place, there: Place, depth: int, where: str) -> Generator[None]:
        if depth > DEEPEST:
            problem = f"directories are more than {DEEPEST} deep; copy with a command"
            raise InvalidArgument(problem, field="source")
        with ExitStack() as stack:
            source = stack.enter_context(closing(open_below(here.directory, here.name)))
            found = os.fstat(source)
            if (found.st_dev, found.st_ino) == self._top_inode:
                raise InvalidArgument("a directory cannot be copied into itself", field="destination")
            os.mkdir(there.name, 0o700, dir_fd=there.directory)
            target = stack.enter_context(closing(open_below(there.directory, there.name)))
            if self._top_inode is None:
                top = os.fstat(target)
                self._top_inode = top.st_dev, top.st_ino
            for entry in stack.enter_context(os.scandir(source)):
                inner, made = Place(source, entry.name), Place(target, entry.name)
                with suppress(FileNotFoundError):  # gone since
                    yield from self.copy(inner, made, depth + 1, where)
            _keep_rest(source, target, found)


def _copy_file(here: Place, there: Place) -> Generator[None]:
    with closing(os.open(here.name, _READ, dir_fd=here.directory)) as source:
        refuse_made_up(source)
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode):
            raise Conflict(f"{as_utf8(here.name)!a} was changed by another program at the same time")
        with closing(os.open(there.name, _MAKE, 0o600, dir_fd=there.directory)) as target:
            yield from copy_data(source, target, found.st_size)
            _keep_rest(source, target, found)


def _keep_rest(source: int, target: int, found: os.stat_result) -> None:
    """The metadata of a file, its owner excepted."""
    for name in _xattrs(source):
        os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))


def _xattrs(descriptor: int) -> list[str]:
    try:
        return [name for name in os.listxattr(descriptor) if name.startswith("user.")]
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise


def _keep_times(place: Place, found: os.stat_result) -> None:
    times = found.st_atime_ns, found.st_mtime_ns
    os.utime(place.name, ns=times, dir_fd=place.directory, follow_symlinks=False)


def _is_there(place: Place) -> bool:
    try:
        place.look()
    except FileNotFoundError:
        return False
    return True


def _taken(name: str) -> Conflict:
    problem = f"{as_utf8(name)} exists already; overwrite=true replaces it"
    return Conflict(problem, field="destination", reason="exists")
