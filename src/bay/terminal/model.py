"""The terminal model: cursor, margins, two screens, and the effect of each control and sequence on them."""

import re
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from wcwidth import wcwidth

from bay.terminal.grid import Cell, Grid, Row
from bay.terminal.modes import AUTOWRAP, INSERT, KEYPAD, NEWLINE, ORIGIN, SECOND_SCREEN, TerminalModes
from bay.terminal.style import PLAIN, Style, background_of, changed, number
from bay.terminal.tokens import tokens

_PARAMETERS = re.compile(r"([<-?]?)([0-9;]*)([\x20-\x2f]*)")
_MAX_PARAMETERS = 32
_LONGEST_TITLE = 256
_LINE_DRAWING = str.maketrans("`afgjklmnopqrstuvwxyz{|}~", "◆▒°±┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·")
_width = lru_cache(maxsize=4096)(wcwidth)


@dataclass(frozen=True, slots=True)
class SavedCursor:
    """The state that ESC 7 saves."""

    y: int
    x: int
    style: Style
    charsets: tuple[str, str]
    shifted: int


@dataclass(slots=True)
class ScreenBuffer:
    """One of the two screens, with the cursor that was saved on it."""

    grid: Grid
    saved: SavedCursor | None = None


@dataclass(slots=True)
class TabStops:
    """Tab stops: every eight columns, until a program sets others."""

    cols: int
    stops: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.stops = self.usual()

    def usual(self) -> list[int]:
        """The stops of a fresh terminal."""
        return list(range(8, self.cols, 8))

    def add(self, x: int) -> None:
        """Stop at `x`, too."""
        if x not in self.stops:
            insort(self.stops, x)

    def remove(self, x: int) -> None:
        """Do not stop at `x`."""
        if x in self.stops:
            self.stops.remove(x)

    def after(self, x: int, count: int) -> int:
        """The stop that is `count` further right, else the last column."""
        index = bisect_right(self.stops, x) + count - 1
        return self.stops[index] if index < len(self.stops) else self.cols - 1

    def before(self, x: int, count: int) -> int:
        """The stop that is `count` further left, else the first column."""
        index = bisect_left(self.stops, x) - count
        return self.stops[index] if index >= 0 else 0


