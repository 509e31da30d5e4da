"""Writes examples/measurements.csv: hourly readings of eight river gauges, made up but with the faults of
real ones.

The same bytes every time. Readings are missing where a logger lost power, a few levels carry the
sentinel -999 that such loggers send, one gauge froze for a day, and some cells are empty.

    python examples/make_measurements.py [PATH]
"""

import csv
import io
import math
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

HEADER = ("timestamp", "station", "level_cm", "flow_m3s", "temperature_c")
START = datetime(2025, 3, 1, tzinfo=UTC)
HOURS = 520
SEED = 20250301
SENTINEL = "-999"


@dataclass(frozen=True, slots=True)
class Gauge:
    """One station: its usual level in cm, the flow in m³/s at 100 cm, and its mean water
    temperature in °C.
    """

    name: str
    level: float
    flow_at_1m: float
    temperature: float


GAUGES = (
    Gauge("aldern-bridge", 142.0, 11.5, 7.2),
    Gauge("brackwater", 88.0, 4.1, 8.9),
    Gauge("cawdale-weir", 61.0, 2.4, 6.1),
    Gauge("dunmere", 203.0, 38.0, 7.8),
    Gauge("eskby-mill", 117.0, 9.3, 7.0),
    Gauge("fallow-lock", 174.0, 21.7, 8.3),
    Gauge("gillhead", 39.0, 1.2, 4.9),
    Gauge("hartwell-sluice", 96.0, 6.8, 9.4),
)


def flood(hour: int) -> float:
    """How much higher than usual the water stands: two rain storms, each a quick rise and a slow fall."""
    return sum(
        height * math.exp(-(hour - peak) / 40) for peak, height in ((150, 0.9), (360, 0.5)) if hour >= peak
    )


def reading(gauge: Gauge, hour: int, noise: random.Random) -> list[str]:
    """One row, without faults."""
    level = gauge.level * (1 + flood(hour)) + noise.uniform(-2, 2)
    flow = gauge.flow_at_1m * (level / 100) ** 1.6
    daily = 1.5 * math.sin((hour % 24 - 9) * math.pi / 12)
    temperature = gauge.temperature + daily + hour / 260 + noise.uniform(-0.3, 0.3)
    when = (START + timedelta(hours=hour)).isoformat().replace("+00:00", "Z")
    return [when, gauge.name, f"{level:.1f}", f"{flow:.2f}", f"{temperature:.1f}"]


def with_faults(rows: list[list[str]], noise: random.Random) -> list[list[str]]:
    """`rows` of one gauge as its logger delivered them."""
    gap = noise.randrange(40, HOURS - 60)
    lost = noise.randrange(6, 20)
    kept = [row for hour, row in enumerate(rows) if not gap <= hour < gap + lost]
    for row in noise.sample(kept, 5):
        row[2], row[3] = SENTINEL, ""
    for row in noise.sample(kept, 7):
        row[4] = ""
    return kept


def freeze(rows: list[list[str]], first: int, hours: int) -> None:
    """A stuck float: the level stays what it was for `hours` rows."""
    for row in rows[first : first + hours]:
        row[2], row[3] = rows[first][2], rows[first][3]


def table() -> list[list[str]]:
    """Every row, in the order of time and then of station."""
    noise = random.Random(SEED)  # noqa: S311  measurements, not secrets
    stations: list[list[list[str]]] = []
    for gauge in GAUGES:
        rows = [reading(gauge, hour, noise) for hour in range(HOURS)]
        if gauge.name == "fallow-lock":
            freeze(rows, 210, 24)
        stations.append(with_faults(rows, noise))
    return sorted((row for rows in stations for row in rows), key=lambda row: (row[0], row[1]))


def as_csv() -> str:
    """The whole file as text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(table())
    return out.getvalue()


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("measurements.csv")
    path.write_text(as_csv(), encoding="utf-8")
    print(f"{path}: {len(table())} rows")
