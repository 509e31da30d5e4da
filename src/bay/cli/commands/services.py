"""The commands `services`: programs that start with a sandbox and are kept running."""

import re
import shlex
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from bay.cli.commands.attach import SinceOption
from bay.cli.commands.exec import CwdOption, UserOption
from bay.cli.complete import NameArgument
from bay.cli.follow import Passing, unless_lost
from bay.cli.output import act_on_each, dash, print_json, print_list
from bay.cli.state import EnvOption, JsonOption, connect_box, pairs
from bay.cli.tree import COMMAND, Tree
from bay.errors import InvalidArgument
from bay.models import ServiceHealth, ServiceSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bay.models import Service

services = Tree(help="Define commands that start with a sandbox and are restarted.")

Restart = Literal["always", "on-failure", "never"]
ServiceArgument = Annotated[str, typer.Argument(metavar="SERVICE", help="The service's name.")]
ServicesArgument = Annotated[list[str], typer.Argument(metavar="SERVICE", help="Names of services.")]

_LONGEST = 60


@services.command("ls")
def ls(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> None:
    """List the services of a sandbox with their states."""
    with connect_box(ctx, name) as box:
        found = box.services.list()
    heads = ("NAME", "STATE", "HEALTHY", "PID", "RESTARTS", "NEEDS", "HTTP", "COMMAND", "MESSAGE")
    print_list(found, as_json, heads, _row)


@services.command("put")
def put(
    ctx: typer.Context,
    name: NameArgument,
    service: ServiceArgument,
    command: Annotated[list[str], typer.Argument(metavar=COMMAND, help="The command and its arguments.")],
    env: EnvOption = None,
    cwd: CwdOption = None,
    user: UserOption = None,
    needs: Annotated[
        list[str] | None, typer.Option(metavar="SERVICE", help="Start it after this service. Repeatable.")
    ] = None,
    http_port: Annotated[
        int | None, typer.Option(metavar="PORT", min=1, max=65_535, help="Its HTTP port.")
    ] = None,
    restart: Annotated[str, typer.Option(help="Restart policy: always, on-failure or never.")] = "always",
    health: Annotated[
        str | None,
        typer.Option(
            metavar="PORT[/PATH]",
            help="Health check: the port accepts connections, or GET of the path succeeds.",
        ),
    ] = None,
    health_cmd: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Health check: a shell command that exits with 0.")
    ] = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not start it before `start`.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Define or replace a service, and start it."""
    spec = ServiceSpec(
        name=service,
        argv=tuple(command),
        env=pairs(env, "--env", "="),
        cwd=cwd,
        user=user,
        needs=tuple(needs or ()),
        http_port=http_port,
        restart=cast("Restart", restart),
        health=_health(health, health_cmd),
        enabled=not disabled,
    )
    with connect_box(ctx, name) as box:
        made = box.services.put(spec)
    if as_json:
        print_json(made)


@services.command("rm")
def rm(ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False) -> None:
    """End and delete services."""
    with connect_box(ctx, name) as box:
        act_on_each(names, box.services.delete, as_json, "service", "deleted")


@services.command("start")
def start(
    ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False
) -> None:
    """Start services, now and with every start of the sandbox."""
    with connect_box(ctx, name) as box:
        _said(map(box.services.start, names), as_json)


@services.command("stop")
def stop(
    ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False
) -> None:
    """End services until the next start."""
    with connect_box(ctx, name) as box:
        _said(map(box.services.stop, names), as_json)


@services.command("restart")
def restart(
    ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False
) -> None:
    """End services and start them again."""
    with connect_box(ctx, name) as box:
        _said(map(box.services.restart, names), as_json)


@services.command("logs")
def logs(
    ctx: typer.Context,
    name: NameArgument,
    service: ServiceArgument,
    to_end: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow until it has ended and will not be restarted.")
    ] = False,
    since: SinceOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show the kept output of a service."""
    with connect_box(ctx, name) as box:
        passing = Passing(as_json, since)
        passing.all_of(box.services.logs(service, since, follow=to_end))
    return unless_lost(0, passing.lost)


def _said(changed: "Iterable[Service]", as_json: bool) -> None:
    for service in list(changed):
        if as_json:
            print_json(service)


def _health(text: str | None, command: str | None) -> ServiceHealth | None:
    if text is not None and command is not None:
        raise InvalidArgument("give --health or --health-cmd, not both")
    if text is None:
        return None if command is None else ServiceHealth(argv=("/bin/sh", "-c", command))
    found = re.fullmatch(r"(\d{1,5})(/.*)?", text, re.ASCII)
    if found is None:
        raise InvalidArgument(f"--health takes PORT or PORT/PATH, not {text!r}")
    return ServiceHealth(port=int(found[1]), path=found[2])


def _row(service: "Service") -> tuple[str, ...]:
    healthy = {True: "yes", False: "no", None: "-"}[service.healthy]
    command = shlex.join(service.argv)
    return (
        service.name,
        service.state if service.enabled else f"{service.state} (off)",
        healthy,
        dash(service.pid),
        str(service.restarts),
        " ".join(service.needs) or "-",
        dash(service.http_port),
        command if len(command) <= _LONGEST else f"{command[: _LONGEST - 1]}…",
        service.message or "",
    )
