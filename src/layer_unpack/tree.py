"""Makes the tree of a layer from the members of its tar, by the rules of OCI's image layer specification.

An addition beats a whiteout of the same layer, in whatever order they come, and a directory that replaces one
is opaque. A name that comes again replaces the thing before, but a directory is kept and gets the new owner,
mode and time. Whiteouts become overlayfs's; the places of opaque directories are for Bay, as a mark on them
takes rights that nobody has here. Devices are left out, and owners that no sandbox has become nobody.
"""

import errno
import os
import stat

from layer_unpack.directories import Directories, is_whiteout
from layer_unpack.refusals import FAILED, FULL, TOO_LARGE, Refused, invalid
from tree_tar.beneath import NEW_FILE, OPEN_DIRECTORY, Parts, closing, open_beneath
from tree_tar.extract import parts_of
from tree_tar.headers import BLOCK_DEVICE, CHARACTER, DIRECTORY, FIFO, FILE, LINK, SYMLINK
from tree_tar.reader import Event, Member, Piece, Rules
from tree_tar.xattr_records import of_records

RULES = Rules(extension_bytes=1 << 20, extensions=8, segments=1 << 18, any_time=True)

_IDS, _NOBODY = 65_536, 65_534
_LONGEST_PATH = 4095
_PLAIN_DIRECTORY = 0o755
_OPAQUE_BYTES = 4 << 20
_SET_IDS = stat.S_ISUID | stat.S_ISGID
_SPECIAL = _SET_IDS | stat.S_ISVTX
_WHITEOUT, _AUFS, _OPAQUE = ".wh.", ".wh..wh.", ".wh..wh..opq"
_KEPT_XATTRS = ("user.", "security.capability")
_DROPPED_XATTRS = ("user.overlay.",)
_SMALL_XATTR = 3000
_HOST = (
    errno.EIO,
    errno.ENOMEM,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.EACCES,
    errno.EPERM,
    errno.ENOSYS,
)


