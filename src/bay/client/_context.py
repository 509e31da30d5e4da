"""The context of a build: local files that its Dockerfile may copy, and the tar of those that a step takes.

Files in the sandbox belong to root, or to the owner that the step names, so they go to a directory of the
build first, and a shell as root puts them in their places.
"""

import os
import stat
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bay.builds.context import ContextEntry, EntryKind, Placement, below, placements, relative
from bay.builds.ignored import Ignored
from bay.builds.lines import LONGEST
from bay.builds.problems import at_line
from bay.builds.steps import Copy, Step
from bay.client._local import Meter
from bay.client._pack import leads_inside, packed_files
from bay.errors import InvalidArgument

_MAX_ENTRIES = 1_000_000
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


@dataclass(frozen=True, slots=True)
class Staged:
    """One source of a copy on its way: `name` is its place in the stage, `only` the file in it that is meant,
    None for all.
    """

    name: str
    target: str
    only: str | None
    below: bool


@dataclass(slots=True)
class Staging:
    """The files that a copy takes: their names in the stage, where they lie here, and their sources.

    A link that leads out of its directory cannot be in the stage's tar, and is made there later.
    """

    sources: list[Staged] = field(default_factory=list[Staged])
    files: list[tuple[str, Path | bytes]] = field(default_factory=list[tuple[str, Path | bytes]])
    links: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    def stream(self, meter: Meter) -> Generator[bytes, None, None]:
        """The tar of the files."""
        return packed_files(self.files, meter)

    def add(self, source: Staged, name: str | None, path: Path | bytes) -> None:
        """A file or directory below a source; without a name the source itself."""
        place = source.name if name is None else f"{source.name}/{name}"
        if isinstance(path, Path) and path.is_symlink():
            target = os.readlink(path)
            if not leads_inside(place, target):
                self.links.append((place, target))
                return
        self.files.append((place, path))


@dataclass(frozen=True, slots=True)
class BuildContext:
    """A directory, without what `.dockerignore` leaves out."""

    root: Path
    entries: tuple[ContextEntry, ...]

    @classmethod
    def of(cls, root: Path, ignored: Ignored) -> "BuildContext":
        """The files below a directory. Raises OSError where one cannot be read."""
        if not root.is_dir():
            raise InvalidArgument(f"{root} is no directory; name the one with the files to copy")
        return cls(root, tuple(_scanned(root, ignored)))

    def check(self, steps: Iterable[Step]) -> None:
        """Raises InvalidArgument for the first copy of something that is not there."""
        for step in steps:
            if isinstance(step, Copy):
                self.staging(step)

    def staging(self, step: Copy) -> Staging:
        """The files that a copy takes. Raises InvalidArgument with the line of the step."""
        made = Staging()
        with at_line(step.line):
            for one in placements(step, self.entries):
                self._stage(made, step, one)
        for file in step.inline:
            source = Staged(str(len(made.sources)), step.target, file.name, step.target.endswith("/"))
            made.sources.append(source)
            made.add(source, file.name, file.content.encode())
        return made

    def _stage(self, made: Staging, step: Copy, one: Placement) -> None:
        source = self._followed(one.source)
        if step.refuses_archives and source.kind == "file" and _is_archive(self.root / source.path):
            raise InvalidArgument(f"ADD would unpack {source.path}; COPY it, and unpack it in a RUN step")
        if source.kind == "directory":
            staged = Staged(str(len(made.sources)), one.target, None, below=False)
            made.add(staged, None, (self.root / source.path).resolve())  # the root itself may be a link
            for entry in below(source, self.entries):
                made.add(staged, relative(source, entry), self.root / entry.path)
        else:
            name = os.path.basename(one.source.path)
            staged = Staged(str(len(made.sources)), one.target, name, one.below)
            made.files.append((f"{staged.name}/{name}", self.root / source.path))
        made.sources.append(staged)

    def _followed(self, entry: ContextEntry) -> ContextEntry:
        """A link that a step names is taken for its target, which must be in the context."""
        if entry.kind != "link":
            return entry
        place = (self.root / entry.path).resolve()
        if not place.is_relative_to(self.root.resolve()):
            raise InvalidArgument(f"the link {entry.path} leads out of the context; copy its target into it")
        path = os.path.relpath(place, self.root.resolve())
        for other in self.entries:
            if other.path == path and other.kind != "link":
                return other
        raise InvalidArgument(f"the link {entry.path} leads to nothing in the context")


def read_dockerfile(root: Path, file: Path | None) -> tuple[str, Ignored]:
    """The text of a Dockerfile, and the patterns of its own `.dockerignore` or of the context's."""
    place = root / "Dockerfile" if file is None else file
    text = _text(place)
    own = place.with_name(f"{place.name}.dockerignore")
    ignore = own if own.is_file() else root / ".dockerignore"
    return text, read_ignored(ignore)


def read_ignored(path: Path) -> Ignored:
    """The patterns of a `.dockerignore`; of one that is not there none."""
    return Ignored.read(_text(path)) if path.is_file() else Ignored()


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(LONGEST + 1)
        return data.decode()
    except FileNotFoundError:
        raise InvalidArgument(f"there is no file {path}; name one with -f FILE") from None
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is no UTF-8 text") from error


def _scanned(root: Path, ignored: Ignored) -> Generator[ContextEntry, None, None]:
    count = 0
    for base, directories, names in os.walk(root, onerror=_failed):
        above = os.path.relpath(base, root)
        inside = "" if above == "." else f"{above}/"
        found = [
            entry for name in (*directories, *names) if (entry := _entry(root, f"{inside}{name}", ignored))
        ]
        count += len(found)
        if count > _MAX_ENTRIES:
            raise InvalidArgument(
                f"{root} has more than {_MAX_ENTRIES} files; leave some out by .dockerignore"
            )
        directories[:] = sorted(
            name for name in directories if ignored.brings_back or not ignored.covers(f"{inside}{name}")
        )
        yield from sorted(found, key=lambda entry: entry.path)


def _entry(root: Path, path: str, ignored: Ignored) -> ContextEntry | None:
    """The entry at a path; None for one that is left out, or is neither file, directory nor link."""
    mode = (root / path).lstat().st_mode
    kind = _KINDS.get(stat.S_IFMT(mode))
    return None if kind is None or ignored.covers(path) else ContextEntry(path, kind)


_KINDS: dict[int, EntryKind] = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "link"}


def _failed(error: OSError) -> None:
    raise error


def _is_archive(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(512)
    return head.startswith(_ARCHIVES) or head[257:262] == b"ustar"
