"""Shares of the proxy's connections, so that no owner takes it from the others.

A sharer may have at most twice as many connections as are free. One that wants all gets two thirds of them,
two get two fifths each, and some are free for the next one however many there are: the dynamic thresholds of
Choudhury and Hahne (IEEE/ACM Transactions on Networking 6(2), 1998), with a factor of 2.
"""

from collections import Counter
from typing import Final

from bay.network.reserved_ranges import Address

_FACTOR: Final = 2

Sharer = str | Address
"""An owner, or the address of a client of which no owner is known yet."""


class ConnectionShares:
    """Who has how many of `most` connections."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._had: Counter[Sharer] = Counter()

    def take(self, sharer: Sharer) -> bool:
        """Take one more, unless that is more than its share."""
        if self._had.get(sharer, 0) >= _FACTOR * self._free:
            return False
        self._free -= 1
        self._had[sharer] += 1
        return True

    def give_back(self, sharer: Sharer) -> None:
        """One is over."""
        self._free += 1
        self._had[sharer] -= 1
        if not self._had[sharer]:
            del self._had[sharer]
