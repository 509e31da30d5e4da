"""The context of a build: a tar of the caller's files. Its headers are read here, and the files of a copy are
written into another tar, for the build's sandbox to unpack. Nothing is unpacked on the host.
"""

import hashlib
import os
import posixpath
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bay.builds.context import ContextEntry, EntryKind, Placement, placements
from bay.builds.globs import is_pattern
from bay.builds.problems import at_line
from bay.builds.steps import Copy
from bay.errors import InvalidArgument
from tree_tar.beneath import leads_inside
from tree_tar.headers import DIRECTORY, END, FILE, LINK, SYMLINK, header, padding
from tree_tar.reader import BadArchive, Member, Piece, Reader, Rules

MAX_ENTRIES = 100_000
"""Files, directories and links of one context."""

_MAX_PATH, _MAX_NAME, _MAX_DEPTH = 4095, 255, 256
_MAX_PATHS = 32 << 20
"""Bytes of all paths and targets of links, those of directories that the archive leaves out included."""
_MAX_LOOKS = 20_000_000
"""Entries that the copies of one build place, or compare with a pattern."""

_RULES = Rules(extension_bytes=1 << 20, extensions=7, segments=99_999, any_time=True, owners=False)
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_HEAD_BYTES = 512
_CHUNK = 256 << 10
_MAX_LINKS = 40
_ROOT = "0:0"
_KINDS: dict[str, EntryKind] = {FILE: "file", LINK: "file", DIRECTORY: "directory", SYMLINK: "link"}


@dataclass(frozen=True, slots=True)
class Known:
    """The facts of one entry. `content` is the member with its bytes, another one for a hard link; `digest`
    is of those bytes, or the target of a symbolic link.
    """

    kind: EntryKind
    mode: int
    content: str
    digest: str
    is_archive: bool = False
    owner: str = _ROOT


@dataclass(frozen=True, slots=True)
class StagedSource:
    """One source of a copy on its way: `name` is its place in the stage, `only` the file in it that is meant,
    None for all.
    """

    name: str
    target: str
    only: str | None
    below: bool


