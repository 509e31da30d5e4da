"""The commands `checkpoint` and `fork`: earlier states of a sandbox's files."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import age, amount, print_columns, print_json, print_line, printable
from bay.cli.progress import Bar
from bay.cli.state import JsonOption, connect, whole_seconds
from bay.cli.tree import Tree
from bay.clock import utc_now
from bay.models import CheckpointPolicy

if TYPE_CHECKING:
    from bay.models import Checkpoint

checkpoint = Tree(help="Make and restore checkpoints of a sandbox's files.")

CheckpointArgument = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Its name or id.")]
CommentOption = Annotated[str | None, typer.Option(help="A remark for people.")]
LabelOption = Annotated[str | None, typer.Option("--name", help="A name, unique in the sandbox.")]


@checkpoint.command("create")
def create(
    ctx: typer.Context,
    name: NameArgument,
    label: LabelOption = None,
    comment: CommentOption = None,
    as_json: JsonOption = False,
) -> int:
    """Make a checkpoint of a sandbox's files and print its id. Processes continue."""
    with connect(ctx) as client:
        made = client.sandboxes.get(name).checkpoint(label, comment)
    print_json(made) if as_json else print_line(made.id)
    return 0


@checkpoint.command("policy")
def policy(
    ctx: typer.Context,
    name: NameArgument,
    every: Annotated[
        int | None,
        typer.Option(
            parser=whole_seconds,
            metavar="DURATION",
            help="Interval, such as 1h, while there is activity.",
        ),
    ] = None,
    before_stop: Annotated[
        bool, typer.Option("--before-stop", help="Make one whenever compute has stopped.")
    ] = False,
    keep_last: Annotated[int, typer.Option(help="Number of automatic checkpoints to keep.")] = 10,
    off: Annotated[bool, typer.Option("--off", help="Turn automatic checkpoints off.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Set the policy of automatic checkpoints of a sandbox; without options, show it."""
    wanted = CheckpointPolicy(every=every, keep_last=keep_last, before_stop=before_stop)
    with connect(ctx) as client:
        box = client.sandboxes.get(name)
        if off or every is not None or before_stop:
            box.update(checkpoint_policy=None if off else wanted)
    found = box.info.checkpoint_policy
    print_json(found) if as_json else print_line(_policy_words(found))
    return 0


@checkpoint.command("ls")
def ls(
    ctx: typer.Context,
    name: NameArgument,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    as_json: JsonOption = False,
) -> int:
    """List the checkpoints of a sandbox, oldest first, and mark the ancestors of its present files."""
    with connect(ctx) as client:
        found = client.sandboxes.get(name).checkpoints()
    if as_json or quiet:
        for kept in found:
            print_json(kept) if as_json else print_line(kept.id)
        return 0
    line, now = _line(found), utc_now()
    heads = ("NOW", "ID", "NAME", "AGE", "SIZE", "EXCLUSIVE", "AUTO", "FROM", "COMMENT")
    print_columns(heads, [_row(kept, found, line, now) for kept in found])
    return 0


@checkpoint.command("restore")
def restore(
    ctx: typer.Context, name: NameArgument, kept: CheckpointArgument, as_json: JsonOption = False
) -> int:
    """Restore the files of a checkpoint, also of another sandbox's. All processes end."""
    with connect(ctx) as client:
        info = client.sandboxes.get(name).restore(kept)
    if as_json:
        print_json(info)
    return 0


@checkpoint.command("rm")
def rm(
    ctx: typer.Context,
    name: NameArgument,
    kept: Annotated[list[str], typer.Argument(metavar="CHECKPOINT", help="Names or ids.")],
    as_json: JsonOption = False,
) -> int:
    """Remove checkpoints permanently."""
    with connect(ctx) as client:
        box = client.sandboxes.get(name)
        for one in kept:
            box.delete_checkpoint(one)
            if as_json:
                print_json({"checkpoint": one, "deleted": True})
    return 0


@checkpoint.command("export")
def export(
    ctx: typer.Context,
    name: NameArgument,
    kept: CheckpointArgument,
    target: Annotated[str, typer.Argument(metavar="FILE", help="The file to write, or - for stdout.")],
    as_json: JsonOption = False,
) -> int:
    """Download a checkpoint as a file, a tar in zstd."""
    with connect(ctx) as client, Bar(printable(kept)) as bar:
        to = sys.stdout.buffer if target == "-" else target
        size = client.sandboxes.get(name).export_checkpoint(kept, to, progress=bar)
    if as_json and target != "-":
        print_json({"checkpoint": kept, "target": target, "bytes": size})
    return 0


@checkpoint.command("import")
def import_(
    ctx: typer.Context,
    name: NameArgument,
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file from an export, or - for stdin.")],
    label: LabelOption = None,
    comment: CommentOption = None,
    as_json: JsonOption = False,
) -> int:
    """Import an exported checkpoint and print its id."""
    with connect(ctx) as client, Bar(printable(source)) as bar:
        given = sys.stdin.buffer if source == "-" else source
        box = client.sandboxes.get(name)
        made = box.import_checkpoint(given, name=label, comment=comment, progress=bar)
    print_json(made) if as_json else print_line(made.id)
    return 0


def fork(
    ctx: typer.Context,
    name: NameArgument,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Number of forks.")] = 1,
    kept: Annotated[
        str | None,
        typer.Option(
            "--checkpoint", metavar="CHECKPOINT", help="Fork this checkpoint; default: the present files."
        ),
    ] = None,
    new_name: Annotated[
        str | None, typer.Option("--name", help="Its name; several get NAME-1, NAME-2 and so on.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Make new sandboxes with copies of another's files and print their ids."""
    with connect(ctx) as client:
        made = client.sandboxes.get(name).fork(count, kept, new_name)
    for box in made:
        print_json(box.info) if as_json else print_line(box.id)
    return 0


def _line(found: "list[Checkpoint]") -> set[str]:
    """The checkpoints that the present files grew from, the nearest and those before it."""
    parents = {kept.id: kept.parent_id for kept in found}
    line, at = set[str](), next((kept.id for kept in found if kept.current), None)
    while at is not None and at not in line:
        line.add(at)
        at = parents.get(at)
    return line


def _row(kept: "Checkpoint", found: "list[Checkpoint]", line: set[str], now: datetime) -> tuple[str, ...]:
    names = {other.id: other.name or other.id for other in found}
    return (
        "*" if kept.current else "|" if kept.id in line else "-",
        kept.id,
        kept.name or "-",
        age(kept.created_at, now),
        amount(kept.size_bytes),
        amount(kept.exclusive_bytes),
        "yes" if kept.auto else "no",
        "-" if kept.parent_id is None else names.get(kept.parent_id, kept.parent_id),
        kept.comment or "",
    )


def _policy_words(found: CheckpointPolicy | None) -> str:
    if found is None or not (found.every or found.before_stop):
        return "none are made by themselves"
    when = [f"every {found.every} s"] if found.every else []
    when += ["before each stop"] if found.before_stop else []
    return f"{' and '.join(when)}; the newest {found.keep_last} are kept"
