"""Trees of a sandbox are packed into a tar by directory descriptors: see `tree_tar`.

A running sandbox changes names under the walk, links out of the tree, shrinks files while they are read, and
has sparse ones larger than the disk. Memory holds one directory's names, one file's segments, and the way
down to where the walk is, however much there is.
"""

import contextlib
import hashlib
import os
import sqlite3
import stat
import sys
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from bay.cargo import xattrs
from bay.cargo.tree_walk import unless_changed
from bay.errors import BadRequest
from tree_tar.beneath import OPEN_DIRECTORY, OPEN_FILE, Parts, closing, open_beneath
from tree_tar.headers import END, FILE, LINK, header, header_of, padding, pairs
from tree_tar.sparse import Layout, data_segments, layout
from tree_tar.xattr_records import to_records

BUFFER = 1 << 20
MACHINE = "machine"
DEPTH = 2048
"""Maximum depth of directories in a tree, as one path can name."""
MAX_PIECES = 1 << 20
"""Segments of one sparse file, without the empty last one: as many as fit an export's memory and time."""
_WHITEOUT = os.makedev(0, 0)
_LINKS = """
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -4096;
    CREATE TABLE first (file TEXT PRIMARY KEY, name BLOB, left INT) WITHOUT ROWID; BEGIN
"""


class Writable(Protocol):
    """Where a tar goes: all of `data`, or an OSError."""

    def write(self, data: bytes, /) -> object: ...


