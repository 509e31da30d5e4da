"""Points of a sandbox's use, how several become one, and how they are packed.

A point has what was used in its step, so that no counter of a session is kept: one that begins again at a new
session cannot make a rate fall below zero. A figure that is not known is NaN here.
"""

import struct
import zlib
from collections.abc import Iterable, Sequence
from math import isnan, nan
from typing import Any, NamedTuple, cast

STEP_S = 10
STEPS = (STEP_S, 60, 900)
"""Seconds between points, from the finest. `ROW_S` and `KEEP_S` go with them."""
ROW_S = {10: 60, 60: 900, 900: 14_400}
"""The time that a row has the points of, which begins at a multiple of it: a row of a step is what the next
coarser step makes one point of.
"""
KEEP_S = {10: 3600, 60: 86_400, 900: 31 * 86_400}

_VERSION, _SIZE = 1, 8


class SamplePoint(NamedTuple):
    """The use of resources in the step that begins `at` seconds after 1970."""

    at: float
    samples: float
    """How many samples the means are of."""
    seconds: float
    """The time that the sums are of; 0 without any."""
    cpu_usec: float = nan
    cpus_max: float = nan
    memory_bytes: float = nan
    memory_max_bytes: float = nan
    memory_cache_bytes: float = nan
    disk_bytes: float = nan
    read_bytes: float = nan
    written_bytes: float = nan
    received_bytes: float = nan
    sent_bytes: float = nan
    execs: float = nan
    execs_max: float = nan


_SUMS = ("seconds", "cpu_usec", "read_bytes", "written_bytes", "received_bytes", "sent_bytes")
_MEANS = ("memory_bytes", "memory_cache_bytes", "execs")
_HIGHEST = ("cpus_max", "memory_max_bytes", "disk_bytes", "execs_max")


def rolled_up(points: Iterable[SamplePoint], step: int) -> list[SamplePoint]:
    """One point for each step that has some: sums, means and highest figures of what is known."""
    steps: dict[int, list[SamplePoint]] = {}
    for point in points:
        steps.setdefault(int(point.at // step) * step, []).append(point)
    return [_joined(at, steps[at]) for at in sorted(steps)]


def _joined(at: int, points: Sequence[SamplePoint]) -> SamplePoint:
    if len(points) == 1 and points[0].at == at:
        return points[0]
    found: dict[str, float] = {"samples": sum(one.samples for one in points)}
    for name in _SUMS:
        found[name] = sum(known) if (known := _known(points, name)) else nan
    for name in _HIGHEST:
        found[name] = max(_known(points, name), default=nan)
    for name in _MEANS:
        found[name] = _mean([(getattr(one, name), one.samples) for one in points])
    return SamplePoint(at=at, **found)


def _known(points: Sequence[SamplePoint], name: str) -> list[float]:
    return [value for one in points if not isnan(value := getattr(one, name))]


def _mean(weighed: Sequence[tuple[float, float]]) -> float:
    known = [(value, weight) for value, weight in weighed if not isnan(value)]
    weight = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / weight if weight else nan


def pack(points: Sequence[SamplePoint]) -> bytes:
    """The points as bytes: a version, then deflated numbers of 64 bits, figure by figure. All first bytes
    come first, then all second ones: those of whole numbers are mostly zeros, and deflate a fifth smaller so.
    """
    numbers = [number for column in zip(*points, strict=True) for number in column]
    raw = struct.pack(f"<{len(numbers)}d", *numbers)
    return bytes((_VERSION,)) + zlib.compress(b"".join(raw[place::_SIZE] for place in range(_SIZE)), 1)


def unpack(data: bytes) -> list[SamplePoint]:
    """The points that `pack` made bytes of; none of those of a version that is not known here."""
    if data[:1] != bytes((_VERSION,)):
        return []
    sorted_bytes = zlib.decompress(data[1:])
    total = len(sorted_bytes) // _SIZE
    raw = bytearray(len(sorted_bytes))
    for place in range(_SIZE):
        raw[place::_SIZE] = sorted_bytes[place * total : (place + 1) * total]
    numbers = struct.unpack(f"<{total}d", raw)
    count = total // len(SamplePoint._fields)
    columns = [numbers[start : start + count] for start in range(0, total, count)]
    return [SamplePoint(*figures) for figures in zip(*columns, strict=True)]


def to_json(points: Sequence[SamplePoint]) -> list[list[float | None]]:
    """The points for another replica."""
    return [[None if isnan(number) else number for number in point] for point in points]


def from_json(given: Any) -> list[SamplePoint]:
    """The points that `to_json` gave; none of what is no such list."""
    if not isinstance(given, list):
        return []
    points = cast("list[list[float | None]]", given)
    return [SamplePoint(*(nan if number is None else number for number in point)) for point in points]
