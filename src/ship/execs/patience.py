"""How long a program may be kept waiting for one of its readers.

A program that does nothing but print outruns every reader there is: the ring lets go of what the reader would get next.
So a reader that is about to lose its place may keep Ship from reading more for half a second in all, and earns more only
by taking 2 MiB a second. One that is slower is not waited for: it is told where the ring begins now. What all readers of a
program may keep it waiting together is bounded too (see `holds`).
"""

import asyncio
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from ship.execs.holds import LONGEST_S, SLOWEST_BYTES_PER_S
from ship.execs.transcript import Transcript


class Patience:
    """What one reader of a transcript has of it. None is left once it is used up, until the reader has caught up."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._next = 0
        self._left_s = LONGEST_S
        self._held = ExitStack()
        self._held_since: float | None = None

    @contextmanager
    def while_giving(self, next_offset: int) -> Generator[None]:
        """Within, the reader is being given what lies before `next_offset`, and the program waits once it would lose its place."""
        self._next = next_offset
        self._transcript.readers.add(self)
        try:
            self.look()
            yield
        finally:
            self._transcript.readers.discard(self)
            self._let_go()

    def look(self) -> None:
        """There is more in the ring now."""
        left_s = min(self._left_s, self._transcript.holds.left_s)
        if self._held_since is None and left_s and self._transcript.ring.endangers(self._next):
            self._held_since = time.monotonic()
            self._held.enter_context(self._transcript.holds.one())
            timer = asyncio.get_running_loop().call_later(left_s, self._let_go)
            self._held.callback(timer.cancel)

    def earn(self, taken: int) -> None:
        """The reader took that many bytes."""
        if self._left_s:
            self._left_s = min(LONGEST_S, self._left_s + taken / SLOWEST_BYTES_PER_S)

    def renew(self) -> None:
        """The reader has all there is."""
        self._left_s = LONGEST_S

    def _let_go(self) -> None:
        self._held.close()
        if self._held_since is not None:
            self._left_s = max(0.0, self._left_s - (time.monotonic() - self._held_since))
            self._held_since = None
