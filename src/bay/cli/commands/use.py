"""The command `use`: the default sandbox of a directory."""

from dataclasses import asdict
from typing import Annotated

import typer

from bay.cli import default_sandbox
from bay.cli.complete import complete_names
from bay.cli.output import note, print_json, print_line
from bay.cli.state import JsonOption, connect_box, state_of
from bay.errors import InvalidArgument


def use(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The sandbox's name or id; default: show it.", autocompletion=complete_names
        ),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the default that holds here.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set the sandbox that `.` stands for in this directory and below; without NAME, show it."""
    if name is not None and clear:
        raise InvalidArgument("give NAME or --clear, not both")
    if name is not None:
        with connect_box(ctx, name) as box:
            found = default_sandbox.remember(box.name or box.id, state_of(ctx).url_or_default())
    else:
        found = default_sandbox.forget() if clear else default_sandbox.nearest()
    if found is None:
        raise InvalidArgument("no default sandbox is set for this directory; set one: bay use NAME")
    if as_json:
        print_json(asdict(found))
    elif clear:
        note(f"{found.sandbox} was the default sandbox of {found.directory}, which has none now")
    else:
        print_line(found.sandbox)
        note(f"the default sandbox of {found.directory}, at {found.url}")
