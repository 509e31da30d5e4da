"""Describes a file for the peer."""

import os
import stat

from ship.files.workspace_paths import Workspace
from tree_tar.beneath import closing

_TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def describe(path: str, found: os.stat_result, target: str | None = None) -> dict[str, object]:
    """FileInfo of the absolute `path`. `target` is what a link says."""
    kind = _TYPES.get(stat.S_IFMT(found.st_mode), "device")
    return {
        "name": as_utf8(os.path.basename(path) or "/"),
        "path": as_utf8(path),
        "type": kind,
        "size": found.st_size if kind == "file" else None,
        "mode": mode_of(found),
        "uid": found.st_uid,
        "gid": found.st_gid,
        "mtime": found.st_mtime,
        "target": None if target is None else as_utf8(target),
    }


def look(space: Workspace, path: str, *, follow: bool) -> dict[str, object]:
    """FileInfo of what is at `path` now; without `follow` a link is shown as such. Raises OSError."""
    with closing(space.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))) as descriptor:
        found = os.fstat(descriptor)
        target = os.readlink("", dir_fd=descriptor) if stat.S_ISLNK(found.st_mode) else None
        return describe(space.absolute(path), found, target)


def etag_of(found: os.stat_result) -> str:
    """Another one when the file was replaced or written to."""
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def mode_of(found: os.stat_result) -> str:
    """Four octal digits."""
    return f"{stat.S_IMODE(found.st_mode):04o}"


def as_utf8(name: str) -> str:
    """A name as JSON can carry it: other bytes are replaced, since half a character breaks encoders."""
    return os.fsencode(name).decode("utf-8", "replace")
