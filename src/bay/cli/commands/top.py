"""The command `top`: the use of all sandboxes, as a table with small charts, drawn again and again."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bay.cli import sparklines
from bay.cli.commands.usage import cores
from bay.cli.complete import complete_names
from bay.cli.output import amount, dash, print_columns, print_json, printable
from bay.cli.state import JsonOption, connect, duration_option, lazily, seconds
from bay.cli.tables import lay_out
from bay.cli.terminal.raw import is_terminal
from bay.errors import CapabilityNotSupported, InvalidArgument, NotFound

if TYPE_CHECKING:
    from bay.client import Box, Client
    from bay.models import SandboxUsage

STDOUT = 1
PAST_HEADS = ("CPUS 5M", "MEMORY 5M")
PAST_S, _PAST_WIDTH = 300.0, 20
_ROOM_FOR_PAST = 110
"""Columns of a terminal from which on there is room for charts beside the figures."""
HEADS = ("NAME", "COMPUTE", "CPUS", "MEMORY", "PIDS", "DISK")
_AT_ONCE = 4
_FIRST_S = 0.5
"""The time over which the first figures of processors are taken."""


@dataclass(frozen=True, slots=True)
class TopRow:
    """A sandbox and its use."""

    id: str
    name: str | None
    compute: str
    usage: "SandboxUsage"


_ORDERS: dict[str, Callable[[TopRow], Any]] = {
    "cpus": lambda row: -(row.usage.cpus_used or 0),
    "memory": lambda row: -(row.usage.memory_bytes or 0),
    "pids": lambda row: -(row.usage.pids or 0),
    "disk": lambda row: -(row.usage.disk_bytes or 0),
    "name": lambda row: row.name or row.id,
}


def top(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Names or ids; default: all that run.", autocompletion=complete_names
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also those without compute.")] = False,
    sort: Annotated[
        str, typer.Option(metavar="COLUMN", help="Sort by cpus, memory, pids, disk or name.")
    ] = "cpus",
    interval: Annotated[float, duration_option("Time between two tables.", seconds)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one table and exit, as in a pipe.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what sandboxes use, again and again. `q` or Ctrl-C ends it."""
    if sort not in _ORDERS:
        raise InvalidArgument(f"--sort takes {', '.join(_ORDERS)}, not {sort!r}")
    with connect(ctx) as client:
        meter = UseMeter(client, names, everything)
        rows = _sorted(meter.read(), sort)
        if not (once or as_json) and is_terminal(STDOUT) and os.environ.get("TERM") != "dumb":
            _live(meter, Past(client), rows, sort, max(interval, 0.1))
            return
        time.sleep(_FIRST_S)
        rows = _sorted(meter.read(), sort)
    if as_json:
        for row in rows:
            print_json(row)
    else:
        print_columns(HEADS, map(_cells, rows))