@dataclass(slots=True)
class Packer:
    """Puts files and trees into `out`; `digests` then has each file's SHA-256, `left_out` what is not in it.
    Left out are sockets, and what no archive can hold: unless it is `strict`, then that raises BadRequest.
    """

    out: Writable
    digested: bool = True
    strict: bool = False
    most_entries: int = sys.maxsize
    digests: dict[str, str] = field(default_factory=dict[str, str])
    left_out: list[str] = field(default_factory=list[str])
    entries: int = 0
    _links: "_HardLinks" = field(default_factory=lambda: _HardLinks())
    _system: bool = False

    def add_tree(self, name: str, root: str | os.PathLike[str], *, system: bool = False) -> None:
        """All of `root`, as `name`, without files that vanish; `system`: with overlayfs's marks."""
        self._system = system
        with self._new_links(), closing(os.open(root, OPEN_DIRECTORY)) as top:
            pending: list[Parts] = [()]
            while pending:
                parts = pending.pop()
                with unless_changed():
                    pending += self._add_directory(name, top, parts)

    def add_directory(self, name: str, path: str | os.PathLike[str]) -> None:
        """The directory `path` without what is in it, as `name`."""
        with closing(os.open(path, OPEN_DIRECTORY)) as fd:
            self._add(header_of(name, os.fstat(fd)))

    def add_bytes(self, name: str, content: bytes) -> None:
        """A file `name` that is nowhere else."""
        self._add(header(name, FILE, mode=0o600, size=len(content)), [content], len(content))

    def add_file(self, name: str, directory: int, entry: str) -> None:
        """The regular file `entry` of the open `directory`, as `name`."""
        with closing(os.open(entry, OPEN_FILE, dir_fd=directory)) as fd:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise FileNotFoundError(name)
            records = self._read_xattrs(name, fd)
            segments = data_segments(fd, facts.st_size, MAX_PIECES + 1)
            if len(segments) // 2 > MAX_PIECES:
                self._leave_out(name, f"has holes between more than {MAX_PIECES} pieces")
                return
            stored = layout(name, segments, facts.st_size)
            digest = hashlib.sha256(stored.head.rstrip(b"\0")) if self.digested else None
            size = stored.stored_bytes
            head = header_of(name, facts, size=size, records={**records, **stored.records})
            self._add(head, _chunks(fd, stored, digest), size)
            self._links.remember(facts, name)
            if digest is not None:
                self.digests[name] = digest.hexdigest()

    def finish(self) -> None:
        """Write the end of a tar."""
        self.out.write(END)

    @contextlib.contextmanager
    def _new_links(self) -> Generator[None]:
        """Links are within one tree."""
        self._links = _HardLinks()
        try:
            yield
        finally:
            self._links.close()
            self._links = _HardLinks()

    def _add(self, head: bytes, content: Iterable[bytes] = (), size: int = 0) -> None:
        self.entries += 1
        if self.entries > self.most_entries:
            raise BadRequest(f"there are more than {self.most_entries} files and directories")
        self.out.write(head)
        for chunk in content:
            self.out.write(chunk)
        self.out.write(padding(size))

    def _add_directory(self, name: str, top: int, parts: Parts) -> list[Parts]:
        here = "/".join((name, *parts))
        with closing(open_beneath(top, parts)) as fd:
            self._begin_directory(here, fd)
            entries = sorted(os.listdir(fd))
            return [(*parts, entry) for entry in entries if self._is_tree(here, fd, entry, parts)]

    def _begin_directory(self, here: str, directory: int) -> None:
        self._add(header_of(here, os.fstat(directory), records=self._read_xattrs(here, directory)))

    def _is_tree(self, here: str, directory: int, entry: str, parts: Parts) -> bool:
        """Add `entry`, unless it is a directory, whose turn comes later."""
        with unless_changed():
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
            return self._add(header_of(name, facts, kind=LINK, link=first))
        if stat.S_ISREG(facts.st_mode):
            return self.add_file(name, directory, entry)
        if stat.S_ISLNK(facts.st_mode):
            return self._add_symlink(name, directory, entry, facts)
        if stat.S_ISFIFO(facts.st_mode) or is_whiteout(facts):
            return self._add_special(name, directory, entry, facts)
        return self.left_out.append(name)

    def _add_symlink(self, name: str, directory: int, entry: str, facts: os.stat_result) -> None:
        self._add(header_of(name, facts, link=os.readlink(entry, dir_fd=directory)))
        self._links.remember(facts, name)

    def _add_special(self, name: str, directory: int, entry: str, facts: os.stat_result) -> None:
        records = self._read_xattrs(name, f"/proc/self/fd/{directory}/{entry}")
        self._add(header_of(name, facts, records=records))
        # One inode stands for all whiteouts of an overlay, with more links than other file systems can have.
        if not is_whiteout(facts):
            self._links.remember(facts, name)

    def _read_xattrs(self, name: str, file: int | str) -> dict[str, str]:
        """The pax records of the attributes."""
        found: dict[str, bytes] = {}
        size = 0
        for key, value in self._xattrs(file):
            found[key] = value
            size += len(value)
            if size > xattrs.MAX_BYTES:
                self._leave_out(f"{name} (its attributes)", "has more than a megabyte of attributes")
                return {}
        return to_records(found)

    def _xattrs(self, file: int | str) -> Iterable[tuple[str, bytes]]:
        return xattrs.read(file, system=self._system)

    def _leave_out(self, name: str, why: str) -> None:
        if self.strict:
            raise BadRequest(f"{shown(name)} {why}")
        self.left_out.append(name)


class _HardLinks:
    """The first name of each file while others are to come; on the disk, as there may be millions."""

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


def _chunks(fd: int, stored: Layout, digest: "hashlib._Hash | None") -> Iterator[bytes]:
    """The content as stored; what a file has lost since is zeros, as its size stands in the tar already."""
    if stored.head:
        yield stored.head
    for offset, length in pairs(stored.segments):
        end = offset + length
        while offset < end:
            wanted = min(BUFFER, end - offset)
            chunk = os.pread(fd, wanted, offset) or bytes(wanted)
            if digest is not None:
                digest.update(chunk)
            offset += len(chunk)
            yield chunk


def shown(name: str) -> str:
    """A name for people: of any bytes, and of any length, on one short line."""
    return repr(name if len(name) <= 200 else f"{name[:100]}…{name[-100:]}")


def _identity(facts: os.stat_result) -> str:
    return f"{facts.st_dev}:{facts.st_ino}"


def is_whiteout(facts: os.stat_result) -> bool:
    """Whether it stands in an overlay for what is not there any more."""
    return stat.S_ISCHR(facts.st_mode) and facts.st_rdev == _WHITEOUT
