"""The command `replicas`: the servers of one database, and which of them does what."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING

import typer

from bay.cli.output import age, note, print_columns, print_json
from bay.cli.state import JsonOption, connect
from bay.clock import utc_now

if TYPE_CHECKING:
    from bay.models import Replica

HEADS = ("ID", "URL", "VERSION", "BEAT", "SHARDS", "JOBS")


def replicas(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the servers that share one database, and the shards of sandboxes and the jobs that each has."""
    with connect(ctx) as client:
        found = client.admin.replicas()
    if as_json:
        print_json(found)
        return
    now = utc_now()
    print_columns(HEADS, (_row(one, now) for one in found.items))
    if found.unheld:
        note(f"no server has these just now: {', '.join(found.unheld)}; a live one takes them within seconds")


def _row(one: "Replica", now: datetime) -> tuple[str, ...]:
    jobs = ", ".join(one.jobs) or "-"
    return (one.id, one.url, one.version, age(one.beat_at, now), ranges(one.shards) or "-", jobs)


def ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as people write them, such as ``0-3, 7``."""
    runs = (list(run) for _, run in groupby(enumerate(numbers), lambda at: at[1] - at[0]))
    return ", ".join(f"{run[0][1]}-{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)