@dataclass(slots=True)
class Staging:
    """The files that a copy takes: the places in the stage of each entry of the context, files that stand in
    the build itself, and links.

    A link that leads out of its directory cannot be in the stage's tar, and is made there later.
    """

    sources: list[StagedSource] = field(default_factory=list[StagedSource])
    entries: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Places in the stage, each with the path in the context."""
    inline: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


@dataclass(slots=True)
class BuildContext:
    """The entries of a context, whose tar lies at `file`; None is a context without files."""

    file: Path | None
    known: Mapping[str, Known]
    _entries: dict[str, ContextEntry] = field(init=False)
    _paths: list[str] = field(init=False)
    _looks: int = field(init=False)

    def __post_init__(self) -> None:
        self._entries = {path: ContextEntry(path, one.kind) for path, one in self.known.items()}
        self._paths = sorted(self.known)
        self._looks = _MAX_LOOKS

    @classmethod
    def read(cls, file: Path | None, *, has_owners: bool = False) -> "BuildContext":
        """The entries of that tar; the owners of files count where it `has_owners`. Blocks. Raises
        InvalidArgument for one that is no tar, names a path twice or outside of its top, or has too many
        entries.
        """
        if file is None:
            return cls(None, {})
        index = _Index()
        try:
            for event in _events(file, _RULES._replace(owners=has_owners)):
                index.take(event)
        except BadArchive as error:
            raise InvalidArgument(f"the context is no whole tar archive: {error}") from error
        return cls(file, index.finished())

    def staging(self, step: Copy) -> Staging:
        """The files that a copy takes. Blocks. Raises InvalidArgument with the line of the step, also for
        copies that together look at too many files.
        """
        made = Staging()
        with at_line(step.line):
            patterns = sum(is_pattern(name) and name not in self._entries for name in step.sources)
            self._look(len(self.known) * patterns)
            for one in placements(step, self._entries):
                self._stage(made, step, one)
        for file in step.inline:
            source = StagedSource(str(len(made.sources)), step.target, file.name, step.target.endswith("/"))
            made.sources.append(source)
            made.inline.append((f"{source.name}/{file.name}", file.content.encode()))
        return made

    def _look(self, count: int) -> None:
        self._looks -= count
        if self._looks < 0:
            raise InvalidArgument("the copies take too many files again and again; copy directories once")

    def _below(self, directory: str) -> list[str]:
        """The paths of everything in a directory, however deep."""
        if not directory:
            return self._paths
        first, behind = f"{directory}/", f"{directory}0"  # "0" comes next to "/"
        return self._paths[bisect_left(self._paths, first) : bisect_left(self._paths, behind)]

    def _stage(self, made: Staging, step: Copy, one: Placement) -> None:
        source = self._followed(one.source)
        if step.refuses_archives and source.path and self.known[source.path].is_archive:
            raise InvalidArgument(f"ADD would unpack {source.path}; COPY it, and unpack it in a RUN step")
        place = str(len(made.sources))
        if source.kind == "directory":
            made.sources.append(StagedSource(place, one.target, None, below=False))
            made.entries.append((place, source.path))
            found = self._below(source.path)
            self._look(len(found))
            cut = len(source.path) + 1 if source.path else 0
            for path in found:
                self._add(made, f"{place}/{path[cut:]}", self._entries[path])
        else:
            name = posixpath.basename(one.source.path)
            made.sources.append(StagedSource(place, one.target, name, one.below))
            made.entries.append((f"{place}/{name}", source.path))

    def _add(self, made: Staging, place: str, entry: ContextEntry) -> None:
        target = self.known[entry.path].digest
        if entry.kind == "link" and not leads_inside(place, target):
            made.links.append((place, target))
        else:
            made.entries.append((place, entry.path))

    def _followed(self, entry: ContextEntry) -> ContextEntry:
        """A link that a step names is taken for its target, which must be in the context."""
        path, left = entry.path, _MAX_LINKS
        while (link := self._first_link(path)) is not None:
            left -= 1
            to = posixpath.normpath(posixpath.join(posixpath.dirname(link), self.known[link].digest))
            path = posixpath.normpath(to + path[len(link) :])
            if to.startswith(("/", "../")) or to == ".." or path.startswith("../") or not left:
                raise InvalidArgument(
                    f"the link {entry.path} leads out of the context, or in a circle; copy its target into it"
                )
        if path == ".":
            return ContextEntry("", "directory")
        if path and path not in self.known:
            raise InvalidArgument(f"the link {entry.path} leads to nothing in the context")
        return ContextEntry(path, self.known[path].kind if path else "directory")

    def _first_link(self, path: str) -> str | None:
        """The shortest part of the path, from the top, that is a link."""
        words = path.split("/")
        parts = ("/".join(words[: count + 1]) for count in range(len(words)))
        return next((part for part in parts if (one := self.known.get(part)) and one.kind == "link"), None)

    def owners(self, staging: Staging) -> dict[str, list[str]]:
        """The owners but root of what a copy takes, `uid:gid`, each with its places in the stage. Blocks."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for place, path in staging.entries:
            if path and (owner := self.known[path].owner) != _ROOT:
                found[owner].append(place)
        return found

    def digest(self, staging: Staging) -> str:
        """A hash of what a copy puts in place: names, kinds, permissions and content, without times."""
        found = hashlib.sha256()
        for place, path in staging.entries:
            one = self.known[path] if path else Known("directory", 0o755, "", "")
            found.update(
                f"{place}\0{one.kind}\0{one.mode:o}\0{one.digest}\n".encode("utf-8", "surrogateescape")
            )
        for place, content in staging.inline:
            found.update(f"{place}\0inline\0{hashlib.sha256(content).hexdigest()}\n".encode())
        for place, target in staging.links:
            found.update(f"{place}\0link\0{target}\n".encode("utf-8", "surrogateescape"))
        return found.hexdigest()

    def tar(self, staging: Staging) -> Generator[bytes]:
        """The tar of those files, in large pieces. Blocks."""
        return _gathered(self._tar(staging))

    def _tar(self, staging: Staging) -> Generator[bytes | memoryview]:
        wanted: dict[str, list[str]] = {}
        for place, path in staging.entries:
            if not path or self.known[path].kind == "directory":
                yield header(place, DIRECTORY, mode=self.known[path].mode if path else 0o755)
            else:
                wanted.setdefault(self.known[path].content, []).append(place)
        if wanted and self.file is not None:
            yield from _copied(_events(self.file), wanted)
        for place, content in staging.inline:
            yield header(place, FILE, mode=0o644, size=len(content)) + content + padding(len(content))
        yield END


