"""Files of a sandbox, searches, and file events."""

from dataclasses import dataclass
from typing import Literal

FileType = Literal["file", "directory", "symlink", "fifo", "socket", "device"]

FileChangeType = Literal["added", "removed", "changed", "type_changed"]

FileEventType = Literal["created", "modified", "deleted", "moved", "attributes", "overflow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A name in a directory. `path` is absolute in the sandbox, `modified_time` seconds since the epoch."""

    name: str
    path: str
    is_file: bool
    is_dir: bool
    size: int | None
    modified_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """The file at a path.

    `path` is absolute inside the sandbox, `mode` four octal digits, `mtime` seconds since the epoch. `size`
    is in bytes, of a regular file; `target` is what a symbolic link says.
    """

    name: str
    path: str
    type: FileType
    size: int | None
    mode: str
    uid: int
    gid: int
    mtime: float
    target: str | None = None

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return self.type == "directory"

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type == "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileVersion:
    """A file as it was in one of two trees that are compared.

    `size` is in bytes, of a regular file; `mode` four octal digits; `mtime` seconds since the epoch, null for
    directories and links, whose times are not compared; `target` is what a symbolic link says.
    """

    type: FileType
    size: int | None
    mode: str
    uid: int
    gid: int
    mtime: float | None
    target: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """A difference between two trees. `path` is absolute in the sandbox.

    `before` is null for what was added, `after` for what was removed. Files differ by type, size, time, mode
    or owner, and links by their targets; contents are not compared.
    """

    path: str
    change: FileChangeType
    before: FileVersion | None
    after: FileVersion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchMatch:
    """A place where a search found something.

    `line` and `column` count from 1; null when names were searched. `text` is the line, cut where it is long;
    `column` counts characters.
    """

    path: str
    line: int | None = None
    column: int | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The matches of a search. `truncated`: there is more than the limit, or than there was time for."""

    matches: tuple[SearchMatch, ...]
    truncated: bool
    files_searched: int
    files_skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEvent:
    """Something that happened to a file that is watched. `overflow`: events were lost, look again.

    `to` is the new path of what was moved within what is watched. `content` says of a file that was created
    by an upload, so whole, whether there was another one before. `size` is in bytes, of a file that is there,
    where the watch asks for it.
    """

    type: FileEventType
    path: str | None = None
    to: str | None = None
    is_dir: bool | None = None
    content: Literal["new", "replaced"] | None = None
    size: int | None = None
