"""The command `build`: a template of a Dockerfile."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.commands.sandbox import ProfileOption, PullOption, as_pull
from bay.cli.commands.secrets import given_secrets
from bay.cli.output import print_json, print_line
from bay.cli.state import JsonOption, connect, duration_option, pairs

if TYPE_CHECKING:
    from bay.client._build_body import BuildOptions


def build(
    ctx: typer.Context,
    context: Annotated[str, typer.Argument(metavar="PATH", help="The directory whose files may be copied.")],
    tag: Annotated[
        str, typer.Option("--tag", "-t", metavar="NAME[:TAG]", help="How the template is called.")
    ],
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="The Dockerfile; default: the one in PATH."),
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg",
            metavar="NAME[=VALUE]",
            help="Set an ARG; without a value it is that of the environment. Repeatable.",
        ),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="NAME[=PLACE]",
            help="Give RUN a secret, as a variable or as a file below /run/secrets. Repeatable.",
        ),
    ] = None,
    profile: ProfileOption = None,
    pull: PullOption = None,
    step_timeout: Annotated[
        int | None, duration_option("How long one step may take; default: an hour.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Build a template of a Dockerfile; its log goes to stderr, and its id to stdout."""
    options: BuildOptions = {
        "dockerfile": file,
        "args": _args(build_arg),
        "secrets": given_secrets(secret),
        "profile": profile,
        "pull": as_pull(pull),
        "step_timeout_s": step_timeout,
        "log": _show,
    }
    with connect(ctx) as client:
        made = client.templates.build(Path(context), tag, **options)
    print_json(made) if as_json else print_line(made.id)


def _args(given: list[str] | None) -> dict[str, str]:
    """A name alone has the value of the environment; one that is not there is not set, as with Docker."""
    texts = [text if "=" in text else f"{text}={os.environ[text]}" for text in given or () if _is_known(text)]
    return pairs(texts, "--build-arg", "=")


def _is_known(text: str) -> bool:
    return "=" in text or text in os.environ


def _show(text: str) -> None:
    """The log is for people and may be long: it does not mix with the id."""
    sys.stderr.write(text)
    sys.stderr.flush()
