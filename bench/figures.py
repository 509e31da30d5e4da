"""What a benchmark found: samples, their percentiles, and ratios taken within one run."""

import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """Samples of one thing in one unit. `note` says what a reader must know to compare them."""

    name: str
    unit: str
    samples: tuple[float, ...]
    note: str = ""

    @property
    def p50(self) -> float:
        """The median."""
        return percentile(self.samples, 50)

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
            "p99": round(self.p99, 3),
            "min": round(min(self.samples), 3),
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
class Absent:
    """What could not be measured here, and why."""

    name: str
    why: str

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return {"name": self.name, "absent": self.why}


Result = Figure | Ratio | Absent


def percentile(samples: tuple[float, ...], rank: float) -> float:
    """The smallest sample that at least `rank` percent of them do not exceed (nearest rank)."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(rank / 100 * len(ordered)) - 1)]
