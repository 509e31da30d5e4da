"""The outermost edge: whatever happens becomes an exit code and at most one line of error."""

import os
import sys
import traceback
from typing import cast

import typer

from bay.cli._app import app
from bay.cli._output import print_error
from bay.errors import BayError, InternalError, InvalidArgument

INTERRUPTED = 130

# Typer carries its own copy of click, or click itself, by version: either way a usage error is one of these.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Raises nothing but SystemExit: on a signal, and with 1 when nobody reads stdout any more.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return _run(given)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BayError as error:
        return _fail(error, given)
    except Exception as error:  # noqa: BLE001 — the edge: a person gets one line, not a traceback
        return _unexpected(error, given)


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        outcome: object = command.main(arguments, prog_name="bay", standalone_mode=False)
    except _UsageError as error:
        raise InvalidArgument(_usage(error)) from error
    except OSError as error:
        # A disk that is full, a file that may not be read: this machine's, and no defect of Bay.
        where = f"{error.filename}: " if error.filename else ""
        raise BayError(f"{where}{error.strerror or error}") from error
    return outcome if isinstance(outcome, int) else 0


def _usage(error: typer.BadParameter) -> str:
    path = error.ctx.command_path if error.ctx else "bay"
    message = error.format_message().rstrip(".")
    hint = (
        "; put `--` before the command to run"
        if path in ("bay run", "bay exec") and "option" in message
        else ""
    )
    return f"{message}{hint} (see `{path} --help`)"


def _fail(error: BayError, arguments: list[str]) -> int:
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    print_error(error, as_json="--json" in options)
    if os.environ.get("BAY_DEBUG"):
        traceback.print_exception(error)
    return error.exit_code


def _unexpected(error: Exception, arguments: list[str]) -> int:
    words = f"{type(error).__name__}: {error}"
    return _fail(InternalError(f"{words} — a defect in Bay; set BAY_DEBUG=1 to see where"), arguments)
