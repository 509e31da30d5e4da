"""The command `python`: code in a sandbox that keeps its variables from call to call."""

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cell_output import TRUNCATED, event_to_wire, text_of, traceback_of
from bay.cli.complete import NameArgument
from bay.cli.figures import is_figure, save_figure
from bay.cli.output import note, print_json
from bay.cli.state import JsonOption, connect_box, duration_option, seconds
from bay.errors import BayError, InvalidArgument

if TYPE_CHECKING:
    from bay.client import Box, Repl
    from bay.models import CellEvent


def python(
    ctx: typer.Context,
    name: NameArgument,
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A local file with the code; - reads stdin.")
    ] = None,
    code: Annotated[str | None, typer.Option("-c", metavar="CODE", help="The code itself.")] = None,
    kernel: Annotated[str, typer.Option(metavar="ID", help="The kernel to run it in.")] = "default",
    timeout: Annotated[
        float, duration_option("Time limit of the code, such as 90s or 10m; then it is interrupted.", seconds)
    ] = 300,
    save: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save figures into this directory and print their paths."),
    ] = None,
    as_json: JsonOption = False,
) -> int:
    """Run code in the Python of a sandbox, which keeps variables between calls.

    Exits with 1 when it fails.
    """
    text = _code(code, file)
    with connect_box(ctx, name) as box:
        events = (_kernel(box, kernel) or box.python).stream(text, timeout)
        printer = _Printer(as_json, save)
        try:
            for event in events:
                printer.take(event)
        except (KeyboardInterrupt, OSError):
            _interrupt(box, kernel, printer)
            raise
    return 0 if printer.is_ok else 1


def _code(code: str | None, file: str | None) -> str:
    if (code is None) == (file is None):
        raise InvalidArgument("give the code with -c CODE, as a FILE, or with - on stdin")
    if code is not None:
        return code
    if file == "-":
        data = sys.stdin.buffer.read()
    else:
        with open(str(file), "rb") as source:
            data = source.read()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{file} is not UTF-8 text") from error


def _kernel(box: "Box", kernel_id: str) -> "Repl | None":
    return None if kernel_id == "default" else box.kernels.get(kernel_id)


def _interrupt(box: "Box", kernel_id: str, printer: "_Printer") -> None:
    """End our code and no other's, which would be hit where ours waits behind it or has ended."""
    if printer.is_running:
        with suppress(BayError):
            box.kernels.get(kernel_id).interrupt()
    elif not printer.is_over:
        with suppress(OSError):
            note("the code has not begun; it may still run after the code queued before it")


class _Printer:
    """Prints what the code produces: output as it is, values and displays as text, a traceback on stderr."""

    def __init__(self, as_json: bool, save: Path | None) -> None:
        self._as_json = as_json
        self._save = save
        self._hinted = False
        self.is_ok = False
        self.is_running = False
        self.is_over = False

    def take(self, event: "CellEvent") -> None:
        self.is_over = event.type == "end"
        self.is_running = not self.is_over
        self.is_ok = event.status == "ok" and not event.truncated
        figure = self._saved(event)
        if self._as_json:
            print_json(event_to_wire(event))
            return
        match event.type:
            case "stdout" | "stderr":
                _say(event.text or "", is_error=event.type == "stderr")
            case "result" | "display":
                _say(f"{figure or text_of(event)}\n")
            case "error":
                _say(traceback_of(event) + "\n", is_error=True)
            case "end":
                _say_end(event)
            case _:
                pass

    def _saved(self, event: "CellEvent") -> Path | None:
        """Where the figure is now that this event shows."""
        bundle = event.data or {}
        if event.type not in ("result", "display") or not is_figure(bundle):
            return None
        if self._save is None:
            self._say_how_to_save()
            return None
        return save_figure(bundle, self._save)

    def _say_how_to_save(self) -> None:
        if not (self._hinted or self._as_json):
            note("a figure cannot be shown here; --save DIR saves it")
        self._hinted = True


def _say_end(event: "CellEvent") -> None:
    if event.truncated:
        note(TRUNCATED)
    if event.status not in ("ok", "error"):
        note(event.message or f"the code ended as {event.status}")


def _say(text: str, *, is_error: bool = False) -> None:
    stream = sys.stderr if is_error else sys.stdout
    stream.buffer.write(text.encode("utf-8", "replace"))
    stream.buffer.flush()
