"""Puts this machine's terminal into raw mode, and restores it afterwards."""

import os
import re
import select
import stat
import termios
import tty
from contextlib import suppress
from typing import Self

_MODES = re.compile(rb"\x1b\[\?([0-9;]{1,64})([hl])|\x1b([=>])")
_LONGEST = 80

# Modes that a program may switch on, and a shell does not expect. 25, the cursor, is the one that should be
# on.
_OURS_TO_UNDO = frozenset(
    {1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026}
)
_CURSOR = 25


class RawTerminal:
    """The terminal at `fd` in raw mode (every key is passed on, nothing is echoed) for the length of a block.
    However the block is left, the terminal is as it was.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = termios.tcgetattr(fd)

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def take(self) -> None:
        """Raw from here on, and at once: a stopped terminal would have us wait for its output for ever."""
        tty.setraw(self._fd, termios.TCSANOW)

    def give_back(self) -> None:
        """Restore the terminal; one that is closed needs nothing."""
        with suppress(termios.error, OSError):
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)


class OutputModes:
    """The DEC private modes (xterm's ctlseqs) that a program has switched on and should not leave behind."""

    def __init__(self) -> None:
        self._on: set[int] = set()
        self._keypad = False
        self._cursor_off = False
        self._rest = b""

    def feed(self, output: bytes) -> None:
        """Look through the next bytes of output."""
        data = self._rest + output
        end = 0
        for found in _MODES.finditer(data):
            self._note(found)
            end = found.end()
        self._rest = data[max(end, len(data) - _LONGEST) :]

    def undo(self) -> bytes:
        """The bytes that reset the terminal; empty where no mode is left."""
        off = b"".join(b"\x1b[?%dl" % mode for mode in sorted(self._on))
        keypad = b"\x1b>" if self._keypad else b""
        cursor = b"\x1b[?25h" if self._cursor_off else b""
        wrong = off + keypad + cursor
        return wrong + b"\x1b[0m" if wrong else b""

    def _note(self, found: "re.Match[bytes]") -> None:
        if found[3]:
            self._keypad = found[3] == b"="
            return
        on = found[2] == b"h"
        for mode in (int(word) for word in found[1].split(b";") if word):
            if mode == _CURSOR:
                self._cursor_off = not on
            elif mode in _OURS_TO_UNDO:
                (self._on.add if on else self._on.discard)(mode)


def is_terminal(fd: int) -> bool:
    """Whether that is a terminal; a closed descriptor is none."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def window_size(fd: int) -> tuple[int, int]:
    """Rows and columns of a terminal; 24 and 80 where it does not know, within the server's limits."""
    try:
        size = os.get_terminal_size(fd)
    except OSError:
        return 24, 80
    return min(size.lines or 24, 1000), min(size.columns or 80, 1000)


def write_all(fd: int, data: bytes) -> None:
    """All of `data`, also where a write takes a part."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def has_pipe_with_data(fd: int) -> bool:
    """Whether a program's output waits to be read there; not a file, a terminal, or a pipe that has ended."""
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            return False
    except OSError:
        return False
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(event & select.POLLIN for _, event in poll.poll(0))
