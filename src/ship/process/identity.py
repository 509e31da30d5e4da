"""Identities: the ids of the sandbox's programs, and file access under them."""

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from ship.process import syscalls

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh")


@dataclass(frozen=True, slots=True)
class Identity:
    """A user inside the sandbox; `groups` are supplementary ones, which programs have.
    With `switch` false (a Ship without rights, tests, the fake driver) everything runs as Ship itself does.
    """

    name: str
    uid: int
    gid: int
    home: str
    switch: bool
    groups: tuple[int, ...] = ()

    def become_for_files(self) -> None:
        """From now on the calling thread uses files as this user."""
        if self.switch:
            syscalls.set_fs_identity(self.uid, self.gid)

    @contextmanager
    def using_files(self) -> Generator[None]:
        """Within, the calling thread uses files as this user. Nothing may be awaited inside."""
        if not self.switch:
            yield
            return
        try:
            syscalls.set_fs_identity(self.uid, self.gid)
            yield
        finally:
            syscalls.set_fs_identity(os.getuid(), os.getgid())

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """The variables a program of this user finds, over those of the sandbox."""
        own = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name, "SHELL": find_shell() or "/bin/sh"}
        return {"LANG": "C.UTF-8", **base, "PATH": self._path(base.get("PATH", _DEFAULT_PATH)), **own}

    def _path(self, path: str) -> str:
        # The folder of pip and its like for a user's programs. Not for root: the user's files are not root's
        # to run.
        return path if self.uid == 0 and self.switch else f"{self.home}/.local/bin:{path}"


def find_shell() -> str | None:
    """The path of bash, else of sh; asked each time, since a program may install one."""
    return next((path for path in _SHELLS if os.access(path, os.X_OK)), None)
