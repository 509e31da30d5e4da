"""The commands `cargo`: files that outlive sandboxes."""

from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import complete_names
from bay.cli.output import act_on_each, age, amount, dash, print_json, print_line, print_list
from bay.cli.state import JsonOption, connect
from bay.cli.tree import Tree
from bay.clock import utc_now

if TYPE_CHECKING:
    from bay.models import Cargo

cargo = Tree(help="Manage files that outlive sandboxes.")


@cargo.command("ls")
def ls(
    ctx: typer.Context,
    managed: Annotated[bool, typer.Option("--managed", help="List those that belong to a sandbox.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List cargos with their sizes: yours, or with --managed those of sandboxes."""
    now = utc_now()
    with connect(ctx) as client:
        found = client.cargos.list(managed=True if managed else None)
        heads = ("ID", "USED", "FILES", "CHARGED", "LIMIT", "MEASURED", "BACKEND", "SANDBOXES")
        print_list(found, as_json, heads, partial(_row, now), quiet=attrgetter("id") if quiet else None)


@cargo.command("create")
def create(
    ctx: typer.Context,
    size_limit_mb: Annotated[int | None, typer.Option(metavar="MIB", min=1, help="Its limit.")] = None,
    from_checkpoint: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the checkpoint to start from.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a cargo and print its id."""
    with connect(ctx) as client:
        made = client.cargos.create(size_limit_mb=size_limit_mb, from_checkpoint=from_checkpoint)
    print_json(made) if as_json else print_line(made.id)


@cargo.command("rm")
def rm(
    ctx: typer.Context,
    ids: Annotated[list[str], typer.Argument(metavar="ID", help="Ids of cargos.")],
    as_json: JsonOption = False,
) -> None:
    """Remove cargos and their files permanently."""
    with connect(ctx) as client:
        act_on_each(ids, client.cargos.delete, as_json, "id", "deleted")


@cargo.command("move")
def move(
    ctx: typer.Context,
    cargo_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the cargo.")],
    sandbox: Annotated[
        str,
        typer.Argument(metavar="NAME", help="The sandbox to move it to.", autocompletion=complete_names),
    ],
    as_json: JsonOption = False,
) -> None:
    """Move a cargo to a sandbox, in place of its own. All sandboxes concerned must be stopped."""
    with connect(ctx) as client:
        moved = client.cargos.move(cargo_id, sandbox)
    if as_json:
        print_json(moved)


def _row(now: datetime, one: "Cargo") -> tuple[str, ...]:
    limit = "-" if one.size_limit_mb is None else amount(one.size_limit_mb << 20)
    return (
        one.id,
        amount(one.used_bytes),
        dash(one.used_inodes),
        amount(one.charged_bytes),
        limit if one.size_limit_enforced or one.size_limit_mb is None else f"({limit})",
        "-" if one.measured_at is None else age(one.measured_at, now),
        one.backend,
        " ".join(one.sandbox_ids) or "-",
    )
