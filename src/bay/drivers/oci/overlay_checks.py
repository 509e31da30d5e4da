"""Layers that outlive their session: what a tenant, or whoever made an imported checkpoint, may have put where Bay looks.

Nobody else uses a layer while it is looked at: its session has not begun. So a look at each fixed name is enough.
"""

import errno
import os
import stat
from pathlib import Path

# What is mounted on, or walked through, when a session starts.
_DIRECTORIES = (".ship", ".ship-run", "dev", "etc", "proc", "sys", "tmp", "usr", "workspace")
# What the runtime reads of the image, with the host's patience.
_FILES = ("etc/group", "etc/passwd")
_LARGEST = 1 << 20


def check(writable: Path) -> None:
    """Refuse a layer whose own directories are anything else: a link in their place would show the host's files.

    Raises NotADirectoryError.
    """
    for directory in (writable.parent, writable, writable / "upper"):
        found = _mode(directory)
        if found is not None and not stat.S_ISDIR(found):
            raise NotADirectoryError(errno.ENOTDIR, "is no directory", str(directory))


def mend_root(upper: Path) -> None:
    """Take away what would keep the session from starting; what the image has shows again in its place."""
    for name in _DIRECTORIES:
        found = _mode(upper / name)
        if found is not None and not stat.S_ISDIR(found):
            (upper / name).unlink()
    for name in _FILES:
        if _is_unreadable(upper / name):
            (upper / name).unlink()


def _is_unreadable(path: Path) -> bool:
    """Whether reading it might wait, or take more than it should; what is deleted in the layer is neither."""
    found = _mode(path)
    if found is None or _is_whiteout(path):
        return False
    return not stat.S_ISREG(found) or path.lstat().st_size > _LARGEST


def _is_whiteout(path: Path) -> bool:
    facts = path.lstat()
    return stat.S_ISCHR(facts.st_mode) and facts.st_rdev == os.makedev(0, 0)


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None