class LayerTree:
    """Takes what a `Reader` gives, in order. `finish` ends it; `close` lets go of it at any time. Raises
    Refused.
    """

    def __init__(self, top: int, max_entries: int) -> None:
        self.entries = 0
        self.skipped = 0
        """Devices, and what aufs left for itself."""
        self._top = top
        self._most = max_entries
        self._directories = Directories(top, self._make_missing)
        self._opaque: set[Parts] = set()
        self._opaque_bytes = 0
        self._member: Member | None = None
        self._file = -1
        self._left = 0

    def take(self, event: Event) -> None:
        """Make the member, or write the piece."""
        try:
            if isinstance(event, Member):
                self._member = event
                self._begin(event)
            elif self._file >= 0:
                self._write(event)
        except OSError as error:
            raise self._blamed(error) from error

    def finish(self) -> list[str]:
        """Put back the times that are left; gives the places of opaque directories. Nothing more comes."""
        try:
            self._directories.finish()
            return ["/".join(parts) for parts in sorted(self._opaque) if self._is_there(parts)]
        except OSError as error:
            raise self._blamed(error) from error

    def close(self) -> None:
        """Close what is still open, after a refusal too."""
        self._directories.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _begin(self, member: Member) -> None:
        self._count()
        parts = _parts(member.name, member)
        if not parts:
            return self._begin_top(member)
        if parts[-1].startswith(_WHITEOUT):
            return self._hide(parts, member)
        if any(part.startswith(_WHITEOUT) for part in parts):
            return self._skip_aufs(parts, member)
        if member.kind in (CHARACTER, BLOCK_DEVICE):
            self.skipped += 1
            return None
        if member.kind == LINK:
            return self._link(parts, member)
        return self._make(self._directories.enter(parts[:-1]), parts[-1], member)

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self._most:
            raise Refused(TOO_LARGE, f"the layer has more than {self._most} entries, which is the limit")

    def _begin_top(self, member: Member) -> None:
        if member.kind != DIRECTORY:
            raise invalid(member.name, f"is a {member.kind} in the place of the root directory")
        top = self._directories.enter(())
        os.fchmod(top, member.mode & 0o777)
        self._restore(top, member, chown=True)
        self._directories.look_again()

    def _make(self, parent: int, name: str, member: Member) -> None:
        if member.kind == FILE:
            self._begin_file(parent, name, member)
        elif member.kind == DIRECTORY:
            self._directory(parent, name, member)
        elif member.kind in (SYMLINK, FIFO):
            self._special(parent, name, member)
        else:
            raise invalid(member.name, "is of a kind that no file system has")

    def _begin_file(self, parent: int, name: str, member: Member) -> None:
        try:
            self._file = os.open(name, NEW_FILE, member.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            _clear(parent, name)
            self._file = os.open(name, NEW_FILE, member.mode & 0o777, dir_fd=parent)
        self._left = member.data_bytes
        if not self._left:
            self._end_file()

    def _write(self, piece: Piece) -> None:
        offset, data = piece
        self._left -= len(data)
        while data:
            written = os.pwrite(self._file, data, offset)
            offset, data = offset + written, data[written:]
        if not self._left:
            self._end_file()

    def _end_file(self) -> None:
        file, self._file = self._file, -1
        member = self._member
        assert member is not None  # noqa: S101 - its header made the file
        with closing(file):
            if member.data_bytes != member.size:
                os.ftruncate(file, member.size)
            self._restore(file, member, chown=self._directories.is_setgid)

    def _directory(self, parent: int, name: str, member: Member) -> None:
        made = self._new_directory(parent, name, member.mode & 0o777)
        inherits = not made or self._directories.is_setgid
        with closing(os.open(name, OPEN_DIRECTORY, dir_fd=parent)) as fd:
            if inherits:
                os.fchmod(fd, member.mode & 0o777)
            self._restore(fd, member, chown=inherits)

    def _new_directory(self, parent: int, name: str, mode: int) -> bool:
        """Make the directory; False when it is one already."""
        try:
            os.mkdir(name, mode, dir_fd=parent)
        except FileExistsError:
            facts = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                return False
            if is_whiteout(facts):
                self._mark_opaque((*self._directories.here, name))
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, mode, dir_fd=parent)
        return True

    def _make_missing(self, parent: int, name: str, shadowed: bool) -> None:
        """Make a directory that has no member before what is in it."""
        self._count()
        os.mkdir(name, _PLAIN_DIRECTORY, dir_fd=parent)
        os.chown(name, 0, 0, dir_fd=parent, follow_symlinks=False)
        os.chmod(name, _PLAIN_DIRECTORY, dir_fd=parent)
        if shadowed:
            self._mark_opaque((*self._directories.here, name))

    def _special(self, parent: int, name: str, member: Member) -> None:
        try:
            _make_special(parent, name, member)
        except FileExistsError:
            _clear(parent, name)
            _make_special(parent, name, member)
        uid, gid, known = _owner(member)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if member.kind == FIFO:
            os.chmod(name, member.mode if known else member.mode & ~_SET_IDS, dir_fd=parent)
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _link(self, parts: Parts, member: Member) -> None:
        source = _parts(member.link, member)
        if not source:
            raise invalid(member.name, "is a link to the root directory")
        above = os.dup(self._directories.enter(source[:-1]))
        with closing(above):
            facts = self._linked(above, source[-1], member)
            parent = self._directories.enter(parts[:-1])
            try:
                _make_link(above, source[-1], parent, parts[-1])
            except FileExistsError:
                if os.path.samestat(os.stat(parts[-1], dir_fd=parent, follow_symlinks=False), facts):
                    return
                _clear(parent, parts[-1])
                _make_link(above, source[-1], parent, parts[-1])

    def _linked(self, above: int, name: str, member: Member) -> os.stat_result:
        try:
            facts = os.stat(name, dir_fd=above, follow_symlinks=False)
        except FileNotFoundError:
            raise invalid(member.name, "is a link to a file that the layer does not have before it") from None
        if stat.S_ISDIR(facts.st_mode) or stat.S_ISCHR(facts.st_mode):
            raise invalid(member.name, "is a link to something that is no file")
        return facts

    def _hide(self, parts: Parts, member: Member) -> None:
        """Take a whiteout: a mark that a name of the layers below is deleted."""
        if parts[-1] == _OPAQUE:
            self._directories.enter(parts[:-1])
            return self._mark_opaque(self._directories.here)
        if any(part.startswith(_AUFS) for part in parts) and parts[-1] not in (".wh..", ".wh..."):
            self.skipped += 1
            return None
        name = parts[-1].removeprefix(_WHITEOUT)
        if name in ("", ".", ".."):
            raise invalid(member.name, "would delete a directory from within")
        parent = self._directories.enter(parts[:-1])
        try:
            os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self._mark_opaque((*self._directories.here, name))
        return None

    def _skip_aufs(self, parts: Parts, member: Member) -> None:
        if not any(part.startswith(_AUFS) for part in parts):
            raise invalid(member.name, "lies below a mark for a deleted name")
        self.skipped += 1

    def _mark_opaque(self, parts: Parts) -> None:
        if parts not in self._opaque:
            self._opaque.add(parts)
            self._opaque_bytes += sum(len(part) + 1 for part in parts)
            if self._opaque_bytes > _OPAQUE_BYTES:
                raise Refused(TOO_LARGE, "the layer has too many opaque directories")

    def _is_there(self, parts: Parts) -> bool:
        """A later member may have put something else there."""
        try:
            os.close(open_beneath(self._top, parts))
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def _restore(self, fd: int, member: Member, *, chown: bool) -> None:
        """Set owner, mode, attributes and time of an open file or directory, which has the plain mode bits.
        In this order: a new owner takes set-id bits and capabilities away, and all of it moves the time.
        """
        uid, gid, known = _owner(member)
        if uid or gid or chown:
            os.fchown(fd, uid, gid)
        if member.mode & _SPECIAL:
            os.fchmod(fd, member.mode if known else member.mode & ~_SET_IDS)
        if member.records:
            _restore_xattrs(fd, member)
        os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))

    def _blamed(self, error: OSError) -> Refused:
        """Whose fault it is that the kernel refuses."""
        if error.errno == errno.ENOSPC:
            return Refused(FULL, "no space is left for the files of the layer")
        if error.errno == errno.EDQUOT:
            return Refused(TOO_LARGE, "the layer needs more space than allowed")
        if self._member is None or error.errno in _HOST:
            return Refused(FAILED, f"the host refused a file of the layer: {error.strerror}")
        return invalid(self._member.name, f"cannot be made: {error.strerror}")


