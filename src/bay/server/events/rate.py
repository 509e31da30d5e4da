"""How many events of a kind a sandbox may cause: what happens inside costs rows of Bay's database, and may never end."""

from dataclasses import dataclass

BURST = 50
"""So many at once, and then one in so many seconds:"""
EVENT_S = 1.0


@dataclass(slots=True)
class EventAllowance:
    """Of one sandbox and one kind. Seconds are monotonic."""

    _paid_until: float = 0.0

    def pay(self, count: int, now: float) -> float:
        """Seconds after which so many events are within what the sandbox may cause."""
        self._paid_until = max(self._paid_until, now - BURST * EVENT_S) + count * EVENT_S
        return max(0.0, self._paid_until - now)
