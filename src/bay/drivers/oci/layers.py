"""The directory that holds a session's writable layers, bounded where the file system can do that.

On btrfs it is a subvolume with a quota (when quotas are on: `btrfs quota enable --simple`), so a flood of `/` or `/usr` stops
at its own limit. Elsewhere it is a plain directory and the host's disk is the only bound; the operator is told.
"""

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

from bay.drivers.processes import closing_fd

# From linux/btrfs.h.
_SUBVOL_CREATE, _INO_LOOKUP, _QGROUP_LIMIT = 0x5000_940E, 0xD000_9412, 0x8030_942B
_FIRST_FREE_OBJECT = 256
_LIMIT_MAX_RFER = 1


def make(directory: Path, limit_bytes: int) -> None:
    """Make `directory`, open to root alone. Blocks; raises OSError."""
    try:
        _make_subvolume(directory)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL):
            raise
        directory.mkdir(mode=0o700)
        return
    directory.chmod(0o700)
    with contextlib.suppress(OSError):  # quotas are off: then there is no limit, as on other file systems
        _limit(directory, limit_bytes)


def is_bounded(directory: Path) -> bool:
    """Whether what `make` makes below `directory` would have its limit: whether quotas are on there. Blocks."""
    try:
        with closing_fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
            # A limit that changes nothing, on a group that is not there: the errors differ.
            fcntl.ioctl(fd, _QGROUP_LIMIT, bytearray(struct.pack("=6Q", (1 << 48) - 1, 0, 0, 0, 0, 0)))
    except OSError as error:
        return error.errno == errno.ENOENT
    return True


def _make_subvolume(directory: Path) -> None:
    with closing_fd(os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as parent:
        fcntl.ioctl(parent, _SUBVOL_CREATE, bytearray(struct.pack("=q4088s", 0, os.fsencode(directory.name))))


def _limit(directory: Path, limit_bytes: int) -> None:
    with closing_fd(os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as fd:
        lookup = bytearray(struct.pack("=QQ4080s", 0, _FIRST_FREE_OBJECT, b""))
        fcntl.ioctl(fd, _INO_LOOKUP, lookup)
        (subvolume,) = struct.unpack_from("=Q", lookup)
        fcntl.ioctl(
            fd, _QGROUP_LIMIT, bytearray(struct.pack("=6Q", subvolume, _LIMIT_MAX_RFER, limit_bytes, 0, 0, 0))
        )
