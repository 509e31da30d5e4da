"""The entry point: turns every error into an exit code and at most one line of text."""

import atexit
import gc
import os
import sys
import traceback
from typing import cast

import typer

from bay.cli.app import app
from bay.cli.complete import bash_splits_at_colons
from bay.cli.output import print_error
from bay.cli.state import State
from bay.cli.usage import words_for
from bay.errors import BayError, InternalError, InvalidArgument

INTERRUPTED = 130

# Typer carries its own copy of click, or click itself, by version: either way a usage error is one of these.
_UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code.
    Raises nothing but SystemExit: on a signal, and with 1 when the reader of stdout has left.
    """
    if arguments is None:
        atexit.register(gc.freeze)  # the end of the process would look through all that is loaded once more
    _fill_standard_streams()
    state = State()
    try:
        return _run(sys.argv[1:] if arguments is None else arguments, state)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BayError as error:
        return _fail(error, state)
    except Exception as error:  # noqa: BLE001 — the edge: a person gets one line, not a traceback
        words = f"{type(error).__name__}: {error} — a defect in Bay; set BAY_DEBUG=1 to see where"
        return _fail(InternalError(words), state)


def _fill_standard_streams() -> None:
    """Open the standard streams that the caller closed: else the next file or socket would be one of them."""
    modes = {"stdin": os.O_RDONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for name, mode in modes.items():
        if getattr(sys, name) is None:
            # Output has nowhere to go, so a write to stdout fails, as it does in any program.
            number = os.open(os.devnull, mode)
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _run(arguments: list[str], state: State) -> int:
    command = typer.main.get_command(app)
    try:
        with bash_splits_at_colons():
            outcome: object = command.main(arguments, prog_name="bay", standalone_mode=False, obj=state)
    except _UsageError as error:
        raise InvalidArgument(words_for(error)) from error
    except OSError as error:
        # A disk that is full, a file that may not be read: this machine's, and no defect of Bay.
        where = f"{error.filename}: " if error.filename else ""
        raise BayError(f"{where}{error.strerror or error}") from error
    return outcome if isinstance(outcome, int) else 0


def _drop_unwritable_output() -> None:
    """Throw away output that stdout does not take: Python would try again at its end, and exit with 120."""
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _fail(error: BayError, state: State) -> int:
    _drop_unwritable_output()
    print_error(error, as_json=state.as_json)
    if os.environ.get("BAY_DEBUG"):
        traceback.print_exception(error)
    return error.exit_code
