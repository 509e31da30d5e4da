"""The directory that holds a session's writable layers, bounded where the file system can do that.

On btrfs it is a subvolume with a quota (when quotas are on: `btrfs quota enable --simple`), so a flood of `/` or `/usr` stops
at its own limit. Elsewhere it is a plain directory and the host's disk is the only bound; the operator is told.
"""

import contextlib
from pathlib import Path

from bay import btrfs


def make(directory: Path, limit_bytes: int) -> None:
    """Make `directory`, open to root alone. Blocks; raises OSError."""
    try:
        btrfs.create(directory)
    except OSError as error:
        if not btrfs.is_refused(error):
            raise
        directory.mkdir(mode=0o700)
        return
    directory.chmod(0o700)
    with contextlib.suppress(OSError):  # quotas are off: then there is no limit, as on other file systems
        btrfs.limit_subvolume(directory, limit_bytes)


def is_bounded(directory: Path) -> bool:
    """Whether what `make` makes below `directory` would have its limit: whether quotas are on there. Blocks."""
    return btrfs.are_quotas_on(directory)
