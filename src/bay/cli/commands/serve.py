"""The commands `serve` and `doctor`: the server on this machine, loaded on demand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

from bay.cli.output import print_columns, print_json
from bay.cli.state import JsonOption, load


class ServeCheck(Protocol):
    """One thing that was looked at; `numbers` are for programs."""

    name: str
    ok: bool
    required: bool
    risk: bool
    found: str
    fix: str
    numbers: Mapping[str, int]


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Bay's data directory.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Run the server in the foreground."""
    return int(load("bay.server.main", "serve")(host, port, data_dir, config, as_json=as_json))


def doctor(
    data_dir: Annotated[Path | None, typer.Option(help="Bay's data directory.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file of settings.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Check whether this machine can run sandboxes, and say how to fix each problem."""
    given = load("bay.server.settings", "read")(config, data_dir=data_dir)
    found = cast("Sequence[ServeCheck]", load("bay.server.offline.doctor", "checks")(given))
    if as_json:
        for check in found:
            print_json({name: getattr(check, name) for name in ServeCheck.__annotations__})
    else:
        print_columns(("CHECK", "STATE", "FOUND", "FIX"), map(_row, found))
    return 1 if any(check.required and not check.ok for check in found) else 0


def _row(check: ServeCheck) -> tuple[str, ...]:
    state = "ok" if check.ok else "missing" if check.required else "risk" if check.risk else "optional"
    return (check.name, state, str(check.found or "-"), "" if check.ok else str(check.fix or ""))
