"""The command `metrics`: what a sandbox used over time."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli import sparklines
from bay.cli.commands.usage import cores
from bay.cli.complete import NameArgument
from bay.cli.output import amount, dash, print_columns, print_json, print_line
from bay.cli.state import JsonOption, connect_box, duration_option
from bay.cli.terminal.raw import is_terminal
from bay.clock import to_seconds

if TYPE_CHECKING:
    from bay.models import MetricsPoint, SandboxMetrics, SandboxUsage

STDOUT = 1
HEADS = ("TIME", "CPUS", "MEMORY", "DISK", "READ", "WRITTEN", "RECEIVED", "SENT", "EXECS")
_LABEL, _FIGURES = 10, 34
"""Columns before and behind a chart."""
_WIDEST = 120


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure as a line of a terminal: how to read it from a point, and how to write it."""

    name: str
    value: "Callable[[MetricsPoint], float | None]"
    written: Callable[[float], str]
    limit: "Callable[[SandboxUsage], float | None]"


def metrics(
    ctx: typer.Context,
    name: NameArgument,
    since: Annotated[int, duration_option("How far back to look, up to 31d.")] = 3600,
    step: Annotated[int | None, duration_option("Least time between two points: 10s, 1m or 15m.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a sandbox used over time: charts on a terminal, a row for each point in a pipe."""
    draws = not as_json and is_terminal(STDOUT) and os.environ.get("TERM") != "dumb"
    with connect_box(ctx, name) as box:
        # The server's clock tells what is past: this machine's may differ.
        usage = box.usage()
        begin = usage.at - timedelta(seconds=since)
        found = box.metrics(since=begin, until=usage.at, step=step)
    if as_json:
        print_json(found)
    elif draws:
        for text in charts(found, usage, begin, shutil.get_terminal_size().columns):
            print_line(text)
    else:
        print_columns(HEADS, map(_cells, found.points))


def charts(found: "SandboxMetrics", usage: "SandboxUsage", begin: datetime, room: int) -> Iterator[str]:
    """The lines of all charts, and the times below them."""
    width = max(10, min(room, _WIDEST) - _LABEL - _FIGURES)
    width = min(width, max(1, round((usage.at - begin).total_seconds() / found.step)))
    for chart in CHARTS:
        yield _line(chart, found.points, usage, begin, width)
    first, last = to_seconds(begin), to_seconds(usage.at)
    yield f"{'':{_LABEL}}{first}{last:>{max(len(last) + 1, width - len(first))}}"


def _line(
    chart: Chart, points: "Sequence[MetricsPoint]", usage: "SandboxUsage", begin: datetime, width: int
) -> str:
    moments = [(one.at.timestamp(), chart.value(one)) for one in points]
    known = [value for _, value in moments if value is not None]
    drawn = sparklines.line(
        sparklines.columns(moments, begin.timestamp(), usage.at.timestamp(), width), chart.limit(usage)
    )
    if not known:
        return f"{chart.name:{_LABEL}}{drawn}  -"
    mean, highest, limit = sum(known) / len(known), max(known), chart.limit(usage)
    words = f"{chart.written(mean)}, most {chart.written(highest)}"
    return f"{chart.name:{_LABEL}}{drawn}  {words}{f' of {chart.written(limit)}' if limit else ''}"


def _rate(name: str) -> "Callable[[MetricsPoint], float | None]":
    def rate(point: "MetricsPoint") -> float | None:
        count: float | None = getattr(point, name)
        return count / point.seconds if count is not None and point.seconds else None

    return rate


def _bytes(size: float) -> str:
    return amount(round(size))


def _bytes_a_second(size: float) -> str:
    return f"{_bytes(size)}/s"


def _no_limit(_: "SandboxUsage") -> float | None:
    return None


CHARTS = (
    Chart("cpus", lambda one: one.cpus_used, cores, lambda usage: usage.cpus),
    Chart("memory", lambda one: one.memory_bytes, _bytes, lambda usage: usage.memory_limit_bytes),
    Chart("disk", lambda one: one.disk_bytes, _bytes, lambda usage: usage.disk_limit_bytes),
    Chart("read", _rate("read_bytes"), _bytes_a_second, _no_limit),
    Chart("written", _rate("written_bytes"), _bytes_a_second, _no_limit),
    Chart("received", _rate("received_bytes"), _bytes_a_second, _no_limit),
    Chart("sent", _rate("sent_bytes"), _bytes_a_second, _no_limit),
    Chart("execs", lambda one: one.execs, cores, _no_limit),
)


def _cells(point: "MetricsPoint") -> tuple[str, ...]:
    sizes = ("memory_bytes", "disk_bytes", "read_bytes", "written_bytes", "received_bytes", "sent_bytes")
    found: list[float | None] = [getattr(point, name) for name in sizes]
    written = [dash(None) if one is None else _bytes(one) for one in found]
    return (to_seconds(point.at.astimezone(UTC)), cores(point.cpus_used), *written, cores(point.execs))
