"""The tool finds text in the files below the working directory, or in stdin; without a text, file names.

It prints a JSON object a line: matches, its progress now and then, and at last the totals with `truncated`.
It checks its time limit between two files; the caller kills it where one expression runs too long.
"""

import json
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from ship.tools import settle, walk
from ship.tools.gitignore import MAX_BYTES, GitIgnore, Layer, is_ignored
from ship.tools.globs import BadGlob, compile_glob
from ship.tools.query import BadQuery, Query
from tree_tar.beneath import OPEN_DIRECTORY, OPEN_FILE, closing

_MEMORY_BYTES = 320 << 20
_BLOCK = 64 * 1024  # the C library gives more back to the kernel each time, which costs more than reading
_LARGE_BLOCK = 4 << 20
_OVERLAP = 4096
_LOOKED_AT = 8192
_PRINTED_BYTES = 8 << 20
_PROGRESS_S = 0.5
_GIT = ".git"
_RULES = ".gitignore"


@dataclass(frozen=True, slots=True)
class Order:
    """`base` is the working directory's name in answers, `floor` the top in the search for .gitignore."""

    base: str
    floor: str
    glob: re.Pattern[str] | None
    query: Query | None
    hidden: bool
    gitignore: bool
    limit: int
    seconds: float

    @classmethod
    def read(cls, given: dict[str, Any]) -> "Order":
        """Raises BadGlob or BadQuery."""
        glob, text = given["glob"], given["query"]
        return cls(
            base=given["base"],
            floor=given["floor"],
            glob=compile_glob(glob) if glob else None,
            query=Query(text, regex=given["regex"], ignore_case=given["ignore_case"]) if text else None,
            hidden=given["hidden"],
            gitignore=given["gitignore"],
            limit=given["limit"],
            seconds=given["seconds"],
        )


class Full(Exception):
    """There is more, but no room or no time for it."""


class Output:
    """Counts what is searched, and prints what is found."""

    def __init__(self, order: Order) -> None:
        self.searched = 0
        self.skipped = 0
        self._order = order
        self._until = time.monotonic() + order.seconds
        self._next_progress = time.monotonic() + _PROGRESS_S
        self._found = 0
        self._room = _PRINTED_BYTES

    def match(
        self, path: str, line: int | None = None, column: int | None = None, text: str | None = None
    ) -> None:
        """One match. Raises Full when it is one too many."""
        shown = json.dumps({"path": _as_utf8(path), "line": line, "column": column, "text": text})
        self._room -= len(shown)
        if self._found == self._order.limit or self._room < 0:
            raise Full
        self._found += 1
        sys.stdout.write(shown + "\n")

    def look_at_clock(self) -> None:
        """Call between files. Raises Full when the time is over."""
        now = time.monotonic()
        if now >= self._next_progress:
            self._next_progress = now + _PROGRESS_S
            self.counts(truncated=True)
            sys.stdout.flush()
            if now >= self._until:
                raise Full

    def counts(self, *, truncated: bool) -> None:
        counts = {"files_searched": self.searched, "files_skipped": self.skipped, "truncated": truncated}
        print(json.dumps(counts))  # noqa: T201 - that is its answer


class _Level(NamedTuple):
    directory: int
    prefix: str
    entries: Iterator[os.DirEntry[str]]
    layers: tuple[Layer, ...]


