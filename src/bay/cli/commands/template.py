"""The commands `template`: named images of sandboxes, from which others start."""

import sys
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import complete_names, complete_profiles
from bay.cli.output import act_on_each, age, dash, print_json, print_line, print_list, printable
from bay.cli.size_options import CpusOption, DiskOption, MemoryOption, PidsOption, sizes
from bay.cli.state import EnvOption, JsonOption, connect, pairs
from bay.cli.tree import Tree
from bay.clock import utc_now

if TYPE_CHECKING:
    from bay.models import Template

template = Tree(help="Freeze sandboxes into templates that others start from.")

PoolOption = Annotated[
    int | None,
    typer.Option("--pool", metavar="N", min=0, help="So many of its sandboxes wait, started, for creates."),
]
PoolMaxOption = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Up to so many wait when creates come fast.")
]
RefArgument = Annotated[str, typer.Argument(metavar="TEMPLATE", help="Its name, name:tag, or id.")]


@template.command("create")
def create(
    ctx: typer.Context,
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:TAG]", help="Its name: a-z, 0-9 and '-'; the tag is latest unless given."
        ),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="SANDBOX",
            help="Name or id of the sandbox to freeze.",
            autocompletion=complete_names,
        ),
    ],
    start: Annotated[
        str | None,
        typer.Option(metavar="COMMAND", help="Run it in each of its sandboxes, as the service `main`."),
    ] = None,
    ready: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="The service serves once this ends with 0.")
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Profile of its sandboxes; default: the sandbox's.",
            autocompletion=complete_profiles,
        ),
    ] = None,
    env: EnvOption = None,
    cpus: CpusOption = None,
    memory: MemoryOption = None,
    disk: DiskOption = None,
    pids: PidsOption = None,
    user: Annotated[str | None, typer.Option(metavar="USER", help="USER of its image.")] = None,
    workdir: Annotated[str | None, typer.Option(metavar="PATH", help="WORKDIR of its image.")] = None,
    pool: PoolOption = None,
    pool_max: PoolMaxOption = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="Let every owner use it. Needs an admin key.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Freeze a sandbox into a template and print its id."""
    called, _, tag = name.partition(":")
    with connect(ctx) as client:
        made = client.templates.create(
            called,
            source,
            tag=tag or None,
            start_command=start,
            ready_command=ready,
            profile=profile,
            env=pairs(env, "--env", "=") or None,
            **sizes(cpus, memory, disk, pids),
            user=user,
            working_dir=workdir,
            pool_size=pool,
            pool_max=pool_max,
            shared=shared,
        )
    print_json(made) if as_json else print_line(made.id)


@template.command("ls")
def ls(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Only those of this name.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List templates, oldest first: yours, and those that are shared."""
    with connect(ctx) as client:
        heads = ("ID", "NAME", "TAG", "ALIASES", "STATE", "PROFILE", "AGE", "SHARED", "POOL", "START")
        row = partial(_row, utc_now())
        found = client.templates.list(name=name)
        print_list(found, as_json, heads, row, quiet=attrgetter("id") if quiet else None)


@template.command("get")
def get(ctx: typer.Context, ref: RefArgument, as_json: JsonOption = False) -> None:
    """Show a template: its source, image, commands and sizes."""
    with connect(ctx) as client:
        found = client.templates.get(ref)
    if as_json:
        print_json(found)
        return
    for name, value in _facts(found):
        print_line(f"{name:<10} {value}")


@template.command("log")
def log(ctx: typer.Context, ref: RefArgument, as_json: JsonOption = False) -> None:
    """Print what the steps of a template's build have printed."""
    with connect(ctx) as client:
        text = client.templates.log(ref)
    if as_json:
        print_json({"log": text})
    else:
        sys.stdout.buffer.write(text.encode("utf-8", "replace"))


@template.command("tag")
def tag(
    ctx: typer.Context,
    ref: RefArgument,
    target: Annotated[
        str, typer.Argument(metavar="NAME[:TAG]", help="One more name of it; another template loses it.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Give a template one more name."""
    with connect(ctx) as client:
        found = client.templates.tag(ref, target)
    print_json(found) if as_json else print_line(found.id)


@template.command("update")
def update(
    ctx: typer.Context,
    ref: RefArgument,
    new_tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="Its tag from now on, in place of the present.")
    ] = None,
    pool: PoolOption = None,
    pool_max: PoolMaxOption = None,
    shared: Annotated[
        bool | None,
        typer.Option("--shared/--no-shared", help="Whether every owner may use it. Needs an admin key."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Change a template's tag, its pool, or who may use it."""
    with connect(ctx) as client:
        found = client.templates.update(ref, tag=new_tag, shared=shared, pool_size=pool, pool_max=pool_max)
    print_json(found) if as_json else print_line(found.id)


@template.command("rm")
def rm(
    ctx: typer.Context,
    refs: Annotated[list[str], typer.Argument(metavar="TEMPLATE", help="Names, name:tag or ids.")],
    as_json: JsonOption = False,
) -> None:
    """Remove templates that no sandbox needs, or one name of several."""
    with connect(ctx) as client:
        act_on_each(refs, client.templates.delete, as_json, "template", "deleted")


def _row(now: datetime, one: "Template") -> tuple[str, ...]:
    start = printable(" ".join(one.start_command or ()))[:40]
    return (
        one.id, one.name, dash(one.tag), " ".join(one.aliases) or "-", one.state, one.profile, age(one.created_at, now),
        "yes" if one.shared else "-", _pool(one) or "-", start or "-",
    )  # fmt: skip


def _pool(one: "Template") -> str:
    """How many wait of how many; empty without a pool."""
    most = one.pool_size if one.pool_max in (None, one.pool_size) else f"{one.pool_size}-{one.pool_max}"
    return f"{one.pool_ready}/{most}" if one.pool_size or one.pool_max else ""


def _facts(one: "Template") -> list[tuple[str, str]]:
    shown = {
        "id": one.id, "name": one.name, "tag": one.tag, "aliases": " ".join(one.aliases), "state": one.state, "profile": one.profile,
        "sandbox": one.sandbox_id, "image": one.image_id, "start": " ".join(one.start_command or ()),
        "ready": " ".join(one.ready_command or ()), "cpus": one.cpus, "memory_mb": one.memory_mb,
        "disk_mb": one.disk_mb, "pids": one.pids, "env": " ".join(one.env), "user": one.user,
        "workdir": one.working_dir, "shared": "yes" if one.shared else "", "pool": _pool(one),
        "pool error": one.pool_error, "error": one.error and one.error.message,
    }  # fmt: skip
    return [(name, printable(str(value))) for name, value in shown.items() if value]
