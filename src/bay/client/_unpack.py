"""Unpacks a sandbox's tar stream into a local directory as it comes, in constant memory.

The stream is hostile until shown otherwise, and so is what lies in the directory: see `tree_tar.extract`.
"""

import errno
import os
import stat
from pathlib import Path

from bay.client._local import LeftOut, Meter, safe_mode
from bay.errors import BayError
from tree_tar.beneath import Parts, closing, leads_inside, make_directory, open_directory
from tree_tar.extract import Extractor, Policy, parts_of
from tree_tar.headers import DIRECTORY, FILE, LINK, NS, SYMLINK
from tree_tar.reader import BadArchive, Member, Piece, Reader, Rules

RULES = Rules(
    extension_bytes=1 << 20, extensions=8, segments=1 << 16, old_sparse=False, any_time=True, owners=False
)
MAX_NAME_BYTES = 4096
_LATEST_NS = 10**11 * NS
_IN_THE_WAY = (errno.ENOTDIR, errno.EISDIR, errno.ENOENT, errno.ELOOP)


class Unpacking:
    """Takes the stream piece by piece.

    Raises BayError for an invalid one, or one that would reach outside; files that came before stay.
    """

    def __init__(self, root: Path, meter: Meter, left_out: LeftOut | None) -> None:
        self._root_path = root
        self._meter = meter
        self._policy = _DownloadPolicy(root, left_out)
        self._reader = Reader(RULES)
        self._root = -1
        self._extractor: Extractor | None = None

    def open(self) -> None:
        """Make the directory, where it is missing."""
        self._root_path.mkdir(parents=True, exist_ok=True)
        self._root = os.open(self._root_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._extractor = Extractor(self._root, self._policy)

    def feed(self, data: bytes) -> None:
        """Extract the next piece of the stream."""
        assert self._extractor is not None  # noqa: S101 - open() comes first
        try:
            for event in self._reader.feed(data):
                self._extractor.take(event)
                if isinstance(event, Piece):
                    self._meter.add(len(event.data))
        except BadArchive as error:
            raise BayError(f"the archive is damaged: {error}; what came before stays") from error

    def finish(self) -> None:
        """The stream is over. Raises BayError when it should not be."""
        if not self._reader.ended:
            raise BayError("the archive broke off before its end; what came before stays")

    def close(self) -> None:
        """Remove what is half written, and let go of the directory."""
        if self._extractor is not None:
            self._extractor.close()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


class _DownloadPolicy(Policy):
    """Modes are made harmless. Symbolic links that lead out, fifos and devices are left out."""

    def __init__(self, root: Path, left_out: LeftOut | None) -> None:
        self._root = root
        self._left_out = left_out

    def place(self, member: Member) -> Parts | None:
        parts = _checked_parts(member.name)
        is_inside = member.kind == SYMLINK and leads_inside("/".join(parts), member.link)
        if member.kind in (FILE, DIRECTORY, LINK) or is_inside:
            return parts if member.kind == DIRECTORY else _below(parts)
        if self._left_out is not None:
            self._left_out(member.name)
        return None

    def make_directory(self, parent: int, parts: Parts, member: Member) -> bool:
        made = make_directory(parent, parts[-1])
        with closing(open_directory(parent, parts[-1])) as descriptor:
            if made:
                os.fchmod(descriptor, member.mode & 0o755 | 0o700)
        return False

    def restore(self, descriptor: int, parts: Parts, member: Member) -> None:
        os.fchmod(descriptor, safe_mode(member.mode))
        if abs(member.mtime_ns) < _LATEST_NS:
            os.utime(descriptor, ns=(member.mtime_ns, member.mtime_ns))

    def link_source(self, parts: Parts, member: Member) -> Parts:
        return _below(_checked_parts(member.link))

    def check_link(self, parent: int, name: str) -> None:
        """Only a regular file: another name for a symbolic link would lead elsewhere."""
        if not stat.S_ISREG(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "not a regular file")

    def blame(self, member: Member, error: OSError) -> Exception:
        if error.errno not in _IN_THE_WAY:
            return error
        return BayError(
            f"{self._root.joinpath(*parts_of(member.name))}: {error.strerror}; what is there is of another kind than "
            "in the archive, or is a link, which is not followed. What came before stays"
        )


def _checked_parts(name: str) -> Parts:
    """The parts of a name; raises BayError for one that leads out of the directory, or is none."""
    parts = parts_of(name)
    outside = name.startswith("/") or ".." in parts
    if outside or not name or "\0" in name or len(name) > MAX_NAME_BYTES:
        raise BayError(
            f"the archive has a file named {name[:80]!r}, which would be outside of the directory; "
            "nothing was written for it, and what came before stays"
        )
    return parts


def _below(parts: Parts) -> Parts:
    if not parts:
        raise BayError("the archive has something that is no directory in place of the directory itself")
    return parts
