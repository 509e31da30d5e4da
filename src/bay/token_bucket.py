"""A token bucket limits a rate: the burst, and how fast it refills."""

import time
from collections.abc import Callable


class TokenBucket:
    """A rate limiter: `burst` at once, refilled with `rate` a second. Seconds are those of `now`."""

    def __init__(self, rate: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._now = rate, burst, now
        self._left, self._at = burst, now()

    def take(self, cost: float = 1) -> bool:
        """Pay `cost`, if there is so much."""
        self._refill()
        if self._left < cost:
            return False
        self._left -= cost
        return True

    def charge(self, cost: float) -> None:
        """Pay `cost` in any case, on credit of at most a burst."""
        self._refill()
        self._left = max(self._left - cost, -self._burst)

    def pay(self, cost: float = 1) -> float:
        """Pay `cost` in any case, and return the seconds until nothing is owed."""
        self._refill()
        self._left -= cost
        return max(0.0, -self._left / self._rate)

    def _refill(self) -> None:
        now = self._now()
        self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
