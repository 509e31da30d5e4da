"""Reads a file, or a range of its bytes."""

import os
from dataclasses import dataclass

from ship.errors import RangeNotSatisfiable
from ship.files.edits import open_regular
from ship.files.info import etag_of, mode_of
from ship.files.workspace_paths import Workspace

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes `first` to `last` (None: the end), or the last `suffix`; all unless in the state `if_range`."""

    first: int | None = None
    last: int | None = None
    suffix: int | None = None
    if_range: str | None = None

    def of(self, size: int, etag: str) -> tuple[int, int] | None:
        """Offset and length in a file of `size` bytes; None: the whole. Raises RangeNotSatisfiable."""
        if (self.first is None and self.suffix is None) or self.if_range not in (None, etag):
            return None
        first = self.first if self.first is not None else max(0, size - (self.suffix or 0))
        last = size - 1 if self.last is None else min(self.last, size - 1)
        if first >= size or self.suffix == 0 or last < first:
            raise RangeNotSatisfiable(f"the file has {size} bytes", size=size)
        return first, last - first + 1


@dataclass(frozen=True, slots=True)
class Part:
    """The bytes to serve of a file, and its state when it was opened."""

    size: int
    first: int
    length: int
    partial: bool
    etag: str
    mode: str
    mtime: float

    def to_wire(self) -> dict[str, object]:
        """As the head of the answer says it."""
        return {name: getattr(self, name) for name in self.__slots__}


class Reading:
    """A file being read. Of one that grows no more is given than was promised; of one that shrinks less."""

    def __init__(self, space: Workspace, path: str, wanted: Wanted) -> None:
        self._space = space
        self._path = space.check(path)
        self._wanted = wanted
        self._fd = -1
        self._left = 0

    def open(self) -> tuple[Part, bytes]:
        """The range to serve, and its first block. Raises ShipError."""
        with self._space.translated(self._path):
            self._fd = open_regular(self._space, self._path)
            found = os.fstat(self._fd)
            etag = etag_of(found)
            chosen = self._wanted.of(found.st_size, etag)
            first, self._left = chosen or (0, found.st_size)
            os.lseek(self._fd, first, os.SEEK_SET)
            partial, mode = chosen is not None, mode_of(found)
            part = Part(found.st_size, first, self._left, partial, etag, mode, found.st_mtime)
            return part, self.read()

    def read(self) -> bytes:
        """The next block; empty at the end."""
        data = os.read(self._fd, min(BLOCK_BYTES, self._left)) if self._left else b""
        self._left -= len(data)
        return data

    def close(self) -> None:
        """Call in any case, also when `open` failed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