class UseMeter:
    """Reads what sandboxes use. The use of processors is that since the reading before."""

    def __init__(self, client: "Client", names: list[str] | None, everything: bool) -> None:
        self._client, self._names, self._everything = client, names, everything or names is not None
        self._before: dict[str, SandboxUsage] = {}

    def read(self) -> list[TopRow]:
        """One row for each sandbox that is there."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            rows = [row for row in pool.map(self._row, self._boxes()) if row is not None]
        found = [replace(row, usage=self._since_before(row)) for row in rows]
        self._before = {row.id: row.usage for row in rows}
        return found

    def _boxes(self) -> "Iterator[Box]":
        if self._names:
            yield from map(self._client.sandboxes.get, self._names)
            return
        for box in self._client.sandboxes.list():
            if self._everything or box.info.compute in ("running", "warm"):
                yield box

    def _row(self, box: "Box") -> TopRow | None:
        try:
            return TopRow(box.id, box.name, box.info.compute, box.usage())
        except NotFound:
            return None  # removed meanwhile

    def _since_before(self, row: TopRow) -> "SandboxUsage":
        now, before = row.usage, self._before.get(row.id)
        if (
            before is None
            or now.cpu_usec is None
            or before.cpu_usec is None
            or now.cpu_usec < before.cpu_usec
        ):
            return now  # a new session counts from 0
        elapsed = (now.at - before.at).total_seconds()
        used = (now.cpu_usec - before.cpu_usec) / 1e6 / elapsed if elapsed > 0 else None
        return replace(now, cpus_used=used)


class Past:
    """The use of each sandbox in the last minutes: what the server kept, and what was read since."""

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._moments: dict[str, list[tuple[float, float | None, float | None]]] = {}
        self._has_server_some = True

    def learn(self, rows: list[TopRow]) -> None:
        """Take in what was just read. Of a sandbox that is new here the server is asked for what it kept."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            kept = list(pool.map(self._kept, [row for row in rows if row.id not in self._moments]))
        self._moments = {row.id: self._moments.get(row.id, []) for row in rows}
        for sandbox_id, moments in kept:
            self._moments[sandbox_id] = moments
        for row in rows:
            now = row.usage.at.timestamp()
            its = [one for one in self._moments[row.id] if one[0] > now - PAST_S]
            self._moments[row.id] = [*its, (now, row.usage.cpus_used, row.usage.memory_bytes)]

    def _kept(self, row: TopRow) -> tuple[str, list[tuple[float, float | None, float | None]]]:
        begin, points = row.usage.at - timedelta(seconds=PAST_S), ()
        if self._has_server_some:
            try:
                box = self._client.sandboxes.get(row.id)
                points = box.metrics(since=begin, until=row.usage.at).points
            except CapabilityNotSupported:
                self._has_server_some = False
            except NotFound:
                pass  # the sandbox was removed meanwhile, or the server is older than samples are
        return row.id, [(one.at.timestamp(), one.cpus_used, one.memory_bytes) for one in points]

    def cells(self, row: TopRow) -> tuple[str, str]:
        """The charts of its processors and its memory, full at its limits."""
        end = row.usage.at.timestamp() + 1
        cpus, memory = (
            sparklines.columns(
                ((one[0], one[which]) for one in self._moments[row.id]), end - PAST_S, end, _PAST_WIDTH
            )
            for which in (1, 2)
        )
        return sparklines.line(cpus, row.usage.cpus), sparklines.line(memory, row.usage.memory_limit_bytes)


def _live(meter: UseMeter, past: Past, rows: list[TopRow], sort: str, interval: float) -> None:
    with lazily("bay.cli.terminal.screen", "screen")() as screen:
        pause = min(_FIRST_S, interval)
        while True:
            room = screen.size()[1]
            if room >= _ROOM_FOR_PAST:
                past.learn(rows)
            screen.show(_lines(rows, room, past if room >= _ROOM_FOR_PAST else None))
            if not screen.wait(pause):
                return
            rows, pause = _sorted(meter.read(), sort), interval


def _lines(rows: list[TopRow], room: int, past: Past | None = None) -> Iterator[str]:
    used = sum(row.usage.cpus_used or 0.0 for row in rows)
    memory = sum(row.usage.memory_bytes or 0 for row in rows)
    summary = f"{len(rows)} sandboxes  {cores(used)} cpus  {amount(memory)} memory  (q quits)"
    yield summary[:room]
    yield ""
    heads = (*HEADS, *PAST_HEADS) if past else HEADS
    shown = ([*map(printable, _cells(row)), *(past.cells(row) if past else ())] for row in rows)
    yield from lay_out([heads, *shown], room)


def _cells(row: TopRow) -> tuple[str, ...]:
    usage = row.usage
    return (
        row.name or row.id,
        row.compute,
        f"{cores(usage.cpus_used)}/{cores(usage.cpus)}",
        f"{amount(usage.memory_bytes)}/{amount(usage.memory_limit_bytes)}",
        f"{dash(usage.pids)}/{dash(usage.pids_limit)}",
        f"{amount(usage.disk_bytes)}/{amount(usage.disk_limit_bytes)}",
    )


def _sorted(rows: list[TopRow], sort: str) -> list[TopRow]:
    return sorted(rows, key=_ORDERS[sort])
