"""The command `admin audit`: the changing calls, with their callers and results."""

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from bay import durations
from bay.cli.output import print_json, print_line, printable
from bay.cli.state import JsonOption, connect
from bay.clock import from_rfc3339, to_rfc3339, utc_now
from bay.errors import InvalidArgument

if TYPE_CHECKING:
    from bay.models import AuditEntry


def audit(
    ctx: typer.Context,
    owner: Annotated[str | None, typer.Option(help="Only calls of this owner.")] = None,
    key: Annotated[str | None, typer.Option(metavar="ID", help="Only calls with this key.")] = None,
    method: Annotated[str | None, typer.Option(help="Only POST, PUT, PATCH or DELETE.")] = None,
    request: Annotated[
        str | None, typer.Option(metavar="ID", help="Only the call with this request id.")
    ] = None,
    resource: Annotated[
        str | None, typer.Option(metavar="ID", help="Only calls about this sandbox, key or other resource.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Calls since a time: 10m, 2h, 7d ago, or RFC 3339.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Calls before a time.")] = None,
    as_json: JsonOption = False,
) -> int:
    """List the calls that may have changed something, oldest first."""
    with connect(ctx) as client:
        found = client.audit.list(
            owner=owner,
            key_id=key,
            method=method and method.upper(),
            request_id=request,
            resource_id=resource,
            since=_moment("--since", since),
            until=_moment("--until", until),
            limit=200,
        )
        for entry in found:
            print_json(entry) if as_json else print_line(_line(entry))
    return 0


def _moment(option: str, text: str | None) -> datetime | None:
    """The time that ``90s``, ``10m``, ``2h`` or ``7d`` ago was, or that RFC 3339 names."""
    if text is None:
        return None
    try:
        if (ago := durations.parse(text)) is not None:
            return utc_now() - timedelta(seconds=ago)
        return from_rfc3339(text)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{option} takes 10m, 2h, 7d or a time such as 2030-01-31T12:00:00Z") from error


def _line(entry: "AuditEntry") -> str:
    """One call. A result of `?` is one that is under way, or in which Bay ended."""
    at = to_rfc3339(entry.at)[:19] + "Z"
    result = "?" if entry.status is None else str(entry.status)
    who = f"{entry.owner or '-'} {entry.key_id or '-'}"
    what = f"{entry.method:<6} {entry.path}"
    return printable(
        f"{at}  {result:<3}  {who}  {what}  {entry.resource_id or '-'}  {entry.code or ''}"
    ).rstrip()
