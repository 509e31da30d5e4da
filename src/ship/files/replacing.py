"""Checks that a file may be replaced: a rename asks its directory alone, but the file's mode counts too."""

import os
import stat

from ship.errors import Forbidden
from ship.files.workspace_paths import shown_path
from tree_tar.beneath import closing_on_error

_PIECE_BYTES = 1 << 20


def look_at_replaced(parent: int, name: str, shown: str) -> os.stat_result | None:
    """The file there, or None. Raises Forbidden for a plain one that the thread's user may not write."""
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    # With effective ids, which for files are those of the thread; root's real ones may everything.
    may_write = os.access(name, os.W_OK, dir_fd=parent, effective_ids=True, follow_symlinks=False)
    if stat.S_ISREG(there.st_mode) and not may_write:
        advice = "change its mode, or delete it first"
        raise Forbidden(f"the sandbox's user may not write {shown_path(shown)}; {advice}")
    return there


def is_anothers(replaced: os.stat_result, made: int) -> bool:
    """Whether a file made by the user cannot replace the present one: its owner or group would change."""
    found = os.fstat(made)
    return (replaced.st_uid, replaced.st_gid) != (found.st_uid, found.st_gid)


def write_over(source: int, parent: int, name: str) -> int:
    """A descriptor of the same file `name`, its content now that of `source`. Raises OSError."""
    flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with closing_on_error(os.open(name, flags, dir_fd=parent)) as target:
        os.ftruncate(target, 0)
        at = 0
        while data := os.pread(source, _PIECE_BYTES, at):
            at += os.write(target, data)
    return target
