"""The transcript of a program: its kept output, and its readers."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from ship.execs.claim import OutputClaim
from ship.execs.ring import Ring, Stream
from ship.waiting import Bell

LONGEST_S = 0.5
SLOWEST_BYTES_PER_S = 2 << 20


class FlowControl:
    """Bounds a program's waits for all its readers, which never slow it below 2 MiB a second.
    Each reader's own allowance ends (see `patience`), but a client may come again and again, also a read-only
    one. `changed` is called when a wait begins and ends.
    """

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self._changed = changed
        self._holders = 0
        self._since = 0.0
        self._spare_s = LONGEST_S

    @property
    def left_s(self) -> float:
        """For how long it may be kept waiting from now on."""
        waited_s = time.monotonic() - self._since if self._holders else 0.0
        return max(0.0, self._spare_s - waited_s)

    def printed(self, size: int) -> None:
        self._spare_s = min(LONGEST_S, self._spare_s + size / SLOWEST_BYTES_PER_S)

    @contextmanager
    def one(self) -> Generator[None]:
        """Within, it is kept waiting; several may do so at once."""
        if not self._holders:
            self._since = time.monotonic()
            self._changed(True)
        self._holders += 1
        try:
            yield
        finally:
            left_s = self.left_s
            self._holders -= 1
            if not self._holders:
                self._spare_s = left_s
                self._changed(False)


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
