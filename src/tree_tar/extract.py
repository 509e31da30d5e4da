"""The extractor makes the members of a tar beneath a directory descriptor, and nowhere else.

It never resolves a path as a whole, follows no symbolic link, and writes through none. A policy decides which
names and kinds are taken, and with which owners, modes and times they are made.
"""

import errno
import os
import stat
from typing import NamedTuple, Protocol

from tree_tar.beneath import (
    NEW_FILE,
    Parts,
    closing,
    make_directory,
    open_beneath,
    open_directory,
    open_or_make,
)
from tree_tar.headers import DIRECTORY, FIFO, FILE, LINK, SYMLINK
from tree_tar.reader import Event, Member, Piece


class Policy(Protocol):
    """The rules of one user of the extractor. Its errors pass as they are, but for OSError: see `blame`."""

    replaces = True
    """Members are made beside their place under a temporary name, renamed over what is there, and missing
    parents made.
    """
    in_order = False
    """A directory comes before what is in it, all of which comes together.

    Else each gets its mode and time at the end.
    """

    def place(self, member: Member) -> Parts | None:
        """Where the member goes; None leaves it out."""

    def restore(self, descriptor: int, parts: Parts, member: Member) -> None:
        """Set mode, time and owner of a new file, or of a directory that is complete."""

    def restore_by_name(self, parent: int, name: str, member: Member) -> None:
        """Do the same for what is not opened: symbolic links, fifos and devices."""

    def temporary(self) -> str:
        """A name that nothing has."""
        return f".{os.urandom(8).hex()}.part"

    def make_directory(self, parent: int, parts: Parts, member: Member) -> bool:
        """Make the directory where it is missing. True has `restore` called for it later."""
        make_directory(parent, parts[-1])
        os.close(open_directory(parent, parts[-1]))
        return True

    def link_source(self, parts: Parts, member: Member) -> Parts:
        """The place of the file that the hard link at `parts` is another name of."""
        return parts_of(member.link)

    def check_link(self, parent: int, name: str) -> None:
        """Raise when a hard link to `name` in `parent` must not be made."""

    def check_replaced(self, parent: int, name: str) -> None:
        """Raise when what `name` is in `parent` must stay."""

    def blame(self, member: Member, error: OSError) -> Exception:
        """The error to raise when the file system refuses a member."""
        return error


class _NewFile(NamedTuple):
    descriptor: int
    name: str
    parts: Parts
    member: Member