class _Index:
    """Gathers the entries of a tar as its members come."""

    def __init__(self) -> None:
        self._known: dict[str, Known] = {}
        self._path_bytes = 0
        self._open: tuple[str, Member] | None = None
        self._hash, self._head = hashlib.sha256(), bytearray()

    def take(self, event: Member | Piece) -> None:
        """The next member, or content of the one before."""
        if isinstance(event, Piece):
            self._content(event)
            return
        self._close()
        path = _path(event.name)
        if path == "" or event.kind not in _KINDS:  # its top; and what no copy takes, such as devices
            return
        if (known := self._known.get(path)) is not None and (event.kind, known.kind) != (
            DIRECTORY,
            "directory",
        ):
            raise InvalidArgument(f"the context names {path[:200]} twice")
        self._add_parents(path)
        if event.kind == FILE and event.data_bytes != event.size:
            raise InvalidArgument(
                f"the context has the sparse file {path[:200]}; write its tar without holes"
            )
        if event.kind == FILE:
            self._open = path, event
        else:
            self._add(path, self._simple(path, event))

    def finished(self) -> dict[str, Known]:
        """The entries, once no more come."""
        self._close()
        return self._known

    def _simple(self, path: str, member: Member) -> Known:
        if member.kind == DIRECTORY:
            return Known("directory", member.mode & 0o7777, path, "", owner=_owner(member))
        if member.kind == SYMLINK:
            if len(member.link) > _MAX_PATH or "\0" in member.link:
                raise InvalidArgument(f"the context has the link {path[:200]} to a path that cannot be")
            return Known("link", 0o777, path, member.link, owner=_owner(member))
        target = self._known.get(_path(member.link))
        if target is None or target.kind != "file":
            raise InvalidArgument(
                f"the context has the hard link {path[:200]} to a file that does not stand before it"
            )
        return target

    def _content(self, piece: Piece) -> None:
        if self._open is None:
            return
        self._hash.update(piece.data)
        if len(self._head) < _HEAD_BYTES:
            self._head += piece.data[: _HEAD_BYTES - len(self._head)]

    def _close(self) -> None:
        if self._open is None:
            return
        path, member = self._open
        is_archive = self._head.startswith(_ARCHIVES) or bytes(self._head[257:262]) == b"ustar"
        found = self._hash.hexdigest()
        self._add(path, Known("file", member.mode & 0o7777, path, found, is_archive, owner=_owner(member)))
        self._open = None
        self._hash, self._head = hashlib.sha256(), bytearray()

    def _add_parents(self, path: str) -> None:
        """Archives may leave directories out."""
        while path := posixpath.dirname(path):
            if (known := self._known.get(path)) is not None:
                if known.kind != "directory":
                    raise InvalidArgument(f"the context has files below {path[:200]}, which is no directory")
                return
            self._add(path, Known("directory", 0o755, path, ""))

    def _add(self, path: str, known: Known) -> None:
        self._known[path] = known
        target = known.digest if known.kind == "link" else ""
        self._path_bytes += len(os.fsencode(path)) + len(os.fsencode(target))
        if self._path_bytes > _MAX_PATHS:
            raise InvalidArgument("the paths of the context have more than 32 MiB; leave files out")
        if len(self._known) > MAX_ENTRIES:
            raise InvalidArgument(
                f"the context has more than {MAX_ENTRIES} files; leave some out by .dockerignore"
            )


def _owner(member: Member) -> str:
    return f"{member.uid}:{member.gid}"


def _path(name: str) -> str:
    """The path below the context's top. Raises InvalidArgument for one that leads elsewhere."""
    if len(name) > _MAX_PATH:
        raise InvalidArgument(f"the context has the path {name[:200]!r}…, which is longer than {_MAX_PATH}")
    words = [word for word in name.split("/") if word not in ("", ".")]
    if name.startswith("/") or ".." in words or "\0" in name:
        raise InvalidArgument(f"the context has the path {name[:200]!r}, which is not below its top")
    if len(words) > _MAX_DEPTH or any(len(os.fsencode(word)) > _MAX_NAME for word in words):
        raise InvalidArgument(
            f"the context has the path {name[:200]!r}: a name has at most {_MAX_NAME} bytes, a path {_MAX_DEPTH} names"
        )
    return "/".join(words)


def _events(file: Path, rules: Rules = _RULES) -> Iterator[Member | Piece]:
    reader = Reader(rules)
    with open(file, "rb") as opened:
        while not reader.ended and (data := opened.read(_CHUNK)):
            yield from reader.feed(data)
    if not reader.ended and not reader.is_between:
        raise BadArchive("it ends too early")


def _copied(
    events: Iterable[Member | Piece], wanted: Mapping[str, Sequence[str]]
) -> Generator[bytes | memoryview]:
    """The members that are wanted, under their new names; a second name of a file is a hard link to it."""
    is_copied, end = False, b""
    for event in events:
        if isinstance(event, Piece):
            if is_copied:
                yield event.data
            continue
        yield end
        places = wanted.get(_path(event.name), ())
        is_copied = bool(places) and event.kind == FILE
        end = b""
        if is_copied:
            yield header(places[0], FILE, mode=event.mode & 0o777, mtime_ns=event.mtime_ns, size=event.size)
            end = padding(event.size) + b"".join(header(one, LINK, link=places[0]) for one in places[1:])
        elif places and event.kind == SYMLINK:
            for place in places:
                yield header(place, SYMLINK, mode=0o777, mtime_ns=event.mtime_ns, link=event.link)
    yield end


def _gathered(pieces: Iterable[bytes | memoryview]) -> Generator[bytes]:
    gathered = bytearray()
    for piece in pieces:
        gathered += piece
        if len(gathered) >= _CHUNK:
            yield bytes(gathered)
            gathered.clear()
    yield bytes(gathered)
