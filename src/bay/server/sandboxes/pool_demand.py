"""The size that a pool should have, as a pure function of the creates that came lately.

Rejected: a decaying count of creates. It holds as many for one create a minute as for a burst of eight, and
one would do for the former.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

BURST = timedelta(seconds=10)
"""Creates that come within it are to be served together: a refill takes less, but several wait for cores."""

MEMORY = timedelta(minutes=10)
"""How long a burst keeps the pool at its size. Longer costs memory, shorter costs starts in vain."""

REMEMBERED = 1000
"""The number of newest creates that matter: a pool is never larger."""


def size_wanted(creates: Iterable[datetime], now: datetime, smallest: int, largest: int) -> int:
    """The most creates within `BURST` during the last `MEMORY`, within both bounds; `creates` is sorted."""
    recent = [at for at in creates if now - MEMORY < at <= now]  # the clock may have been put back
    first = most = 0
    for last, at in enumerate(recent):
        while recent[first] <= at - BURST:
            first += 1
        most = max(most, last - first + 1)
        if most >= largest:
            break
    return min(max(smallest, most), largest)
