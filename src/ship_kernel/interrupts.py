"""Handles SIGINT: KeyboardInterrupt while a cell runs, nothing otherwise, and never inside a message."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interrupts:
    """The SIGINT handler. `armed`: a cell runs that was not interrupted yet; a second interrupt could hit
    what comes after. As a context: an interrupt that comes within is raised at the end of it.
    """

    def __init__(self) -> None:
        self.armed = False
        self._main = threading.get_ident()
        self._within = 0
        self._waiting = False

    def listen(self) -> None:
        """To be called in the main thread, again after user code may have put another handler there."""
        self._within, self._waiting = 0, False  # a handler of the user's may have raised on the way out
        if signal.getsignal(signal.SIGINT) != self._heard:
            signal.signal(signal.SIGINT, self._heard)

    def __enter__(self) -> None:
        if threading.get_ident() == self._main:
            self._within += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if threading.get_ident() != self._main:
            return
        self._within -= 1
        if self._waiting and not self._within:
            self._waiting = False
            self._raise()

    def _heard(self, _number: int, _frame: FrameType | None) -> None:
        __tracebackhide__ = True  # IPython leaves such frames out
        if not self.armed:
            return
        if self._within:
            self._waiting = True
            return
        self._raise()

    def _raise(self) -> None:
        __tracebackhide__ = True
        if self.armed:
            self.armed = False
            raise KeyboardInterrupt
