"""The command `capabilities`: what the server can do."""

from dataclasses import asdict
from typing import cast

import typer

from bay.cli.output import print_columns, print_json
from bay.cli.state import JsonOption, connect


def capabilities(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """Show what the server can do, and how. A call for more is refused before it begins anything."""
    with connect(ctx) as client:
        found = client.capabilities()
    if as_json:
        print_json(found)
        return
    print_columns(("CAPABILITY", "VALUE"), ((name, _words(value)) for name, value in asdict(found).items()))


def _words(value: object) -> str:
    match value:
        case None | False | ():
            return "-"
        case True:
            return "yes"
        case tuple():
            return ", ".join(cast("tuple[str, ...]", value))
        case _:
            return str(value)
