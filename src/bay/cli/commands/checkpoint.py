"""The commands `checkpoint` and `fork`: earlier states of a sandbox's files, and of what ran in it."""

import sys
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import act_on_each, age, amount, print_json, print_line, print_list, printable
from bay.cli.progress import Bar
from bay.cli.state import JsonOption, connect, connect_box, duration_option
from bay.cli.tree import Tree
from bay.clock import utc_now
from bay.errors import InvalidArgument
from bay.models import CheckpointPolicy

if TYPE_CHECKING:
    from bay.models import Checkpoint, FileChange, RemoteCheckpoint

checkpoint = Tree(help="Make and restore checkpoints of a sandbox's files.")

CheckpointArgument = Annotated[str, typer.Argument(metavar="CHECKPOINT", help="Its name or id.")]
CommentOption = Annotated[str | None, typer.Option(help="A remark for people.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its key, from a push.")]
LabelOption = Annotated[str | None, typer.Option("--name", help="A name, unique in the sandbox.")]


@checkpoint.command("create")
def create(
    ctx: typer.Context,
    name: NameArgument,
    label: LabelOption = None,
    comment: CommentOption = None,
    memory: Annotated[bool, typer.Option("--memory", help="Also save what runs, with its memory.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a checkpoint of a sandbox's files and print its id. Processes continue."""
    with connect_box(ctx, name) as box:
        made = box.checkpoint(label, comment, memory=memory)
    print_json(made) if as_json else print_line(made.id)


@checkpoint.command("policy")
def policy(
    ctx: typer.Context,
    name: NameArgument,
    every: Annotated[int | None, duration_option("Interval, such as 1h, while there is activity.")] = None,
    before_stop: Annotated[
        bool, typer.Option("--before-stop", help="Make one whenever compute has stopped.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Also save what runs then, with its memory.")
    ] = False,
    keep_last: Annotated[int, typer.Option(help="Number of automatic checkpoints to keep.")] = 10,
    off: Annotated[bool, typer.Option("--off", help="Turn automatic checkpoints off.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Set the policy of automatic checkpoints of a sandbox; without options, show it."""
    if memory and every is None:
        raise InvalidArgument("--memory needs --every: once compute has stopped there is no memory to save")
    wanted = CheckpointPolicy(every=every, keep_last=keep_last, before_stop=before_stop, memory=memory)
    with connect_box(ctx, name) as box:
        if off or every is not None or before_stop:
            box.update(checkpoint_policy=None if off else wanted)
    found = box.info.checkpoint_policy
    print_json(found) if as_json else print_line(_policy_words(found))


@checkpoint.command("ls")
def ls(
    ctx: typer.Context,
    name: NameArgument,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the checkpoints of a sandbox, oldest first, and mark the ancestors of its present files."""
    with connect_box(ctx, name) as box:
        found = box.checkpoints()
    row = partial(_row, found, _line(found), utc_now())
    heads = ("NOW", "ID", "NAME", "AGE", "SIZE", "EXCLUSIVE", "MEMORY", "AUTO", "FROM", "COMMENT")
    print_list(found, as_json, heads, row, quiet=attrgetter("id") if quiet else None)


@checkpoint.command("restore")
def restore(
    ctx: typer.Context,
    name: NameArgument,
    kept: CheckpointArgument,
    memory: Annotated[
        bool | None,
        typer.Option(
            "--memory/--no-memory", help="Go on with what ran then; default: if the checkpoint has it."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a checkpoint, also another sandbox's. All processes end; with memory those of then go on."""
    with connect_box(ctx, name) as box:
        info = box.restore(kept, memory=memory)
    if as_json:
        print_json(info)


@checkpoint.command("diff")
def diff(
    ctx: typer.Context,
    name: NameArgument,
    kept: CheckpointArgument,
    other: Annotated[
        str | None, typer.Argument(metavar="OTHER", help="Another one; default: the present files.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show which files differ between a checkpoint and another one, or the present files."""
    with connect_box(ctx, name) as box:
        for change in box.diff_checkpoint(kept, other):
            print_json(change) if as_json else print_line(_change_words(change))


@checkpoint.command("rm")
def rm(
    ctx: typer.Context,
    name: NameArgument,
    kept: Annotated[list[str], typer.Argument(metavar="CHECKPOINT", help="Names or ids.")],
    as_json: JsonOption = False,
) -> None:
    """Remove checkpoints permanently."""
    with connect_box(ctx, name) as box:
        act_on_each(kept, box.delete_checkpoint, as_json, "checkpoint", "deleted")


@checkpoint.command("export")
def export(
    ctx: typer.Context,
    name: NameArgument,
    kept: CheckpointArgument,
    target: Annotated[str, typer.Argument(metavar="FILE", help="The file to write, or - for stdout.")],
    as_json: JsonOption = False,
) -> None:
    """Download a checkpoint as a file, a tar in zstd."""
    with connect_box(ctx, name) as box, Bar(printable(kept)) as bar:
        size = box.export_checkpoint(kept, sys.stdout.buffer if target == "-" else target, progress=bar)
    if as_json and target != "-":
        print_json({"checkpoint": kept, "target": target, "bytes": size})


@checkpoint.command("import")
def import_(
    ctx: typer.Context,
    name: NameArgument,
    source: Annotated[str, typer.Argument(metavar="FILE", help="A file from an export, or - for stdin.")],
    label: LabelOption = None,
    comment: CommentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import an exported checkpoint and print its id."""
    with connect_box(ctx, name) as box, Bar(printable(source)) as bar:
        given = sys.stdin.buffer if source == "-" else source
        made = box.import_checkpoint(given, name=label, comment=comment, progress=bar)
    print_json(made) if as_json else print_line(made.id)


@checkpoint.command("push")
def push(
    ctx: typer.Context,
    name: NameArgument,
    kept: Annotated[
        str | None, typer.Argument(metavar="CHECKPOINT", help="Its name or id; default: one made now.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take a checkpoint to Bay's object store and print its key."""
    with connect_box(ctx, name) as box:
        asked = box.push_checkpoint(box.checkpoint() if kept is None else kept)
    with connect(ctx) as client, Bar(printable(kept or asked.key)) as bar:
        done = client.remote_checkpoints.wait(asked.key, progress=lambda found: bar(found.bytes, None))
    print_json(done) if as_json else print_line(done.key)


@checkpoint.command("pull")
def pull(
    ctx: typer.Context,
    name: NameArgument,
    key: KeyArgument,
    label: LabelOption = None,
    comment: CommentOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a checkpoint of one in Bay's object store, of whichever Bay, and print its id."""
    with connect_box(ctx, name) as box:
        made = box.pull_checkpoint(key, name=label, comment=comment)
    print_json(made) if as_json else print_line(made.id)


@checkpoint.command("remote")
def remote(
    ctx: typer.Context,
    sandbox: Annotated[
        str | None, typer.Option("--sandbox", metavar="NAME", help="Those made of this sandbox alone.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print keys only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List your checkpoints in Bay's object store, and those on their way there."""
    with connect(ctx) as client:
        heads = ("KEY", "STATE", "SANDBOX", "NAME", "AGE", "SIZE", "COMMENT")
        found = client.remote_checkpoints.list(sandbox=sandbox)
        row = partial(_remote_row, utc_now())
        print_list(found, as_json, heads, row, quiet=attrgetter("key") if quiet else None)


@checkpoint.command("remote-rm")
def remote_rm(
    ctx: typer.Context,
    keys: Annotated[list[str], typer.Argument(metavar="KEY", help="Keys of remote checkpoints.")],
    as_json: JsonOption = False,
) -> None:
    """Remove checkpoints from Bay's object store permanently, and cancel their pushes."""
    with connect(ctx) as client:
        act_on_each(keys, client.remote_checkpoints.delete, as_json, "remote checkpoint", "deleted")


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
    memory: Annotated[
        bool, typer.Option("--memory", help="Each goes on with what runs, or ran at the checkpoint.")
    ] = False,
    ttl: Annotated[
        int | None, duration_option("Its lifetime, such as 10m; 0 is no limit; default: the profile's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make new sandboxes with copies of another's files and print their ids."""
    with connect_box(ctx, name) as box:
        made = box.fork(count, kept, new_name, memory=memory, ttl=ttl)
    for fork_ in made:
        print_json(fork_.info) if as_json else print_line(fork_.id)


def _line(found: "list[Checkpoint]") -> set[str]:
    """The checkpoints that the present files grew from, the nearest and those before it."""
    parents = {kept.id: kept.parent_id for kept in found}
    line, at = set[str](), next((kept.id for kept in found if kept.current), None)
    while at is not None and at not in line:
        line.add(at)
        at = parents.get(at)
    return line


def _row(found: "list[Checkpoint]", line: set[str], now: datetime, kept: "Checkpoint") -> tuple[str, ...]:
    names = {other.id: other.name or other.id for other in found}
    return (
        "*" if kept.current else "|" if kept.id in line else "-",
        kept.id,
        kept.name or "-",
        age(kept.created_at, now),
        amount(kept.size_bytes),
        amount(kept.exclusive_bytes),
        amount(kept.memory_bytes) if kept.kind == "memory" else "no",
        "yes" if kept.auto else "no",
        "-" if kept.parent_id is None else names.get(kept.parent_id, kept.parent_id),
        kept.comment or "",
    )


def _remote_row(now: datetime, found: "RemoteCheckpoint") -> tuple[str, ...]:
    return (
        found.key,
        found.state,
        found.sandbox_name or found.sandbox_id,
        found.name or "-",
        age(found.created_at, now),
        amount(found.bytes),
        found.comment or "",
    )


def _policy_words(found: CheckpointPolicy | None) -> str:
    if found is None or not (found.every or found.before_stop):
        return "none are made by themselves"
    when = [f"every {found.every} s"] if found.every else []
    when += ["before each stop"] if found.before_stop else []
    also = ", with memory" if found.memory else ""
    return f"{' and '.join(when)}{also}; the newest {found.keep_last} are kept"


def _change_words(change: "FileChange") -> str:
    sign = {"added": "+", "removed": "-"}.get(change.change, "*")
    versions = [version for version in (change.before, change.after) if version is not None]
    sizes = [amount(version.size) for version in versions if version.size is not None]
    about = " -> ".join(dict.fromkeys(sizes))
    return f"{sign} {printable(change.path)}" + (f"  {about}" if about else "")
