"""The commands `image`: root file systems that sandboxes start from."""

import sys
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.commands.secrets import hidden_value
from bay.cli.image_source import archive_of, pushing
from bay.cli.output import act_on_each, age, amount, dash, print_json, print_line, print_list, printable
from bay.cli.progress import Bar
from bay.cli.state import JsonOption, connect, duration_option
from bay.cli.tree import Tree
from bay.clock import utc_now

if TYPE_CHECKING:
    from bay.models import ContainerImage

image = Tree(help="Manage the images that sandboxes start from.")

RefArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="Its reference, such as debian:13, or id.")]
HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="The registry, such as ghcr.io.")]
SharedOption = Annotated[bool, typer.Option("--shared", help="Let every owner use it. Needs an admin key.")]


@image.command("pull")
def pull(
    ctx: typer.Context, ref: RefArgument, shared: SharedOption = False, as_json: JsonOption = False
) -> None:
    """Fetch an image from its registry and print its id."""
    with connect(ctx) as client, Bar(printable(ref)) as bar:
        made = client.images.pull(ref, shared=shared, progress=partial(show_pull, bar))
    print_json(made) if as_json else print_line(made.id)


@image.command("import")
def import_(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A tar of `docker save` or of an OCI layout, or - for stdin; or oci:DIR, docker-daemon:NAME or "
            "containers-storage:NAME on this machine, which need skopeo.",
        ),
    ],
    ref: Annotated[str, typer.Argument(metavar="IMAGE", help="The reference to give it.")],
    shared: SharedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Upload an image of this machine and print its id."""
    with connect(ctx) as client, archive_of(source) as archive, Bar(printable(ref)) as bar:
        made = client.images.import_archive(archive, ref, shared=shared, progress=bar)
    print_json(made) if as_json else print_line(made.id)


@image.command("export")
def export(
    ctx: typer.Context,
    ref: RefArgument,
    target: Annotated[str, typer.Argument(metavar="FILE", help="The file to write, or - for stdout.")],
    as_json: JsonOption = False,
) -> None:
    """Download an image as a tar of an OCI layout."""
    with connect(ctx) as client, Bar(printable(ref)) as bar:
        size = client.images.export(ref, sys.stdout.buffer if target == "-" else target, progress=bar)
    if as_json and target != "-":
        print_json({"image": ref, "target": target, "bytes": size})


@image.command("push")
def push(
    ctx: typer.Context,
    ref: RefArgument,
    target: Annotated[
        str, typer.Argument(metavar="REGISTRY/NAME:TAG", help="Where to put it, such as ghcr.io/me/app:1.")
    ],
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Take plain HTTP, and certificates of anybody.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put an image into a registry, by the skopeo and with the logins of this machine."""
    with connect(ctx) as client, pushing(target, insecure=insecure) as archive, Bar(printable(ref)) as bar:
        client.images.export(ref, archive, progress=bar)
    if as_json:
        print_json({"image": ref, "target": target})


@image.command("ls")
def ls(
    ctx: typer.Context,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List images, oldest first: yours, and those that are shared."""
    with connect(ctx) as client:
        heads = ("ID", "IMAGE", "STATE", "SIZE", "LAYERS", "AGE", "USED", "SHARED", "DIGEST")
        row = partial(_row, utc_now())
        print_list(client.images.list(), as_json, heads, row, quiet=attrgetter("id") if quiet else None)


@image.command("get")
def get(ctx: typer.Context, ref: RefArgument, as_json: JsonOption = False) -> None:
    """Show an image: its digest, platform, user, command and labels."""
    with connect(ctx) as client:
        found = client.images.get(ref)
    if as_json:
        print_json(found)
        return
    for name, value in _facts(found):
        print_line(f"{name:<12} {value}")


@image.command("rm")
def rm(
    ctx: typer.Context,
    refs: Annotated[list[str], typer.Argument(metavar="IMAGE", help="References or ids.")],
    as_json: JsonOption = False,
) -> None:
    """Remove images, or cancel their pulls."""
    with connect(ctx) as client:
        act_on_each(refs, client.images.delete, as_json, "image", "deleted")


@image.command("prune")
def prune(
    ctx: typer.Context,
    unused_for: Annotated[
        int | None, duration_option("Only those from which nothing has started for so long, such as 7d.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remove your images that no sandbox and no checkpoint needs."""
    with connect(ctx) as client:
        gone = client.images.prune(unused_for=unused_for or 0)
    if as_json:
        print_json(gone)
        return
    for one in gone:
        print_line(f"{one.id}  {printable(one.ref)}  {amount(one.size_bytes)}")


@image.command("login")
def login(
    ctx: typer.Context,
    host: HostArgument,
    username: Annotated[str, typer.Option("--username", "-u", metavar="NAME", help="User name.")],
    as_json: JsonOption = False,
) -> None:
    """Keep a login to a registry: the password is asked for, or read from standard input."""
    password = hidden_value(f"Password of {username} at {host}")
    with connect(ctx) as client:
        made = client.registries.login(host, username, password)
    if as_json:
        print_json(made)


@image.command("logins")
def logins(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List the logins to registries, without their passwords."""
    with connect(ctx) as client:
        print_list(
            client.registries.list(), as_json, ("REGISTRY", "USER"), lambda one: (one.host, one.username)
        )


@image.command("logout")
def logout(ctx: typer.Context, host: HostArgument, as_json: JsonOption = False) -> None:
    """Forget the login to a registry."""
    with connect(ctx) as client:
        act_on_each([host], client.registries.logout, as_json, "registry", "removed")


def show_pull(bar: Bar, image: "ContainerImage") -> None:
    """Show on `bar` how far the pull of `image` has come."""
    if (progress := image.progress) is not None:
        bar(progress.bytes_done, progress.bytes_total)


def _row(now: datetime, one: "ContainerImage") -> tuple[str, ...]:
    return (
        one.id, one.ref, one.state, amount(one.size_bytes), dash(one.layers), age(one.created_at, now),
        age(one.last_used_at, now), "yes" if one.shared else "-", (one.digest or "-")[:19],
    )  # fmt: skip


def _facts(one: "ContainerImage") -> list[tuple[str, str]]:
    shown = {
        "id": one.id, "image": one.ref, "state": one.state, "digest": one.digest, "platform": one.platform,
        "size": amount(one.size_bytes), "layers": one.layers, "user": one.user, "workdir": one.working_dir,
        "entrypoint": " ".join(one.entrypoint), "command": " ".join(one.cmd), "ports": " ".join(one.exposed_ports),
        "error": one.error and one.error.message,
    }  # fmt: skip
    facts = [(name, printable(str(value))) for name, value in shown.items() if value]
    return facts + [("label", printable(f"{name}={value}")) for name, value in one.labels.items()]
