"""Flow control of a program: bounds its waits for all its readers together, which never slow it below 2 MiB a
second.

Each reader's own allowance ends (see `patience`), but a client may come again and again, also a read-only
one.
"""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

LONGEST_S = 0.5
SLOWEST_BYTES_PER_S = 2 << 20


class FlowControl:
    """Whether the program waits, and for how long it may. `changed` is called when a wait begins and ends."""

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
