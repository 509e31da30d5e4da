"""The command `serve`: the server on this machine, loaded on demand."""

from pathlib import Path
from typing import Annotated

import typer

from bay.cli.state import JsonOption, load


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Bay's data directory.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Run the server in the foreground."""
    return int(load("bay.server.main", "serve")(host, port, data_dir, config, as_json=as_json))
