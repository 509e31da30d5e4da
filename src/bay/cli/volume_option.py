"""The option `--volume`, for the commands that make a sandbox."""

from typing import Annotated

import typer

from bay.errors import InvalidArgument
from bay.models import Volume

VolumeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--volume",
        metavar="CARGO:PATH[:ro]",
        help="Mount a cargo at an absolute path, read-only with :ro. Repeatable.",
    ),
]


def volumes(given: list[str] | None) -> list[Volume] | None:
    """The volumes that the options name. Raises InvalidArgument."""
    return [_volume(text) for text in given] if given else None


def _volume(text: str) -> Volume:
    cargo, _, place = text.partition(":")
    path, found, mode = place.rpartition(":")
    if mode not in ("ro", "rw"):
        path, found, mode = place, "", "rw"
    if not cargo or not path.startswith("/"):
        raise InvalidArgument(f"--volume takes CARGO:/path or CARGO:/path:ro, not {text!r}")
    return Volume(cargo=cargo, path=path, read_only=bool(found) and mode == "ro")
