"""The second screen of a terminal, for a view that is drawn again and again. The first stays as it was."""

import os
import select
import signal
import termios
import tty
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from bay.cli.interrupt import signal_handlers
from bay.cli.terminal.raw import is_terminal, window_size, write_all

STDIN, STDOUT = 0, 1
# xterm's ctlseqs: the alternate screen, and the cursor.
_TAKE, _GIVE_BACK = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"
_HOME, _END_OF_LINE, _BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SecondScreen:
    """Draws lines, and waits for keys. Made by `screen`."""

    def __init__(self) -> None:
        self._keyboard = is_terminal(STDIN)
        self._before = termios.tcgetattr(STDIN) if self._keyboard else None

    def size(self) -> tuple[int, int]:
        """Its rows and columns."""
        return window_size(STDOUT)

    def show(self, lines: Iterable[str]) -> None:
        """Draw these lines, as many as there is room for. They are printable and fit its width."""
        shown = list(lines)[: self.size()[0]]
        write_all(STDOUT, (_HOME + "\r\n".join(line + _END_OF_LINE for line in shown) + _BELOW).encode())

    def wait(self, seconds: float) -> bool:
        """Wait that long, or for a key; False after `q`."""
        if not select.select([STDIN] if self._keyboard else [], [], [], seconds)[0]:
            return True
        typed = os.read(STDIN, 64)
        return bool(typed) and b"q" not in typed

    def take(self) -> None:
        """Switch to the second screen."""
        if self._keyboard:
            tty.setcbreak(STDIN, termios.TCSANOW)
        write_all(STDOUT, _TAKE)

    def give_back(self) -> None:
        """Switch back; a terminal that is gone needs nothing."""
        with suppress(OSError):
            write_all(STDOUT, _GIVE_BACK)
        if self._before is not None:
            with suppress(termios.error, OSError):
                termios.tcsetattr(STDIN, termios.TCSANOW, self._before)


@contextmanager
def screen() -> Generator[SecondScreen, None, None]:
    """The second screen for the block. A signal ends the block with SystemExit; Ctrl-Z and `fg` work."""
    made = SecondScreen()

    def stop(number: int, frame: FrameType | None) -> None:
        made.give_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        made.take()

    with signal_handlers({**dict.fromkeys(_ENDING, _leave), signal.SIGTSTP: stop}):
        try:
            made.take()
            yield made
        finally:
            with signal_handlers(dict.fromkeys(_ENDING, _ignore)):
                made.give_back()


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """A second Ctrl-C does not keep the terminal from being restored."""
