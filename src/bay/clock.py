"""The clock is passed as an argument, so that tests advance it instead of waiting."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

Clock = Callable[[], datetime]
"""Gives the present as an aware UTC datetime."""


def utc_now() -> datetime:
    """The wall clock, aware and in UTC."""
    return datetime.now(UTC)


def since_boot() -> timedelta:
    """How long ago this host booted, suspended time included (clock_gettime(2), CLOCK_BOOTTIME)."""
    return timedelta(seconds=time.clock_gettime(time.CLOCK_BOOTTIME))


def expiry(now: datetime, seconds: int | None) -> datetime | None:
    """The moment `seconds` after `now`; None for no limit."""
    return None if seconds is None else now + timedelta(seconds=seconds)


def to_rfc3339(moment: datetime) -> str:
    """`moment` as RFC 3339 in UTC with microseconds and a final ``Z``; the wire format of every time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def to_seconds(moment: datetime) -> str:
    """The same in whole seconds, for people."""
    return f"{to_rfc3339(moment)[:19]}Z"


def from_rfc3339(text: str) -> datetime:
    """The aware UTC datetime that `text` (RFC 3339) names. Raises ValueError when it names none."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time {text!r} has no offset")
    return moment.astimezone(UTC)


class ManualClock:
    """A clock for tests, which moves only when they advance it."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the present on by `seconds`."""
        self._now += timedelta(seconds=seconds)
