"""The sandbox that `.` stands for: one for a directory and all below it.

The table is in this user's state and not in the directory itself. Else a checkout could bring a file that
names a sandbox, and its user's next command would run there.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bay.cli.own_files import changing, read_own, replace_own, user_directory
from bay.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class DefaultSandbox:
    """The default of a directory: a sandbox of the Bay at `url`."""

    directory: str
    sandbox: str
    url: str


def nearest() -> DefaultSandbox | None:
    """The default of this directory, or of the nearest one above it that has one."""
    table = _read(_path())
    here = _here()
    return next((table[str(place)] for place in (here, *here.parents) if str(place) in table), None)


def needed(url: str) -> str:
    """The name of the default at `url`. Raises InvalidArgument when there is none."""
    found = nearest()
    if found is None:
        raise InvalidArgument(f"no default sandbox is set for {_here()}; set one: bay use NAME")
    if found.url != url:
        raise InvalidArgument(
            f"the default sandbox of {found.directory} is {found.sandbox} at {found.url}, and this command goes to "
            f"{url}; name a sandbox, or set another default: bay use NAME"
        )
    return found.sandbox


def remember(sandbox: str, url: str) -> DefaultSandbox:
    """Set the default of this directory."""
    made = DefaultSandbox(str(_here()), sandbox, url)
    with changing(_path()):
        _write({**_read(_path()), made.directory: made})
    return made


def forget() -> DefaultSandbox | None:
    """Remove the default that holds here; gives it."""
    with changing(_path()):
        found = nearest()
        if found is not None:
            _write({name: one for name, one in _read(_path()).items() if one != found})
    return found


def _here() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise InvalidArgument("this directory was removed, so it has no default sandbox") from error


def _path() -> Path:
    directory = user_directory("XDG_STATE_HOME", ".local/state")
    if directory is None:
        raise InvalidArgument("there is no place for default sandboxes: set XDG_STATE_HOME or HOME")
    return directory / "defaults.json"


def _read(path: Path) -> dict[str, DefaultSandbox]:
    found = read_own(path)
    try:
        given: list[dict[str, Any]] = json.loads(found.text) if found else []
        return {one["directory"]: DefaultSandbox(**one) for one in given}
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidArgument(f"{path} is not as `bay use` wrote it; remove it") from error


def _write(table: Mapping[str, DefaultSandbox]) -> None:
    """Keep the table, without directories that are gone."""
    kept = [asdict(one) for one in table.values() if os.path.isdir(one.directory)]
    replace_own(_path(), json.dumps(kept, indent=1) + "\n")
