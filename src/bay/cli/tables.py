"""Lays out tables by the columns that a terminal gives to each character, and no wider than the terminal.

Cells are folded and never cut, so nothing is lost. In the first column an id stays on one line, to be copied.
"""

import importlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest

_GAP = 2
_ID_WIDTH = 34
"""The longest ids have 33 characters."""
_NARROWEST = 12
_FOLDS = " /,;-"
"""A line may end after these."""


def lay_out(table: Sequence[Sequence[str]], room: int | None) -> Iterator[str]:
    """The lines of a table of text without control characters, within `room` columns where that is given."""
    columns = list(zip(*table, strict=True))
    widths = [max(map(width_of, column)) for column in columns]
    if room is not None:
        widths = _fitting(widths, list(map(_least, columns)), room)
    for row in table:
        cells = [_folded(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in zip_longest(*cells, fillvalue=""):
            padded = (text + " " * (width - width_of(text)) for text, width in zip(line, widths, strict=True))
            yield (" " * _GAP).join(padded).rstrip()


def width_of(text: str) -> int:
    """How many columns of a terminal it takes."""
    # Its tables are of Unicode's East Asian Width, like those of wcwidth(3).
    return len(text) if text.isascii() else int(importlib.import_module("rich.cells").cell_len(text))


def _least(column: Sequence[str]) -> int:
    """As narrow as a column becomes without folding an id or a short word."""
    longest = max(width_of(word) for cell in column for word in (cell.split() or [""]))
    return longest if longest <= _ID_WIDTH else _NARROWEST


def _fitting(widths: list[int], least: list[int], room: int) -> list[int]:
    """The widths with the widest made narrower: first with whole words, then by folding words too."""
    found = list(widths)
    floors = (least, [least[0], *(min(low, _NARROWEST) for low in least[1:])])
    for floor in floors:
        while sum(found) + _GAP * (len(found) - 1) > room:
            loose = [place for place, width in enumerate(found) if width > floor[place]]
            if not loose:
                break
            found[max(loose, key=lambda place: found[place])] -= 1
    return found


def _folded(text: str, room: int) -> list[str]:
    lines = list[str]()
    while width_of(text) > room:
        end = _end_of_line(text, room)
        lines.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*lines, text]


def _end_of_line(text: str, room: int) -> int:
    """Where the first line ends: after the last good place, else after as much as has room, but some."""
    width, good, end = 0, 0, 0
    for end, character in enumerate(text):
        width += width_of(character)
        if width > room and not (character == " " and width == room + 1):
            break
        if character in _FOLDS:
            good = end + 1
    return good or max(end, 1)
