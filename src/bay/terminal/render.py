"""Renders a terminal's kept output to its screen.

Only the newest part is played. The part before it is searched for modes and the title, and, when the second
screen was left on, for the main screen behind it.
"""

import codecs
import re

from bay.models import Screen
from bay.terminal.grid import text_of
from bay.terminal.model import Terminal
from bay.terminal.modes import KEYPAD, KNOWN, SECOND_SCREEN, VISIBLE
from bay.terminal.repaint import repaint

PLAYED_BYTES = 256 << 10
_BEHIND_BYTES = 64 << 10
_LINE_BYTES = 4096
_MAX_TEXT = 1 << 20

# Parameters and h or l of private modes, or the letter of a whole sequence.
_SWITCH = re.compile(rb"\x1b(?:\[\?([0-9;]{1,64})([hl])|([=>c]))")
_SCANNED_BYTES = 1 << 20
_LONGEST_SWITCH = 68
_TITLE_BYTES = 1024
_TITLE_END = re.compile(rb"[\x00-\x1f]")


def _switches(old: bytes) -> dict[str, bool]:
    """The modes that were set or reset in output too old to be played, as they were left."""
    modes: dict[str, bool] = {}
    for start in range(0, len(old), _SCANNED_BYTES):
        found = _SWITCH.findall(old, start, start + _SCANNED_BYTES + _LONGEST_SWITCH)
        # Of the same switch only the last counts; a program may repeat it a hundred thousand times.
        for parameters, kind, letter in reversed(dict.fromkeys(reversed(found))):
            _switch(modes, parameters, kind, letter)
    return modes


def _switch(modes: dict[str, bool], parameters: bytes, kind: bytes, letter: bytes) -> None:
    if letter == b"c":
        modes.clear()
    elif letter:
        modes[KEYPAD] = letter == b"="
    for code in parameters.split(b";"):
        mode = f"?{code.decode()}"
        if mode in SECOND_SCREEN:
            for other in SECOND_SCREEN:
                modes.pop(other, None)
        if mode in KNOWN or mode in SECOND_SCREEN:
            modes.pop(mode, None)  # so that the order is that of the last changes
            modes[mode] = kind == b"h"


def _title(old: bytes) -> str:
    """The last title that was set."""
    start = max(old.rfind(b"\x1b]2;"), old.rfind(b"\x1b]0;"))
    if start < 0:
        return ""
    return _TITLE_END.split(old[start + 4 : start + _TITLE_BYTES], maxsplit=1)[0].decode(errors="replace")


def render(data: bytes, rows: int, cols: int, scrollback: int) -> tuple[Screen, bytes]:
    """The screen after `data` on a terminal of that size, with offset 0, and its repaint.
    `scrollback` is the most lines above the screen; fewer when they are more than 1 Mi characters.
    """
    terminal = Terminal(rows, cols, scrollback)
    start = _start(data)
    if start:
        _enter(terminal, data[:start])
    pending = _play(terminal, data[start:])
    return screen_of(terminal), repaint(terminal, pending)


def screen_of(terminal: Terminal) -> Screen:
    """A terminal's screen."""
    return Screen(
        rows=terminal.rows,
        cols=terminal.cols,
        lines=tuple(map(text_of, terminal.page.grid.lines)),
        scrollback=_newest(terminal),
        cursor_row=terminal.y,
        cursor_col=terminal.x,
        cursor_visible=VISIBLE in terminal.modes.on,
        alternate=bool(terminal.second_by),
        title=terminal.title,
        offset=0,
    )


def _newest(terminal: Terminal) -> tuple[str, ...]:
    lines: list[str] = []
    left = _MAX_TEXT
    for row in reversed(terminal.history):
        lines.append(text_of(row))
        left -= len(lines[-1])
        if left < 0:
            lines.pop()
            break
    while len(terminal.history) > len(lines):
        terminal.history.popleft()
    return tuple(reversed(lines))


def _start(data: bytes) -> int:
    """Where playing begins: at the beginning of a line, if one is near."""
    cut = len(data) - PLAYED_BYTES
    if cut <= 0:
        return 0
    return data.find(b"\n", cut, cut + _LINE_BYTES) + 1 or cut


def _enter(terminal: Terminal, old: bytes) -> None:
    modes = _switches(old)
    second = next((mode for mode in SECOND_SCREEN if modes.get(mode)), None)
    if second is not None:
        entered = old.rfind(second.encode())
        _play(terminal, old[max(0, entered - _BEHIND_BYTES) : entered].rpartition(b"\x1b")[0])
        terminal.rest = ""
    terminal.feed(f"\x1b]2;{_title(old)}\x1b\\")
    for mode, on in modes.items():
        terminal.switch(mode, on)


def _play(terminal: Terminal, data: bytes) -> bytes:
    """Feed `data` from the first whole character on; returns the incomplete character at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    terminal.feed(decoder.decode(_whole(data)))
    return decoder.getstate()[0]


def _whole(data: bytes) -> bytes:
    start = 0
    while start < min(3, len(data)) and 0x80 <= data[start] <= 0xBF:
        start += 1
    return data[start:]
