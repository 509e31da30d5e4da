"""The tool puts the archive that is stdin in the place of `workspace` in the working directory, whole or not
at all, and reports at the end. No program runs there meanwhile.

The archive is that of an export: `checkpoint.json`, `workspace/…` and `sha256`, without which it is not
whole. It may be an attacker's: see `tree_tar.extract`. It is unpacked beside the workspace, written to the
disk, and the two exchange their names. The next tool removes the remains of one that was killed.
"""

import errno
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing as closed
from contextlib import suppress
from functools import partial

from ship.files.removal import Removal
from ship.process.syscalls import rename, sync_filesystem
from ship.tools import settle, walk
from ship.tools.checkpoint import REPLACED, WORKSPACE, open_workspace
from tree_tar.beneath import OPEN_DIRECTORY, Parts, closing, open_beneath
from tree_tar.extract import Extractor, Policy
from tree_tar.headers import BLOCK_DEVICE, CHARACTER, DIRECTORY, OTHER, SYMLINK
from tree_tar.reader import BadArchive, Member, Piece, Reader, Rules
from tree_tar.xattr_records import of_records

FACTS = "checkpoint.json"
DIGEST = "sha256"
RULES = Rules(
    extension_bytes=4 << 20, extensions=1, segments=99_999, foreign=False, old_sparse=False, owners=False
)
_FRESH = "restore-"
_MEMORY_BYTES = 512 << 20
_CHUNK = 256 * 1024
_MAX_MEMBERS = 2_000_000
_USER = "user."
_HOST_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


class RestorePolicy(Policy):
    """Modes, times and attributes come back; the owner is the user that unpacks."""

    replaces = False
    in_order = True

    def __init__(self) -> None:
        self.top: Member | None = None
        self.is_whole = False
        self._members = 0
        self._closed: list[tuple[Parts, int]] = []

    def place(self, member: Member) -> Parts | None:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise BadArchive(f"it has more than {_MAX_MEMBERS} files and directories")
        if self.is_whole:
            raise _refused(member, "comes after its end")
        if member.name == FACTS and self._members == 1:
            return None
        if member.name == DIGEST:
            self.is_whole = True
            return None
        parts = _parts(member, member.name)
        if member.kind == OTHER or member.kind == BLOCK_DEVICE or _is_device(member):
            raise _refused(member, "is a device or of a kind unknown")
        if not parts:
            if member.kind != DIRECTORY:
                raise _refused(member, "is no directory")
            self.top = member
        return parts

    def make_directory(self, parent: int, parts: Parts, member: Member) -> bool:
        os.mkdir(parts[-1], 0o700, dir_fd=parent)
        return True

    def restore(self, descriptor: int, parts: Parts, member: Member) -> None:
        for name, value in of_records(member.records):
            if name.startswith(_USER):
                os.setxattr(descriptor, name, value)
        mode = member.mode & 0o7777
        if member.kind == DIRECTORY and mode & 0o700 != 0o700 and parts:
            self._closed.append((parts, mode))  # a link to a file in it may come yet
            mode |= 0o700
        os.fchmod(descriptor, mode)
        os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))

    def close_directories(self, top: int) -> None:
        """Take their owner's rights to directories away which the archive has without; inner ones first."""
        for parts, mode in self._closed:
            with closing(open_beneath(top, parts[:-1])) as above:
                os.chmod(parts[-1], mode, dir_fd=above)

    def restore_by_name(self, parent: int, name: str, member: Member) -> None:
        if member.kind != SYMLINK:
            os.chmod(name, member.mode & 0o7777, dir_fd=parent)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def link_source(self, parts: Parts, member: Member) -> Parts:
        if not (source := _parts(member, member.link)):
            raise _refused(member, "is a link to a directory")
        return source

    def blame(self, member: Member, error: OSError) -> Exception:
        """The archive is at fault for what the file system does not accept."""
        why = os.strerror(error.errno or 0)
        if error.errno in _HOST_ERRORS:
            return OSError(error.errno, why, _shown(member.name))
        return _refused(member, f"cannot be made: {why}")


