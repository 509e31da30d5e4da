"""The commands `help` and `version`."""

import sys
from typing import Annotated, Any

import typer

import bay
from bay.cli.output import print_json, print_line, print_list
from bay.cli.state import JsonOption
from bay.cli.topics import page, show, title, topics
from bay.errors import InvalidArgument


def help_(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", help="A command, a topic, or `topics`; default: all commands."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the help of a command, or a page of the documentation."""
    given = list(words or ())
    if given == ["topics"]:
        _list_topics(as_json)
        return
    found = _command(ctx, given)
    if found is None and len(given) > 1:
        raise InvalidArgument(f"there is no command {' '.join(given)!r}; see `bay --help`")
    text = found.get_help() if found is not None else page(given[0].removesuffix(".md"))
    if as_json:
        print_json({"name": " ".join(given), "text": text})
    elif found is None and sys.stdout.isatty():
        show(text)
    else:
        print_line(text.rstrip("\n"))


def _command(ctx: typer.Context, words: list[str]) -> Any:
    """The context of that command; None when there is none."""
    found: Any = ctx.find_root()
    for word in words:
        command = found.command.get_command(found, word) if hasattr(found.command, "get_command") else None
        if command is None:
            return None
        found = type(found)(command, info_name=command.name, parent=found, **command.context_settings)
    return found


def _list_topics(as_json: bool) -> None:
    rows = [
        {"topic": name, "title": title(path.read_text(encoding="utf-8"))} for name, path in topics().items()
    ]
    print_list(rows, as_json, ("TOPIC", "TITLE"), lambda row: tuple(row.values()))


def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    print_json({"version": bay.__version__}) if as_json else print_line(f"bay {bay.__version__}")
