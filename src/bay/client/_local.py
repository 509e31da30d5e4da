"""Local files: read in pieces, and written so that a half-finished download is never seen."""

import os
import re
import secrets
import stat
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bay.client._content import changed

CHUNK_BYTES = 256 << 10

Source = str | os.PathLike[str] | BinaryIO
"""A path, or a file open for reading bytes."""

Target = str | os.PathLike[str] | BinaryIO
"""A path, or a file open for writing bytes."""

Progress = Callable[[int, int | None], None]
"""A callback for progress: the bytes sent, and their total, None where it is unknown."""

LeftOut = Callable[[str], None]
"""A callback for the name of each thing that a copy of a directory left out."""


def pieces(source: "Source | bytes") -> Generator[bytes, None, None]:
    """The bytes of `source`, `CHUNK_BYTES` at a time."""
    if isinstance(source, bytes):
        yield from (source[i : i + CHUNK_BYTES] for i in range(0, len(source), CHUNK_BYTES))
    elif isinstance(source, str | os.PathLike):
        with open(source, "rb") as file:
            yield from _read(file)
    else:
        yield from _read(source)


def _read(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(CHUNK_BYTES):
        yield piece


def is_directory(source: "Source | bytes") -> bool:
    """Whether `source` is the path of a directory."""
    return isinstance(source, str | os.PathLike) and os.path.isdir(source)


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """The facts about a source before it is sent: its size, and the attributes of its copy."""

    size: int | None = None
    mode: int | None = None
    mtime: float | None = None


def facts(source: "Source | bytes") -> LocalFacts:
    """The facts of `source`. Raises OSError for a path where nothing is."""
    if isinstance(source, bytes):
        return LocalFacts(len(source))
    if not isinstance(source, str | os.PathLike):
        return LocalFacts()
    found = os.stat(source)
    if not stat.S_ISREG(found.st_mode):
        return LocalFacts()
    return LocalFacts(found.st_size, stat.S_IMODE(found.st_mode) & 0o777, found.st_mtime)


class Meter:
    """Counts what has gone, and tells `progress` (bytes so far, bytes in all or None), where there is one."""

    def __init__(self, progress: Progress | None, total: int | None) -> None:
        self._progress = progress
        self.total = total
        self.done = 0

    def at(self, done: int) -> None:
        """So many have gone."""
        self.done = done
        if self._progress is not None:
            self._progress(done, self.total)

    def add(self, count: int) -> None:
        """So many more have gone."""
        self.at(self.done + count)


def safe_mode(mode: int) -> int:
    """A sandbox's file mode made safe here: no set-id bits, no write by others, read and write for its owner.

    The rule is the one of tarfile's filter `data` (PEP 706).
    """
    return mode & 0o755 | 0o600


class Download:
    """A local file while it arrives: beside its target under another name, and renamed over it by `keep`.

    Other than regular files (a pipe, /dev/null, an open file) are written to directly.
    """

    def __init__(self, target: Target, of: str) -> None:
        self._target = target
        self._of = of
        self._partial: Path | None = None
        self._file: BinaryIO | None = None

    def open(self) -> None:
        """Make the file. Raises OSError where it cannot be made."""
        if not isinstance(self._target, str | os.PathLike):
            self._file = self._target
        elif _is_special(self._target):
            self._file = open(self._target, "wb")  # noqa: SIM115 — closed by keep or discard
        else:
            self._partial = Path(f"{os.fspath(self._target)}.{secrets.token_hex(4)}.part")
            self._file = self._beside(self._partial)

    def _beside(self, partial: Path) -> BinaryIO:
        try:
            return open(partial, "xb")
        except OSError as error:
            # The given name, and not the temporary one beside it.
            raise type(error)(error.errno, error.strerror, str(self._target)) from error

    def write(self, data: bytes) -> None:
        """Add `data`."""
        assert self._file is not None  # noqa: S101 — open() comes first
        self._file.write(data)

    def rewind(self) -> None:
        """Drop the bytes written. Raises Conflict where the file was removed already."""
        if self._partial is None or self._file is None:
            raise changed(self._of)
        self._file.seek(0)
        self._file.truncate()

    def keep(self, mode: str | None = None, mtime: str | None = None) -> None:
        """All has arrived: put it in place, with the server's mode (octal) and mtime (seconds)."""
        if self._partial is not None and self._file is not None:
            self._file.flush()
            _dress(self._file.fileno(), mode, mtime)
        self._close()
        if self._partial is not None and isinstance(self._target, str | os.PathLike):
            os.replace(self._partial, self._target)
            self._partial = None

    def discard(self) -> None:
        """Remove what was not kept; nothing to do after `keep`."""
        self._close()
        if self._partial is not None:
            self._partial.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is None:
            return
        if self._file is self._target:
            self._file.flush()
        else:
            self._file.close()


def _is_special(path: str | os.PathLike[str]) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _dress(descriptor: int, mode: str | None, mtime: str | None) -> None:
    """A server's attributes are not trusted: an invalid mode or time leaves the file as it is."""
    if mode is not None and re.fullmatch("[0-7]{1,6}", mode):
        os.fchmod(descriptor, safe_mode(int(mode, 8)))
    if mtime is not None and re.fullmatch(r"-?\d{1,11}(\.\d{1,12})?", mtime):
        os.utime(descriptor, (float(mtime), float(mtime)))
