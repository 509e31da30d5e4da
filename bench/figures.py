"""What a benchmark found: samples, their percentiles, and ratios taken within one run."""

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

CEILING_MS = 10_000.0
"""A start that takes longer is worth nothing in a `Score`."""


@dataclass(frozen=True, slots=True)
class Figure:
    """Samples of one thing in one unit. `note` says what a reader must know to compare them.

    `processor_ms` is the processor time of each, where that was taken too.
    """

    name: str
    unit: str
    samples: tuple[float, ...]
    note: str = ""
    processor_ms: tuple[float, ...] = ()

    @property
    def processor(self) -> float | None:
        """The mean of the processor times, milliseconds: children are counted by hundredths of a second."""
        return fmean(self.processor_ms) if self.processor_ms else None

    @property
    def p50(self) -> float:
        """The median."""
        return percentile(self.samples, 50)

    @property
    def p95(self) -> float:
        """The 95th percentile; with fewer than 20 samples, the largest."""
        return percentile(self.samples, 95)

    @property
    def p99(self) -> float:
        """The 99th percentile; with fewer than 100 samples, the largest."""
        return percentile(self.samples, 99)

    def to_json(self) -> dict[str, Any]:
        """For a file that another run is compared with."""
        return {
            "name": self.name,
            "unit": self.unit,
            "n": len(self.samples),
            "p50": round(self.p50, 3),
            "p95": round(self.p95, 3),
            "p99": round(self.p99, 3),
            "min": round(min(self.samples), 3),
            "processor_ms": None if self.processor is None else round(self.processor, 3),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of one figure over that of another, measured in the same minutes."""

    of: Figure
    to: Figure

    @property
    def value(self) -> float:
        """Below 1 when the first is the smaller."""
        return self.of.p50 / self.to.p50

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"of": self.of.name, "to": self.to.name, "ratio": round(self.value, 4)}


@dataclass(frozen=True, slots=True)
class Score:
    """One number for how starts feel: the usual one, the slow ones and the failed ones together.

    `of` holds the milliseconds of the `good` of `tried` starts that were answered. Each of median, p95 and
    p99 is worth nothing from `CEILING_MS` on and everything at 0; they are weighted 60, 25 and 15 of 100
    points, and the sum is multiplied with the share of starts that were answered. Higher is better.
    `weighted_ms` is the same weighting of the times.
    """

    of: Figure
    tried: int

    @property
    def good(self) -> int:
        """How many were answered."""
        return len(self.of.samples)

    @property
    def weighted_ms(self) -> float:
        """`0.60 * median + 0.25 * p95 + 0.15 * p99`, milliseconds."""
        return _weighted(self.of.p50, self.of.p95, self.of.p99)

    @property
    def points(self) -> float:
        """0 to 100."""
        worth = _weighted(_worth(self.of.p50), _worth(self.of.p95), _worth(self.of.p99))
        return 100 * worth * self.good / self.tried

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "of": self.of.name,
            "points": round(self.points, 2),
            "weighted_ms": round(self.weighted_ms, 1),
            "good": self.good,
            "tried": self.tried,
        }


@dataclass(frozen=True, slots=True)
class Absent:
    """What could not be measured here, and why."""

    name: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"name": self.name, "absent": self.why}


Result = Figure | Ratio | Score | Absent


def percentile(samples: tuple[float, ...], rank: float) -> float:
    """The smallest sample that at least `rank` percent of them do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]


def _weighted(median: float, p95: float, p99: float) -> float:
    return 0.60 * median + 0.25 * p95 + 0.15 * p99


def _worth(value_ms: float) -> float:
    return 1 - min(value_ms, CEILING_MS) / CEILING_MS
