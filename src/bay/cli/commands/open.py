"""The command `open`: the console, or a port of a sandbox, in the browser of this machine."""

import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import complete_names
from bay.cli.output import note, print_json, print_line
from bay.cli.state import JsonOption, connect, connect_box
from bay.errors import InvalidArgument

if TYPE_CHECKING:
    from bay.client import Box

_SOON_S = 300
"""For how long a link that is opened at once is good."""
_LATER_S = 3600


def open_(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="The sandbox's name or id. Default: the console, signed in.",
            autocompletion=complete_names,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Argument(
            metavar="PORT",
            min=1,
            max=65_535,
            help="Default: the port of its URL, or the only one that listens.",
        ),
    ] = None,
    print_only: Annotated[bool, typer.Option("--print", help="Print the URL only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Open the console or a port of a sandbox in the browser, or print the URL where there is none."""
    browser = None if print_only else _browser()
    # Other users of this machine see a browser's arguments, so what is in them opens once.
    if name is None:
        with connect(ctx) as client:
            url, what = client.console_code().url, "the console"
    else:
        with connect_box(ctx, name) as box:
            number = port or _port(box)
            url, what = _url(box, number, once=browser is not None), f"port {number} of {box.name or box.id}"
    opened = browser is not None and browser.open(url)
    if as_json:
        print_json({"url": url, "opened": opened})
    elif opened:
        note(f"opened {what} in the browser")
    else:
        print_line(url)


def _browser() -> webbrowser.BaseBrowser | None:
    try:
        return webbrowser.get()
    except webbrowser.Error:
        return None


def _url(box: "Box", port: int, *, once: bool) -> str:
    """Its address, of a port that is not public as a link that needs no key."""
    public = {one.port: one.url for one in box.ports.list() if one.access == "public"}
    return public.get(port) or box.ports.link(port, _SOON_S if once else _LATER_S, once=once).url


def _port(box: "Box") -> int:
    if box.info.url is not None and box.info.url.port is not None:
        return box.info.url.port
    name, listening = box.name or box.id, [one.port for one in box.ports.list()]
    if len(listening) == 1:
        return listening[0]
    found = (
        f"ports {', '.join(map(str, listening))} of {name} listen"
        if listening
        else f"nothing listens in {name}"
    )
    raise InvalidArgument(f"{found}; name a port: bay open {name} PORT")
