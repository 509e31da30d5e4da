"""A tar stream that a sandbox made, put into a local directory as it comes, in constant memory.

The stream is hostile until shown otherwise. `tarfile` is not used for it: it reads what a header promises into memory, and its
filters depend on the minor version of Python. Here every name is walked from the directory down, without following any
link, so that nothing outside is written whatever the stream says and whatever lies in the directory already.
"""

import errno
import math
import os
import re
import secrets
import stat
import tarfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from bay.client._holes import Holes
from bay.client._local import LeftOut, Meter, safe_mode
from bay.client._pack import leads_inside
from bay.errors import BayError

BLOCK = tarfile.BLOCKSIZE
MAX_EXTRA_BYTES = 1 << 20
"""How long a long name, or a set of pax records, may be."""

MAX_EXTRAS = 8
"""How many of those may come before one member."""

MAX_NAME_BYTES = 4096
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_LONG = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Name = tuple[str, ...]


class Unpacking:
    """Takes the stream piece by piece. Raises BayError for one that is none, or that would reach outside; what came before stays."""

    def __init__(self, root: Path, meter: Meter, left_out: LeftOut | None) -> None:
        self._tree = _Tree(root)
        self._meter = meter
        self._left_out = left_out
        self._head = bytearray()
        self._extra = bytearray()
        self._extras = 0
        self._records: dict[str, str] = {}
        self._left = 0
        self._padding = 0
        self._zeros = 0
        self._take: Callable[[memoryview], None] = self._nothing
        self._done: Callable[[], None] = self._no_more

    def open(self) -> None:
        """Make the directory, where it is missing."""
        self._tree.open()

    def feed(self, data: bytes) -> None:
        """The next piece of the stream."""
        view = memoryview(data)
        while view and self._zeros < 2:  # behind two blocks of zeros is nothing that counts
            view = view[self._step(view) :]

    def finish(self) -> None:
        """The stream is over. Raises BayError when it should not be."""
        if self._zeros < 2:
            raise BayError("the archive broke off before its end; what came before stays")

    def close(self) -> None:
        """Remove what is half written, and let go of the directory."""
        self._tree.close()

    def _step(self, view: memoryview) -> int:
        """Take something from the front of `view`; how much."""
        if self._left:
            piece = view[: self._left]
            self._take(piece)
            self._left -= len(piece)
            if not self._left:
                self._done()
            return len(piece)
        if self._padding:
            skipped = min(self._padding, len(view))
            self._padding -= skipped
            return skipped
        piece = view[: BLOCK - len(self._head)]
        self._head += piece
        if len(self._head) == BLOCK:
            head, self._head = bytes(self._head), bytearray()
            self._header(head)
        return len(piece)

    def _header(self, head: bytes) -> None:
        if not any(head):
            self._zeros += 1
            return
        self._zeros = 0
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            raise BayError(f"the archive is damaged: {error}; what came before stays") from error
        self._entry(info)

    def _entry(self, info: tarfile.TarInfo) -> None:
        if info.type in _LONG or info.type in _PAX or info.type == tarfile.XGLTYPE:
            self._begin_extra(info)
            return
        records, self._records, self._extras = self._records, {}, 0
        _amend(info, records)
        if any(name.startswith("GNU.sparse.") for name in records):
            self._begin_sparse(info, records)
            return
        self._place(info, _words(info.name))

    def _place(self, info: tarfile.TarInfo, name: Name) -> None:
        if info.type in _FILES:
            self._begin_file(info, name)
        elif info.type == tarfile.DIRTYPE:
            self._tree.directory(name, info.mode)
        elif info.type == tarfile.SYMTYPE and leads_inside("/".join(name), info.linkname):
            self._tree.symlink(name, info.linkname)
        elif info.type == tarfile.LNKTYPE:
            self._tree.hardlink(name, _words(info.linkname))
        else:
            self._leave_out(info)

    def _leave_out(self, info: tarfile.TarInfo) -> None:
        if self._left_out is not None:
            self._left_out(info.name)
        if info.type not in tarfile.SUPPORTED_TYPES:
            self._content(info.size, self._nothing, self._no_more)

    def _begin_file(self, info: tarfile.TarInfo, name: Name) -> None:
        self._tree.begin_file(name)
        mode, mtime = info.mode, float(info.mtime)
        self._content(info.size, self._write, lambda: self._tree.end_file(mode, mtime))

    def _begin_sparse(self, info: tarfile.TarInfo, records: dict[str, str]) -> None:
        """A file whose holes are left out. Only what Bay itself writes is understood."""
        if info.type not in _FILES or records.get("GNU.sparse.major") != "1":
            raise BayError(f"the archive has {info.name!r} as a sparse file of an unknown kind")
        self._tree.begin_file(_words(records.get("GNU.sparse.name", info.name)))
        holes = Holes(records.get("GNU.sparse.realsize", ""), self._write_at)
        mode, mtime = info.mode, float(info.mtime)

        def end() -> None:
            holes.finish()
            self._tree.stretch(holes.size)
            self._tree.end_file(mode, mtime)

        self._content(info.size, holes.take, end)

    def _write(self, piece: memoryview) -> None:
        self._tree.write(piece)
        self._meter.add(len(piece))

    def _write_at(self, piece: memoryview, offset: int) -> None:
        self._tree.write_at(piece, offset)
        self._meter.add(len(piece))

    def _begin_extra(self, info: tarfile.TarInfo) -> None:
        if not 0 <= info.size <= MAX_EXTRA_BYTES:
            raise BayError(f"the archive has a header of {info.size} bytes; what came before stays")
        self._extras += 1
        if self._extras > MAX_EXTRAS:
            raise BayError(
                f"the archive has more than {MAX_EXTRAS} headers for one file; what came before stays"
            )
        self._extra = bytearray()
        kind = info.type
        self._content(info.size, self._extra.extend, lambda: self._end_extra(kind))

    def _end_extra(self, kind: bytes) -> None:
        data = bytes(self._extra)
        if kind in _LONG:
            self._records[_LONG[kind]] = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        elif kind in _PAX:
            self._records |= _pax(data)

    def _content(self, size: int, take: Callable[[memoryview], None], done: Callable[[], None]) -> None:
        """So many bytes follow, and go to `take`; then `done` is called."""
        if size < 0:
            raise BayError("the archive is damaged: a file of less than nothing; what came before stays")
        self._left, self._padding = size, -size % BLOCK
        self._take, self._done = take, done
        if not size:
            done()

    def _nothing(self, _: memoryview) -> None:
        pass

    def _no_more(self) -> None:
        pass


