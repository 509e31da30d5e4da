"""Summarises river-gauge readings per station; standard library only, so it runs in any sandbox with a
Python.

    python3 summarise.py measurements.csv

Writes summary.json and summary.csv beside where it runs and prints one line a station. A level of -999 is the
logger's word for "no reading", an empty cell is one too: both are counted and left out.
"""

import csv
import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

SENTINEL = -999.0
COLUMNS: tuple[str, ...] = (
    "station",
    "rows",
    "missing",
    "level_min_cm",
    "level_mean_cm",
    "level_max_cm",
    "flow_mean_m3s",
)


def number(cell: str) -> float | None:
    """The reading in `cell`, or None where there is none."""
    value = float(cell) if cell else SENTINEL
    return None if value == SENTINEL else value


def summary(station: str, rows: list[dict[str, str]]) -> dict[str, str | int | float]:
    """One line of the result; every station has at least one good reading."""
    levels = [level for row in rows if (level := number(row["level_cm"])) is not None]
    flows = [flow for row in rows if (flow := number(row["flow_m3s"])) is not None]
    return {
        "station": station,
        "rows": len(rows),
        "missing": len(rows) - len(levels),
        "level_min_cm": min(levels),
        "level_mean_cm": round(fmean(levels), 2),
        "level_max_cm": max(levels),
        "flow_mean_m3s": round(fmean(flows), 3),
    }


def read(path: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of `path` by station."""
    stations: dict[str, list[dict[str, str]]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            stations[row["station"]].append(row)
    return stations


def main() -> None:
    """Read the file named on the command line and write the two summaries."""
    results = [summary(station, rows) for station, rows in sorted(read(Path(sys.argv[1])).items())]
    Path("summary.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    with Path("summary.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(results)
    for row in results:
        print(f"{row['station']:<16} {row['rows']:>4} rows  mean level {row['level_mean_cm']:>7} cm")


if __name__ == "__main__":
    main()
