"""Reads and replaces files of this user that decide where commands and keys go.

One that another user owns, or that others may write, is refused: `bay` would obey it in this user's name.
"""

import fcntl
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bay.errors import InvalidArgument

_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class OwnFile:
    """The content of such a file, and whether other users may read it."""

    text: str
    others_read: bool


def read_own(path: Path) -> OwnFile | None:
    """The file at `path`; None when there is none. Raises InvalidArgument when it is not to be trusted.

    In a directory that this user may not enter it has none: HOME is another user's then, as behind `sudo -u`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        if os.access(path.parent, os.X_OK, effective_ids=True):
            raise
        return None
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        _trust(path, found)
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise InvalidArgument(f"{path} has more than 1 MiB, so it is not a file that `bay` wrote")
    try:
        return OwnFile(data.decode(), bool(found.st_mode & 0o044))
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 text") from error


def _trust(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InvalidArgument(f"{path} is not a regular file")
    if found.st_uid != os.geteuid():
        raise InvalidArgument(
            f"{path} belongs to another user (uid {found.st_uid}), so `bay` does not read it"
        )
    if found.st_mode & 0o022:
        raise InvalidArgument(
            f"other users may write {path}, so `bay` does not read it; run: chmod 600 {path}"
        )


def replace_own(path: Path, text: str) -> None:
    """Put `text` in the place of the file, whole or not at all, for this user alone. Raises OSError."""
    target = path.resolve()  # a link to a folder of settings stays one
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


@contextmanager
def changing(path: Path) -> Generator[None, None, None]:
    """Within, no other `bay` changes files of the same directory, which is made when it is not there."""
    directory = path.resolve().parent
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def user_directory(variable: str, below_home: str) -> Path | None:
    """Bay's directory of an XDG kind; None where neither the variable nor HOME gives an absolute path."""
    base = os.environ.get(variable) or ""
    if not os.path.isabs(base):  # the specification has such a value ignored
        base = os.path.join(os.path.expanduser("~"), below_home)
    return Path(base) / "bay" if os.path.isabs(base) else None
