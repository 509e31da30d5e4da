"""The command `compat`: the lines that point another platform's client to this Bay."""

import shlex
from collections.abc import Callable
from typing import Annotated, Literal

import typer

from bay.cli.output import print_json, print_line
from bay.cli.state import JsonOption, state_of
from bay.errors import InvalidArgument, Unauthorized

Variables = dict[str, str]
ClientName = Literal["bay-v1", "sprites", "e2b"]


def _bay_v1(url: str, key: str) -> Variables:
    return {"BAY_ENDPOINT": url, "BAY_TOKEN": key}


def _sprites(url: str, key: str) -> Variables:
    return {"SPRITES_TOKEN": key, "SPRITES_URL": url}


def _e2b(url: str, key: str) -> Variables:
    # A slash at an end would double in the paths of its clients.
    return {"E2B_API_KEY": key, "E2B_API_URL": f"{url}/e2b", "E2B_SANDBOX_URL": url}


CLIENTS: dict[ClientName, tuple[Callable[[str, str], Variables], str]] = {
    "bay-v1": (_bay_v1, "shipyard-neo-sdk reads both"),
    "sprites": (
        _sprites,
        'no client reads these: SpritesClient(os.environ["SPRITES_TOKEN"], os.environ["SPRITES_URL"])',
    ),
    "e2b": (_e2b, "e2b and e2b-code-interpreter read all three, in Python and in JavaScript"),
}
"""The variables of each client, and a word on who reads them."""


def compat(
    ctx: typer.Context,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="`bay-v1`, `sprites` or `e2b`.")],
    as_json: JsonOption = False,
) -> None:
    """Print the lines that point another platform's client here, with the key that `bay` itself uses."""
    if client not in CLIENTS:
        raise InvalidArgument(f"there is no client {client!r}; there are: {', '.join(CLIENTS)}")
    url, key = state_of(ctx).reach()
    if not url or not key:
        raise Unauthorized(
            "`bay compat` needs a Bay and a key; start `bay serve`, or set BAY_URL and BAY_API_KEY"
        )
    variables, readers = CLIENTS[client]
    given = variables(url.rstrip("/"), key)
    if as_json:
        print_json(given)
        return
    print_line(f"# {readers}")
    for name, value in given.items():
        print_line(f"export {name}={shlex.quote(value)}")
