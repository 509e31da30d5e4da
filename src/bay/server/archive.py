"""Trees in a tar, written and read by directory descriptors.

A tree that is packed belongs to a sandbox that may be running: names change under the walk, links lead out
of it, files shrink while they are read, a sparse one claims to be larger than the disk. A tar that is unpacked
may have been made by an enemy. So no path is ever resolved by name: each step opens one directory
without following a link, and what has an unexpected type is refused or left out. Rejected: `tarfile`'s own
extraction, whose filters have been got around before.
"""

import contextlib
import errno
import hashlib
import os
import stat
import tarfile
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

from bay.errors import BadRequest

Parts = tuple[str, ...]

BUFFER = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK = tarfile.BLOCKSIZE
_IDS = 65_536
_END_OF_TIME = 1 << 40
_XATTR = "SCHILY.xattr."
_SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
# What a sandbox can have set itself. Capabilities of files are void inside, and what is trusted is not a sandbox's to say.
_XATTRS = ("user.", "system.posix_acl_access", "system.posix_acl_default")


@dataclass(slots=True)
class Packer:
    """Puts files and trees into `tar`. Afterwards `digests` has the SHA-256 of each file, `left_out` what is not in it."""

    tar: tarfile.TarFile
    digests: dict[str, str] = field(default_factory=dict[str, str])
    left_out: list[str] = field(default_factory=list[str])
    _links: dict[tuple[int, int], str] = field(default_factory=dict[tuple[int, int], str])

    def add_tree(self, name: str, root: str | os.PathLike[str]) -> None:
        """The directory `root` with all that is in it, as `name`; what vanishes meanwhile is passed over."""
        self._links.clear()
        with _closing(os.open(root, _DIRECTORY)) as top:
            pending: list[Parts] = [()]
            while pending:
                parts = pending.pop()
                with _unless_changed():
                    pending += self._add_directory(name, top, parts)

    def add_file(self, name: str, directory: int, entry: str) -> None:
        """The regular file `entry` of the open `directory`, as `name`."""
        with _closing(os.open(entry, _FILE, dir_fd=directory)) as fd:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise FileNotFoundError(name)
            info = _info(name, facts, _read_xattrs(fd))
            if facts.st_nlink > 1:
                self._links[facts.st_dev, facts.st_ino] = name
            content = _Content(fd, _segments(fd, facts.st_size), facts.st_size)
            info.size = content.stored
            info.pax_headers = {**info.pax_headers, **content.headers(name)}
            self.tar.addfile(info, content)  # pyright: ignore[reportArgumentType] - it is only read from
            self.digests[name] = content.digest.hexdigest()

    def _add_directory(self, name: str, top: int, parts: Parts) -> list[Parts]:
        here = "/".join((name, *parts))
        with _closing(open_beneath(top, parts)) as fd:
            self.tar.addfile(_info(here, os.fstat(fd), _read_xattrs(fd)))
            return [(*parts, entry) for entry in sorted(os.listdir(fd)) if self._is_tree(here, fd, entry)]

    def _is_tree(self, here: str, directory: int, entry: str) -> bool:
        """Add `entry`, unless it is a directory, whose turn comes later."""
        with _unless_changed():
            facts = os.stat(entry, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                return True
            self._add_entry(f"{here}/{entry}", directory, entry, facts)
        return False

    def _add_entry(self, name: str, directory: int, entry: str, facts: os.stat_result) -> None:
        info = _info(name, facts, {})
        if linked := self._links.get((facts.st_dev, facts.st_ino)) if facts.st_nlink > 1 else None:
            info.type, info.linkname = tarfile.LNKTYPE, linked
        elif stat.S_ISREG(facts.st_mode):
            return self.add_file(name, directory, entry)
        elif stat.S_ISLNK(facts.st_mode):
            info.type, info.linkname = tarfile.SYMTYPE, os.readlink(entry, dir_fd=directory)
        elif not stat.S_ISFIFO(facts.st_mode):  # a socket, which is nothing without who listens
            return self.left_out.append(name)
        return self.tar.addfile(info)


class _Content:
    """A file as it is stored: what is not a hole, after a list of where it belongs when there are holes.

    The list is that of GNU's sparse format 1.0, so other programs can read it as well. A file that became
    shorter while it was read is filled up with zeros: its size stands in the tar already.
    """

    def __init__(self, fd: int, segments: list[tuple[int, int]], size: int) -> None:
        self._fd = fd
        self._segments = segments
        self._size = size
        self._sparse = segments != [(0, size)] and size > 0
        head = _map(segments, size).encode() if self._sparse else b""
        self.digest = hashlib.sha256(head)
        self._rest = head + bytes(-len(head) % _BLOCK)
        self.stored = len(self._rest) + sum(length for _, length in segments)
        self._chunks = self._data()

    def headers(self, name: str) -> dict[str, str]:
        """What tells a reader that the list is there."""
        if not self._sparse:
            return {}
        return {**_SPARSE, "GNU.sparse.name": name, "GNU.sparse.realsize": str(self._size)}

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        while len(self._rest) < size and (chunk := next(self._chunks, b"")):
            self._rest += chunk
        given, self._rest = self._rest[:size], self._rest[size:]
        return given

    def _data(self) -> Iterator[bytes]:
        for offset, length in self._segments:
            end = offset + length
            while offset < end:
                wanted = min(BUFFER, end - offset)
                chunk = os.pread(self._fd, wanted, offset) or bytes(wanted)
                self.digest.update(chunk)
                offset += len(chunk)
                yield chunk


@dataclass(slots=True)
class Unpacker:
    """Makes what is in `tar` below the open directory `top`, and nowhere else.

    `admits` is asked about every name first. Afterwards `digests` has the SHA-256 of each file.
    """

    tar: tarfile.TarFile
    top: int
    admits: Callable[[Parts, tarfile.TarInfo], bool]
    own: bool
    """Whether owners are restored, which only root can."""
    digests: dict[str, str] = field(default_factory=dict[str, str])
    _directories: list[tuple[Parts, tarfile.TarInfo]] = field(
        default_factory=list[tuple[Parts, tarfile.TarInfo]]
    )

    def run(self) -> None:
        """Unpack everything. Raises BadRequest for what does not belong in a backup, OSError or tarfile.TarError."""
        while (member := self.tar.next()) is not None:
            parts = _parts(member.name)
            if not self.admits(parts, member):
                raise _refused(member, "has no place in a backup")
            self._make(parts, member)
            cast("Any", self.tar).members.clear()  # it would keep every one
        for parts, member in reversed(
            self._directories
        ):  # last, because what is made inside changes their times
            with _closing(open_beneath(self.top, parts)) as fd:
                self._restore(fd, parts, member)

    def _make(self, parts: Parts, member: tarfile.TarInfo) -> None:
        try:
            with _closing(open_beneath(self.top, parts[:-1])) as parent:
                self._make_in(parent, parts, member)
        except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
            raise _refused(member, f"cannot be made: {error.strerror}") from error

    def _make_in(self, parent: int, parts: Parts, member: tarfile.TarInfo) -> None:
        name = parts[-1]
        if member.isreg():
            return self._make_file(parent, parts, member)
        if member.isdir():
            os.mkdir(name, 0o700, dir_fd=parent)
            return self._directories.append((parts, member))
        if member.islnk():
            return self._make_link(parent, parts, member)
        if member.issym():
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            raise _refused(member, "is a device or of a kind unknown")
        return self._restore_by_name(parent, name, member)

    def _make_file(self, parent: int, parts: Parts, member: tarfile.TarInfo) -> None:
        with _closing(os.open(parts[-1], _NEW, 0o600, dir_fd=parent)) as fd:
            self.digests["/".join(parts)] = self._copy(fd, member)
            self._restore(fd, parts, member)

    def _copy(self, fd: int, member: tarfile.TarInfo) -> str:
        segments: list[tuple[int, int]] = getattr(member, "sparse", None) or [(0, member.size)]
        sparse = segments != [(0, member.size)]
        digest = hashlib.sha256(_map(segments, member.size).encode() if sparse else b"")
        source = self.tar.extractfile(member)
        if source is None:
            raise _refused(member, "has no content")
        for offset, length in segments:
            source.seek(offset)
            _copy_segment(source, fd, offset, length, digest.update)
        os.ftruncate(fd, member.size)
        return digest.hexdigest()

    def _make_link(self, parent: int, parts: Parts, member: tarfile.TarInfo) -> None:
        target = _parts(member.linkname)
        if target[:2] != parts[:2] or len(target) < 3:
            raise _refused(member, "is a link out of its workspace")
        with _closing(open_beneath(self.top, target[:-1])) as source:
            os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _restore(self, fd: int, parts: Parts, member: tarfile.TarInfo) -> None:
        if len(parts) == 1:  # Bay's own, private whatever the tar says
            return
        _write_xattrs(fd, member)
        if self.own:
            os.fchown(fd, *_owner(member))
        os.fchmod(fd, member.mode & 0o7777)  # after the owner, whose change takes set-uid bits away
        os.utime(fd, _times(member))

    def _restore_by_name(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        if self.own:
            os.chown(name, *_owner(member), dir_fd=parent, follow_symlinks=False)
        if member.isfifo():
            os.chmod(name, member.mode & 0o777, dir_fd=parent)
        os.utime(name, _times(member), dir_fd=parent, follow_symlinks=False)


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


def _parts(name: str) -> Parts:
    parts = tuple(name.split("/"))
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise BadRequest(f"the backup has a member {name!r}, which is no name for one; it is not Bay's")
    return parts


def _owner(member: tarfile.TarInfo) -> tuple[int, int]:
    """Ids as the sandbox sees them, which is how they are on the disk."""
    if not (0 <= member.uid < _IDS and 0 <= member.gid < _IDS):
        raise _refused(member, "belongs to nobody that a sandbox has")
    return member.uid, member.gid


def _times(member: tarfile.TarInfo) -> tuple[float, float]:
    when = member.mtime if 0 <= member.mtime < _END_OF_TIME else 0.0
    return when, when


def _refused(member: tarfile.TarInfo, why: str) -> BadRequest:
    return BadRequest(f"the backup has a member {member.name!r}, which {why}; it is damaged or not Bay's")


def _info(name: str, facts: os.stat_result, xattrs: dict[str, str]) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode, info.uid, info.gid = stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid
    info.mtime = facts.st_mtime
    info.pax_headers = dict(xattrs)
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFIFO: tarfile.FIFOTYPE}
    info.type = kinds.get(stat.S_IFMT(facts.st_mode), tarfile.REGTYPE)
    return info


def _segments(fd: int, size: int) -> list[tuple[int, int]]:
    """Where the file has data, as offsets and lengths; all of it where the file system cannot tell."""
    found: list[tuple[int, int]] = []
    end = 0
    with contextlib.suppress(OSError):  # ENXIO: the rest is a hole
        while end < size:
            start = os.lseek(fd, end, os.SEEK_DATA)
            end = min(size, os.lseek(fd, start, os.SEEK_HOLE))
            if start < end:
                found.append((start, end - start))
    return found


def _map(segments: list[tuple[int, int]], size: int) -> str:
    """GNU's list: how many, and for each where and how long. It ends with an empty one at the end of the file."""
    listed = [*segments, (size, 0)] if segments[-1:] != [(size, 0)] else segments
    return "".join(f"{number}\n" for number in (len(listed), *(n for pair in listed for n in pair)))


def _copy_segment(
    source: IO[bytes], fd: int, offset: int, length: int, seen: Callable[[bytes], None]
) -> None:
    end = offset + length
    while offset < end:
        chunk = source.read(min(BUFFER, end - offset))
        if not chunk:
            raise tarfile.ReadError("it ends in the middle of a file")
        seen(chunk)
        written = 0
        while written < len(chunk):
            written += os.pwrite(fd, chunk[written:], offset + written)
        offset += len(chunk)


def _read_xattrs(fd: int) -> dict[str, str]:
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):  # a file system without them
        for name in filter(_is_kept, os.listxattr(fd)):
            found[_XATTR + name] = os.getxattr(fd, name).decode("utf-8", "surrogateescape")
    return found


def _write_xattrs(fd: int, member: tarfile.TarInfo) -> None:
    for key, value in member.pax_headers.items():
        name = key.removeprefix(_XATTR)
        if name != key and _is_kept(name):
            try:
                os.setxattr(fd, name, value.encode("utf-8", "surrogateescape"))
            except OSError as error:
                if error.errno != errno.ENOTSUP:  # a file system without them
                    raise


def _is_kept(name: str) -> bool:
    return name.startswith(_XATTRS)


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
