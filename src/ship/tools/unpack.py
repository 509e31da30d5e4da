"""The tool unpacks the tar that is stdin beneath the working directory, and reports its counts at the end.

The archive, and what other programs do meanwhile, may be an attacker's: see `tree_tar.extract`. A finished
file replaces an old one by a rename. Files made before a refusal stay.
"""

import errno
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable
from functools import partial

from ship.files.temporaries import temporary
from ship.tools import settle
from tree_tar.beneath import OPEN_DIRECTORY, Parts
from tree_tar.extract import Extractor, Policy, parts_of
from tree_tar.headers import BLOCK_DEVICE, CHARACTER, DIRECTORY, NS, OTHER
from tree_tar.reader import BadArchive, Member, Piece, Reader, Rules

RULES = Rules(extension_bytes=1 << 20, extensions=7, segments=99_999, any_time=True, owners=False)
_MEMORY_BYTES = 512 << 20
_CHUNK = 256 * 1024
_MAX_MEMBERS = 1_000_000
_MAX_DIRECTORIES = 200_000
_DEEPEST = 1000
_END_OF_TIME_NS = NS << 33
_HOST_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO)


class Gzip:
    """A gzip stream is decompressed a piece at a time, so that a bomb costs time and disk but no memory."""

    def __init__(self, descriptor: int) -> None:
        self._fd = descriptor
        self._inflate = zlib.decompressobj(31)

    def read(self, size: int) -> bytes:
        """Up to that many bytes; none at the end. Raises BadArchive."""
        try:
            while True:
                given = self._inflate.unconsumed_tail
                if self._inflate.eof:  # several may follow each other
                    given = self._inflate.unused_data or os.read(self._fd, _CHUNK)
                    if not given:
                        return b""
                    self._inflate = zlib.decompressobj(31)
                given = given or os.read(self._fd, _CHUNK)
                if not given:
                    raise BadArchive("it ends too early")
                if data := self._inflate.decompress(given, size):
                    return data
        except zlib.error as error:
            raise BadArchive("this is no gzip, or a damaged one") from error


class UploadPolicy(Policy):
    """The user owns what is made; no set-id bits, no devices. `files` counts what is no directory."""

    def __init__(self) -> None:
        self.files = 0
        self._members = 0
        self._directories = 0

    def place(self, member: Member) -> Parts | None:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise BadArchive(f"it has more than {_MAX_MEMBERS} members")
        parts = _parts(member, member.name)
        if member.kind in (OTHER, CHARACTER, BLOCK_DEVICE):
            raise _refused(member, "is a device or of a kind unknown")
        if member.kind != DIRECTORY:
            if not parts:
                raise _refused(member, "has no name")
            self.files += 1
        elif parts:
            self._directories += 1
        if self._directories > _MAX_DIRECTORIES:
            raise _refused(member, f"is one directory too many: {_MAX_DIRECTORIES} are unpacked at most")
        return parts

    def restore(self, descriptor: int, parts: Parts, member: Member) -> None:
        if member.kind == DIRECTORY:
            return _restore_directory(descriptor, member)
        os.fchmod(descriptor, member.mode & 0o777)
        return os.utime(descriptor, ns=_times(member))

    def restore_by_name(self, parent: int, name: str, member: Member) -> None:
        os.utime(name, ns=_times(member), dir_fd=parent, follow_symlinks=False)

    def temporary(self) -> str:
        return temporary("archive")

    def link_source(self, parts: Parts, member: Member) -> Parts:
        if not (source := _parts(member, member.link)):
            raise _refused(member, "is a link to a directory")
        return source

    def check_replaced(self, parent: int, name: str) -> None:
        """Another's file that this user may not write stays; the own read-only one goes, as with tar."""
        try:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        is_mine = there.st_uid == os.geteuid() or not stat.S_ISREG(there.st_mode)
        if not is_mine and not os.access(name, os.W_OK, dir_fd=parent, follow_symlinks=False):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), name)

    def blame(self, member: Member, error: OSError) -> Exception:
        """The archive is at fault for what the file system does not accept."""
        why = os.strerror(error.errno or 0)
        if error.errno in _HOST_ERRORS:
            return OSError(error.errno, why, _shown(member.name))
        return _refused(member, f"cannot be made there: {why}")


def unpack(read: Callable[[int], bytes], top: int, most_bytes: int) -> tuple[int, int]:
    """Make what `read` gives beneath `top`; the files and their bytes. Raises BadArchive or OSError."""
    policy = UploadPolicy()
    extractor = Extractor(top, policy)
    written = 0
    try:
        for event in Reader(RULES).pull(read):
            if isinstance(event, Piece):
                written += len(event.data)
            if written > most_bytes:
                raise BadArchive(f"it is too much: more than {most_bytes} bytes are not unpacked")
            extractor.take(event)
    finally:
        try:
            extractor.finish()
        finally:
            extractor.close()
    return policy.files, written


def _parts(member: Member, name: str) -> Parts:
    if name.startswith("/"):
        raise _refused(member, "has an absolute name")
    parts = parts_of(name)
    if ".." in parts or "\0" in name:
        raise _refused(member, "has a name that leads out")
    if len(parts) > _DEEPEST:
        raise _refused(member, f"lies more than {_DEEPEST} directories deep")
    return parts


def _refused(member: Member, why: str) -> BadArchive:
    return BadArchive(f"the member {_shown(member.name)} {why}")


def _shown(name: str) -> str:
    return repr(name.encode("utf-8", "surrogateescape")[:200].decode("utf-8", "replace"))


def _restore_directory(descriptor: int, member: Member) -> None:
    try:
        os.fchmod(descriptor, member.mode & 0o1777)
        os.utime(descriptor, ns=_times(member))
    except PermissionError:
        return  # it was there before, and is another user's


def _times(member: Member) -> tuple[int, int]:
    when = member.mtime_ns if 0 <= member.mtime_ns < _END_OF_TIME_NS else 0
    return when, when


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Run. Trailing data after the archive's end is read and dropped, so that its sender can finish."""
    settle(_MEMORY_BYTES)
    os.umask(0)
    order = json.loads(sys.argv[1])
    read = Gzip(0).read if order["format"] == "tar.gz" else partial(os.read, 0)
    top = os.open(".", OPEN_DIRECTORY)
    try:
        files, written = unpack(read, top, order["most_bytes"])
        while read(_CHUNK):
            continue
    except BadArchive as error:
        _say({"error": str(error)})
    except MemoryError:
        _say({"error": "it takes too much memory"})
    except OSError as error:
        _say({"error": str(error.filename or error.strerror), "errno": error.errno})
    else:
        _say({"files": files, "bytes": written})
