"""The directory of a session's writable layers, with a size limit where the file system has one, and copies.

On btrfs it is a subvolume in a limited group of its own, as a cargo is: a flood of `/` or `/usr` stops there,
and removing it takes no time. Elsewhere the host's disk is the only bound; the operator is warned.
"""

import contextlib
import errno
import subprocess
from pathlib import Path

from bay.linux import btrfs

_COPY = ("cp", "--archive", "--reflink=auto", "--one-file-system", "--no-target-directory", "--")
_MEASURE = ("du", "--summarize", "--one-file-system", "--block-size=1", "--")
_COPY_S = 600.0


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


def copy(source: Path, target: Path, limit_bytes: int | None) -> None:
    """Make `target` a copy of the layers `source`, which nobody changes meanwhile. Blocks; raises OSError.
    The same rules as in `make` hold for it. By `cp` where there are no snapshots: nothing runs in `source`.
    """
    try:
        btrfs.snapshot(source, target)
    except OSError as error:
        if not btrfs.is_refused(error):
            raise
        _run(*_COPY, str(source), str(target))
        return
    with contextlib.suppress(OSError):
        _limit(target, limit_bytes)


def used_bytes(directory: Path) -> int:
    """The bytes on disk of the layers. By `du`, since a tree may be deeper than Python goes. Blocks; raises
    OSError.
    """
    return int(_run(*_MEASURE, str(directory)).split()[0])


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_COPY_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(errno.ETIMEDOUT, f"{command[0]} did not end within {_COPY_S:g} s") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        number = errno.ENOSPC if "No space left" in said else errno.EIO
        raise OSError(number, said.rpartition(": ")[2] or f"{command[0]} failed")
    return done.stdout.decode()


def destroy(directory: Path) -> None:
    """Remove `directory` if it is a subvolume; else leave it to others. Blocks; raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        if btrfs.is_btrfs(directory) and btrfs.is_subvolume(directory):
            btrfs.destroy(directory)


def _limit(directory: Path, limit_bytes: int | None) -> None:
    group = btrfs.group_of(btrfs.subvolume_id(directory))
    btrfs.join_group(directory, group)
    btrfs.limit_group(directory.parent, group, limit_bytes)
