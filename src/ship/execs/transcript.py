"""The transcript of a program: its kept output, and its readers."""

import time
from collections.abc import Callable
from typing import Protocol

from ship.execs.claim import OutputClaim
from ship.execs.holds import FlowControl
from ship.execs.ring import Ring, Stream
from ship.waiting import Bell


class TranscriptReader(Protocol):
    """A reader of a transcript."""

    def look(self) -> None:
        """Called when there is more."""
        ...


class Transcript:
    """The output of one program, or of several one after another. `news` rings when there is more of it."""

    def __init__(self, ring_bytes: int) -> None:
        self.ring = Ring(ring_bytes)
        self.news = Bell()
        self.holds = FlowControl(self._hold_for_readers)
        self.claim = OutputClaim(self.ring, self._hold_for_claim)
        self.readers: set[TranscriptReader] = set()
        """Those that are being given output just now."""
        self._hold_program: Callable[[bool], None] | None = None
        self._for_readers = self._for_claim = False

    def is_from(self, hold: Callable[[bool], None]) -> None:
        """Another program prints from now on, which `hold` keeps waiting and lets go on."""
        self._hold_program = hold

    def take(self, stream: Stream, data: bytes) -> None:
        """The program printed `data`."""
        self.ring.append(stream, data, time.time())
        self.holds.printed(len(data))
        self.claim.look()
        for reader in self.readers:
            reader.look()
        self.news.ring()

    def _hold_for_readers(self, held: bool) -> None:
        self._hold(held, self._for_claim)
        self._for_readers = held

    def _hold_for_claim(self, held: bool) -> None:
        self._hold(held, self._for_readers)
        self._for_claim = held

    def _hold(self, held: bool, otherwise: bool) -> None:
        if self._hold_program is not None and not otherwise:
            self._hold_program(held)
