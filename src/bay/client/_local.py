"""Files on the caller's side: read in pieces, and written so that a half-finished download is never seen."""

import os
import secrets
import stat
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from bay.errors import BayError

CHUNK_BYTES = 256 << 10

Source = str | os.PathLike[str] | BinaryIO
"""A path, or a file open for reading bytes."""

Target = str | os.PathLike[str] | BinaryIO
"""A path, or a file open for writing bytes."""


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


def files_below(source: "Source | bytes") -> list[tuple[Path, str]] | None:
    """Each file below a directory with its path relative to it; None when `source` is not a directory.

    Symbolic links to files are taken for the files, links to directories are not entered.
    """
    if not isinstance(source, str | os.PathLike) or not os.path.isdir(source):
        return None
    root = Path(source)
    found = [Path(base, name) for base, _, names in os.walk(root) for name in names]
    return sorted((path, path.relative_to(root).as_posix()) for path in found if path.is_file())


class Download:
    """A local file while it arrives: beside its target under another name, and renamed over it by `keep`.

    What is not a regular file (a pipe, /dev/null, an open file) is written to directly.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
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
            self._file = open(self._partial, "xb")  # noqa: SIM115 — closed by keep or discard

    def write(self, data: bytes) -> None:
        """Add `data`."""
        assert self._file is not None  # noqa: S101 — open() comes first
        self._file.write(data)

    def keep(self) -> None:
        """All has arrived: put it in place."""
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


def child(directory: Path, name: str) -> Path:
    """The local path for an entry that a sandbox says it has. The sandbox is not trusted: no name may lead elsewhere."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise BayError(
            f"the sandbox lists a file named {name!r}, which is no file name; nothing was written for it"
        )
    return directory / name
