"""The transcript of a program: its kept output, and its readers."""

import time
from collections.abc import Callable
from functools import partial

from ship.execs.claim import OutputClaim
from ship.execs.holds import FlowControl
from ship.execs.ring import Ring, Stream
from ship.waiting import Bell


class Transcript:
    """The output of one program, or of several one after another. `news` rings when there is more of it."""

    def __init__(self, ring_bytes: int) -> None:
        self.ring = Ring(ring_bytes)
        self.news = Bell()
        self.holds = FlowControl(partial(self._hold, "readers"))
        self.claim = OutputClaim(self.ring, partial(self._hold, "claim"))
        self.lookers: set[Callable[[], None]] = set()
        """Called when there is more: the readers that are being given output just now."""
        self._hold_program: Callable[[bool], None] | None = None
        self._held_for: set[str] = set()

    def is_from(self, hold: Callable[[bool], None]) -> None:
        """Another program prints from now on, which `hold` keeps waiting and lets go on."""
        self._hold_program = hold

    def take(self, stream: Stream, data: bytes) -> None:
        """The program printed `data`."""
        self.ring.append(stream, data, time.time())
        self.holds.printed(len(data))
        self.claim.look()
        for look in self.lookers:
            look()
        self.news.ring()

    def _hold(self, reason: str, held: bool) -> None:
        if self._hold_program is not None and not self._held_for - {reason}:
            self._hold_program(held)
        if held:
            self._held_for.add(reason)
        else:
            self._held_for.discard(reason)
