"""Repaint: bytes that bring a fresh terminal of the same size to the state of a model."""

from collections.abc import Iterable

from bay.terminal.grid import Row, trimmed
from bay.terminal.model import SavedCursor, Terminal
from bay.terminal.modes import ORIGIN
from bay.terminal.style import PLAIN, escape
from bay.terminal.tokens import carried

# Not ESC c: the scrollback of the person's own terminal is theirs. Without wrapping until all is drawn: a
# character that the other terminal takes for wider spoils its own line only.
_PLAIN = "\x1b(B\x1b)B\x0f\x1b[m"
_FRESH = f"\x1b[?1049l\x1b[!p\x1b[?6l\x1b[r{_PLAIN}\x1b[?7l\x1b[H\x1b[2J"
_DRAWN = f"{_PLAIN}\x1b[?7h"


def repaint(terminal: Terminal, pending: bytes = b"") -> bytes:
    """The bytes that draw the terminal, scrollback first, so that it scrolls off the fresh one's top too.
    An incomplete sequence comes last, and the bytes `pending` of a character. Later output continues there.
    """
    parts = [_FRESH, _title(terminal), _lines([*terminal.history, *terminal.main.grid.lines])]
    parts.append(_saved(terminal.main.saved))
    if terminal.second_by:
        parts += [
            f"\x1b[{terminal.second_by}h",
            _placed(terminal.second.grid.lines),
            _saved(terminal.second.saved),
        ]
    parts += [_DRAWN, _tabs(terminal), _switches(terminal), _cursor(terminal), carried(terminal.rest)]
    return "".join(parts).encode() + pending


def _title(terminal: Terminal) -> str:
    return f"\x1b]2;{terminal.title}\x1b\\" if terminal.title else ""


def _lines(rows: Iterable[Row]) -> str:
    return "\r\n".join(map(_line, rows))


def _placed(rows: Iterable[Row]) -> str:
    shown = ((y, _line(row)) for y, row in enumerate(rows, 1))
    return _PLAIN + "".join(f"\x1b[{y};1H{line}" for y, line in shown if line)


def _line(row: Row) -> str:
    parts: list[str] = []
    style = PLAIN
    for text, wanted in trimmed(row):
        if wanted != style:
            parts.append(escape(wanted))
            style = wanted
        parts.append(text)
    # A terminal paints the lines that scrolling brings in the colour of the last character.
    return "".join(parts) + ("\x1b[m" if style != PLAIN else "")


def _saved(saved: SavedCursor | None) -> str:
    if saved is None:
        return ""
    look = escape(saved.style) + _charsets(saved.charsets, saved.shifted)
    return f"\x1b[{saved.y + 1};{saved.x + 1}H{look}\x1b7"


def _charsets(charsets: tuple[str, str], shifted: int) -> str:
    return f"\x1b({charsets[0]}\x1b){charsets[1]}{chr(0x0E) if shifted else chr(0x0F)}"


def _tabs(terminal: Terminal) -> str:
    if terminal.tabs.stops == terminal.tabs.usual():
        return ""
    return "\x1b[3g" + "".join(f"\x1b[1;{x + 1}H\x1bH" for x in sorted(terminal.tabs.stops))


def _switches(terminal: Terminal) -> str:
    margins = f"\x1b[{terminal.top + 1};{terminal.bottom + 1}r"
    whole = (terminal.top, terminal.bottom) == (0, terminal.rows - 1)
    shape = f"\x1b[{terminal.cursor_shape} q" if terminal.cursor_shape else ""
    return ("" if whole else margins) + terminal.modes.escapes() + shape


def _cursor(terminal: Terminal) -> str:
    y = terminal.y - terminal.top if ORIGIN in terminal.modes.on else terminal.y
    x = terminal.x
    again = ""
    if terminal.wrapping:  # only a character in the last column brings a terminal into that state
        row = terminal.page.grid.lines[terminal.y]
        x -= 1 if not row[x][0] else 0
        again = escape(row[x][1]) + row[x][0]
    charsets = _charsets(terminal.charsets, terminal.shifted)
    return f"\x1b[{y + 1};{x + 1}H{again}{escape(terminal.style)}{charsets}"
