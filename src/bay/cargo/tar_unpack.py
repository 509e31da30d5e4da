"""Unpacks backups and checkpoints, maybe hostile (see `tree_tar`), with owners, modes, times, attributes."""

import errno
import hashlib
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from bay.cargo import xattrs
from bay.cargo.tar_pack import DEPTH, MACHINE, MAX_PIECES, shown
from bay.errors import BadRequest
from tree_tar.beneath import Parts
from tree_tar.extract import Policy
from tree_tar.headers import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, SYMLINK
from tree_tar.reader import Event, Member, Piece, Rules
from tree_tar.sparse import sparse_map

MakeDirectory = Callable[[int, Parts], None]

RULES = Rules(extension_bytes=4 << 20, extensions=1, segments=MAX_PIECES + 1, foreign=False, old_sparse=False)
_IDS = 65_536
# An archive may ask for what this file system cannot have.
_UNMAKEABLE = (
    *(errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EFBIG, errno.EMLINK, errno.EINVAL, errno.E2BIG, errno.ERANGE),
)


def _make_private(parent: int, parts: Parts) -> None:
    os.mkdir(parts[-1], 0o700, dir_fd=parent)


@dataclass(frozen=True, slots=True)
class CargoPolicy(Policy):
    """`admits` is asked about every place first. Raises BadRequest for what does not belong there."""

    admits: Callable[[Parts, Member], bool]
    own: bool
    """Whether owners are restored, which only root can."""
    depth: int
    """The number of parts that lead to a cargo's `workspace` and `machine`: those above are Bay's own."""
    what: str = "backup"
    new_directory: MakeDirectory = _make_private

    replaces = False
    in_order = True

    def place(self, member: Member) -> Parts:
        parts = self._parts(member.name.removesuffix("/"))
        if len(parts) > DEPTH + self.depth + 1:
            raise self._refused(member, f"is more than {DEPTH} directories deep")
        if not self.admits(parts, member):
            raise self._refused(member, f"has no place in a {self.what}")
        # A whiteout is an overlay's mark for a deleted name. It opens nothing, so any user may make one.
        if member.kind == BLOCK_DEVICE or (member.kind == CHARACTER and member.device != (0, 0)):
            raise self._refused(member, "is a device")
        return parts

    def make_directory(self, parent: int, parts: Parts, member: Member) -> bool:
        self.new_directory(parent, parts)
        return True

    def restore(self, descriptor: int, parts: Parts, member: Member) -> None:
        if len(parts) < self._scope:  # Bay's own, private whatever the tar says
            return
        system = self.own and member.kind == DIRECTORY and parts[self.depth : self.depth + 1] == (MACHINE,)
        xattrs.restore(descriptor, member.records, system=system)
        if self.own:
            os.fchown(descriptor, *self._owner(member))
        os.fchmod(descriptor, member.mode)  # after the owner, whose change takes set-uid bits away
        os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))

    def restore_by_name(self, parent: int, name: str, member: Member) -> None:
        if member.kind == FIFO:
            try:
                xattrs.restore(f"/proc/self/fd/{parent}/{name}", member.records, system=False)
            except PermissionError as error:
                raise self._refused(member, "has attributes that only a file can have") from error
        if self.own:
            os.chown(name, *self._owner(member), dir_fd=parent, follow_symlinks=False)
        if member.kind != SYMLINK:
            os.chmod(name, member.mode, dir_fd=parent)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def link_source(self, parts: Parts, member: Member) -> Parts:
        source = self._parts(member.link)
        if source[: self._scope] != parts[: self._scope] or len(source) <= self._scope:
            raise self._refused(member, "is a link out of its workspace")
        return source

    def blame(self, member: Member, error: OSError) -> Exception:
        if error.errno not in _UNMAKEABLE:
            return error
        return self._refused(member, f"cannot be made: {error.strerror}")

    @property
    def _scope(self) -> int:
        """The number of parts that tell one cargo from another, or one part of a cargo from the other."""
        return max(1, self.depth)

    def _owner(self, member: Member) -> tuple[int, int]:
        """Ids as the sandbox sees them, which is how they are on the disk."""
        if not (0 <= member.uid < _IDS and 0 <= member.gid < _IDS):
            raise self._refused(member, "belongs to nobody that a sandbox has")
        return member.uid, member.gid

    def _parts(self, name: str) -> Parts:
        parts = tuple(name.split("/"))
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            why = "which is no name for one; it is not Bay's"
            raise BadRequest(f"the {self.what} has a member {shown(name)}, {why}")
        return parts

    def _refused(self, member: Member, why: str) -> BadRequest:
        name = shown(member.name.removesuffix("/"))
        return BadRequest(f"the {self.what} has a member {name}, which {why}; it is damaged or not Bay's")


class Digests:
    """The SHA-256 of each file that an archive has; that of a sparse one begins with its map."""

    def __init__(self) -> None:
        self._hashes: dict[str, hashlib._Hash] = {}
        self._current = hashlib.sha256()

    def take(self, event: Event) -> None:
        """Look at what the reader gave."""
        if isinstance(event, Piece):
            self._current.update(event.data)
        elif event.kind == FILE:
            is_sparse = event.segments != array("q", (0, event.size))
            self._current = hashlib.sha256(sparse_map(event.segments, event.size) if is_sparse else b"")
            self._hashes[event.name] = self._current

    def by_name(self) -> dict[str, str]:
        """The digests in hex."""
        return {name: found.hexdigest() for name, found in self._hashes.items()}