class _OwnRemoval(Removal):
    """Removes also what its owner may neither read nor write to."""

    def open(self, parent: int, name: str) -> int:
        with suppress(PermissionError):  # a kubelet makes the first workspace, which the group may write to
            os.chmod(name, 0o700, dir_fd=parent)
        return super().open(parent, name)


def put_back(read: Callable[[int], bytes], top: int, most_bytes: int, room_bytes: int) -> int:
    """Have the archive's workspace in the place of the one in `top`; the number of its entries. Raises
    BadArchive and OSError, with the former workspace as it was.
    """
    os.close(open_workspace(top))
    _clear(top)
    room = os.fstatvfs(top)
    if room.f_bavail * room.f_frsize < room_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), WORKSPACE)
    fresh = _FRESH + os.urandom(8).hex()
    os.mkdir(fresh, 0o700, dir_fd=top)
    try:
        with closing(os.open(fresh, OPEN_DIRECTORY, dir_fd=top)) as into:
            entries = _unpack(read, into, most_bytes)
            sync_filesystem(into)
        _put_in_place(top, fresh)
        os.fsync(top)
    finally:
        with suppress(OSError):  # the next one tries again
            _clear(top)
    return entries


def _unpack(read: Callable[[int], bytes], into: int, most_bytes: int) -> int:
    policy = RestorePolicy()
    entries = written = 0
    with closed(Extractor(into, policy)) as extractor:
        for event in Reader(RULES).pull(read):
            if isinstance(event, Piece):
                written += len(event.data)
            else:
                entries += 1
            if written > most_bytes:
                raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), WORKSPACE)
            extractor.take(event)
        extractor.finish()
    if policy.top is None or not policy.is_whole:
        raise BadArchive("it has no end")
    policy.close_directories(into)
    policy.restore(into, (), policy.top)
    return entries - 2


def _put_in_place(top: int, fresh: str) -> None:
    try:
        rename(top, fresh, top, WORKSPACE, exchange=True)
    except OSError as error:
        if error.errno not in _CANNOT_EXCHANGE:
            raise
        # A node that goes down between the two leaves the former workspace, which is found by its name.
        os.rename(WORKSPACE, REPLACED, src_dir_fd=top, dst_dir_fd=top)
        os.rename(fresh, WORKSPACE, src_dir_fd=top, dst_dir_fd=top)


def _clear(top: int) -> None:
    """Remove what restores have left."""
    for name in os.listdir(top):
        if name == REPLACED or name.startswith(_FRESH):
            _OwnRemoval(lambda: False).run(top, name)


def _parts(member: Member, name: str) -> Parts:
    """The place in the workspace."""
    first, *parts = name.removesuffix("/").split("/")
    if first != WORKSPACE or any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise _refused(member, "has no place in a workspace")
    if len(parts) > walk.DEEPEST + 2:
        raise _refused(member, f"lies more than {walk.DEEPEST} directories deep")
    return tuple(parts)


def _is_device(member: Member) -> bool:
    """A character device 0, 0 is an overlay's mark for a deleted name, which opens nothing."""
    return member.kind == CHARACTER and member.device != (0, 0)


def _refused(member: Member, why: str) -> BadArchive:
    return BadArchive(f"the member {_shown(member.name)} {why}")


def _shown(name: str) -> str:
    return repr(name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "replace"))


def main() -> None:
    """Run. Data after the archive's end is read and dropped, so that its sender can finish."""
    settle(_MEMORY_BYTES)
    os.umask(0)
    order = json.loads(sys.argv[1])
    read = partial(os.read, 0)
    said: dict[str, object]
    try:
        with closing(os.open(".", OPEN_DIRECTORY)) as top:
            said = {"entries": put_back(read, top, order["most_bytes"], order["room_bytes"])}
        while read(_CHUNK):
            continue
    except BadArchive as error:
        said = {"error": str(error)}
    except MemoryError:
        said = {"error": "it takes too much memory"}
    except OSError as error:
        said = {"error": str(error.filename or error.strerror), "errno": error.errno}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
