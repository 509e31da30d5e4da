"""The rate limit of events that a sandbox causes: each costs a row of the database, and it may never stop."""

import time
from collections.abc import Callable

from bay.token_bucket import TokenBucket

BURST = 50
"""So many at once, and then one in so many seconds:"""
EVENT_S = 1.0


def event_bucket(now: Callable[[], float] = time.monotonic) -> TokenBucket:
    """The bucket of one sandbox and one kind of event."""
    return TokenBucket(1 / EVENT_S, BURST, now)
