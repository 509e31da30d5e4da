"""The hostname of a session, the name of its UTS namespace, and three files in its /etc.

The files are the sandbox's own: they are opened without following a link, and only small regular ones are
written. All here blocks, raises OSError, and leaves the thread in the session's namespaces: it must end.
"""

import contextlib
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from bay.linux import mounts
from bay.linux.processes import closing_fd
from bay.network import sentry_link
from bay.network.manager import RESOLVER

DEFAULT = "sandbox"
_HOSTS = re.compile(r"^127\.0\.0\.1 localhost sandbox(?: [a-z0-9-]+)?$", re.MULTILINE)
_RESOLVERS = re.compile(
    rf"^nameserver (?:{re.escape(RESOLVER)}|{re.escape(sentry_link.RESOLVER)})$", re.MULTILINE
)
_LARGEST = 1 << 16
_OPEN = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def rename(pidfd: int, name: str, id_base: int) -> None:
    """Give the session of that first process the name `name`."""
    mounts.setns(pidfd, mounts.CLONE_NEWUTS)
    socket.sethostname(name)
    mounts.unshare(mounts.CLONE_FS)
    mounts.setns(pidfd, mounts.CLONE_NEWNS)
    write_down(name, id_base)


def write_down(name: str, id_base: int, top: str | Path = "/", resolver: str = RESOLVER) -> None:
    """Write `name` to the files in /etc of the session, whose root is `top`; a full layer stays as it is.
    A sandbox whose files were in another isolation before gets the `resolver` of this one.
    """
    with (
        contextlib.suppress(OSError),
        mounts.acting_as(id_base, id_base),
        closing_fd(mounts.open_directory(top)) as root,
        closing_fd(mounts.open_beneath(root, "etc")) as etc,
    ):
        _change(etc, "hostname", lambda _: f"{name}\n")
        _change(etc, "hosts", lambda text: _HOSTS.sub(_line_of(name), text))
        _change(etc, "resolv.conf", lambda text: _RESOLVERS.sub(f"nameserver {resolver}", text))


def _line_of(name: str) -> str:
    return f"127.0.0.1 localhost {DEFAULT}" + ("" if name == DEFAULT else f" {name}")


def _change(etc: int, file: str, change: Callable[[str], str]) -> None:
    """Write only when something differs: the first write copies the file out of the image."""
    with contextlib.suppress(FileNotFoundError):
        before = _read(etc, file)
        if before is not None and (after := change(before)) != before:
            _write(etc, file, after)


def _read(etc: int, file: str) -> str | None:
    with closing_fd(os.open(file, os.O_RDONLY | _OPEN, dir_fd=etc)) as fd:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > _LARGEST:
            return None
        return os.read(fd, _LARGEST).decode("utf-8", "surrogateescape")


def _write(etc: int, file: str, text: str) -> None:
    data = text.encode("utf-8", "surrogateescape")
    with closing_fd(os.open(file, os.O_WRONLY | _OPEN, dir_fd=etc)) as fd:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.pwrite(fd, data, 0)
            os.ftruncate(fd, len(data))