class Extractor:
    """Takes what a `Reader` gives, in order. `finish` and `close` end it."""

    def __init__(self, top: int, policy: Policy) -> None:
        self._top = top
        self._policy = policy
        self._member: Member | None = None
        self._parent: tuple[Parts, int] | None = None
        self._file: _NewFile | None = None
        self._left = 0
        self._directories: list[tuple[Parts, Member]] = []

    def take(self, event: Event) -> None:
        """Make the member, or write the piece. Raises what the policy raises, and OSError."""
        try:
            if isinstance(event, Member):
                self._member = event
                self._begin(event)
            elif self._file is not None:
                self._write(self._file, event)
        except OSError as error:
            assert self._member is not None  # noqa: S101 - a piece comes behind a member
            blamed = self._policy.blame(self._member, error)
            if blamed is error:
                raise
            raise blamed from error

    def finish(self) -> None:
        """Restore what is left of the directories: nothing more comes."""
        self._leave(())

    def close(self) -> None:
        """Remove a file that is half written, and close what is open."""
        if self._file is not None:
            os.close(self._file.descriptor)
            if self._policy.replaces and self._parent is not None:
                _unlink_quietly(self._parent[1], self._file.name)
            self._file = None
        if self._parent is not None:
            os.close(self._parent[1])
            self._parent = None

    def _begin(self, member: Member) -> None:
        if not (parts := self._policy.place(member)):
            return None
        parent = self._enter(parts[:-1])
        if member.kind == DIRECTORY:
            return self._directory(parent, parts, member)
        name = self._policy.temporary() if self._policy.replaces else parts[-1]
        if member.kind == FILE:
            self._file = _NewFile(os.open(name, NEW_FILE, 0o600, dir_fd=parent), name, parts, member)
            self._left = member.data_bytes
            return None if self._left else self._end_file(self._file)
        try:
            self._make(parent, name, parts, member)
            self._put(parent, name, parts[-1])
        finally:
            # Also after a rename, which does nothing when both names are links of one file.
            if self._policy.replaces:
                _unlink_quietly(parent, name)

    def _directory(self, parent: int, parts: Parts, member: Member) -> None:
        if self._policy.in_order:
            self._leave(parts)  # of directories beside this one
        if self._policy.make_directory(parent, parts, member):
            self._directories.append((parts, member))

    def _make(self, parent: int, name: str, parts: Parts, member: Member) -> None:
        if member.kind == LINK:
            return self._link(parent, name, self._policy.link_source(parts, member))
        if member.kind == SYMLINK:
            if "\0" in member.link:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), member.name)
            os.symlink(member.link, name, dir_fd=parent)
        elif member.kind == FIFO:
            os.mkfifo(name, member.mode & 0o777, dir_fd=parent)
        else:
            os.mknod(name, stat.S_IFCHR | 0o600, os.makedev(*member.device), dir_fd=parent)
        return self._policy.restore_by_name(parent, name, member)

    def _link(self, parent: int, name: str, source: Parts) -> None:
        with closing(open_beneath(self._top, source[:-1])) as above:
            self._policy.check_link(above, source[-1])
            os.link(source[-1], name, src_dir_fd=above, dst_dir_fd=parent, follow_symlinks=False)

    def _write(self, file: _NewFile, piece: Piece) -> None:
        offset, data = piece
        self._left -= len(data)
        while data:
            written = os.pwrite(file.descriptor, data, offset)
            offset, data = offset + written, data[written:]
        if not self._left:
            self._end_file(file)

    def _end_file(self, file: _NewFile) -> None:
        if file.member.data_bytes != file.member.size:
            os.ftruncate(file.descriptor, file.member.size)
        self._policy.restore(file.descriptor, file.parts, file.member)
        self._put(self._enter(file.parts[:-1]), file.name, file.parts[-1])
        self._file = None
        os.close(file.descriptor)

    def _put(self, parent: int, name: str, final: str) -> None:
        if self._policy.replaces:
            self._policy.check_replaced(parent, final)
            os.rename(name, final, src_dir_fd=parent, dst_dir_fd=parent)

    def _enter(self, parts: Parts) -> int:
        """A descriptor of the directory `parts`, which stays the extractor's."""
        known = self._parent
        if known is not None and known[0] == parts:
            return known[1]
        if self._policy.in_order:
            self._leave(parts)
        step = open_or_make if self._policy.replaces else open_directory
        if known is not None and known[0] == parts[:-1]:  # one step is much less than all
            found = step(known[1], parts[-1])
        else:
            found = open_beneath(self._top, parts, step)
        if known is not None:
            os.close(known[1])
        self._parent = parts, found
        return found

    def _leave(self, parts: Parts) -> None:
        """Restore directories not on the way to `parts`: what is made inside changes their times."""
        while self._directories and self._directories[-1][0] != parts[: len(self._directories[-1][0])]:
            done, member = self._directories.pop()
            try:
                descriptor = open_beneath(self._top, done)
            except OSError:
                if self._policy.in_order:
                    raise
                continue  # another program has changed it
            with closing(descriptor):
                self._policy.restore(descriptor, done, member)


def parts_of(name: str) -> Parts:
    """The parts of a path, without empty ones and dots."""
    return tuple(part for part in name.split("/") if part not in ("", "."))


def _unlink_quietly(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
