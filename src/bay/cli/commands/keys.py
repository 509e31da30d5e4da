"""The commands `keys`: the API keys."""

from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import bay
from bay.cli.output import act_on_each, note, print_json, print_line, print_list
from bay.cli.state import JsonOption, connect, duration_option, pairs
from bay.cli.tree import Tree
from bay.clock import to_seconds, utc_now
from bay.errors import InvalidArgument

if TYPE_CHECKING:
    from bay.models import Key, KeyScope, Limits

keys = Tree(help="Create, list and revoke API keys; needs an admin key.")

KeyIds = Annotated[list[str], typer.Argument(metavar="ID", help="Ids of keys.")]


@keys.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for people.")],
    owner: Annotated[str | None, typer.Option(help="Its owner; default: yours.")] = None,
    scope: Annotated[str, typer.Option(help="Its scope: read, write or admin.")] = "write",
    expires_in: Annotated[int | None, duration_option("Its lifetime, such as 7d.")] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A quota, such as running=5. Repeatable."),
    ] = None,
    e2b: Annotated[bool, typer.Option("--e2b", help="A key of the form that clients of E2B know.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Create a key and print its secret, which is shown only once."""
    with connect(ctx) as client:
        made = client.keys.create(
            name,
            owner=owner,
            scope=cast("KeyScope", scope),
            expires_in=expires_in,
            quotas=_limits(pairs(quota, "--quota", "=")),
            e2b=e2b,
        )
    if as_json:
        print_json(made)
    else:
        note(f"{made.id} of {made.owner} may {made.scope}; the key is shown this once")
        print_line(made.secret or "")


@keys.command("ls")
def ls(
    ctx: typer.Context,
    owner: Annotated[str | None, typer.Option(help="Only of this owner.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List keys, oldest first, never with their secrets."""
    now = utc_now()
    with connect(ctx) as client:
        heads = ("ID", "NAME", "OWNER", "SCOPE", "STATE", "CREATED", "EXPIRES")
        print_list(client.keys.list(owner=owner), as_json, heads, partial(_row, now))


@keys.command("revoke")
def revoke(ctx: typer.Context, ids: KeyIds, as_json: JsonOption = False) -> None:
    """Revoke keys, at once."""
    with connect(ctx) as client:
        act_on_each(ids, client.keys.revoke, as_json, "id", "revoked")


def _limits(given: dict[str, str]) -> "Limits | None":
    numbers: dict[str, Any] = {name: _number(name, value) for name, value in given.items()}
    try:
        return bay.Limits(**numbers) if numbers else None
    except TypeError as error:
        known = ", ".join(bay.Limits.__dataclass_fields__)
        raise InvalidArgument(f"--quota takes one of {known}") from error


def _number(name: str, text: str) -> float:
    try:
        return float(text) if name == "cpus" else int(text)
    except ValueError as error:
        raise InvalidArgument(f"--quota {name} takes a number, not {text!r}") from error


def _row(now: datetime, key: "Key") -> tuple[str, ...]:
    expired = key.expires_at is not None and key.expires_at <= now
    state = "revoked" if key.revoked_at else "expired" if expired else "valid"
    expires = "never" if key.expires_at is None else to_seconds(key.expires_at)
    return (key.id, key.name, key.owner, key.scope, state, to_seconds(key.created_at), expires)
