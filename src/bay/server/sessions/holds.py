"""Holds keep a sandbox awake, or a checkpoint's files in place, for as long as a call needs them.

docs/garbage-collection.md has them among the other reasons for which something stays. A call takes its hold
first and reads the row after that; a collector writes the row first and looks for holds after that. Both run
on the event loop, so one of the two sees the other. A hold is memory only: the calls that take them end with
the process.
"""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager


class Holds:
    """Counts of calls under way, by the id of the sandbox or checkpoint that they hold.

    A follower's hold (output, a watch, a tunnel) keeps a sandbox from idling, and yields to its owner's
    pause.
    """

    def __init__(self) -> None:
        self._callers: Counter[str] = Counter()
        self._followers: Counter[str] = Counter()

    @contextmanager
    def hold(self, held_id: str, *, follower: bool = False) -> Generator[None]:
        """Keep what has that id from being collected until the block is left."""
        counts = self._followers if follower else self._callers
        counts[held_id] += 1
        try:
            yield
        finally:
            counts[held_id] -= 1
            if not counts[held_id]:
                del counts[held_id]

    def any(self, held_id: str, *, followers: bool = True) -> bool:
        """Whether a call holds that id.

        Without `followers` only those count that an owner's pause waits for.
        """
        return held_id in self._callers or (followers and held_id in self._followers)
