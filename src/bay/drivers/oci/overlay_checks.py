"""Checks overlay layers that outlive their session: a tenant or an imported checkpoint may have set traps.

No session uses a layer while it is checked, so one check of each fixed name is enough.
"""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path

# The directories that a session's start mounts on or walks through.
_DIRECTORIES = (
    ".ship",
    ".ship-run",
    "dev",
    "etc",
    "proc",
    "run",
    "run/secrets",
    "sys",
    "tmp",
    "workspace",
)
# The files of the image that the runtime reads, in Bay's time.
_FILES = ("etc/group", "etc/passwd")
_LARGEST = 1 << 20


def check(writable: Path) -> None:
    """Raise NotADirectoryError for a link or file where a directory of a layer should be."""
    for directory in (writable.parent, writable, writable / "upper"):
        found = _mode(directory)
        if found is not None and not stat.S_ISDIR(found):
            raise NotADirectoryError(errno.ENOTDIR, "is no directory", str(directory))


def mend_root(upper: Path, mounted_on: Iterable[str] = ()) -> None:
    """Remove entries that would keep the session from starting; the image's show again in their place.
    Other layers lie on the directories `mounted_on`.
    """
    for name in (*_DIRECTORIES, *mounted_on):
        found = _mode(upper / name)
        if found is not None and not stat.S_ISDIR(found):
            (upper / name).unlink()
    for name in _FILES:
        if _is_unreadable(upper / name):
            (upper / name).unlink()


def _is_unreadable(path: Path) -> bool:
    """Whether a read could block, or be too large; a whiteout, which is a deleted file, is neither."""
    if not os.path.lexists(path):
        return False
    facts = path.lstat()
    is_whiteout = stat.S_ISCHR(facts.st_mode) and facts.st_rdev == os.makedev(0, 0)
    return not is_whiteout and not (stat.S_ISREG(facts.st_mode) and facts.st_size <= _LARGEST)


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None
