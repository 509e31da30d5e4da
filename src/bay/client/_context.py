"""The context of a build: the local files that its Dockerfile may copy."""

import os
import stat
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from bay.builds.context import ContextEntry, EntryKind, below, placements
from bay.builds.ignored import Ignored
from bay.builds.lines import LONGEST
from bay.builds.problems import at_line
from bay.builds.steps import Step, copies_of
from bay.errors import InvalidArgument

_MAX_ENTRIES = 100_000


def context_of(root: Path, ignored: Ignored) -> list[ContextEntry]:
    """The files below a directory, without what `.dockerignore` leaves out. Raises OSError where one cannot
    be read.
    """
    if not root.is_dir():
        raise InvalidArgument(f"{root} is no directory; name the one with the files to copy")
    return list(_scanned(root, ignored))


def copied(entries: Sequence[ContextEntry], steps: Iterable[Step]) -> list[ContextEntry]:
    """The entries that the steps copy. All of them where one is a link, which may lead to any other. Raises
    InvalidArgument with the line of a copy of something that is not there.
    """
    wanted: set[ContextEntry] = set()
    by_path = {one.path: one for one in entries}
    for step in steps:
        for copy in copies_of(step):
            if copy.origin is not None:
                continue
            with at_line(copy.line):
                for one in placements(copy, by_path):
                    wanted |= {
                        one.source,
                        *(below(one.source, entries) if one.source.kind == "directory" else ()),
                    }
    if any(one.kind == "link" for one in wanted):
        return list(entries)
    return [one for one in entries if one in wanted]


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
    except (FileNotFoundError, NotADirectoryError):
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
