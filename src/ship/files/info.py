"""Describes a file for the peer."""

import os
import stat

from ship.errors import ShipError
from ship.files.attributes import attributes_of
from ship.files.workspace_paths import Workspace
from ship.process.accounts import Accounts
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


def look_closely(space: Workspace, path: str, accounts: Accounts) -> dict[str, object]:
    """The same of a link or file as such, with the names of its owner and group, its attributes, and where
    a link leads in the end: the full path there and the type of the file, null where it leads nowhere.
    """
    with closing(space.open(path, os.O_PATH | os.O_NOFOLLOW)) as descriptor:
        found = os.fstat(descriptor)
        is_link = stat.S_ISLNK(found.st_mode)
        told = describe(space.absolute(path), found, os.readlink("", dir_fd=descriptor) if is_link else None)
        more: dict[str, object] = {
            "owner": accounts.name_of_user(found.st_uid),
            "group": accounts.name_of_group(found.st_gid),
            "attributes": {} if is_link else attributes_of(descriptor),
            "end": _end_of(space, path) if is_link else None,
        }
        return told | more


def _end_of(space: Workspace, path: str) -> dict[str, object] | None:
    try:
        with closing(space.open(path, os.O_PATH)) as descriptor:
            kind = _TYPES.get(stat.S_IFMT(os.fstat(descriptor).st_mode), "device")
            return {"path": as_utf8(os.readlink(f"/proc/self/fd/{descriptor}")), "type": kind}
    except (OSError, ShipError):
        return None


def etag_of(found: os.stat_result) -> str:
    """Another one when the file was replaced or written to."""
    return f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"


def mode_of(found: os.stat_result) -> str:
    """Four octal digits."""
    return f"{stat.S_IMODE(found.st_mode):04o}"


def as_utf8(name: str) -> str:
    """A name as JSON can carry it: other bytes are replaced, since half a character breaks encoders."""
    return os.fsencode(name).decode("utf-8", "replace")