def _parts(name: str, member: Member) -> Parts:
    if len(os.fsencode(name)) > _LONGEST_PATH:
        raise invalid(member.name, f"has a name of more than {_LONGEST_PATH} bytes")
    parts = parts_of(name)
    if ".." in parts:
        raise invalid(member.name, "leads out of the layer")
    if "\0" in name:
        raise invalid(member.name, "has a NUL in its name")
    return parts


def _owner(member: Member) -> tuple[int, int, bool]:
    """The ids, and whether a sandbox has both."""
    if 0 <= member.uid < _IDS and 0 <= member.gid < _IDS:
        return member.uid, member.gid, True
    uid, gid = (number if 0 <= number < _IDS else _NOBODY for number in (member.uid, member.gid))
    return uid, gid, False


def _make_special(parent: int, name: str, member: Member) -> None:
    if member.kind == FIFO:
        return os.mkfifo(name, member.mode & 0o777, dir_fd=parent)
    if "\0" in member.link or not member.link:
        raise invalid(member.name, "is a symbolic link to nothing that can be")
    return os.symlink(member.link, name, dir_fd=parent)


def _make_link(above: int, source: str, parent: int, name: str) -> None:
    os.link(source, name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)


def _restore_xattrs(fd: int, member: Member) -> None:
    """Set those attributes that mean something in a sandbox, as far as the file system takes them."""
    for name, value in of_records(member.records):
        if name.startswith(_KEPT_XATTRS) and not name.startswith(_DROPPED_XATTRS):
            try:
                os.setxattr(fd, name, value)
            except OSError as error:
                # A file system says "no space" of a large one, too.
                full = error.errno in (errno.ENOSPC, errno.EDQUOT) and len(value) <= _SMALL_XATTR
                if full or error.errno == errno.EIO:
                    raise


def _clear(parent: int, name: str) -> None:
    """Remove what is there, with all that is in it."""
    try:
        os.unlink(name, dir_fd=parent)
    except IsADirectoryError:
        with closing(os.open(name, OPEN_DIRECTORY, dir_fd=parent)) as fd:
            for below in os.listdir(fd):
                _clear(fd, below)
        os.rmdir(name, dir_fd=parent)
