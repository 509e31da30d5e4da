"""Matches a query against lines of bytes.

A whole block is searched at once, many times faster than line by line. That is right only for expressions
that cannot match a line's end and do not look around; others go line by line. Bytes are searched as bytes
where that means the same: for plain text, and where a block is ASCII; else they are decoded.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

_PLAIN = re.compile(
    r"""(?: [^\\\[(*+?{}|\n] | \\[wdbS.^$*+?()\[\]{}|/"'-] | \\\\ | \[(?:[A-Za-z0-9_ .,:;/@-]|\\[wd.])+\]
        | \((?!\?) | \(\?: | [*+?}](?!\+) | \{[0-9,]+(?=\}) | \| )*""",
    re.VERBOSE,
)
_LITERAL = re.compile(r"[^\\\[\](){}|*+?.^$\n]{2,}(?![*?{])")
_SHOWN = 1024
_BEFORE = 256


T = TypeVar("T", str, bytes)


class BadQuery(ValueError):
    """An expression that cannot be compiled."""


class Line(NamedTuple):
    """A line of a block with a match. `number` counts from 0, `column` characters from 0."""

    number: int
    column: int
    text: str


class Query:
    """The compiled query. Raises BadQuery."""

    def __init__(self, text: str, *, regex: bool, ignore_case: bool) -> None:
        expression = text if regex else re.escape(text)
        flags = re.MULTILINE | (re.IGNORECASE if ignore_case else 0)
        try:
            self._text = re.compile(expression, flags)
            self._bytes = re.compile(os_bytes(expression), flags) if expression.isascii() else None
        except (re.error, RecursionError, OverflowError, MemoryError) as error:
            raise BadQuery(f"the expression cannot be used: {error}") from error
        self._needle = None if regex or ignore_case else os_bytes(text)
        self._at_once = not regex or _PLAIN.fullmatch(text) is not None
        self._folds = ignore_case
        self._needed = os_bytes(_needed(text, regex=regex))
        if ignore_case:
            self._needed = self._needed.lower() if self._needed.isascii() else b""

    def may_match(self, block: bytes) -> bool:
        """A quick look: False when nothing in `block` can match."""
        if not self._folds:
            return self._needed in block
        return not block.isascii() or self._needed in block.lower()

    def lines(self, block: bytes) -> Iterator[Line]:
        if self._needle is not None:
            return self._with_needle(block, self._needle)
        if b"\r" in block:
            block = (block + b"\n" if block.endswith(b"\r") else block).replace(b"\r\n", b"\n")
        if self._bytes is not None and block.isascii():
            return self._with_pattern(block, self._bytes, b"\n", _line)
        return self._with_pattern(block.decode("utf-8", "replace"), self._text, "\n", _shown)

    def _with_needle(self, block: bytes, needle: bytes) -> Iterator[Line]:
        for number, start, at, end in _hits(block, lambda position: block.find(needle, position), b"\n"):
            yield _line(number, block[start:end], at - start)

    def _with_pattern(
        self, block: T, pattern: re.Pattern[T], newline: T, show: Callable[[int, T, int], Line]
    ) -> Iterator[Line]:
        if not self._at_once:
            for number, line in enumerate(_split(block, newline)):
                if match := pattern.search(line):
                    yield show(number, line, match.start())
            return

        def find(position: int) -> int:
            match = pattern.search(block, position)
            return -1 if match is None else match.start()

        for number, start, at, end in _hits(block, find, newline):
            yield show(number, block[start:end], at - start)


def _needed(text: str, *, regex: bool) -> str:
    """A piece of plain text that stands in everything that matches; empty when that is not easily said."""
    if not regex:
        return text
    if _PLAIN.fullmatch(text) is None or "|" in text or "(" in text or "{" in text:
        return ""
    return max(_LITERAL.findall(re.sub(r"\\.|\[[^\]]*\]", ".", text)), key=len, default="")


def os_bytes(text: str) -> bytes:
    """The query's text as the bytes in files; surrogate escapes become their bytes again."""
    return text.encode("utf-8", "surrogateescape")


def _hits(block: T, find: Callable[[int], int], newline: T) -> Iterator[tuple[int, int, int, int]]:
    """Each line that has a match once: its number, where it starts, where the match is, and where it ends."""
    number = counted = position = 0
    size = len(block)
    while position < size and 0 <= (at := find(position)) < size:
        start = block.rfind(newline, position, at) + 1 or position
        end = block.find(newline, at)
        end = size if end < 0 else end
        number += block.count(newline, counted, start)
        counted = start
        yield number, start, at, end
        position = end + 1


def _split(block: T, newline: T) -> list[T]:
    lines: list[T] = block.split(newline)  # pyright: ignore[reportAssignmentType] - one of the two
    if not lines[-1]:
        lines.pop()  # a final newline has no line behind it
    return lines


def _line(number: int, line: bytes, at: int) -> Line:
    if line.isascii():
        return _shown(number, line.decode("ascii"), at)
    return _shown(number, line.decode("utf-8", "replace"), len(line[:at].decode("utf-8", "replace")))


def _shown(number: int, line: str, column: int) -> Line:
    """Of a long line what is around the match."""
    line = line.removesuffix("\r")
    start = 0 if column < _SHOWN - _BEFORE else column - _BEFORE
    cut = line[start : start + _SHOWN]
    return Line(number, column, cut.encode("utf-8", "replace")[:_SHOWN].decode("utf-8", "ignore"))
