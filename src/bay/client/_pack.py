"""Packs a local directory as a tar stream (POSIX pax), a piece at a time, in constant memory."""

import os
import stat
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from bay.client._local import CHUNK_BYTES, LeftOut, Meter
from bay.errors import BayError
from tree_tar.beneath import leads_inside
from tree_tar.headers import DIRECTORY, END, FILE, LINK, SYMLINK, header, padding


def weight(root: Path) -> int:
    """The bytes of all files below a directory, as far as they can be seen."""
    return sum(found.st_size for _, found in _below(root) if stat.S_ISREG(found.st_mode))


def packed(root: Path, meter: Meter, left_out: LeftOut | None) -> Generator[bytes, None, None]:
    """The stream.

    Links that lead out of the tree are taken for the files they lead to; other kinds than files, directories
    and links are left out. Files that are linked to each other stay so.
    """
    yield from _gathered(_pieces(root, _Packing(meter, left_out or _nobody)))


def packed_files(files: Iterable[tuple[str, Path]], meter: Meter) -> Generator[bytes, None, None]:
    """The stream of those files, directories and links under those names; each link stays one."""
    yield from _gathered(_named(files, _Packing(meter, _nobody, keeps_links=True)))


def _gathered(pieces: Iterator[bytes]) -> Generator[bytes, None, None]:
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)


def _pieces(root: Path, packing: "_Packing") -> Iterator[bytes]:
    for path, found in _below(root):
        yield from packing.entry(path, path.relative_to(root).as_posix(), found)
    yield END


def _named(files: Iterable[tuple[str, Path]], packing: "_Packing") -> Iterator[bytes]:
    for name, path in files:
        yield from packing.entry(path, name, path.lstat())
    yield END


def _nobody(_: str) -> None:
    pass


def _below(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below a directory, a directory before what is in it, links not followed."""
    for base, directories, names in os.walk(root, onerror=_failed):
        directories.sort()
        for path in (Path(base, name) for name in sorted([*directories, *names])):
            yield path, path.lstat()


def _failed(error: OSError) -> None:
    raise error


class _Packing:
    """One stream. Remembers the files that have more than one name."""

    def __init__(self, meter: Meter, left_out: LeftOut, *, keeps_links: bool = False) -> None:
        self._meter = meter
        self._keeps_links = keeps_links
        self._left_out = left_out
        self._linked: dict[tuple[int, int], str] = {}

    def entry(self, path: Path, name: str, found: os.stat_result) -> Iterator[bytes]:
        if stat.S_ISDIR(found.st_mode):
            yield _header(name, found, DIRECTORY)
        elif stat.S_ISLNK(found.st_mode):
            yield from self._link(path, name, found)
        elif stat.S_ISREG(found.st_mode):
            yield from self._file(path, name, found)
        else:
            self._left_out(name)

    def _link(self, path: Path, name: str, found: os.stat_result) -> Iterator[bytes]:
        target = os.readlink(path)
        if self._keeps_links or leads_inside(name, target):
            yield _header(name, found, SYMLINK, link=target)
        elif path.is_file():
            yield from self._content(path, name)
        else:
            self._left_out(name)

    def _file(self, path: Path, name: str, found: os.stat_result) -> Iterator[bytes]:
        first = self._linked.setdefault((found.st_dev, found.st_ino), name) if found.st_nlink > 1 else name
        if first != name:
            yield _header(name, found, LINK, link=first)
        else:
            yield from self._content(path, name)

    def _content(self, path: Path, name: str) -> Iterator[bytes]:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            yield _header(name, found, FILE, size=found.st_size)
            left = found.st_size
            while left and (piece := file.read(min(left, CHUNK_BYTES))):
                yield piece
                left -= len(piece)
                self._meter.add(len(piece))
        if left:
            raise BayError(f"{path} shrank during the upload; send it again")
        yield padding(found.st_size)


def _header(name: str, found: os.stat_result, kind: str, *, size: int = 0, link: str = "") -> bytes:
    mode = stat.S_IMODE(found.st_mode) & 0o777
    return header(name, kind, mode=mode, mtime_ns=found.st_mtime_ns, size=size, link=link)
