"""Glob patterns of paths: `*` and `?` within a name, `[…]`, and `**` for any number of directories.

Each part is matched by itself, with `fnmatch`, whose expressions do not go back and forth: a pattern costs at
most its length times that of the path. `*` matches names that begin with a dot too.
"""

import fnmatch
import re

from ship.errors import InvalidArgument

_MAX_CHARACTERS = 1024
_MAX_PARTS = 64


class Glob:
    """A pattern, matched against relative paths."""

    def __init__(self, pattern: str) -> None:
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        if not parts or len(pattern) > _MAX_CHARACTERS or len(parts) > _MAX_PARTS or "\0" in pattern:
            size = f"1 to {_MAX_CHARACTERS} characters, no NUL, and at most {_MAX_PARTS} parts"
            raise InvalidArgument(f"a glob must have {size}", field="glob")
        if ".." in parts:
            raise InvalidArgument("a glob may not contain ..", field="glob")
        self._parts = [None if part == "**" else re.compile(fnmatch.translate(part)) for part in parts]
        self.depth = None if None in self._parts else len(parts)
        """How deep what matches lies at most; None: anywhere."""

    def matches(self, path: str) -> bool:
        """Whether the whole of `path`, without a slash before or behind, is one that the pattern names."""
        reached = self._closure({0})  # how many parts of the pattern are done with, in every way there is
        for name in path.split("/"):
            reached = self._closure({after for count in reached for after in self._step(count, name)})
            if not reached:
                return False
        return len(self._parts) in reached

    def _step(self, count: int, name: str) -> tuple[int, ...]:
        if count == len(self._parts):
            return ()
        part = self._parts[count]
        if part is None:
            return (count,)
        return (count + 1,) if part.match(name) else ()

    def _closure(self, reached: set[int]) -> set[int]:
        found = set(reached)
        for count in reached:
            while count < len(self._parts) and self._parts[count] is None:
                count += 1
                found.add(count)
        return found
