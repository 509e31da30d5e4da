"""The commands `services`: programs that start with a sandbox and are kept running."""

import re
import shlex
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from bay.cli.commands.exec import CwdOption, UserOption
from bay.cli.complete import NameArgument
from bay.cli.follow import Passing, unless_lost
from bay.cli.output import print_columns, print_json
from bay.cli.state import EnvOption, JsonOption, connect, pairs
from bay.cli.tree import COMMAND, Tree
from bay.errors import InvalidArgument
from bay.models import ServiceHealth, ServiceSpec

if TYPE_CHECKING:
    from bay.models import Service

services = Tree(help="Define commands that start with a sandbox and are restarted.")

Restart = Literal["always", "on-failure", "never"]
ServiceArgument = Annotated[str, typer.Argument(metavar="SERVICE", help="The service's name.")]
ServicesArgument = Annotated[list[str], typer.Argument(metavar="SERVICE", help="Names of services.")]

_LONGEST = 60


@services.command("ls")
def ls(ctx: typer.Context, name: NameArgument, as_json: JsonOption = False) -> int:
    """List the services of a sandbox with their states."""
    with connect(ctx) as client:
        found = client.sandboxes.get(name).services.list()
    if as_json:
        for service in found:
            print_json(service)
    else:
        heads = ("NAME", "STATE", "HEALTHY", "PID", "RESTARTS", "NEEDS", "HTTP", "COMMAND", "MESSAGE")
        print_columns(heads, map(_row, found))
    return 0


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
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not start it before `start`.")] = False,
    as_json: JsonOption = False,
) -> int:
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
        health=None if health is None else _health(health),
        enabled=not disabled,
    )
    with connect(ctx) as client:
        made = client.sandboxes.get(name).services.put(spec)
    if as_json:
        print_json(made)
    return 0


@services.command("rm")
def rm(ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False) -> int:
    """End and delete services."""
    with connect(ctx) as client:
        known = client.sandboxes.get(name).services
        for one in names:
            known.delete(one)
            if as_json:
                print_json({"service": one, "deleted": True})
    return 0


@services.command("start")
def start(
    ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False
) -> int:
    """Start services, now and with every start of the sandbox."""
    with connect(ctx) as client:
        known = client.sandboxes.get(name).services
        return _said([known.start(one) for one in names], as_json)


@services.command("stop")
def stop(ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False) -> int:
    """End services until the next start."""
    with connect(ctx) as client:
        known = client.sandboxes.get(name).services
        return _said([known.stop(one) for one in names], as_json)


@services.command("restart")
def restart(
    ctx: typer.Context, name: NameArgument, names: ServicesArgument, as_json: JsonOption = False
) -> int:
    """End services and start them again."""
    with connect(ctx) as client:
        known = client.sandboxes.get(name).services
        return _said([known.restart(one) for one in names], as_json)


@services.command("logs")
def logs(
    ctx: typer.Context,
    name: NameArgument,
    service: ServiceArgument,
    to_end: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow until it has ended and will not be restarted.")
    ] = False,
    since: Annotated[
        int | None, typer.Option(metavar="OFFSET", min=0, help="Only output after this byte offset.")
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Show the kept output of a service."""
    with connect(ctx) as client:
        passing = Passing(as_json, since)
        passing.all_of(client.sandboxes.get(name).services.logs(service, since, follow=to_end))
    return unless_lost(0, passing.lost)


def _said(changed: "list[Service]", as_json: bool) -> int:
    if as_json:
        for service in changed:
            print_json(service)
    return 0


def _health(text: str) -> ServiceHealth:
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
        "-" if service.pid is None else str(service.pid),
        str(service.restarts),
        " ".join(service.needs) or "-",
        "-" if service.http_port is None else str(service.http_port),
        command if len(command) <= _LONGEST else f"{command[: _LONGEST - 1]}…",
        service.message or "",
    )
