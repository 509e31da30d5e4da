"""The commands `keys`: the API keys."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import bay
from bay.cli.output import note, print_columns, print_json, print_line
from bay.cli.state import JsonOption, connect, pairs, whole_seconds
from bay.cli.tree import Tree
from bay.clock import to_rfc3339, utc_now
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
    expires_in: Annotated[
        int | None,
        typer.Option(parser=whole_seconds, metavar="DURATION", help="Its lifetime, such as 7d."),
    ] = None,
    quota: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="A quota, such as running=5. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Create a key and print its secret, which is shown only once."""
    with connect(ctx) as client:
        made = client.keys.create(
            name,
            owner=owner,
            scope=cast("KeyScope", scope),
            expires_in=expires_in,
            quotas=_limits(pairs(quota, "--quota", "=")),
        )
    if as_json:
        print_json(made)
    else:
        note(f"{made.id} of {made.owner} may {made.scope}; the key is shown this once")
        print_line(made.secret or "")
    return 0


@keys.command("ls")
def ls(
    ctx: typer.Context,
    owner: Annotated[str | None, typer.Option(help="Only of this owner.")] = None,
    as_json: JsonOption = False,
) -> int:
    """List keys, oldest first, never with their secrets."""
    now = utc_now()
    with connect(ctx) as client:
        found = client.keys.list(owner=owner)
        if as_json:
            for key in found:
                print_json(key)
        else:
            heads = ("ID", "NAME", "OWNER", "SCOPE", "STATE", "CREATED", "EXPIRES")
            print_columns(heads, (_row(key, now) for key in found))
    return 0


@keys.command("revoke")
def revoke(ctx: typer.Context, ids: KeyIds, as_json: JsonOption = False) -> int:
    """Revoke keys, at once."""
    with connect(ctx) as client:
        for key_id in ids:
            client.keys.revoke(key_id)
            if as_json:
                print_json({"id": key_id, "revoked": True})
    return 0


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


def _row(key: "Key", now: datetime) -> tuple[str, ...]:
    expired = key.expires_at is not None and key.expires_at <= now
    state = "revoked" if key.revoked_at else "expired" if expired else "valid"
    expires = "never" if key.expires_at is None else _short(key.expires_at)
    return (key.id, key.name, key.owner, key.scope, state, _short(key.created_at), expires)


def _short(moment: datetime) -> str:
    return to_rfc3339(moment)[:19] + "Z"
