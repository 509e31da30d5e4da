"""The commands `secret`: values that sandboxes are given by name."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.output import act_on_each, print_json, print_list
from bay.cli.state import JsonOption, connect
from bay.cli.tree import Tree
from bay.clock import to_seconds
from bay.errors import InvalidArgument
from bay.models import SandboxSecret

if TYPE_CHECKING:
    from bay.models import Secret

secret = Tree(help="Keep values that sandboxes are given by name.")

_DIRECTORY = "/run/secrets/"

SecretOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="NAME[=PLACE]",
        help="Give it a secret, as a variable or as a file below /run/secrets. Repeatable.",
    ),
]
Names = Annotated[list[str], typer.Argument(metavar="NAME", help="Names of secrets.")]


@secret.command("set")
def set_(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name.")],
    as_json: JsonOption = False,
) -> None:
    """Keep a secret: the value is asked for, or read from standard input."""
    value = hidden_value(f"Value of {name}")
    with connect(ctx) as client:
        made = client.secrets.set(name, value)
    if as_json:
        print_json(made)


@secret.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List secrets by name, without their values."""
    with connect(ctx) as client:
        print_list(client.secrets.list(), as_json, ("NAME", "CREATED", "CHANGED"), _row)


@secret.command("rm")
def rm(ctx: typer.Context, names: Names, as_json: JsonOption = False) -> None:
    """Remove secrets; sandboxes that are given one do not start without it."""
    with connect(ctx) as client:
        act_on_each(names, client.secrets.delete, as_json, "name", "removed")


def given_secrets(given: list[str] | None) -> list[SandboxSecret] | None:
    """The secrets of a create, from `NAME`, `NAME=VARIABLE` or `NAME=/run/secrets/FILE`."""
    return [_given(text) for text in given] if given else None


def _given(text: str) -> SandboxSecret:
    name, _, place = text.partition("=")
    if not name:
        raise InvalidArgument(f"--secret takes NAME, NAME=VARIABLE or NAME={_DIRECTORY}FILE, not {text!r}")
    if place.startswith("/"):
        return SandboxSecret(name=name, file=place)
    return SandboxSecret(name=name, env=place or None)


def hidden_value(prompt: str) -> str:
    """A value from the terminal, without an echo, else all of standard input but the newline at its end."""
    if sys.stdin.isatty():
        return str(typer.prompt(prompt, hide_input=True, err=True))
    try:
        value = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument("the value is not UTF-8 text; encode it, for example by base64") from error
    return value.removesuffix("\n").removesuffix("\r")


def _row(one: "Secret") -> tuple[str, ...]:
    return (one.name, to_seconds(one.created_at), to_seconds(one.updated_at))
