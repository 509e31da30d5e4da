"""Whether a measure is flat, decided from its samples alone.

A straight line is fitted to the samples by least squares. Its rise over the time they span is the growth, and
the measure is flat unless the growth is beyond what is allowed by more than two standard errors of the slope:
traffic is random, so the number of live sandboxes, and what hangs on it, goes up and down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
"""Seconds, and the value then."""

FEWEST = 4
"""A slope through fewer samples says nothing."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a measure may grow: so much, or that share of its first level, whichever is more."""

    amount: float
    share: float = 0.0

    def of(self, level: float) -> float:
        """The growth that is still flat at this level."""
        return max(self.amount, self.share * level)


@dataclass(frozen=True, slots=True)
class Trend:
    """The line through the samples of one measure."""

    first: float
    last: float
    growth: float
    """Of the fitted line, from the first sample to the last."""
    error: float
    """Two standard errors of that growth."""
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether the growth may be none."""
        return self.growth - self.error <= self.allowed


def trend(points: Sequence[Point], allowance: Allowance) -> Trend | None:
    """The trend of these samples; None when they are too few to tell."""
    if len(points) < FEWEST or points[0][0] == points[-1][0]:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    first, last = (mean_y + slope * (x - mean_x) for x in (points[0][0], points[-1][0]))
    residual = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    slope_error = math.sqrt(residual / (len(points) - 2) / spread)
    span = points[-1][0] - points[0][0]
    return Trend(first, last, slope * span, 2 * slope_error * span, allowance.of(first))
