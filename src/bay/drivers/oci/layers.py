"""The directory of a session's writable layers, with a size limit where the file system has one.

On btrfs it is a subvolume in a limited group of its own, as a cargo is: a flood of `/` or `/usr` stops there,
and removing it takes no time. Elsewhere the host's disk is the only bound; the operator is warned.
"""

import contextlib
from pathlib import Path

from bay.linux import btrfs


def make(directory: Path, limit_bytes: int | None) -> None:
    """Make `directory`, open to root alone, to hold at most `limit_bytes`. Blocks; raises OSError."""
    try:
        btrfs.create(directory)
    except OSError as error:
        if not btrfs.is_refused(error):
            raise
        directory.mkdir(mode=0o700)
        return
    directory.chmod(0o700)
    with contextlib.suppress(OSError):  # quotas are off: then there is no limit, as on other file systems
        _limit(directory, limit_bytes)


def destroy(directory: Path) -> None:
    """Remove `directory` if it is a subvolume; else leave it to others. Blocks; raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if btrfs.is_btrfs(directory) and btrfs.is_subvolume(directory):
            btrfs.destroy(directory)


def _limit(directory: Path, limit_bytes: int | None) -> None:
    group = btrfs.group_of(btrfs.subvolume_id(directory))
    btrfs.join_group(directory, group)
    btrfs.limit_group(directory.parent, group, limit_bytes)
