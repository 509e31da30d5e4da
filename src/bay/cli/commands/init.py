"""The command `init`: a commented file of the server's settings."""

import os
from pathlib import Path
from typing import Annotated, cast

import typer

from bay.cli.output import note, print_json, print_line
from bay.cli.state import JsonOption, load
from bay.errors import InvalidArgument

DEFAULT_FILE = Path("bay-server.toml")


def init(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The file to write, or - for stdout.")
    ] = DEFAULT_FILE,
    as_json: JsonOption = False,
) -> None:
    """Write a file of the server's settings, each as a comment with its meaning and default."""
    text = cast("str", load("bay.server.settings_example", "example")())
    if str(file) == "-":
        print_json({"text": text}) if as_json else print_line(text.rstrip("\n"))
        return
    try:
        # For this user alone: it may come to hold the key.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise InvalidArgument(f"{file} is already there; name another file: bay init FILE") from error
    try:
        with open(descriptor, "w", encoding="utf-8") as output:
            output.write(text)
    except OSError:
        file.unlink()
        raise
    if as_json:
        print_json({"path": str(file)})
    else:
        note(f"wrote {file}; edit it, then start the server with: bay serve --config {file}")
