"""The command `browser`: commands to the browser of a sandbox."""

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import NameArgument
from bay.cli.output import print_json
from bay.cli.state import JsonOption, connect_box, duration_option
from bay.cli.tree import COMMAND
from bay.models import to_wire

if TYPE_CHECKING:
    from bay.models import BrowserResult

_TIMED_OUT = 124


def browser(
    ctx: typer.Context,
    name: NameArgument,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar=COMMAND, help="A command of agent-browser; later options are the command's own."
        ),
    ],
    timeout: Annotated[
        int, duration_option("Time limit of the command, such as 90s; exit code 124 at its end.")
    ] = 30,
    as_json: JsonOption = False,
) -> int:
    """Run a command in the browser of a sandbox, which stays open and keeps its cookies."""
    with connect_box(ctx, name) as box:
        done = box.browser.exec(shlex.join(command), timeout_s=timeout)
    if as_json:
        print_json(to_wire(done))
    else:
        sys.stdout.write(done.output)
        sys.stderr.write(done.error or "")
    return _exit_code(done)


def _exit_code(done: "BrowserResult") -> int:
    if done.exit_code == -1:
        return _TIMED_OUT
    return 1 if done.exit_code is None else done.exit_code
