"""Exponential backoff: the delay before another attempt."""

from dataclasses import dataclass

_DOUBLINGS = 32  # enough for every limit, and no number without end


@dataclass(frozen=True, slots=True)
class Backoff:
    """A retry policy: the pause doubles with each failure in a row, from `first_s` to `longest_s`."""

    first_s: float
    longest_s: float

    def pause(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, the first being 1."""
        return min(self.first_s * 2.0 ** min(failures - 1, _DOUBLINGS), self.longest_s)
