"""The commands `shell`, `attach` and `logs`: reattachable terminals and commands."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.commands.exec import PATIENCE_S, CwdOption, DetachKeysOption, StdinOption, UserOption
from bay.cli.complete import NameArgument
from bay.cli.follow import exit_code, follow, pump, say_end, unless_lost
from bay.cli.state import EnvOption, JsonOption, connect_box, pairs
from bay.cli.terminal.detach_keys import DEFAULT_KEYS, parse_keys
from bay.cli.terminal.raw import is_terminal, window_size
from bay.cli.terminal.session import STDIN, STDOUT, need_terminal, on_terminal, say_how_to_come_back

if TYPE_CHECKING:
    from bay.client import SpawnOptions

SinceOption = Annotated[
    int | None, typer.Option(metavar="OFFSET", min=0, help="Only output after this byte offset.")
]
ExecArgument = Annotated[str, typer.Argument(metavar="EXEC", help="The id of the command, exec-….")]


_SHELL = ("sh", "-c", 'exec "$(command -v bash || echo sh)" -l')
"""A login shell: bash where the image has it."""


def shell(
    ctx: typer.Context,
    name: NameArgument,
    env: EnvOption = None,
    cwd: CwdOption = None,
    user: UserOption = None,
    detach_keys: DetachKeysOption = DEFAULT_KEYS,
    as_json: JsonOption = False,
) -> int:
    """Open a login shell in a sandbox. You can detach and reattach."""
    keys = parse_keys(detach_keys)
    need_terminal("bay shell", f"here use: bay exec -i {name} sh")
    rows, cols = window_size(STDOUT)
    options: SpawnOptions = {
        "tty": True,
        "rows": rows,
        "cols": cols,
        "env": pairs(env, "--env", "=") or None,
        "cwd": cwd,
        "user": user,
        "keep_alive": False,
    }
    with connect_box(ctx, name, PATIENCE_S) as box:
        # Not `box.terminal`, which begins with drawing a screen, that is with clearing this one.
        proc = box.spawn(_SHELL, **options)
        with left_running(name, proc.id):
            return on_terminal(name, proc.attach(0, repaint=True), keys)


def attach(
    ctx: typer.Context,
    name: NameArgument,
    exec_id: ExecArgument,
    stdin: StdinOption = False,
    detach_keys: DetachKeysOption = DEFAULT_KEYS,
    as_json: JsonOption = False,
) -> int:
    """Reattach to a command: to its terminal if it has one, else to its output."""
    keys = parse_keys(detach_keys)
    with connect_box(ctx, name, PATIENCE_S) as box:
        proc = box.execs.get(exec_id)
        if proc.info.tty and proc.info.state == "running" and is_terminal(STDIN) and is_terminal(STDOUT):
            rows, cols = window_size(STDOUT)
            with left_running(name, exec_id):
                return on_terminal(name, box.terminal(rows, cols, exec_id), keys)
        with left_running(name, exec_id), pump(proc, wanted=stdin):
            lost = follow(proc, as_json)
    if as_json:
        say_end(proc.info)
    return unless_lost(exit_code(proc.info), lost)


@contextmanager
def left_running(name: str, exec_id: str) -> Generator[None, None, None]:
    """Note on a signal that ends us that the command runs on."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say_how_to_come_back(name, exec_id)
        raise


def logs(
    ctx: typer.Context,
    name: NameArgument,
    exec_id: ExecArgument,
    to_end: Annotated[
        bool, typer.Option("--follow", "-f", help="Follow until the command ends, or until interrupted.")
    ] = False,
    since: SinceOption = None,
    as_json: JsonOption = False,
) -> int:
    """Show the kept output of a command."""
    with connect_box(ctx, name) as box:
        return unless_lost(0, follow(box.execs.get(exec_id), as_json, since, until_end=to_end))