class Search:
    def __init__(self, order: Order, output: Output) -> None:
        self._order = order
        self._output = output
        self._base = order.base.rstrip("/") + "/"
        self._made_up = walk.made_up()
        self._levels: list[_Level] = []

    def run(self) -> None:
        """Search the working directory, or stdin when that is a file. Raises Full."""
        if stat.S_ISREG(os.fstat(0).st_mode):
            self._search(0, self._order.base)
            return
        layers = _layers_above(self._order.floor) if self._order.gitignore else ()
        self._enter(os.open(".", OPEN_DIRECTORY), "", layers)
        while self._levels:
            level = self._levels[-1]
            entry = next(level.entries, None)
            if entry is None:
                os.close(level.directory)
                self._levels.pop()
            else:
                self._take(level, entry)

    def _enter(self, directory: int, prefix: str, layers: tuple[Layer, ...]) -> None:
        try:
            entries = walk.entries(directory)
        except OSError:
            entries = []
        if self._order.gitignore:
            layers = _with_own(directory, prefix, entries, layers)
        self._levels.append(_Level(directory, prefix, iter(entries), layers))

    def _take(self, level: _Level, entry: os.DirEntry[str]) -> None:
        name = entry.name
        if name.startswith(".") and (not self._order.hidden or (name == _GIT and self._order.gitignore)):
            return
        path = level.prefix + name
        is_directory = entry.is_dir(follow_symlinks=False)
        if level.layers and is_ignored(level.layers, path, name, is_directory):
            return
        if is_directory:
            self._descend(level, path, name)
        elif self._order.glob is None or self._order.glob.fullmatch(path):
            self._look_into(level, entry, path)

    def _descend(self, level: _Level, path: str, name: str) -> None:
        self._output.look_at_clock()
        if len(self._levels) > walk.DEEPEST:
            self._output.skipped += 1
            return
        try:
            directory = walk.enter(level.directory, name, self._made_up)
        except OSError:
            return
        self._enter(directory, path + "/", level.layers)

    def _look_into(self, level: _Level, entry: os.DirEntry[str], path: str) -> None:
        self._output.look_at_clock()
        if self._order.query is None:
            self._output.searched += 1
            self._output.match(self._base + path)
            return
        if not entry.is_file(follow_symlinks=False):
            return
        try:
            descriptor = os.open(entry.name, OPEN_FILE, dir_fd=level.directory)
        except OSError:
            self._output.skipped += 1
            return
        with closing(descriptor):
            self._search(descriptor, self._base + path)

    def _search(self, descriptor: int, path: str) -> None:
        query = self._order.query
        if query is None:
            self._output.match(path)
            return
        try:
            first = os.read(descriptor, _BLOCK)
            if first.find(b"\0", 0, _LOOKED_AT) >= 0:
                self._output.skipped += 1
                return
            self._output.searched += 1
            if len(first) < _BLOCK:
                if not query.may_match(first):
                    return
                for line in query.lines(first):
                    self._output.match(path, line.number + 1, line.column + 1, line.text)
            else:
                self._search_large(query, descriptor, first, path)
        except OSError:
            self._output.skipped += 1

    def _search_large(self, query: Query, descriptor: int, first: bytes, path: str) -> None:
        before = reported = -1
        for block, lines_before, columns_before in _blocks(descriptor, first):
            for line in query.lines(block):
                number = lines_before + line.number
                column = line.column + (columns_before if line.number == 0 else 0)
                if number != reported:
                    reported = number
                    self._output.match(path, number + 1, column + 1, line.text)
            if before != lines_before:
                before = lines_before
                self._output.look_at_clock()


def _blocks(descriptor: int, first: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Blocks of whole lines of a file, each with the lines before it, and its first line's bytes before it.
    A line that is longer than a block comes in parts that overlap.
    """
    lines = columns = 0
    data = first
    while more := os.read(descriptor, _LARGE_BLOCK - len(data)):
        data += more
        if len(data) < _LARGE_BLOCK:
            continue
        cut = data.rfind(b"\n") + 1
        if cut:
            yield data[:cut], lines, columns
            lines += data.count(b"\n", 0, cut)
            data, columns = data[cut:], 0
        else:
            yield data, lines, columns
            columns += len(data) - _OVERLAP
            data = data[-_OVERLAP:]
    if data:
        yield data, lines, columns


def _with_own(
    directory: int, prefix: str, entries: list[os.DirEntry[str]], layers: tuple[Layer, ...]
) -> tuple[Layer, ...]:
    names = {entry.name for entry in entries if entry.name in (_GIT, _RULES)}
    if _GIT in names:
        layers = ()  # a repository of its own, whatever is around it
    if _RULES in names and (rules := _read_rules(directory)) is not None:
        return (*layers, Layer(rules, "", len(prefix)))
    return layers


def _read_rules(directory: int) -> GitIgnore | None:
    with suppress(OSError), closing(os.open(_RULES, OPEN_FILE, dir_fd=directory)) as descriptor:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return GitIgnore(os.read(descriptor, MAX_BYTES))
    return None


def _layers_above(floor: str) -> tuple[Layer, ...]:
    """The rules of the repository around the working directory, when it is within one."""
    try:
        here = os.getcwd()
    except OSError:
        return ()
    found: list[Layer] = []
    below = here
    while not os.path.lexists(os.path.join(below, _GIT)):
        above = os.path.dirname(below)
        if above == below or not (above + "/").startswith(floor.rstrip("/") + "/"):
            return ()
        below = above
        if (rules := _rules_in(below)) is not None:
            prefix = here[len(below.rstrip("/")) + 1 :] + "/"
            found.insert(0, Layer(rules, prefix, 0))
    return tuple(found)


def _rules_in(path: str) -> GitIgnore | None:
    with suppress(OSError), closing(os.open(path, OPEN_DIRECTORY)) as directory:
        return _read_rules(directory)
    return None


def _as_utf8(text: str) -> str:
    return os.fsencode(text).decode("utf-8", "replace")


def main() -> None:
    """Run. A reader who goes away ends it."""
    settle(_MEMORY_BYTES)
    try:
        order = Order.read(json.loads(sys.argv[1]))
    except (BadGlob, BadQuery) as error:
        field = "glob" if isinstance(error, BadGlob) else "query"
        print(json.dumps({"error": str(error), "field": field}))  # noqa: T201 - that is its answer
        return
    output = Output(order)
    truncated = False
    try:
        Search(order, output).run()
    except (Full, MemoryError):
        truncated = True
    except BrokenPipeError:
        os._exit(0)
    output.counts(truncated=truncated)