class Terminal:
    """A terminal of `rows` and `cols`, with `scrollback` lines that have left at the top.
    Positions count from 0. After the last column the cursor stays there with `wrapping` set: the next
    character begins a new line, or takes its place where wrapping is switched off.
    """

    def __init__(self, rows: int, cols: int, scrollback: int = 0) -> None:
        self.rows = rows
        self.cols = cols
        self.history: deque[Row] = deque(maxlen=scrollback)
        self.title = ""
        self.reset()

    def reset(self) -> None:
        """As after switching it on."""
        self.main = ScreenBuffer(Grid(self.rows, self.cols))
        self.second = ScreenBuffer(Grid(self.rows, self.cols))
        self.history.clear()
        self.tabs = TabStops(self.cols)
        self.rest = ""
        self.last = ""
        self.y = self.x = 0
        self.wrapping = False
        self.page = self.main
        self.second_by = ""
        self.reset_softly()

    def reset_softly(self) -> None:
        """Reset all modes as at power-on; the screen stays."""
        self.modes = TerminalModes()
        self.page.saved = None
        self.style = PLAIN
        self.charsets = ("B", "B")
        self.shifted = 0
        self.cursor_shape = 0
        self.set_margins(0, self.rows - 1)

    def feed(self, text: str) -> None:
        """Process a program's output; an incomplete sequence is left in `rest`."""
        handlers = {
            "text": self.draw,
            "csi": self._csi,
            "osc": self._osc,
            "escape": self._escape,
            "control": self._control,
            "rest": self._keep,
        }
        text, self.rest = self.rest + text, ""
        for kind, content in tokens(text):
            if kind in handlers:
                handlers[kind](content)

    def _keep(self, rest: str) -> None:
        self.rest = rest

    # Characters

    def draw(self, text: str) -> None:
        """Write characters at the cursor."""
        if self.charsets[self.shifted] == "0":
            text = text.translate(_LINE_DRAWING)
        self.last = text[-1]
        if text.isascii():
            self._write([(char, self.style) for char in text])
        else:
            for char in text:
                self._draw_one(char, _width(char))

    def repeat(self, count: int) -> None:
        """Write the last character again. xterm's terminfo promises it within a line, so that is the most."""
        width = _width(self.last) if self.last else 0
        if width == 1:
            self._write([(self.last, self.style)] * min(count, self.cols))
        elif width == 2 and self.cols > 1:
            self.draw(self.last * min(count, self.cols // 2))

    def _write(self, cells: list[Cell]) -> None:
        """Write characters that take one column each."""
        start = 0
        while start < len(cells):
            self._wrap()
            end = start + self.cols - self.x
            piece = cells[start:end]
            if end < len(cells) and AUTOWRAP not in self.modes.on:
                piece[-1], end = cells[-1], len(cells)  # they all land on the last column
            self._place(piece)
            start = end

    def _draw_one(self, char: str, width: int) -> None:
        if width <= 0:
            self._mark(char)
            return
        if width > self.cols:
            char, width = "\ufffd", 1
        self._wrap()
        if self.x + width > self.cols:
            self._make_room(width)
        self._place([(char, self.style), ("", self.style)][:width])

    def _mark(self, char: str) -> None:
        x = self.x if self.wrapping else self.x - 1
        if x >= 0:
            self.page.grid.mark(self.y, x, char)

    def _wrap(self) -> None:
        if self.wrapping and AUTOWRAP in self.modes.on:
            self.x = 0
            self.index()

    def _make_room(self, width: int) -> None:
        self.wrapping = True
        self.x = self.cols - width
        self._wrap()

    def _place(self, cells: list[Cell]) -> None:
        if INSERT in self.modes.on:
            self.page.grid.insert(self.y, self.x, len(cells), background_of(self.style))
        self.page.grid.put(self.y, self.x, cells)
        self.x += len(cells)
        if self.x >= self.cols:
            self.x = self.cols - 1
            self.wrapping = True

    # The cursor

    def move_to(self, y: int, x: int) -> None:
        """Put the cursor on a cell of the screen, or the nearest to it; in origin mode inside the margins."""
        top, bottom = (self.top, self.bottom) if ORIGIN in self.modes.on else (0, self.rows - 1)
        self.y = min(max(y, top), bottom)
        self.x = min(max(x, 0), self.cols - 1)
        self.wrapping = False

    def address(self, y: int, x: int) -> None:
        """Move the cursor to a program's position, which in origin mode counts from the top margin."""
        self.move_to(y + self.top if ORIGIN in self.modes.on else y, x)

    def up(self, count: int) -> None:
        """Move up; the top margin stops it."""
        self.move_to(max(self.y - count, self.top if self.y >= self.top else 0), self.x)

    def down(self, count: int) -> None:
        """Move down; the bottom margin stops it."""
        self.move_to(min(self.y + count, self.bottom if self.y <= self.bottom else self.rows - 1), self.x)

    def save(self) -> None:
        """Keep the cursor for `restore`."""
        self.page.saved = SavedCursor(self.y, self.x, self.style, self.charsets, self.shifted)

    def restore(self) -> None:
        """Put the cursor back as it was saved, or to the first cell."""
        saved = self.page.saved or SavedCursor(0, 0, PLAIN, ("B", "B"), 0)
        self.style, self.charsets, self.shifted = saved.style, saved.charsets, saved.shifted
        self.move_to(saved.y, saved.x)

    # Lines

    def index(self) -> None:
        """Go down a line; at the bottom margin everything moves up."""
        self.wrapping = False
        if self.y == self.bottom:
            self.scroll_up(1)
        elif self.y < self.rows - 1:
            self.y += 1

    def reverse_index(self) -> None:
        """Go up a line; at the top margin everything moves down."""
        self.wrapping = False
        if self.y == self.top:
            self.page.grid.scroll_down(self.top, self.bottom, 1, background_of(self.style))
        elif self.y > 0:
            self.y -= 1

    def line_feed(self) -> None:
        """A new line, in newline mode from its beginning."""
        self.index()
        if NEWLINE in self.modes.on:
            self.x = 0

    def scroll_up(self, count: int) -> None:
        """Scroll the lines between the margins up, from the main screen's top into the scrollback."""
        left = self.page.grid.scroll_up(self.top, self.bottom, count, background_of(self.style))
        if self.page is self.main and self.top == 0:
            self.history.extend(left)

    def scroll_down(self, count: int) -> None:
        """Scroll the lines between the margins down."""
        self.page.grid.scroll_down(self.top, self.bottom, count, background_of(self.style))

    def insert_lines(self, count: int) -> None:
        """Insert blank lines at the cursor; lines that leave at the bottom margin are lost."""
        if self.top <= self.y <= self.bottom:
            self.page.grid.scroll_down(self.y, self.bottom, count, background_of(self.style))
            self.move_to(self.y, 0)

    def delete_lines(self, count: int) -> None:
        """Take out lines at the cursor; those below move up."""
        if self.top <= self.y <= self.bottom:
            self.page.grid.scroll_up(self.y, self.bottom, count, background_of(self.style))
            self.move_to(self.y, 0)

    def set_margins(self, top: int, bottom: int) -> bool:
        """Which lines scroll; less than two are refused. Gives whether they were taken."""
        bottom = min(bottom, self.rows - 1)
        taken = top < bottom or (top, bottom) == (0, self.rows - 1)
        if taken:
            self.top, self.bottom = top, bottom
        return taken

    # Erasing

    def erase_display(self, how: int) -> None:
        """0: from the cursor on, 1: up to it, 2: everything, 3: the scrollback."""
        grid, style = self.page.grid, background_of(self.style)
        if how == 3:
            self.history.clear()
        if how in (0, 1):
            self.erase_line(how)
        first, last = {0: (self.y + 1, self.rows), 1: (0, self.y), 2: (0, self.rows)}.get(how, (0, 0))
        grid.fill(first, last, " ", style)

    def erase_line(self, how: int) -> None:
        """0: from the cursor on, 1: up to it, 2: the whole line."""
        start, end = {0: (self._next, self.cols), 1: (0, self.x + 1), 2: (0, self.cols)}.get(how, (0, 0))
        if start < end:
            self.page.grid.erase(self.y, start, end, background_of(self.style))

    def erase(self, count: int) -> None:
        """Blank characters from the cursor on."""
        if self._next < self.cols:
            self.page.grid.erase(self.y, self.x, self.x + count, background_of(self.style))

    @property
    def _next(self) -> int:
        # Behind the last column when that was written to: most terminals spare the cell under the cursor
        # then, and programs that end each coloured text with an erasure rely on it.
        return self.cols if self.wrapping else self.x

    def insert(self, count: int) -> None:
        """Insert blanks at the cursor; the rest of the row moves right."""
        self.wrapping = False
        self.page.grid.insert(self.y, self.x, count, background_of(self.style))

    def delete(self, count: int) -> None:
        """Take out characters at the cursor."""
        self.wrapping = False
        self.page.grid.delete(self.y, self.x, count, background_of(self.style))

    def align(self) -> None:
        """Fill the screen with E, for adjusting tubes."""
        self.set_margins(0, self.rows - 1)
        self.page.grid.fill(0, self.rows, "E", PLAIN)
        self.move_to(0, 0)

    # Switches

    def switch(self, mode: str, on: bool) -> None:
        """Set or reset a mode."""
        if mode in SECOND_SCREEN:
            self._switch_screen(mode, on)
        elif mode == "?1048":
            self.save() if on else self.restore()
        else:
            self.modes.switch(mode, on)
            if mode == ORIGIN:
                self.address(0, 0)

    def _switch_screen(self, mode: str, on: bool) -> None:
        if on == bool(self.second_by):
            return
        if on and mode == "?1049":
            self.save()
        self.second = ScreenBuffer(Grid(self.rows, self.cols))
        self.page = self.second if on else self.main
        self.second_by = mode if on else ""
        if not on and mode == "?1049":
            self.restore()

    def designate(self, slot: int, charset: str) -> None:
        """Choose the character set of G0 or G1; all but line drawing are taken for ASCII."""
        charset = "0" if charset == "0" else "B"
        self.charsets = (charset, self.charsets[1]) if slot == 0 else (self.charsets[0], charset)

    # Sequences

    def _control(self, control: str) -> None:
        act = _CONTROLS.get(control)
        if act:
            act(self)

    def _escape(self, content: str) -> None:
        act = _ESCAPES.get(content)
        if act:
            act(self)
        elif content[0] in "()" and len(content) == 2:
            self.designate("()".index(content[0]), content[1])

    def _osc(self, content: str) -> None:
        code, _, value = content.partition(";")
        if code in ("0", "2"):
            self.title = "".join(char for char in value[:_LONGEST_TITLE] if char.isprintable())

    def _csi(self, content: str) -> None:
        parameters, final = content[:-1], content[-1]
        if final == "m" and parameters[:1] not in ("<", "=", ">", "?"):
            self.style = changed(self.style, parameters)
            return
        match = _PARAMETERS.fullmatch(parameters)
        if match is None:
            return
        act = _SEQUENCES.get(match[1] + match[3] + final)
        if act:
            texts = match[2].split(";", _MAX_PARAMETERS)[:_MAX_PARAMETERS]
            act(self, [number(text) for text in texts])


def _by_count(act: Callable[[Terminal, int], None]) -> Callable[[Terminal, list[int]], None]:
    return lambda terminal, numbers: act(terminal, numbers[0] or 1)


def _by_kind(act: Callable[[Terminal, int], None]) -> Callable[[Terminal, list[int]], None]:
    return lambda terminal, numbers: act(terminal, numbers[0])


def _by_mode(prefix: str, on: bool) -> Callable[[Terminal, list[int]], None]:
    def act(terminal: Terminal, numbers: list[int]) -> None:
        for mode in numbers:
            terminal.switch(f"{prefix}{mode}", on)

    return act


def _address(terminal: Terminal, numbers: list[int]) -> None:
    terminal.address((numbers[0] or 1) - 1, ((numbers[1] if len(numbers) > 1 else 0) or 1) - 1)


def _margins(terminal: Terminal, numbers: list[int]) -> None:
    bottom = (numbers[1] if len(numbers) > 1 else 0) or terminal.rows
    if terminal.set_margins((numbers[0] or 1) - 1, bottom - 1):
        terminal.address(0, 0)


def _clear_tab(terminal: Terminal, kind: int) -> None:
    if kind == 0:
        terminal.tabs.remove(terminal.x)
    elif kind == 3:
        terminal.tabs.stops.clear()


def _tab(terminal: Terminal, count: int) -> None:
    terminal.move_to(terminal.y, terminal.tabs.after(terminal.x, count))


def _tab_back(terminal: Terminal, count: int) -> None:
    terminal.move_to(terminal.y, terminal.tabs.before(terminal.x, count))


def _shape(terminal: Terminal, shape: int) -> None:
    terminal.cursor_shape = shape if shape <= 6 else 0


def _shift(terminal: Terminal, slot: int) -> None:
    terminal.shifted = slot


def _next_line(terminal: Terminal) -> None:
    terminal.index()
    terminal.x = 0


def _set_tab(terminal: Terminal) -> None:
    terminal.tabs.add(terminal.x)


_CONTROLS: dict[str, Callable[[Terminal], None]] = {
    "\b": lambda terminal: terminal.move_to(terminal.y, terminal.x - 1),
    "\t": lambda terminal: _tab(terminal, 1),
    "\n": Terminal.line_feed,
    "\v": Terminal.line_feed,
    "\f": Terminal.line_feed,
    "\r": lambda terminal: terminal.move_to(terminal.y, 0),
    "\x0e": lambda terminal: _shift(terminal, 1),
    "\x0f": lambda terminal: _shift(terminal, 0),
    "\x84": Terminal.index,
    "\x85": _next_line,
    "\x88": _set_tab,
    "\x8d": Terminal.reverse_index,
}
_ESCAPES: dict[str, Callable[[Terminal], None]] = {
    "7": Terminal.save,
    "8": Terminal.restore,
    "D": Terminal.index,
    "E": _next_line,
    "H": _set_tab,
    "M": Terminal.reverse_index,
    "c": Terminal.reset,
    "=": lambda terminal: terminal.switch(KEYPAD, True),
    ">": lambda terminal: terminal.switch(KEYPAD, False),
    "#8": Terminal.align,
}
_SEQUENCES: dict[str, Callable[[Terminal, list[int]], None]] = {
    "@": _by_count(Terminal.insert),
    "A": _by_count(Terminal.up),
    "B": _by_count(Terminal.down),
    "C": _by_count(lambda terminal, count: terminal.move_to(terminal.y, terminal.x + count)),
    "D": _by_count(lambda terminal, count: terminal.move_to(terminal.y, terminal.x - count)),
    "E": _by_count(lambda terminal, count: (terminal.down(count), terminal.move_to(terminal.y, 0))[1]),
    "F": _by_count(lambda terminal, count: (terminal.up(count), terminal.move_to(terminal.y, 0))[1]),
    "G": _by_count(lambda terminal, count: terminal.move_to(terminal.y, count - 1)),
    "H": _address,
    "I": _by_count(_tab),
    "J": _by_kind(Terminal.erase_display),
    "?J": _by_kind(Terminal.erase_display),
    "K": _by_kind(Terminal.erase_line),
    "?K": _by_kind(Terminal.erase_line),
    "L": _by_count(Terminal.insert_lines),
    "M": _by_count(Terminal.delete_lines),
    "P": _by_count(Terminal.delete),
    "S": _by_count(Terminal.scroll_up),
    "T": _by_count(Terminal.scroll_down),
    "X": _by_count(Terminal.erase),
    "Z": _by_count(_tab_back),
    "`": _by_count(lambda terminal, count: terminal.move_to(terminal.y, count - 1)),
    "a": _by_count(lambda terminal, count: terminal.move_to(terminal.y, terminal.x + count)),
    "b": _by_count(Terminal.repeat),
    "d": _by_count(lambda terminal, count: terminal.address(count - 1, terminal.x)),
    "e": _by_count(Terminal.down),
    "f": _address,
    "g": _by_kind(_clear_tab),
    "h": _by_mode("", True),
    "?h": _by_mode("?", True),
    "l": _by_mode("", False),
    "?l": _by_mode("?", False),
    "r": _margins,
    "s": lambda terminal, _: terminal.save(),
    "u": lambda terminal, _: terminal.restore(),
    "!p": lambda terminal, _: terminal.reset_softly(),
    " q": _by_kind(_shape),
}
