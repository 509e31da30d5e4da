"""The command `admin gc`: collects idle, expired and orphaned sandboxes now."""

from typing import TYPE_CHECKING, Annotated, cast

import typer

from bay.cli.output import note, print_columns, print_json
from bay.cli.state import JsonOption, connect
from bay.errors import InvalidArgument

if TYPE_CHECKING:
    from bay.models import GarbageTask

TASKS = ("idle_session", "expired_sandbox", "orphan_cargo", "orphan_container")


def gc(
    ctx: typer.Context,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TASK]...", help=f"Of {', '.join(TASKS)}; all unless named."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run garbage collection now, for every owner: idle and frozen compute, expired sandboxes, orphans."""
    wanted = _tasks(tasks or [])
    with connect(ctx) as client:
        run = client.admin.collect_garbage(wanted or None)
    if as_json:
        print_json(run)
    else:
        heads = ("TASK", "CLEANED", "SKIPPED", "ERRORS")
        rows = (
            (r.task_name, str(r.cleaned_count), str(r.skipped_count), str(len(r.errors))) for r in run.results
        )
        print_columns(heads, rows)
        for error in (error for result in run.results for error in result.errors):
            note(error)
    return 1 if run.total_errors else 0


def _tasks(given: list[str]) -> "list[GarbageTask]":
    unknown = [task for task in given if task not in TASKS]
    if unknown:
        raise InvalidArgument(f"there is no task {unknown[0]}; there are {', '.join(TASKS)}")
    return cast("list[GarbageTask]", given)
