"""The grid of a screen's cells. A change costs time by the cells it touches, never by rows times columns.

A row that was erased or filled is a tuple which many rows share, and becomes a list when it is written to. A
character of two columns is in the left cell; the right one holds an empty text.
"""

from collections.abc import Sequence
from functools import cache

from bay.terminal.style import PLAIN, Style

Cell = tuple[str, Style]
Row = Sequence[Cell]

BLANK: Cell = (" ", PLAIN)
_LONGEST = 8  # code points in a cell: more marks than this on one letter are not kept


@cache
def _uniform(cell: Cell, cols: int) -> Row:
    return (cell,) * cols


def uniform(text: str, style: Style, cols: int) -> Row:
    """A row that is the same everywhere."""
    if style == PLAIN:
        return _uniform((text, style), cols)
    return ((text, style),) * cols


class Grid:
    """Cells in `rows` and `cols`. Positions count from 0; ranges of columns are `start` to before `end`."""

    def __init__(self, rows: int, cols: int) -> None:
        self.rows = rows
        self.cols = cols
        self.lines: list[Row] = [uniform(" ", PLAIN, cols)] * rows

    def put(self, y: int, x: int, cells: list[Cell]) -> None:
        """Write `cells` from column `x` on; they must fit."""
        row = self._open(y, x, x + len(cells))
        row[x : x + len(cells)] = cells

    def mark(self, y: int, x: int, mark: str) -> None:
        """Put a mark that takes no column onto the character at `x`."""
        row = self._open(y, 0, 0)
        if not row[x][0] and x > 0:
            x -= 1
        text, style = row[x]
        if len(text) < _LONGEST:
            row[x] = (text + mark, style)

    def erase(self, y: int, start: int, end: int, style: Style) -> None:
        """Blank some columns of a row."""
        if start == 0 and end >= self.cols:
            self.lines[y] = uniform(" ", style, self.cols)
        else:
            end = min(end, self.cols)
            self._open(y, start, end)[start:end] = [(" ", style)] * (end - start)

    def fill(self, first: int, last: int, text: str, style: Style) -> None:
        """Make the rows from `first` to before `last` the same everywhere."""
        self.lines[first:last] = [uniform(text, style, self.cols)] * (last - first)

    def insert(self, y: int, x: int, count: int, style: Style) -> None:
        """Insert blank columns at `x`; the rest moves right, and its last columns are lost."""
        count = min(count, self.cols - x)
        row = self._open(y, x, self.cols - count)
        row[x:] = [(" ", style)] * count + row[x : self.cols - count]

    def delete(self, y: int, x: int, count: int, style: Style) -> None:
        """Delete columns; the columns to their right move left."""
        count = min(count, self.cols - x)
        row = self._open(y, x, x + count)
        row[x:] = row[x + count :] + [(" ", style)] * count

    def scroll_up(self, top: int, bottom: int, count: int, style: Style) -> list[Row]:
        """Move the rows `top` to `bottom` (both moved) up; gives those that left."""
        count = min(count, bottom - top + 1)
        left = self.lines[top : top + count]
        del self.lines[top : top + count]
        end = bottom + 1 - count
        self.lines[end:end] = [uniform(" ", style, self.cols)] * count
        return left

    def scroll_down(self, top: int, bottom: int, count: int, style: Style) -> None:
        """Move the rows `top` to `bottom` (both moved) down; rows that leave at the bottom are lost."""
        count = min(count, bottom - top + 1)
        del self.lines[bottom + 1 - count : bottom + 1]
        self.lines[top:top] = [uniform(" ", style, self.cols)] * count

    def _open(self, y: int, start: int, end: int) -> list[Cell]:
        """The row to write to; a wide character which a border of the range cuts is blanked."""
        row = self.lines[y]
        if not isinstance(row, list):
            self.lines[y] = row = list(row)
        _split(row, start)
        _split(row, end)
        return row


def _split(row: list[Cell], x: int) -> None:
    if 0 < x < len(row) and not row[x][0]:
        row[x - 1] = (" ", row[x - 1][1])
        row[x] = (" ", row[x][1])


def text_of(row: Row) -> str:
    """The characters of a row without the blanks at its end."""
    return "".join([cell[0] for cell in row]).rstrip(" ")


def trimmed(row: Row) -> Row:
    """The cells of a row without the plain blanks at its end; not changed by later writing."""
    end = len(row)
    while end and row[end - 1] == BLANK:
        end -= 1
    return tuple(row[:end])
