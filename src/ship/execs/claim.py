"""The claiming reader: the program waits for it, and the ring keeps all that it has not received.

A reader that comes over the network comes later than its program and may break off. So a program that is
started for a reader, or read by one that claims it, waits as for a full pipe: once a ring of output is due to
that reader Ship reads no more, and the program blocks in its own write. While the reader is connected, there
is no limit. While it is not, it has some time to come (back); after that the program goes on without it. The
wait for other readers is bounded (see `patience`).
"""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from ship.execs.ring import Ring
from ship.waiting import Timer

_AWAITED_S = 30.0
_LATE_S = 1.0
"""A timer that is so much too late was frozen together with the sandbox."""


class OutputClaim:
    """The output due to a program's claiming reader, if any; `hold` stops and resumes the program."""

    def __init__(self, ring: Ring, hold: Callable[[bool], None]) -> None:
        self._ring = ring
        self._hold = hold
        self._awaited_s = _AWAITED_S
        self._reader: ClaimingReader | None = None
        self._timer = Timer()
        self._held = False
        self._is_over = False

    @property
    def is_stuck(self) -> bool:
        """Whether the program stands still and its reader is not there."""
        return self._held and self._reader is None

    def expect(self, within_s: float) -> None:
        """Expect a reader of all output within `within_s`, and as long again after each break."""
        self._awaited_s = within_s
        self._ring.keep_from(0)
        self._await()

    def look(self) -> None:
        """More was printed or taken, or the reader has left."""
        if not self._held and self._ring.is_full:
            self._keep(not self._is_over)
        elif self._held and self._ring.has_room:
            self._keep(False)

    def over(self) -> None:
        """The program has ended: the unread output stays for as long as ended execs do."""
        self._is_over = True
        self._timer.cancel()
        self._keep(False)

    @contextmanager
    def reading(self, since: int) -> Generator["ClaimingReader"]:
        """Within, the program waits for this reader, from offset `since` on. A newer one takes its place."""
        mine = self._reader = ClaimingReader(self, self._ring)
        self._timer.cancel()
        try:
            mine.gave(since)
            yield mine
        finally:
            if self.is_of(mine):
                self._reader = None
                self._await()

    def is_of(self, reader: "ClaimingReader") -> bool:
        return self._reader is reader

    def _await(self) -> None:
        if not self._is_over:
            due = asyncio.get_running_loop().time() + self._awaited_s
            self._timer.set(self._awaited_s, self._nobody_came, due)

    def _nobody_came(self, due: float) -> None:
        if asyncio.get_running_loop().time() - due > _LATE_S:
            self._await()
            return
        self._ring.keep_from(None)
        self.look()

    def _keep(self, held: bool) -> None:
        if held != self._held:
            self._held = held
            self._hold(held)


class ClaimingReader:
    """One reader that claims the output; the program waits for it until a newer one takes its place."""

    def __init__(self, claim: OutputClaim, ring: Ring) -> None:
        self._claim = claim
        self._ring = ring

    @contextmanager
    def while_giving(self, next_offset: int) -> Generator[None]:
        """Within, bytes before `next_offset` are sent to the reader."""
        yield
        self.gave(next_offset)  # not before: until now up to a frame and more of them lay in Ship

    def earn(self, taken: int) -> None:
        """Nothing has to be earned: see `ReaderAllowance`, in whose place this may stand."""

    def renew(self) -> None:
        """The same."""

    def gave(self, next_offset: int) -> None:
        """The bytes before `next_offset` have been sent to it."""
        if self._claim.is_of(self):
            self._ring.keep_from(next_offset)
            self._claim.look()
