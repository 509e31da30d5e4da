"""Trees in a tar, written and read by directory descriptors.

A tree that is packed belongs to a sandbox that may be running: names change under the walk, links lead out
of it, files shrink while they are read, a sparse one claims to be larger than the disk. A tar that is unpacked
may have been made by an enemy. So no path is ever resolved by name: each step opens one directory
without following a link, and what has an unexpected type is refused or left out. Rejected: `tarfile`'s own
extraction, whose filters have been got around before.

However much there is, memory holds one directory's names, one file's holes, and the way down to where the walk is.
"""

import contextlib
import errno
import hashlib
import os
import sqlite3
import stat
import sys
import tarfile
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

from bay.cargo.pax import BLOCK, MOST_PIECES, Member, Reader, xattr_key
from bay.errors import BadRequest

Parts = tuple[str, ...]

BUFFER = 1 << 20
MACHINE = "machine"
DEPTH = 2048
"""Directories within each other that a tree may have: what one path can name."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_IDS = 65_536
_MOST_XATTRS = 1 << 20
_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
_WHITEOUT = os.makedev(0, 0)
# What a sandbox can have set itself. Capabilities of files are void inside, and what is trusted is not a sandbox's to say.
_XATTRS = ("user.", "system.posix_acl_access", "system.posix_acl_default")
# Of an overlay only that a directory hides the one below it. What redirects a name could lead anywhere.
_OPAQUE = "trusted.overlay.opaque"
_OPAQUE_VALUES = (b"y", b"x")
_LINKS = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4096;
    CREATE TABLE first (file TEXT PRIMARY KEY, name BLOB, left INT) WITHOUT ROWID; BEGIN
"""
# An archive may ask for what this file system cannot have.
_UNMAKEABLE = (
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EFBIG,
    errno.EMLINK,
    errno.EINVAL,
    errno.E2BIG,
    errno.ERANGE,
)


