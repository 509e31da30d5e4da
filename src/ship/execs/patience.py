"""Flow control of one reader: bounds how long a program waits for it.

A program that only prints outruns every reader: the ring overwrites the bytes that the reader would get next.
So a reader that is about to lose its place may keep Ship from reading more for half a second in all, and
earns more only by taking 2 MiB a second. A slower one gets the ring's first offset. All readers' waits
together are bounded too (see `FlowControl`).
"""

import asyncio
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from ship.execs.transcript import LONGEST_S, SLOWEST_BYTES_PER_S, Transcript


class ReaderAllowance:
    """One reader's allowance of waiting. Once used up, it is renewed when the reader has caught up."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._next = 0
        self._left_s = LONGEST_S
        self._held = ExitStack()
        self._held_since: float | None = None

    @contextmanager
    def while_giving(self, next_offset: int) -> Generator[None]:
        """Within, bytes before `next_offset` are sent; the program waits once the reader is in danger."""
        self._next = next_offset
        self._transcript.lookers.add(self.look)
        try:
            self.look()
            yield
        finally:
            self._transcript.lookers.discard(self.look)
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
