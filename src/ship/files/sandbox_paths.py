"""Opens every path of the sandbox as its user: the kernel decides which files that user may touch.

Paths are absolute, or relative to the workspace; links are followed wherever they lead. Ship refuses two
things that the kernel would allow: magic links (/proc/PID/root, /proc/PID/fd/N), and files of kernel file
systems (procfs, sysfs and their like), whose content depends on the reader: here Ship and no program of the
sandbox.
"""

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager

from ship.errors import FileMissing, Forbidden, InvalidArgument, InvalidPath, ShipError
from ship.files.info import as_utf8
from ship.files.path_walk import open_path
from ship.files.workspace_paths import Workspace, translate
from ship.process import syscalls
from ship.process.identity import Identity
from tree_tar.beneath import closing, closing_on_error

# Source: linux/magic.h.
_MADE_UP = frozenset(
    (
        syscalls.PROC,
        0x62656572,  # sysfs
        0x27E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x62656570,  # configfs
        0xCAFE4A11,  # bpf
        0x6E736673,  # nsfs
        0x42494E4D,  # binfmt_misc
        0x19800202,  # mqueue
    )
)
_NEEDLESS = re.compile(r"/(?:\.?/)+")


class MadeUp(InvalidArgument):
    """A file that the kernel makes up."""


class Everywhere(Workspace):
    """All files of the sandbox. Programs begin in `cwd` unless they are told where."""

    def __init__(self, path: str, cwd: str | None = None) -> None:
        super().__init__(path)
        self._cwd = cwd or path

    def check(self, path: str) -> str:
        """`path` in full. Raises InvalidPath."""
        if not path:
            raise InvalidPath("the path is empty", field="path", reason="empty_path")
        if "\0" in path:
            raise InvalidPath("the path has a NUL", field="path", reason="null_byte")
        return self.absolute(path)

    def absolute(self, path: str) -> str:
        """`path` in full, without empty parts. A `..` stays: the kernel resolves it and knows the links."""
        tidy = _NEEDLESS.sub("/", os.path.join(self.path, path))
        tidy = tidy[:-2] if tidy.endswith("/.") else tidy
        return tidy.rstrip("/") or "/"

    def open(self, path: str, flags: int) -> int:
        """As for a workspace. Raises MadeUp for what the kernel makes up."""
        with closing_on_error(super().open(path, flags)) as descriptor:
            refuse_made_up(descriptor)
        return descriptor

    @contextmanager
    def directory(self, path: str | None, identity: Identity) -> Generator[int]:
        """A descriptor of a directory that `identity` may enter, of `cwd`'s for None. Raises ShipError.
        A first part `~` is that user's home."""
        name = self._cwd if path is None else self.check(_from_home(path, identity))
        if name == self.path:
            yield self._root
            return
        with closing(self._enter(name, identity)) as found:
            yield found

    def _enter(self, name: str, identity: Identity) -> int:
        shown = as_utf8(name)
        try:
            with identity.using_files():
                # The dot makes the kernel ask for the right to search the directory itself.
                return self.open(name + "/.", os.O_PATH | os.O_DIRECTORY)
        except MadeUp as error:
            problem = f"{shown} may not be the cwd; start elsewhere and use cd"
            raise InvalidArgument(problem, field="cwd") from error
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileMissing(f"there is no directory {shown} in the sandbox") from error
        except PermissionError as error:
            raise Forbidden(f"{identity.name} may not enter the directory {shown}") from error
        except OSError as error:
            raise self._translate(error, name) from error

    def _behind_link(self, path: str, target: str) -> str:
        return self.check(os.path.join(os.path.dirname(path), target))

    @property
    def _beginning(self) -> str:
        return "/"

    def _resolve(self, path: bytes, flags: int) -> int:
        return open_path(self._root, path, flags, beneath=False)

    def _translate(self, error: OSError, path: str) -> ShipError:
        if error.errno == errno.ELOOP:
            return InvalidArgument("the path has too many symbolic links, or one of /proc", field="path")
        return translate(error, path)


class Confined(Everywhere):
    """The same without a container, where paths would be the host's: only the workspace's are allowed."""

    def check(self, path: str) -> str:
        """`path` in full. Raises InvalidPath, and Forbidden outside of the workspace."""
        found = super().check(path)
        if found != self.path and not found.startswith(self.path + "/"):
            raise _outside()
        return found

    @property
    def _beginning(self) -> str:
        return self.path

    def _resolve(self, path: bytes, flags: int) -> int:
        root = os.fsencode(self.path)
        if path != root and not path.startswith(root + b"/"):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return open_path(self._root, path[len(root) :].lstrip(b"/") or b".", flags)

    def _translate(self, error: OSError, path: str) -> ShipError:
        if error.errno in (errno.EXDEV, errno.ELOOP):
            return _outside()
        return super()._translate(error, path)


def refuse_made_up(descriptor: int) -> None:
    """Raises MadeUp when an open file is one that the kernel makes up."""
    if syscalls.filesystem_of(descriptor) in _MADE_UP:
        problem = "files of /proc, /sys and other pseudo file systems can only be read with a command"
        raise MadeUp(problem, field="path")


def _from_home(path: str, identity: Identity) -> str:
    first, _, _ = path.partition("/")
    return identity.home + path[1:] if first == "~" else path


def _outside() -> Forbidden:
    return Forbidden("this sandbox is not a container: its paths may not leave the workspace")