class Writable(Protocol):
    """Where a tar goes: all of `data`, or an OSError."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(slots=True)
class Packer:
    """Puts files and trees into `out`. Afterwards `digests` has the SHA-256 of each file, `left_out` what is not in it.

    Sockets are left out: they are nothing without who listens. So is what no archive can hold, unless it is `strict`: then
    that raises BadRequest.
    """

    out: Writable
    digested: bool = True
    strict: bool = False
    most_entries: int = sys.maxsize
    digests: dict[str, str] = field(default_factory=dict[str, str])
    left_out: list[str] = field(default_factory=list[str])
    entries: int = 0
    _links: "_Links" = field(default_factory=lambda: _Links())
    _system: bool = False

    def add_tree(self, name: str, root: str | os.PathLike[str], *, system: bool = False) -> None:
        """The directory `root` with all that is in it, as `name`; what vanishes meanwhile is passed over.

        `system`: they are layers of an overlay, so what it says of its directories is kept.
        """
        self._system = system
        with self._new_links(), _closing(os.open(root, _DIRECTORY)) as top:
            pending: list[Parts] = [()]
            while pending:
                parts = pending.pop()
                with _unless_changed():
                    pending += self._add_directory(name, top, parts)

    def add_directory(self, name: str, path: str | os.PathLike[str]) -> None:
        """The directory `path` without what is in it, as `name`."""
        with _closing(os.open(path, _DIRECTORY)) as fd:
            self._add(_info(name, os.fstat(fd), {}))

    def add_bytes(self, name: str, content: bytes) -> None:
        """A file `name` that is nowhere else."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(content), 0o600
        self._add(info, [content])

    def add_file(self, name: str, directory: int, entry: str) -> None:
        """The regular file `entry` of the open `directory`, as `name`."""
        with _closing(os.open(entry, _FILE, dir_fd=directory)) as fd:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise FileNotFoundError(name)
            info = _info(name, facts, self._read_xattrs(name, fd))
            content = _Content(fd, facts.st_size, digested=self.digested)
            if content.pieces > MOST_PIECES:
                self._leave_out(name, f"has holes between more than {MOST_PIECES} pieces")
                return
            info.size = content.stored
            info.pax_headers = {**info.pax_headers, **content.headers(name)}
            self._add(info, content.chunks())
            self._links.remember(facts, name)
            if self.digested:
                self.digests[name] = content.digest.hexdigest()

    def finish(self) -> None:
        """Write the end of a tar."""
        self.out.write(bytes(2 * BLOCK))

    @contextlib.contextmanager
    def _new_links(self) -> Generator[None]:
        """Links are within one tree."""
        self._links = _Links()
        try:
            yield
        finally:
            self._links.close()
            self._links = _Links()

    def _add(self, info: tarfile.TarInfo, content: Iterable[bytes] = ()) -> None:
        self.entries += 1
        if self.entries > self.most_entries:
            raise BadRequest(f"there are more than {self.most_entries} files and directories")
        self.out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        for chunk in content:
            self.out.write(chunk)
        self.out.write(bytes(-info.size % BLOCK))

    def _add_directory(self, name: str, top: int, parts: Parts) -> list[Parts]:
        here = "/".join((name, *parts))
        with _closing(open_beneath(top, parts)) as fd:
            self._add(_info(here, os.fstat(fd), self._read_xattrs(here, fd)))
            return [
                (*parts, entry) for entry in sorted(os.listdir(fd)) if self._is_tree(here, fd, entry, parts)
            ]

    def _is_tree(self, here: str, directory: int, entry: str, parts: Parts) -> bool:
        """Add `entry`, unless it is a directory, whose turn comes later."""
        with _unless_changed():
            facts = os.stat(entry, dir_fd=directory, follow_symlinks=False)
            if not stat.S_ISDIR(facts.st_mode):
                self._add_entry(f"{here}/{entry}", directory, entry, facts)
            elif len(parts) + 1 < DEPTH:
                return True
            else:
                self._leave_out(f"{here}/{entry}", f"is more than {DEPTH} directories deep")
        return False

    def _add_entry(self, name: str, directory: int, entry: str, facts: os.stat_result) -> None:
        if (first := self._links.first(facts)) is not None:
            info = _info(name, facts, {})
            info.type, info.linkname = tarfile.LNKTYPE, first
            return self._add(info)
        if stat.S_ISREG(facts.st_mode):
            return self.add_file(name, directory, entry)
        if stat.S_ISLNK(facts.st_mode):
            return self._add_symlink(name, directory, entry, facts)
        if stat.S_ISFIFO(facts.st_mode) or _is_whiteout(facts):
            return self._add_special(name, directory, entry, facts)
        return self.left_out.append(name)

    def _add_symlink(self, name: str, directory: int, entry: str, facts: os.stat_result) -> None:
        info = _info(name, facts, {})
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(entry, dir_fd=directory)
        self._add(info)
        self._links.remember(facts, name)

    def _add_special(self, name: str, directory: int, entry: str, facts: os.stat_result) -> None:
        self._add(_info(name, facts, self._read_xattrs(name, f"/proc/self/fd/{directory}/{entry}")))
        # One inode stands for all whiteouts of an overlay, up to more links than another file system can have.
        if not _is_whiteout(facts):
            self._links.remember(facts, name)

    def _read_xattrs(self, name: str, file: int | str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with contextlib.suppress(OSError):  # a file system without them
            for key in _listed(file):
                value = _xattr(file, key)
                if _is_kept(key, value, system=self._system):
                    found[key] = value
                if sum(map(len, found.values())) > _MOST_XATTRS:
                    self._leave_out(f"{name} (its attributes)", "has more than a megabyte of attributes")
                    return {}
        return found

    def _leave_out(self, name: str, why: str) -> None:
        if self.strict:
            raise BadRequest(f"{shown(name)} {why}")
        self.left_out.append(name)


class _Links:
    """The first name of each file that has several, as long as others of its names are to come.

    On the disk, in a database that has no name and goes with its process: there may be millions.
    """

    _made: sqlite3.Connection | None = None

    @property
    def _db(self) -> sqlite3.Connection:
        if self._made is None:
            self._made = sqlite3.connect("", isolation_level=None)
            self._made.executescript(_LINKS)
        return self._made

    def first(self, facts: os.stat_result) -> str | None:
        """The name under which the file is in the archive already."""
        if facts.st_nlink < 2:
            return None
        key = (_identity(facts),)
        row = self._db.execute("UPDATE first SET left = left - 1 WHERE file = ? RETURNING name, left", key)
        found = row.fetchall()
        if found and found[0][1] < 1:
            self._db.execute("DELETE FROM first WHERE file = ?", key)
        return os.fsdecode(found[0][0]) if found else None

    def remember(self, facts: os.stat_result, name: str) -> None:
        if facts.st_nlink > 1:
            row = (_identity(facts), os.fsencode(name), facts.st_nlink - 1)
            self._db.execute("INSERT OR REPLACE INTO first VALUES (?, ?, ?)", row)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()


class _Content:
    """A file as it is stored: what is not a hole, after a list of where it belongs when there are holes.

    The list is that of GNU's sparse format 1.0, so other programs can read it as well. A file that became
    shorter while it was read is filled up with zeros: its size stands in the tar already.
    """

    def __init__(self, fd: int, size: int, *, digested: bool) -> None:
        self._fd = fd
        self._segments = _segments(fd, size)
        self._size = size
        self._sparse = size > 0 and self._segments != array("q", (0, size))
        head = _map(self._segments, size).encode() if self._sparse else b""
        self.digest = hashlib.sha256(head)
        self._digested = digested
        self._head = head + bytes(-len(head) % BLOCK)
        self.stored = len(self._head) + sum(self._segments[1::2])

    @property
    def pieces(self) -> int:
        return len(self._segments) // 2

    def headers(self, name: str) -> dict[str, str]:
        """What tells a reader that the list is there."""
        if not self._sparse:
            return {}
        return {**_SPARSE, "GNU.sparse.name": name, "GNU.sparse.realsize": str(self._size)}

    def chunks(self) -> Iterator[bytes]:
        if self._head:
            yield self._head
        for offset, length in _pairs(self._segments):
            yield from self._data(offset, offset + length)

    def _data(self, offset: int, end: int) -> Iterator[bytes]:
        while offset < end:
            wanted = min(BUFFER, end - offset)
            chunk = os.pread(self._fd, wanted, offset) or bytes(wanted)
            if self._digested:
                self.digest.update(chunk)
            offset += len(chunk)
            yield chunk


@dataclass(slots=True)
class Unpacker:
    """Makes what `source` has below the open directory `top`, and nowhere else.

    `admits` is asked about every name first. Afterwards `digests` has the SHA-256 of each file. Raises BadRequest for what does not
    belong there, Damaged, or OSError.
    """

    source: Reader
    top: int
    admits: Callable[[Parts, Member], bool]
    own: bool
    """Whether owners are restored, which only root can."""
    depth: int
    """How many names lead to a cargo's `workspace` and `machine`: what is above is Bay's own."""
    what: str = "backup"
    digested: bool = True
    make_directory: Callable[[int, Parts], None] = lambda parent, parts: os.mkdir(
        parts[-1], 0o700, dir_fd=parent
    )
    digests: dict[str, str] = field(default_factory=dict[str, str])
    _unfinished: list[tuple[Parts, Member]] = field(default_factory=list[tuple[Parts, Member]])
    """The directories on the way to where it is, those that are new."""
    _here: tuple[Parts, int] | None = None
    """Where it is, open as long as what comes is in it."""

    def run(self) -> None:
        """Unpack everything."""
        with contextlib.closing(self):
            while (member := self.source.next()) is not None:
                self.make(member)
            self.finish()

    def make(self, member: Member) -> None:
        """Make the member that `source` gave just now."""
        parts = self._parts(member.name)
        if len(parts) > DEPTH + self.depth + 1:
            raise self._refused(member, f"is more than {DEPTH} directories deep")
        if not self.admits(parts, member):
            raise self._refused(member, f"has no place in a {self.what}")
        try:
            self._make_in(self._parent(parts[:-1]), parts, member)
        except OSError as error:
            if error.errno not in _UNMAKEABLE:
                raise
            raise self._refused(member, f"cannot be made: {error.strerror}") from error

    def finish(self) -> None:
        """Nothing more comes: directories get their times."""
        self.close()
        self._leave(())

    def close(self) -> None:
        """Let go of what is open."""
        if self._here is not None:
            os.close(self._here[1])
            self._here = None

    def _parent(self, parts: Parts) -> int:
        """A descriptor of the directory `parts`."""
        if self._here is None or self._here[0] != parts:
            self._leave(parts)
            self._go(parts)
        return cast("tuple[Parts, int]", self._here)[1]

    def _go(self, parts: Parts) -> None:
        if self._here is not None and self._here[0] == parts[:-1]:  # one step is much less than all
            below = open_beneath(self._here[1], parts[-1:])
        else:
            below = open_beneath(self.top, parts)
        self.close()
        self._here = parts, below

    def _leave(self, parts: Parts) -> None:
        """Be done with the directories that are not on the way to `parts`. Last, because what is made inside changes their times."""
        while self._unfinished and self._unfinished[-1][0] != parts[: len(self._unfinished[-1][0])]:
            done, member = self._unfinished.pop()
            with _closing(open_beneath(self.top, done)) as fd:
                self._restore(fd, done, member)

    def _make_in(self, parent: int, parts: Parts, member: Member) -> None:
        name = parts[-1]
        if member.is_file():
            return self._make_file(parent, parts, member)
        if member.is_directory():
            self._leave(parts)  # of directories beside this one
            self.make_directory(parent, parts)
            return self._unfinished.append((parts, member))
        if member.kind == tarfile.LNKTYPE:
            return self._make_link(parent, parts, member)
        if member.kind == tarfile.SYMTYPE:
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.kind == tarfile.FIFOTYPE:
            os.mkfifo(name, 0o600, dir_fd=parent)
        elif member.is_whiteout():
            os.mknod(name, stat.S_IFCHR | 0o600, _WHITEOUT, dir_fd=parent)
        else:
            raise self._refused(member, "is a device")
        return self._restore_by_name(parent, name, member)

    def _make_file(self, parent: int, parts: Parts, member: Member) -> None:
        with _closing(os.open(parts[-1], _NEW, 0o600, dir_fd=parent)) as fd:
            digest = self._copy(fd, member)
            if self.digested:
                self.digests["/".join(parts)] = digest
            self._restore(fd, parts, member)

    def _copy(self, fd: int, member: Member) -> str:
        sparse = member.segments != array("q", (0, member.size))
        digest = hashlib.sha256(
            _map(member.segments, member.size).encode() if sparse and self.digested else b""
        )
        for offset, length in member.pairs():
            end = offset + length
            while offset < end:
                chunk = self.source.read(min(BUFFER, end - offset))
                if self.digested:
                    digest.update(chunk)
                _write_at(fd, chunk, offset)
                offset += len(chunk)
        if sparse:
            os.ftruncate(fd, member.size)
        return digest.hexdigest()

    def _make_link(self, parent: int, parts: Parts, member: Member) -> None:
        target = self._parts(member.linkname)
        if target[: self._scope] != parts[: self._scope] or len(target) <= self._scope:
            raise self._refused(member, "is a link out of its workspace")
        with _closing(open_beneath(self.top, target[:-1])) as source:
            os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    @property
    def _scope(self) -> int:
        """How many names at the beginning tell one cargo from another, or one part of a cargo from the other."""
        return max(1, self.depth)

    def _restore(self, fd: int, parts: Parts, member: Member) -> None:
        if len(parts) < self._scope:  # Bay's own, private whatever the tar says
            return
        self._write_xattrs(fd, parts, member)
        if self.own:
            os.fchown(fd, *self._owner(member))
        os.fchmod(fd, member.mode & 0o7777)  # after the owner, whose change takes set-uid bits away
        os.utime(fd, ns=(member.mtime_ns, member.mtime_ns))

    def _restore_by_name(self, parent: int, name: str, member: Member) -> None:
        if member.xattrs and member.kind == tarfile.FIFOTYPE:
            try:
                _set_xattrs(f"/proc/self/fd/{parent}/{name}", member.xattrs, system=False)
            except PermissionError as error:
                raise self._refused(member, "has attributes that only a file can have") from error
        if self.own:
            os.chown(name, *self._owner(member), dir_fd=parent, follow_symlinks=False)
        if member.kind != tarfile.SYMTYPE:
            os.chmod(name, member.mode & 0o7777, dir_fd=parent)
        times = (member.mtime_ns, member.mtime_ns)
        os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)

    def _write_xattrs(self, fd: int, parts: Parts, member: Member) -> None:
        system = self.own and member.is_directory() and parts[self.depth : self.depth + 1] == (MACHINE,)
        _set_xattrs(fd, member.xattrs, system=system)

    def _owner(self, member: Member) -> tuple[int, int]:
        """Ids as the sandbox sees them, which is how they are on the disk."""
        if not (0 <= member.uid < _IDS and 0 <= member.gid < _IDS):
            raise self._refused(member, "belongs to nobody that a sandbox has")
        return member.uid, member.gid

    def _parts(self, name: str) -> Parts:
        parts = tuple(name.split("/"))
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise BadRequest(
                f"the {self.what} has a member {shown(name)}, which is no name for one; it is not Bay's"
            )
        return parts

    def _refused(self, member: Member, why: str) -> BadRequest:
        return BadRequest(
            f"the {self.what} has a member {shown(member.name)}, which {why}; it is damaged or not Bay's"
        )


