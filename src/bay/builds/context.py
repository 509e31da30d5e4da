"""Which files of a context a copy takes, and where each of them goes. Pure: it is told what the context has.

As Docker does it: of a directory its content is copied, a file keeps its name below a target that ends in a
slash, and a pattern stands for all files that match it.
https://docs.docker.com/reference/dockerfile/#copy
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bay.builds import globs
from bay.builds.steps import Copy
from bay.errors import InvalidArgument

EntryKind = Literal["file", "directory", "link"]


@dataclass(frozen=True, slots=True)
class ContextEntry:
    """A file, directory or symbolic link of a context; `path` is relative to its top."""

    path: str
    kind: EntryKind


@dataclass(frozen=True, slots=True)
class Placement:
    """One source of a copy: a file (or link), or a directory whose content is meant, and its target.

    With `below` the file keeps its name below the target, whether that is there yet or not.
    """

    source: ContextEntry
    target: str
    below: bool


def placements(step: Copy, entries: Mapping[str, ContextEntry]) -> list[Placement]:
    """The sources that a copy takes, in the order in which it names them; `entries` by their paths. Raises
    InvalidArgument for one that the context lacks, or that needs a directory as its target.
    """
    found = [entry for name in step.sources for entry in _named(name, entries)]
    if len(found) > 1 and not step.target.endswith("/"):
        raise InvalidArgument(f"several files match, so the target must be a directory: write {step.target}/")
    return [
        Placement(one, step.target, step.target.endswith("/") and one.kind != "directory") for one in found
    ]


def _named(name: str, entries: Mapping[str, ContextEntry]) -> list[ContextEntry]:
    if name == ".":
        return [ContextEntry("", "directory")]
    if (exact := entries.get(name)) is not None:
        return [exact]
    found = (
        [entry for path, entry in entries.items() if globs.matches(name, path)]
        if globs.is_pattern(name)
        else []
    )
    if not found:
        raise InvalidArgument(
            f"the context has no file {name[:200]}; check the path, and whether .dockerignore leaves it out"
        )
    return sorted(found, key=lambda entry: entry.path)


def below(directory: ContextEntry, entries: Iterable[ContextEntry]) -> list[ContextEntry]:
    """Everything in a directory of the context, however deep."""
    prefix = f"{directory.path}/" if directory.path else ""
    return [entry for entry in entries if entry.path.startswith(prefix) and entry.path != directory.path]