def _pax(data: bytes) -> dict[str, str]:
    """The records ``LENGTH KEY=VALUE\\n`` of a pax header."""
    records, at = dict[str, str](), 0
    while at < len(data):
        space = data.find(b" ", at, at + 8)
        length = data[at:space] if space > at else b""
        end = at + int(length) if length.isdigit() else 0
        if not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise BayError("the archive is damaged: a pax header is none; what came before stays")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        at = end
    return records


def _amend(info: tarfile.TarInfo, records: dict[str, str]) -> None:
    """`info` with what the headers before it said."""
    info.name = records.get("path", info.name)
    info.linkname = records.get("linkpath", info.linkname)
    size, mtime = records.get("size", ""), records.get("mtime", "")
    if size.isascii() and size.isdigit() and len(size) < 20:
        info.size = int(size)
    if re.fullmatch(r"-?\d{1,11}(\.\d{1,12})?", mtime, re.ASCII):
        info.mtime = float(mtime)


def _words(name: str) -> Name:
    """The parts of a name; raises BayError for one that leads out of the directory, or is none."""
    words = tuple(word for word in name.split("/") if word not in ("", "."))
    outside = name.startswith("/") or ".." in words
    if outside or not name or "\0" in name or len(name) > MAX_NAME_BYTES:
        raise BayError(
            f"the archive has a file named {name[:80]!r}, which would be outside of the directory; "
            "nothing was written for it, and what came before stays"
        )
    return words