def open_beneath(top: int, parts: Parts) -> int:
    """A new descriptor of the directory `parts` below `top`; a link on the way is an error. One step at a time, so any depth works."""
    here = os.open(".", _DIRECTORY, dir_fd=top)
    for part in parts:
        try:
            below = os.open(part, _DIRECTORY, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def shown(name: str) -> str:
    """A name for people: of any bytes, and of any length, on one short line."""
    return repr(name if len(name) <= 200 else f"{name[:100]}…{name[-100:]}")


def _info(name: str, facts: os.stat_result, xattrs: dict[str, bytes]) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid
    info.mtime = max(0, facts.st_mtime_ns // 10**9)
    info.pax_headers = (
        {"mtime": _decimal(facts.st_mtime_ns)} if facts.st_mtime_ns % 10**9 or facts.st_mtime_ns < 0 else {}
    )
    for key, value in xattrs.items():
        info.pax_headers[xattr_key(key)] = value.decode("utf-8", "surrogateescape")
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE}
    info.type = kinds.get(stat.S_IFMT(facts.st_mode), tarfile.REGTYPE)
    return info


def _decimal(nanoseconds: int) -> str:
    seconds, fraction = divmod(abs(nanoseconds), 10**9)
    return f"{'-' if nanoseconds < 0 else ''}{seconds}.{fraction:09}"


def _identity(facts: os.stat_result) -> str:
    return f"{facts.st_dev}:{facts.st_ino}"


def _is_whiteout(facts: os.stat_result) -> bool:
    return stat.S_ISCHR(facts.st_mode) and facts.st_rdev == _WHITEOUT


def _segments(fd: int, size: int) -> "array[int]":
    """Where the file has data, as offset, length, offset, length …; no further than one piece too many."""
    found = array("q")
    end = 0
    with contextlib.suppress(OSError):  # ENXIO: the rest is a hole
        while end < size and len(found) <= 2 * MOST_PIECES:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
            if start < end:
                found.extend((start, end - start))
    return found


def _pairs(segments: "array[int]") -> Iterator[tuple[int, int]]:
    numbers = iter(segments)
    return zip(numbers, numbers, strict=True)


def _map(segments: "array[int]", size: int) -> str:
    """GNU's list: how many, and for each where and how long. It ends with an empty one at the end of the file."""
    end = array("q") if segments[-2:] == array("q", (size, 0)) else array("q", (size, 0))
    listed = segments + end
    return f"{len(listed) // 2}\n" + "".join(f"{number}\n" for number in listed)


def _write_at(fd: int, chunk: bytes, offset: int) -> None:
    view = memoryview(chunk)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _listed(file: int | str) -> list[str]:
    return os.listxattr(file) if isinstance(file, int) else os.listxattr(file, follow_symlinks=False)


def _xattr(file: int | str, name: str) -> bytes:
    return (
        os.getxattr(file, name) if isinstance(file, int) else os.getxattr(file, name, follow_symlinks=False)
    )


def _set_xattrs(file: int | str, xattrs: dict[str, bytes], *, system: bool) -> None:
    for name, value in xattrs.items():
        if _is_kept(name, value, system=system):
            try:
                os.setxattr(file, name, value, follow_symlinks=isinstance(file, int))
            except OSError as error:
                if error.errno != errno.ENOTSUP:  # a file system without them
                    raise


def _is_kept(name: str, value: bytes, *, system: bool) -> bool:
    return name.startswith(_XATTRS) or (system and name == _OPAQUE and value in _OPAQUE_VALUES)


@contextlib.contextmanager
def _unless_changed() -> Generator[None]:
    """Pass over what a sandbox removed, or put something else in the place of, after it was listed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise


@contextlib.contextmanager
def _closing(fd: int) -> Generator[int]:
    try:
        yield fd
    finally:
        os.close(fd)
