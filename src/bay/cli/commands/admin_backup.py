"""The commands `admin backup` and `admin restore`: all the data of a Bay on this machine, in one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol, cast

import typer

from bay.cli.output import note, print_json, print_line
from bay.cli.state import JsonOption, load

DataDirOption = Annotated[Path | None, typer.Option(help="Bay's data directory; else BAY_DATA_DIR.")]


class BackupReport(Protocol):
    """The contents of a backup."""

    @property
    def path(self) -> Path: ...
    @property
    def workspaces(self) -> int: ...
    @property
    def left_out(self) -> Sequence[str]: ...


class RestoreReport(Protocol):
    """The result of a restore, and where the replaced data is now."""

    @property
    def created_at(self) -> str: ...
    @property
    def sandboxes(self) -> int: ...
    @property
    def data_dir(self) -> Path: ...
    @property
    def aside(self) -> Path | None: ...


def backup(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write: .tar, .tar.gz or .tgz.")],
    data_dir: DataDirOption = None,
    with_files: Annotated[
        bool, typer.Option("--with-files", help="Also the files of every workspace.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Back up the database and the admin key of the Bay on this machine, while it runs."""
    made = cast(
        "BackupReport", load("bay.server.offline.backup", "backup")(out, data_dir, with_files=with_files)
    )
    for name in made.left_out:
        note(f"left out, because a tar cannot hold it: {name}")
    if as_json:
        print_json({"path": str(made.path), "workspaces": made.workspaces, "left_out": list(made.left_out)})
        return
    print_line(f"backed up to {made.path}" + (f" with {made.workspaces} workspaces" if with_files else ""))


def restore(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A file that `bay admin backup` wrote.")],
    data_dir: DataDirOption = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Move the present data aside; else the directory must be empty."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Replace the data of the Bay on this machine by a backup. Stop that Bay first."""
    done = cast("RestoreReport", load("bay.server.offline.backup", "restore")(source, data_dir, force=force))
    if as_json:
        aside = None if done.aside is None else str(done.aside)
        print_json(
            {
                "sandboxes": done.sandboxes,
                "created_at": done.created_at,
                "data_dir": str(done.data_dir),
                "aside": aside,
            }
        )
        return
    print_line(f"restored {done.sandboxes} sandboxes, as of {done.created_at}, into {done.data_dir}")
    if done.aside is not None:
        print_line(f"the former data is in {done.aside}")
