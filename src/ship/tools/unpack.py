"""Unpacks the tar that is stdin below the working directory, which may be an enemy's work, and says at last what it made.

No name is resolved as a whole: each step opens one directory without following a link, so that neither what the archive made
before nor what another program puts there meanwhile leads out. Nothing is written through a link, and what was there before is
replaced by a rename of what is finished. What was made before a refusal stays.
"""

import errno
import json
import os
import stat
import sys
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

from ship.temporaries import temporary
from ship.tools import limits, tar, walk
from ship.tools.tar import BadArchive, Member

_MEMORY_BYTES = 512 << 20
_CHUNK = 256 * 1024
_MOST_MEMBERS = 1_000_000
_MOST_DIRECTORIES = 200_000
_DEEPEST = 1000
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_END_OF_TIME_NS = 1_000_000_000 << 33

Parts = tuple[str, ...]


class Plain:
    """stdin as it comes."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor

    def read(self, size: int) -> bytes:
        """That many bytes, fewer only at the end."""
        data = os.read(self._fd, size)
        if len(data) in (0, size):
            return data
        parts = [data]
        size -= len(data)
        while size and (data := os.read(self._fd, size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)


class Gzip:
    """stdin, unpacked a piece at a time, so that a bomb costs time and disk but no memory."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._inflate = zlib.decompressobj(31)
        self._ready = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """That many bytes, fewer only at the end. Raises BadArchive."""
        parts: list[bytes] = []
        while size:
            if self._at == len(self._ready):
                self._ready, self._at = self._more(), 0
                if not self._ready:
                    break
            part = self._ready[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _more(self) -> bytes:
        try:
            while True:
                given = self._inflate.unconsumed_tail
                if self._inflate.eof:  # several may follow each other
                    given = self._inflate.unused_data
                    given = given or os.read(self._fd, _CHUNK)
                    if not given:
                        return b""
                    self._inflate = zlib.decompressobj(31)
                given = given or os.read(self._fd, _CHUNK)
                if not given:
                    raise BadArchive("it ends too early")
                if data := self._inflate.decompress(given, _CHUNK):
                    return data
        except zlib.error as error:
            raise BadArchive("this is no gzip, or a damaged one") from error


class _Made(NamedTuple):
    """A directory, whose mode and time are set when all is in it."""

    parts: Parts
    mode: int
    mtime_ns: int


class Unpacker:
    """Makes the members of a tar below the directory `top`. Afterwards `files` and `bytes` say how much."""

    def __init__(self, source: tar.Reader, top: int, most_bytes: int) -> None:
        self.files = 0
        self.bytes = 0
        self._source = source
        self._top = top
        self._most_bytes = most_bytes
        self._directories: list[_Made] = []
        self._parent: tuple[Parts, int] = ((), os.dup(top))

    def run(self) -> None:
        """Make all. Raises BadArchive or OSError."""
        try:
            for count, member in enumerate(self._source.members()):
                if count == _MOST_MEMBERS:
                    raise BadArchive(f"it has more than {_MOST_MEMBERS} members")
                with _told(member):
                    self._make(_parts(member.name), member)
        finally:
            self._finish_directories()

    def _make(self, parts: Parts, member: Member) -> None:
        if not parts:
            if member.kind != tar.DIRECTORY:
                raise BadArchive("has no name")
            return  # the top itself, which stays as it is
        parent = self._directory(parts[:-1])
        name = parts[-1]
        if member.kind == tar.DIRECTORY:
            self._make_directory(parent, parts, member)
            return
        if member.kind == tar.OTHER:
            raise BadArchive("is a device or of a kind unknown")
        self._put(parent, name, member)
        self.files += 1

    def _put(self, parent: int, name: str, member: Member) -> None:
        """Make it beside, then put it in place of what is there."""
        made = temporary("archive")
        try:
            self._make_as(parent, made, member)
            _refuse_anothers(parent, name)
            os.rename(made, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            # Also after the rename, which does nothing when both are links of one file.
            _unlink_quietly(made, parent)

    def _make_as(self, parent: int, name: str, member: Member) -> None:
        if member.kind == tar.FILE:
            self._make_file(parent, name, member)
        elif member.kind == tar.LINK:
            self._make_link(parent, name, member)
        elif member.kind == tar.SYMLINK:
            os.symlink(os.fsdecode(member.link), name, dir_fd=parent)
            _set_time(name, parent, member)
        else:
            os.mkfifo(name, member.mode & 0o777, dir_fd=parent)
            _set_time(name, parent, member)

    def _make_file(self, parent: int, name: str, member: Member) -> None:
        descriptor = os.open(name, _NEW, 0o600, dir_fd=parent)
        try:
            for offset, length in member.segments:
                self._copy(descriptor, offset, length)
            if sum(length for _, length in member.segments) != member.size:
                os.ftruncate(descriptor, member.size)
            os.fchmod(descriptor, member.mode & 0o777)
            os.utime(descriptor, ns=_times(member.mtime_ns))
        finally:
            os.close(descriptor)

    def _copy(self, descriptor: int, offset: int, length: int) -> None:
        while length:
            data = memoryview(self._source.content(min(length, _CHUNK)))
            if not data:
                raise BadArchive("has less content than it says")
            self.bytes += len(data)
            if self.bytes > self._most_bytes:
                raise BadArchive(f"is too much: more than {self._most_bytes} bytes are not unpacked")
            length -= len(data)
            while data:
                written = os.pwrite(descriptor, data, offset)
                offset += written
                data = data[written:]

    def _make_link(self, parent: int, name: str, member: Member) -> None:
        target = _parts(member.link)
        if not target:
            raise BadArchive("is a link to a directory")
        source = _open_beneath(self._top, target[:-1])
        try:
            os.link(target[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _make_directory(self, parent: int, parts: Parts, member: Member) -> None:
        if len(self._directories) == _MOST_DIRECTORIES:
            raise BadArchive(f"is one directory too many: {_MOST_DIRECTORIES} are unpacked at most")
        _mkdir(parent, parts[-1])
        os.close(_open_in(parent, parts[-1]))
        self._directories.append(_Made(parts, member.mode, member.mtime_ns))

    def _directory(self, parts: Parts) -> int:
        """A descriptor of the directory where the next member goes, made where it is missing. It stays ours."""
        known, descriptor = self._parent
        if known != parts:
            found = _open_beneath(self._top, parts, make=True)
            os.close(descriptor)
            self._parent = (parts, found)
        return self._parent[1]

    def _finish_directories(self) -> None:
        for made in reversed(self._directories):
            try:
                descriptor = _open_beneath(self._top, made.parts)
            except OSError:
                continue  # another program has changed it
            try:
                os.fchmod(descriptor, made.mode & 0o1777)
                os.utime(descriptor, ns=_times(made.mtime_ns))
            except PermissionError:
                pass  # it was there before, and is another user's
            finally:
                os.close(descriptor)


def _parts(name: bytes) -> Parts:
    if name.startswith(b"/"):
        raise BadArchive("has an absolute name")
    parts = tuple(part for part in os.fsdecode(name).split("/") if part not in ("", "."))
    if ".." in parts or b"\0" in name:
        raise BadArchive("has a name that leads out")
    if len(parts) > _DEEPEST:
        raise BadArchive(f"lies more than {_DEEPEST} directories deep")
    return parts


def _open_beneath(top: int, parts: Parts, *, make: bool = False) -> int:
    here = os.dup(top)
    for part in parts:
        try:
            below = _open_or_make(here, part) if make else _open_in(here, part)
        finally:
            os.close(here)
        here = below
    return here


def _open_or_make(parent: int, name: str) -> int:
    try:
        return _open_in(parent, name)
    except FileNotFoundError:
        _mkdir(parent, name)
        return _open_in(parent, name)


def _open_in(parent: int, name: str) -> int:
    return os.open(name, walk.OPEN_DIRECTORY, dir_fd=parent)


def _mkdir(parent: int, name: str) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        return


def _unlink_quietly(name: str, parent: int) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return


def _refuse_anothers(parent: int, name: str) -> None:
    """Another's file that this user may not write stays. The user's own that is read-only is replaced, as tar does it."""
    try:
        there = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    is_mine = there.st_uid == os.geteuid() or not stat.S_ISREG(there.st_mode)
    if not is_mine and not os.access(name, os.W_OK, dir_fd=parent, follow_symlinks=False):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), name)


def _set_time(name: str, parent: int, member: Member) -> None:
    os.utime(name, ns=_times(member.mtime_ns), dir_fd=parent, follow_symlinks=False)


def _times(mtime_ns: int) -> tuple[int, int]:
    when = mtime_ns if 0 <= mtime_ns < _END_OF_TIME_NS else 0
    return when, when


@contextmanager
def _told(member: Member) -> Generator[None]:
    """Says of which member it is that something is wrong, and takes for its fault what the file system does not accept."""
    try:
        yield
    except BadArchive as error:
        raise BadArchive(f"the member {_shown(member.name)} {error}") from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise OSError(error.errno, os.strerror(error.errno), _shown(member.name)) from error
        why = os.strerror(error.errno or 0)
        raise BadArchive(f"the member {_shown(member.name)} cannot be made there: {why}") from error


def _shown(name: bytes) -> str:
    return repr(name[:200].decode("utf-8", "replace"))


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _take_rest(source: Plain | Gzip) -> None:
    """What is behind the end of a tar is nothing, and whoever sends it wants to get rid of it."""
    while source.read(_CHUNK):
        continue


def main() -> None:
    """Run."""
    limits.settle(_MEMORY_BYTES)
    os.umask(0)
    order = json.loads(sys.argv[1])
    source = Gzip(0) if order["format"] == "tar.gz" else Plain(0)
    top = os.open(".", walk.OPEN_DIRECTORY)
    unpacker = Unpacker(tar.Reader(source.read), top, order["most_bytes"])
    try:
        unpacker.run()
        _take_rest(source)
    except BadArchive as error:
        _say({"error": str(error)})
    except MemoryError:
        _say({"error": "it takes too much memory"})
    except OSError as error:
        _say({"error": str(error.filename or error.strerror), "errno": error.errno})
    else:
        _say({"files": unpacker.files, "bytes": unpacker.bytes})
