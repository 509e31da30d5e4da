"""The commands `admin cargo`: the storage of all sandboxes' files."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Protocol, cast

import typer

from bay.cli.output import print_columns, print_json
from bay.cli.state import JsonOption, load
from bay.cli.tree import Tree

DataDirOption = Annotated[Path | None, typer.Option(help="Bay's data directory; else BAY_DATA_DIR.")]

cargo = Tree(help="Check the storage of all sandboxes.")


class CargoFinding(Protocol):
    """One thing that was looked at."""

    @property
    def level(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def seen(self) -> str: ...
    @property
    def way_out(self) -> str: ...


@cargo.command("check")
def check(data_dir: DataDirOption = None, as_json: JsonOption = False) -> int:
    """Check the pool, its mount, its file system and the free space of the local Bay; exits 1 on an error."""
    found = cast("Sequence[CargoFinding]", load("bay.server.offline.cargo_check", "check")(data_dir))
    if as_json:
        for finding in found:
            print_json(asdict(cast("Any", finding)))
    else:
        print_columns(("LEVEL", "WHAT", "SEEN"), (_row(finding) for finding in found))
    return 1 if any(finding.level == "error" for finding in found) else 0


def _row(finding: CargoFinding) -> tuple[str, ...]:
    way_out = f"; {finding.way_out}" if finding.way_out else ""
    return (finding.level, finding.what, finding.seen + way_out)
