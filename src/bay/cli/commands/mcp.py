"""The command `mcp`: a server of the Model Context Protocol for one agent."""

import importlib.util
from typing import Annotated

import typer

from bay.cli.complete import complete_names
from bay.cli.output import note
from bay.cli.state import lazily, reach_or_embed
from bay.errors import BayError
from bay.hints import extra

_WANTED = "mcp"


def mcp(
    ctx: typer.Context,
    sandbox: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The default sandbox; it is made if need be, and stays.",
            autocompletion=complete_names,
        ),
    ] = None,
) -> int:
    """Serve an agent by the Model Context Protocol, over stdin and stdout."""
    if importlib.util.find_spec(_WANTED) is None:
        raise BayError(f"`bay mcp` needs the library mcp; {extra('mcp')}")
    with reach_or_embed(ctx) as (url, api_key):
        note(f"serving sandboxes of {url} by MCP on stdin and stdout")
        return int(lazily("bay.mcp.stdio", "serve")(url, api_key, sandbox))
