"""Resolves paths of the workspace: checked as text, then opened by the kernel, beneath the workspace."""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager

from ship.errors import (
    Conflict,
    FileMissing,
    Forbidden,
    InternalError,
    InvalidArgument,
    InvalidPath,
    ShipError,
    StorageFull,
)
from ship.files.path_walk import open_path
from tree_tar.beneath import closing, make_directory

_MAX_LINKS = 8
_TRIES = 8


class Workspace:
    """The directory of the workspace, held open from the start so that it cannot be replaced."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self._root)

    def absolute(self, path: str) -> str:
        """`path` as programs in the sandbox would write it in full."""
        return os.path.normpath(os.path.join(self.path, path))

    def check(self, path: str) -> str:
        """`path` as this tree takes it (the kernel checks again). Raises InvalidPath with the broken rule."""
        if not path:
            raise InvalidPath("the path is empty", field="path", reason="empty_path")
        if "\0" in path:
            raise InvalidPath("the path has a NUL", field="path", reason="null_byte")
        if path.startswith("/"):
            problem = "the path must be relative to the workspace"
            raise InvalidPath(problem, field="path", reason="absolute_path")
        if os.path.normpath(path).split("/", 1)[0] == "..":
            raise _leads_out()
        return path

    def check_name(self, path: str) -> str:
        """The same without final slashes; it must end in a name. Raises InvalidPath or InvalidArgument."""
        trimmed = self.check(path).rstrip("/")
        if os.path.basename(trimmed) in ("", ".", ".."):
            raise InvalidArgument("the path must end in a name", field="path")
        return trimmed

    @contextmanager
    def translated(self, path: str) -> Generator[None]:
        """Turns an OSError about `path` into the peer's error."""
        try:
            yield
        except OSError as error:
            raise self._translate(error, path) from error

    def open(self, path: str, flags: int) -> int:
        """A descriptor, as the calling thread's identity; never waits for a fifo or lease. Raises OSError."""
        encoded = os.fsencode(path)
        if not flags & os.O_PATH:  # which opens nothing, and so neither waits nor takes these
            flags |= os.O_NONBLOCK | os.O_NOCTTY
        for _ in range(_TRIES):
            try:
                return self._resolve(encoded, flags)
            except BlockingIOError:
                continue  # a rename elsewhere made the kernel unsure; nothing is known to be wrong
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)

    def open_parent(self, path: str, *, make: bool = False) -> int:
        """A descriptor (O_PATH) of the parent of `path`; `make`: with missing ones made. Raises OSError."""
        parent = os.path.dirname(path) or "."
        try:
            return self.open(parent, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            if not make:
                raise
        return self._make_directories(parent)

    def follow_links(self, path: str) -> str:
        """`path` with links at its end resolved, as text: who opens it asks the kernel. Raises OSError."""
        for _ in range(_MAX_LINKS):
            target = self._read_link(path)
            if target is None:
                return path
            path = self._behind_link(path, target)
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def _behind_link(self, path: str, target: str) -> str:
        if target.startswith("/"):
            raise _leads_out()
        return self.check(os.path.join(os.path.dirname(path), target))

    @property
    def _beginning(self) -> str:
        """The part of a path that always exists; directories are made below it."""
        return ""

    def _resolve(self, path: bytes, flags: int) -> int:
        return open_path(self._root, path, flags)

    def _translate(self, error: OSError, path: str) -> ShipError:
        return translate(error, path)

    def _read_link(self, path: str) -> str | None:
        try:
            parent = self.open_parent(path)
        except (FileNotFoundError, NotADirectoryError):
            return None  # the later open reports it
        with closing(parent):
            try:
                return os.readlink(os.path.basename(path), dir_fd=parent)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.ENOENT):  # no link; nothing there
                    return None
                raise

    def _make_directories(self, path: str) -> int:
        start = self._beginning
        parts = [part for part in path[len(start) :].split("/") if part]
        here = self.open(start or ".", os.O_PATH | os.O_DIRECTORY)
        for count, part in enumerate(parts, 1):
            with closing(here):
                if part not in (".", ".."):
                    make_directory(here, part)
                # From the root each time: a part may be a link, which only the whole path explains.
                here = self.open(os.path.join(start, *parts[:count]), os.O_PATH | os.O_DIRECTORY)
        return here


def need_regular(mode: int, path: str, wanted: str = "read") -> None:
    """Raises InvalidArgument unless it is a plain file; `details.reason` names its kind."""
    shown = shown_path(path)
    if stat.S_ISDIR(mode):
        problem = f"{shown} is a directory; only regular files can be {wanted}"
        raise InvalidArgument(problem, field="path", reason="is_directory")
    if not stat.S_ISREG(mode):
        problem = f"{shown} is not a regular file; only those can be {wanted}"
        raise InvalidArgument(problem, field="path", reason="not_regular_file")


def not_directory(path: str) -> InvalidArgument:
    """The refusal of a path of which some part, the last or one before, is no directory."""
    problem = f"{shown_path(path)} is not a directory, or has a parent that is not"
    return InvalidArgument(problem, field="path", reason="not_directory")


def shown_path(path: str) -> str:
    """A path as a message has it."""
    return os.fsencode(path).decode("utf-8", "replace")


def _leads_out() -> InvalidPath:
    return InvalidPath("the path leaves the workspace", field="path", reason="path_traversal")


def translate(error: OSError, path: str) -> ShipError:
    """The peer's error for an OSError about `path`."""
    shown = shown_path(path)
    match error.errno:
        case errno.ENOENT:
            return FileMissing(f"there is no {shown}")
        case errno.ENOTDIR:  # a part of the path is a file
            return FileMissing(f"there is no {shown}", reason="not_directory")
        case errno.EXDEV | errno.ELOOP:
            return _leads_out()
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return Forbidden(f"the sandbox's user may not do this to {shown}")
        case errno.ENOSPC | errno.EDQUOT:
            return StorageFull("the sandbox's disk is full; free space and try again")
        case errno.ENAMETOOLONG | errno.EINVAL | errno.EILSEQ:
            return InvalidArgument(
                f"the file system does not accept this name ({error.strerror})", field="path"
            )
        case errno.EISDIR:
            return InvalidArgument(f"{shown} is a directory", field="path", reason="is_directory")
        case errno.ENXIO | errno.ENODEV:
            return InvalidArgument(f"{shown} is not a regular file", field="path", reason="not_regular_file")
        case errno.ENOTEMPTY | errno.EEXIST | errno.EBUSY | errno.EAGAIN | errno.ETXTBSY:
            return Conflict(f"{shown} was changed by another program at the same time, or is in use")
        case _:
            return InternalError(f"the file system failed: {error.strerror}")
