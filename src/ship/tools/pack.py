"""The tool packs the working directory, or the file that is stdin, as a tar, behind a line of JSON that says
whether it can.

Unreadable files are left out, as are sockets and devices, and files that vanish meanwhile. A file that
shrinks while it is read is filled up with zeros, since its size has been sent by then. A tree that is too
deep ends the archive before its end, so that the deeper part does not seem absent.
"""

import json
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ship.tools import settle, walk
from tree_tar.beneath import OPEN_DIRECTORY, OPEN_FILE, closing, closing_on_error
from tree_tar.headers import END, LINK, Segments, header_of, padding, pairs
from tree_tar.sparse import data_segments, layout

_MEMORY_BYTES = 320 << 20
_CHUNK = 256 * 1024
_LEAST_HOLES = 64 * 1024
_MAX_SEGMENTS = 50_000
_LEVEL = 3
_PACKED = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO)


class Plain:
    """stdout, small pieces gathered."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        if self._size >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        left = memoryview(b"".join(self._waiting))
        self._waiting.clear()
        self._size = 0
        while left:
            left = left[os.write(1, left) :]

    def copy(self, descriptor: int, offset: int, size: int) -> int:
        """Send bytes of a file without copying; returns how many, fewer when it has become shorter."""
        self.flush()
        sent = 0
        while sent < size and (more := os.sendfile(1, descriptor, offset + sent, min(size - sent, 1 << 30))):
            sent += more
        return sent

    def end(self) -> None:
        self.flush()


class Gzip(Plain):
    def __init__(self) -> None:
        super().__init__()
        self._deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)

    def write(self, data: bytes) -> None:
        super().write(self._deflate.compress(data))

    def copy(self, descriptor: int, offset: int, size: int) -> int:
        sent = 0
        while sent < size and (data := os.pread(descriptor, min(_CHUNK, size - sent), offset + sent)):
            self.write(data)
            sent += len(data)
        return sent

    def end(self) -> None:
        super().write(self._deflate.flush())
        self.flush()


class Level(NamedTuple):
    """An open directory, the names of what is in it begin with `prefix`."""

    directory: int
    prefix: str
    entries: Iterator[os.DirEntry[str]]


class Packer:
    """Writes a tar to `out`. Unless it `keeps_holes` a sparse file is written with its zeros."""

    most_links = 200_000
    """Files with several names that are written once; of others each name is a file of its own."""

    def __init__(self, out: Plain, *, keeps_holes: bool = True) -> None:
        self.out = out
        self._keeps_holes = keeps_holes
        self._device: int | None = None
        self._links: dict[tuple[int, int], str] = {}
        self._made_up = walk.made_up()
        self._levels: list[Level] = []

    def add_directory(self, top: int, name: str) -> None:
        """An open directory under that name, with what lies in it on the same file system."""
        facts = os.fstat(top)
        self._device = facts.st_dev
        self.out.write(header_of(name, facts, records=self.records(top)))
        self.add_tree(top, walk.entries(top), f"{name}/")

    def add_tree(self, top: int, entries: list[os.DirEntry[str]], prefix: str = "") -> None:
        """The entries of an open directory, which is closed then."""
        self._levels.append(Level(top, prefix, iter(entries)))
        while self._levels:
            level = self._levels[-1]
            entry = next(level.entries, None)
            if entry is None:
                self.leave(level)
                self._levels.pop()
            else:
                self.add_entry(level, entry.name)

    def add_file(self, descriptor: int, name: str) -> None:
        """An open regular file."""
        facts = os.fstat(descriptor)
        if facts.st_nlink > 1 and len(self._links) < self.most_links:
            self._links[facts.st_dev, facts.st_ino] = name
        size = facts.st_size
        segments = _holes(descriptor, facts) if self._keeps_holes else None
        records = self.records(descriptor)
        if segments is None:
            self.out.write(header_of(name, facts, size=size, records=records))
            self.content(descriptor, 0, size)
        else:
            stored = layout(name, segments, size)
            size = stored.stored_bytes
            records = {**records, **stored.records}
            self.out.write(header_of(name, facts, size=size, records=records) + stored.head)
            for offset, length in pairs(segments):
                self.content(descriptor, offset, length)
        self.out.write(padding(size))

    def end(self) -> None:
        self.out.write(END)
        self.out.end()

    def add_entry(self, level: Level, entry: str) -> None:
        """Add the entry of that name, unless it was removed, or this user may not read it."""
        try:
            self.add(level, entry, os.stat(entry, dir_fd=level.directory, follow_symlinks=False))
        except (BrokenPipeError, MemoryError):
            raise
        except OSError:
            return

    def add(self, level: Level, entry: str, facts: os.stat_result) -> None:
        """Add the entry of that name, with those facts. Raises OSError."""
        name = level.prefix + entry
        kind = stat.S_IFMT(facts.st_mode)
        if kind == stat.S_IFDIR:
            self._descend(level, entry, name, facts)
        elif kind in _PACKED:
            self._add_other(level, entry, name, facts)

    def enter(self, level: Level, entry: str) -> int:
        """A descriptor of a directory."""
        return walk.enter(level.directory, entry, self._made_up)

    def leave(self, level: Level) -> None:
        """All of a directory is written."""
        os.close(level.directory)

    def open_file(self, level: Level, entry: str) -> int:
        """A descriptor of a file."""
        return os.open(entry, OPEN_FILE, dir_fd=level.directory)

    def records(self, _descriptor: int) -> Mapping[str, str]:
        """The pax records of a file or directory."""
        return {}

    def _descend(self, level: Level, entry: str, name: str, facts: os.stat_result) -> None:
        if len(self._levels) > walk.DEEPEST:
            raise SystemExit(f"directories are more than {walk.DEEPEST} deep")
        directory = self.enter(level, entry)
        if self._device not in (None, os.fstat(directory).st_dev):
            os.close(directory)
            return
        with closing_on_error(directory):
            entries = walk.entries(directory)
        self.out.write(header_of(name, facts, records=self.records(directory)))
        self._levels.append(Level(directory, name + "/", iter(entries)))

    def _add_other(self, level: Level, entry: str, name: str, facts: os.stat_result) -> None:
        linked = self._links.get((facts.st_dev, facts.st_ino)) if facts.st_nlink > 1 else None
        if linked is not None:
            self.out.write(header_of(name, facts, link=linked, kind=LINK))
        elif stat.S_ISREG(facts.st_mode):
            with closing(self.open_file(level, entry)) as descriptor:
                if stat.S_ISREG(os.fstat(descriptor).st_mode):
                    self.add_file(descriptor, name)
        else:
            is_link = stat.S_ISLNK(facts.st_mode)
            target = os.readlink(entry, dir_fd=level.directory) if is_link else ""
            self.out.write(header_of(name, facts, link=target))

    def content(self, descriptor: int, offset: int, size: int) -> None:
        """Bytes of a file, filled up with zeros where it has become shorter."""
        try:
            sent = self.out.copy(descriptor, offset, size)
        except BrokenPipeError:
            raise
        except OSError as error:
            # Its size has been said: an archive that goes on as if nothing had been would be believed.
            raise SystemExit(1) from error
        for at in range(sent, size, _CHUNK):
            self.out.write(bytes(min(_CHUNK, size - at)))


def _holes(descriptor: int, facts: os.stat_result) -> "Segments | None":
    """The segments of a sparse file; None when it has no holes to speak of, or too many."""
    if facts.st_blocks * 512 + _LEAST_HOLES > facts.st_size:
        return None
    found = data_segments(descriptor, facts.st_size, _MAX_SEGMENTS)
    return found if len(found) < 2 * _MAX_SEGMENTS else None


def _say(answer: dict[str, object]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Run. A reader who goes away ends it."""
    settle(_MEMORY_BYTES)
    order = json.loads(sys.argv[1])
    packer = Packer(Gzip() if order["format"] == "tar.gz" else Plain())
    try:
        if stat.S_ISREG(os.fstat(0).st_mode):
            _say({})
            packer.add_file(0, order["name"])
        else:
            try:
                top = os.open(".", OPEN_DIRECTORY)
                entries = walk.entries(top)
            except OSError as error:
                _say({"error": str(error.strerror), "errno": error.errno})
                return
            _say({})
            packer.add_tree(top, entries)
        packer.end()
    except BrokenPipeError:
        os._exit(1)
