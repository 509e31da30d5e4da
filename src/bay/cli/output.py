"""The CLI's output: plain columns that `grep` and `awk` can read, or JSON."""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TextIO, TypeVar

from bay.cli.tables import lay_out
from bay.errors import BayError

T = TypeVar("T")


def print_json(value: object) -> None:
    """`value` (models, or data made of them) as one line of JSON on stdout."""
    to_wire = importlib.import_module("bay.models").to_wire  # half of `bay --help` would be to load it
    print_line(json.dumps(to_wire(value), ensure_ascii=False))


def print_line(text: str) -> None:
    """One line on stdout, out at once, so that a reader sees it and a closed pipe is noticed here."""
    sys.stdout.buffer.write(text.encode("utf-8", "replace") + b"\n")
    sys.stdout.buffer.flush()


def print_columns(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with aligned columns, on a terminal no wider than that.
    Names that a sandbox or a user chose are escaped for the terminal.
    """
    table = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    for line in lay_out(table, shutil.get_terminal_size().columns if sys.stdout.isatty() else None):
        print_line(line)


def print_list(
    found: Iterable[T],
    as_json: bool,
    heads: Sequence[str],
    row: Callable[[T], Sequence[str]],
    *,
    quiet: Callable[[T], str] | None = None,
) -> None:
    """Print a table of what was found, or a line each: JSON, or what `quiet` gives of it."""
    if as_json or quiet:
        for one in found:
            print_line(quiet(one)) if quiet and not as_json else print_json(one)
    else:
        print_columns(heads, map(row, found))


def act_on_each(
    names: Iterable[str], act: Callable[[str], object], as_json: bool, key: str, done: str
) -> None:
    """Apply `act` to each of the names, and say so in JSON where that is wanted."""
    for name in names:
        act(name)
        if as_json:
            print_json({key: name, done: True})


def dash(value: object) -> str:
    """A cell of a table: ``-`` for None."""
    return "-" if value is None else str(value)


def print_fields(fields: Mapping[str, str]) -> None:
    """`name: value` lines with the values under each other."""
    width = max(map(len, fields)) + 1
    for name, value in fields.items():
        print_line(f"{name + ':':<{width}} {printable(value)}".rstrip())


def print_error(error: BayError, *, as_json: bool) -> None:
    """`error: message` on one line of stderr, or the shape that the API gives errors."""
    if as_json:
        body = {"code": error.code, "message": error.message, "details": error.details}
        _say(json.dumps({"error": {**body, "request_id": error.request_id}}))
    else:
        _say(f"{_red('error:', sys.stderr)} {printable(error.message)}")


def note(text: str) -> None:
    """A remark for a person, on stderr so that it never mixes with output."""
    _say(f"bay: {printable(text)}")


def printable(text: str) -> str:
    """`text` on one line and without control characters, which could move a terminal's cursor or colours."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def amount(size: int | None) -> str:
    """A size in bytes, for people: ``4.0K``, ``12M``; ``-`` for an unknown one."""
    if size is None:
        return "-"
    value, units = float(size), "BKMGTP"
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f}{units[0]}" if value >= 10 or units[0] == "B" else f"{value:.1f}{units[0]}"


def age(since: datetime, now: datetime) -> str:
    """How long ago that was, for people: ``5s``, ``3m``, ``7h``, ``12d``."""
    seconds = max(0, int((now - since).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _red(text: str, stream: TextIO) -> str:
    return f"\x1b[31m{text}\x1b[0m" if stream.isatty() and not os.environ.get("NO_COLOR") else text
