"""Which sandboxes are being called right now. One that is in use is never idled away.

A call holds the sandbox first and reads its row after that; whoever wants to freeze it writes the row first
and looks for holds after that. Both happen on the event loop, so one of the two sees the other.
"""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager


class Uses:
    """Counts of calls under way, by sandbox id. Patient ones follow something and can wait for as long as it is frozen."""

    def __init__(self) -> None:
        self._hurried: Counter[str] = Counter()
        self._patient: Counter[str] = Counter()

    @contextmanager
    def hold(self, sandbox_id: str, *, patient: bool = False) -> Generator[None]:
        """Keep the sandbox from being idled away until the block is left."""
        counts = self._patient if patient else self._hurried
        counts[sandbox_id] += 1
        try:
            yield
        finally:
            counts[sandbox_id] -= 1
            if not counts[sandbox_id]:
                del counts[sandbox_id]

    def any(self, sandbox_id: str, *, patient: bool = True) -> bool:
        """Whether a call to that sandbox is under way; without `patient` those that can wait do not count."""
        return sandbox_id in self._hurried or (patient and sandbox_id in self._patient)