class _Tree:
    """The directory that is written to. Only what is below it is reached, and no link on the way is followed."""

    def __init__(self, root: Path) -> None:
        self._root_path = root
        self._root = -1
        self._parent: tuple[Name, int] | None = None
        self._file = -1
        self._partial = ""
        self._name: Name = ()

    def open(self) -> None:
        self._root_path.mkdir(parents=True, exist_ok=True)
        self._root = os.open(self._root_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        self._drop_file()
        self._leave_parent()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def directory(self, name: Name, mode: int) -> None:
        if not name:
            return
        parent = self._enter(name[:-1])
        with self._at(name):
            made = _made(name[-1], parent)
            descriptor = os.open(name[-1], _DIRECTORY, dir_fd=parent)
        try:
            if made:
                os.fchmod(descriptor, mode & 0o755 | 0o700)
        finally:
            os.close(descriptor)

    def begin_file(self, name: Name) -> None:
        parent = self._enter(self._inside(name)[:-1])
        self._name, self._partial = name, _partial()
        self._file = os.open(self._partial, _NEW, 0o600, dir_fd=parent)

    def write(self, piece: memoryview) -> None:
        while piece:
            piece = piece[os.write(self._file, piece) :]

    def write_at(self, piece: memoryview, offset: int) -> None:
        while piece:
            written = os.pwrite(self._file, piece, offset)
            piece, offset = piece[written:], offset + written

    def stretch(self, size: int) -> None:
        """Make the file that long; what nothing was written to is a hole."""
        os.ftruncate(self._file, size)

    def end_file(self, mode: int, mtime: float) -> None:
        os.fchmod(self._file, safe_mode(mode))
        if math.isfinite(mtime) and abs(mtime) < 1e11:
            os.utime(self._file, (mtime, mtime))
        os.close(self._file)
        self._file = -1
        self._put(self._partial, self._name)

    def symlink(self, name: Name, target: str) -> None:
        parent, partial = self._enter(self._inside(name)[:-1]), _partial()
        os.symlink(target, partial, dir_fd=parent)
        self._put(partial, name)

    def hardlink(self, name: Name, source: Name) -> None:
        """Only to a regular file: another name for a link would be the link in another place, and lead elsewhere."""
        self._inside(source)
        above = os.dup(self._enter(source[:-1]))
        try:
            parent, partial = self._enter(self._inside(name)[:-1]), _partial()
            with self._at(source):
                _need_file(source[-1], above)
                os.link(source[-1], partial, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(above)
        self._put(partial, name)

    def _inside(self, name: Name) -> Name:
        if not name:
            raise BayError("the archive has something that is no directory in place of the directory itself")
        return name

    def _put(self, partial: str, name: Name) -> None:
        """Give what is made its name, in place of a file or a link there."""
        parent = self._enter(name[:-1])
        try:
            with self._at(name):
                os.replace(partial, name[-1], src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            # Still there after a failure, and when both names were the same file already: rename(2) does nothing then.
            with suppress(FileNotFoundError):
                os.unlink(partial, dir_fd=parent)

    def _enter(self, name: Name) -> int:
        """A descriptor of that directory, made where it is missing; it is open until another one is entered."""
        if self._parent is None or self._parent[0] != name:
            descriptor = self._walk(name)
            self._leave_parent()
            self._parent = (name, descriptor)
        return self._parent[1]

    def _walk(self, name: Name) -> int:
        descriptor = os.dup(self._root)
        for depth, word in enumerate(name, 1):
            try:
                with self._at(name[:depth]):
                    _made(word, descriptor)
                    below = os.open(word, _DIRECTORY, dir_fd=descriptor)
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _leave_parent(self) -> None:
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _drop_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            with suppress(OSError):
                os.unlink(self._partial, dir_fd=self._enter(self._name[:-1]))

    @contextmanager
    def _at(self, name: Name) -> Generator[None, None, None]:
        """Where what is here stands in the way of what comes, the error says so."""
        try:
            yield
        except (NotADirectoryError, IsADirectoryError, FileNotFoundError) as error:
            raise _in_the_way(self._root_path, name, error) from error
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _in_the_way(self._root_path, name, error) from error
            raise


def _in_the_way(root: Path, name: Name, error: OSError) -> BayError:
    path = root.joinpath(*name)
    return BayError(
        f"{path}: {error.strerror}; what is there is of another kind than in the archive, or is a link, which is not followed. "
        "What came before stays"
    )


def _made(word: str, parent: int) -> bool:
    with suppress(FileExistsError):
        os.mkdir(word, 0o755, dir_fd=parent)
        return True
    return False


def _need_file(word: str, parent: int) -> None:
    if not stat.S_ISREG(os.stat(word, dir_fd=parent, follow_symlinks=False).st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a regular file")


def _partial() -> str:
    return f".{secrets.token_hex(8)}.part"
