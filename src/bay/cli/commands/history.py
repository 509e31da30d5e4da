"""The command `history`: the executions of a sandbox."""

from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import note, print_columns, print_json
from bay.cli.state import JsonOption, connect
from bay.clock import to_rfc3339

if TYPE_CHECKING:
    from bay.models import HistoryEntry

_LONGEST = 60


def history(
    ctx: typer.Context,
    name: NameArgument,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only entries that failed, timed out or were lost.")
    ] = False,
    tags: Annotated[
        str | None, typer.Option(metavar="TAG,...", help="Only entries with one of these tags.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=500, help="The newest N.")] = 100,
    as_json: JsonOption = False,
) -> int:
    """List the calls of `shell/exec` and `python/exec` in a sandbox, newest first.

    For commands of `bay exec` see `bay execs`.
    """
    with connect(ctx) as client:
        entries = client.sandboxes.get(name).history(failed_only=failed or None, tags=tags, limit=limit)
    if as_json:
        for entry in entries:
            print_json(entry)
        return 0
    if not entries and not failed and tags is None:
        note(
            "nothing ran by shell/exec or python/exec; for commands of `bay exec` and `bay run` see: bay execs"
        )
    else:
        print_columns(("ID", "CREATED", "OK", "MS", "TAGS", "CODE"), map(_row, entries))
    return 0


def _row(entry: "HistoryEntry") -> tuple[str, ...]:
    created = to_rfc3339(entry.created_at)[:19] + "Z"
    code = entry.code if len(entry.code) <= _LONGEST else entry.code[: _LONGEST - 3] + "..."
    ok = "yes" if entry.success else "no"
    return (entry.id, created, ok, str(entry.execution_time_ms), entry.tags or "-", code)
