"""What is printed, as far back as it is kept, and those who read it."""

import time
from collections.abc import Callable
from typing import Protocol

from ship.holds import Holds
from ship.ring import Ring, Stream
from ship.waiting import Bell


class Reader(Protocol):
    """Somebody who reads what is printed."""

    def look(self) -> None:
        """Called when there is more."""
        ...


class Transcript:
    """The output of a program, or of several that run one after another. `news` rings when there is more of it."""

    def __init__(self, ring_bytes: int) -> None:
        self.ring = Ring(ring_bytes)
        self.news = Bell()
        self.holds = Holds(self._hold)
        self.readers: set[Reader] = set()
        """Those that are being given output just now."""
        self._hold_program: Callable[[bool], None] | None = None

    def is_from(self, hold: Callable[[bool], None]) -> None:
        """Another program prints from now on, which `hold` keeps waiting and lets go on."""
        self._hold_program = hold

    def take(self, stream: Stream, data: bytes) -> None:
        """The program printed `data`."""
        self.ring.append(stream, data, time.time())
        self.holds.printed(len(data))
        for reader in self.readers:
            reader.look()
        self.news.ring()

    def _hold(self, held: bool) -> None:
        if self._hold_program is not None:
            self._hold_program(held)
