"""The commands `ports` and `url`: the addresses of a sandbox's ports."""

from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import dash, note, print_columns, print_json, print_line
from bay.cli.state import JsonOption, connect_box, duration
from bay.clock import to_seconds
from bay.errors import InvalidArgument, NotFound
from bay.models import PortSettings

if TYPE_CHECKING:
    from bay.client import Box
    from bay.models import Port, PortAccess

DEFAULT_EXPIRY_S = 3600


def ports(
    ctx: typer.Context,
    name: NameArgument,
    public: Annotated[
        list[int] | None, typer.Option(metavar="PORT", help="Make this port public. Repeatable.")
    ] = None,
    private: Annotated[
        list[int] | None,
        typer.Option(metavar="PORT", help="Make this port private to its owner. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the listening ports of a sandbox and their access."""
    with connect_box(ctx, name) as box:
        for port in private or ():
            _set_access(box, port, "owner")
        for port in public or ():
            _set_access(box, port, "public")
        listening = box.ports.list()
        rows = [*map(_row, listening), *_silent(box, listening, changed=bool(public or private))]
    if as_json:
        for port in listening:
            print_json(port)
    else:
        print_columns(("PORT", "ADDRESSES", "PID", "PROCESS", "ACCESS", "URL"), rows)


def url(
    ctx: typer.Context,
    name: NameArgument,
    port: Annotated[
        int | None,
        typer.Argument(metavar="PORT", min=1, max=65_535, help="Default: the port of its URL."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make it public.")] = False,
    private: Annotated[
        bool, typer.Option("--private", help="Make it private to its owner (the default).")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Make a link for a single use.")] = False,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Make a link with this lifetime: 90s, 10m, 2h, 7d."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the URL of a sandbox for a browser; with --once or --expires a link without a key."""
    if public and private:
        raise InvalidArgument("give --public or --private, not both")
    expires_in = DEFAULT_EXPIRY_S if expires is None else duration("--expires", expires)
    with connect_box(ctx, name) as box:
        if public or private:
            _set_access(box, port or _own_port(box), "public" if public else "owner")
        if not (once or expires):
            found = _address(box, port)
            print_json({"url": found}) if as_json else print_line(found)
            return
        link = box.ports.link(port or _own_port(box), expires_in, once=once)
    if as_json:
        print_json(link)
    else:
        note(f"good {'once, ' if once else ''}until {to_seconds(link.expires_at)}")
        print_line(link.url)


def _set_access(box: "Box", port: int, access: "PortAccess") -> None:
    """Set the access of a port, and of the sandbox's own URL if it leads there: both are open, or neither."""
    if access == "owner":
        box.ports.forget(port)
    else:
        box.ports.set_access(port, access)
    if box.info.url is not None and box.info.url.port == port:
        box.update(url=PortSettings(port=port, access=access))


def _address(box: "Box", port: int | None) -> str:
    try:
        return box.url(port)
    except NotFound as error:
        name = box.name or box.id
        if port is None:
            _own_port(box)
        raise NotFound(
            f"nothing listens on port {port} of {name} now; you can still make a link: "
            f"bay url {name} {port} --expires 1h"
        ) from error


def _own_port(box: "Box") -> int:
    name = box.name or box.id
    if box.info.url is None or box.info.url.port is None:
        raise InvalidArgument(
            f"{name} has no URL of its own yet; name a port (bay url {name} PORT), "
            f"or set the port of its URL: bay update {name} --url-port PORT"
        )
    return box.info.url.port


def _silent(box: "Box", listening: "list[Port]", *, changed: bool) -> list[tuple[str, ...]]:
    """The settings of ports without a listener."""
    known = {port.port for port in listening}
    info = box.refresh() if changed else box.info
    return [(str(p.port), "-", "-", "-", p.access, "-") for p in info.ports if p.port not in known]


def _row(port: "Port") -> tuple[str, ...]:
    return (
        str(port.port),
        " ".join(port.addresses),
        dash(port.pid),
        port.process or "-",
        port.access,
        port.url or "-",
    )
