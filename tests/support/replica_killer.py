"""Kills replicas and starts them again, one after another, beside what a test does."""

import itertools
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from replica_bays import WAIT_S, ReplicaBays

_PAUSE_S = 0.1
_LOOKS = int(WAIT_S / _PAUSE_S)


class Killer:
    """A replica that was killed is away until the others have taken its work over, as one whose host died, or
    starts again at once, as one that crashed, in turn. The next one is killed when all work has a holder.
    """

    def __init__(self, bays: ReplicaBays) -> None:
        self.kills = 0
        self.rest_s = 0.0
        """For how long no replica is killed once all work has a holder again."""
        self._bays = bays
        self._stop = threading.Event()

    def work(self) -> None:
        """Kill until told to stop; all replicas run then."""
        for turn in itertools.count():
            if self._stop.is_set():
                return
            number = turn % len(self._bays.numbers)
            self._bays.kill(number)
            self.kills += 1
            holder = self._bays.holder(number)
            if turn % 2:
                self._bays.start(number)
                self._wait_taken_over(holder)
            else:
                self._wait_taken_over(holder)
                self._bays.start(number)
            self._stop.wait(self.rest_s)

    def _wait_taken_over(self, holder: str) -> None:
        for _ in range(_LOOKS):
            if self._stop.is_set() or not self._bays.unheld(dead=holder):
                return
            self._stop.wait(_PAUSE_S)
        raise AssertionError(f"no replica took over {self._bays.unheld(dead=holder)}")

    def stop(self) -> None:
        self._stop.set()


@contextmanager
def killing(bays: ReplicaBays) -> Generator[Killer]:
    """Kill until the block is left; all replicas run then."""
    killer = Killer(bays)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(killer.work)
        try:
            yield killer
        finally:
            killer.stop()
        work.result(WAIT_S)
