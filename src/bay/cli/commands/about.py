"""The commands `help` and `version`."""

from typing import Annotated, Any

import typer

import bay
from bay.cli.output import print_json, print_line
from bay.cli.state import JsonOption
from bay.errors import InvalidArgument


def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="COMMAND", help="The command; default: all of them.")
    ] = None,
) -> None:
    """Show the help of a command."""
    found: Any = ctx.find_root()
    for word in words or ():
        command = found.command.get_command(found, word) if hasattr(found.command, "get_command") else None
        if command is None:
            raise InvalidArgument(f"there is no command {' '.join(words or ())!r}; see `bay --help`")
        found = type(found)(command, info_name=command.name, parent=found, **command.context_settings)
    print_line(found.get_help())


def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    print_json({"version": bay.__version__}) if as_json else print_line(f"bay {bay.__version__}")
