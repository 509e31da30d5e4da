"""The commands `context`: servers by name."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from bay.cli import contexts
from bay.cli.commands.secrets import hidden_value
from bay.cli.complete import complete_contexts
from bay.cli.contexts import ServerContext
from bay.cli.output import dash, note, print_fields, print_json, print_list
from bay.cli.state import JsonOption, checked_url, state_of
from bay.cli.tree import Tree
from bay.errors import InvalidArgument

context = Tree(help="Name the servers that `bay` speaks to, and choose one.")

ContextArgument = Annotated[
    str, typer.Argument(metavar="CONTEXT", help="Its name.", autocompletion=complete_contexts)
]


@context.command("ls")
def ls(ctx: typer.Context, as_json: JsonOption = False) -> None:
    """List contexts; `*` marks the one in use."""
    config = contexts.load()
    used = state_of(ctx).target().context

    def row(one: ServerContext) -> tuple[str, ...]:
        return ("*" if one == used else "-", one.name, one.url, dash(one.key_place))

    if as_json:
        for one in config.contexts.values():
            print_json({"name": one.name, "url": one.url, "key": one.key_place, "used": one == used})
    else:
        print_list(config.contexts.values(), False, ("USED", "NAME", "URL", "KEY"), row)
    _say_what_is_stronger(ctx, config.current)


@context.command("show")
def show(
    ctx: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="CONTEXT", help="Its name; default: the one in use.", autocompletion=complete_contexts
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show where calls go, and who decided that. Never prints a key."""
    state = state_of(ctx)
    if name is not None:
        state.context = name
    target = state.target()
    found = {
        "context": target.context and target.context.name,
        "url": target.url,
        "url_from": target.url_from,
        "key_from": target.key_from,
        "config": str(contexts.load().path),
    }
    print_json(found) if as_json else print_fields({key: dash(value) for key, value in found.items()})


@context.command("add")
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="CONTEXT", help="A name for it.")],
    url: Annotated[str, typer.Argument(metavar="URL", help="The server's URL.")],
    api_key_file: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="The file with its key, or - to keep the key of stdin in bay.toml."
        ),
    ] = None,
    api_key_command: Annotated[
        str | None,
        typer.Option(metavar="CMD", help="The command that prints its key, such as 'pass show bay'."),
    ] = None,
    use: Annotated[bool, typer.Option("--use", help="Use it from now on, as the first one is.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Add a context. Without a key it uses BAY_API_KEY."""
    if api_key_file and api_key_command:
        raise InvalidArgument("give --api-key-file or --api-key-command, not both")
    given = hidden_value(f"API key of {name}").strip() if api_key_file == "-" else None
    file = str(Path(api_key_file).expanduser().absolute()) if api_key_file and api_key_file != "-" else None
    made = ServerContext(name, checked_url(url), given or None, file, _words(api_key_command))
    config = contexts.add(made, use=use)
    _say_which(ctx, config, as_json)


@context.command("use")
def use(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="CONTEXT", help="Its name.", autocompletion=complete_contexts)
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Use none.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Choose the context that later commands use."""
    if (name is None) != clear:
        raise InvalidArgument("name a context, or give --clear for none; `bay context ls` lists them")
    _say_which(ctx, contexts.use(name), as_json)


@context.command("rm")
def rm(
    ctx: typer.Context,
    names: Annotated[
        list[str], typer.Argument(metavar="CONTEXT", help="Names.", autocompletion=complete_contexts)
    ],
    as_json: JsonOption = False,
) -> None:
    """Remove contexts. Their servers and key files stay as they are."""
    _say_which(ctx, contexts.remove(dict.fromkeys(names)), as_json)


def _words(command: str | None) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command or ""))
    except ValueError as error:
        raise InvalidArgument(f"--api-key-command: {error}") from error


def _say_which(ctx: typer.Context, config: contexts.ClientConfig, as_json: bool) -> None:
    if as_json:
        print_json({"current": config.current, "contexts": list(config.contexts)})
    else:
        note(f"the context is {config.current}" if config.current else "no context is in use")
    _say_what_is_stronger(ctx, config.current)


def _say_what_is_stronger(ctx: typer.Context, current: str | None) -> None:
    """Another setting decides, whatever the file says."""
    state = state_of(ctx)
    for name in ("BAY_URL", "BAY_CONTEXT"):
        if current and not (state.url or state.context) and os.environ.get(name, current) != current:
            note(f"{name} is set, and decides before the context {current}")
            return
