"""The command `admin pool`: the fill of the warm pools."""

from typing import TYPE_CHECKING

import typer

from bay.cli.output import note, print_columns, print_json
from bay.cli.state import JsonOption, connect

if TYPE_CHECKING:
    from bay.models import PoolState


def pool(ctx: typer.Context, as_json: JsonOption = False) -> int:
    """Show the pool of each profile; the counts are since the server started."""
    with connect(ctx) as client:
        found = client.admin.pool()
    if as_json:
        for state in found:
            print_json(state)
        return 0
    heads = ("PROFILE", "SIZE", "READY", "STARTING", "HITS", "MISSES", "FAILURES")
    print_columns(heads, (_row(state) for state in found))
    for state in found:
        if state.refill_at is not None:
            note(
                f"{state.profile} is not filled up before {state.refill_at:%H:%M:%S} UTC: {state.last_error}"
            )
    return 0


def _row(state: "PoolState") -> tuple[str, ...]:
    numbers = (state.size, state.ready, state.starting, state.hits, state.misses, state.failures)
    return (state.profile, *map(str, numbers))
