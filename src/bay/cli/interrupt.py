"""Passes Ctrl-C on to the command whose output is followed, as a terminal would."""

import copy
import signal
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Self

from bay.errors import BayError

if TYPE_CHECKING:
    from bay.client import Proc

PATIENCE_S = 3.0
"""How long a command may take to end after INT, before it gets TERM and at last KILL."""


Handler = Callable[[int, FrameType | None], object]


@contextmanager
def signal_handlers(handlers: Mapping[signal.Signals, Handler], wake_fd: int = -1) -> Generator[None]:
    """Handle these signals so within the block, and as before behind it. Each is told to `wake_fd`, a pipe
    that does not block: a signal that comes to another thread, or just before a wait, ends no wait by itself.
    """
    waked = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        signal.set_wakeup_fd(waked)
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupt:
    """The first Ctrl-C sends the command INT and shows its last output; a second one does not wait.
    `came` is set by the first. Only the main thread can enter it.
    """

    def __init__(self, proc: "Proc") -> None:
        # One of its own: the other is being followed in another thread, and remembers where it is.
        self._proc = copy.copy(proc)
        self._over = threading.Event()
        self.came = False

    def __enter__(self) -> Self:
        self._before = signal.getsignal(signal.SIGINT)
        # A shell sets Ctrl-C to ignored for its background jobs; that is kept.
        if self._before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            raise KeyboardInterrupt
        self.came = True
        threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        with suppress(BayError):
            self._proc.signal("INT")
        if not self._over.wait(PATIENCE_S):
            with suppress(BayError):
                self._proc.kill()
