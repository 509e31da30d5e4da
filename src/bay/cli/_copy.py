"""`cp`: files and directories, in and out. Where they land is as with `docker cp`."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli._output import print_json
from bay.cli._state import JsonOption, connect
from bay.errors import FileMissing, InvalidArgument, InvalidPath

if TYPE_CHECKING:
    from bay.client import Box, Client

_REMOTE = re.compile(r"([a-z0-9][a-z0-9-]*):(.*)", re.DOTALL)


def cp(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="A local path, NAME:PATH, or - for stdin.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="NAME:PATH, a local path, or - for stdout.")],
    as_json: JsonOption = False,
) -> int:
    """Copy a file or a directory into a sandbox, or out of one. A local path with a colon is written ./a:b."""
    remote_source, remote_target = _REMOTE.fullmatch(source), _REMOTE.fullmatch(target)
    with connect(ctx) as client:
        if remote_target is not None and remote_source is None:
            size = put(client.sandboxes.get(remote_target[1]), source, remote_target[2])
        elif remote_source is not None and remote_target is None:
            size = _get(client, remote_source[1], remote_source[2], target)
        else:
            raise InvalidArgument("one of SRC and DST, and only one, is in a sandbox and written NAME:PATH")
    if as_json and target != "-":
        print_json({"source": source, "target": target, "bytes": size})
    return 0


def put(box: "Box", source: str, remote: str) -> int:
    """Send a local file or directory (`-` is stdin) to a path, or into it when it is a directory."""
    if source == "-":
        return box.files.upload(sys.stdin.buffer, remote)
    path = Path(source)
    if not path.exists():
        raise InvalidArgument(f"there is no local file {source!r}")
    wanted = remote or "."
    if wanted.endswith("/") or _is_directory(box, wanted):
        wanted = f"{wanted.rstrip('/')}/{path.resolve().name}"
    return box.files.upload(path, wanted)


def _get(client: "Client", name: str, remote: str, target: str) -> int:
    files = client.sandboxes.get(name).files
    if target == "-":
        return files.download(remote, sys.stdout.buffer)
    path = Path(target)
    if path.is_dir():
        path /= remote.rstrip("/").rpartition("/")[2]
    try:
        return files.download(remote, path)
    except (FileMissing, InvalidPath):
        raise
    except InvalidArgument:
        # What cannot be downloaded as a file may be a directory; if it is none either, the listing says so.
        return files.download_tree(remote, path)


def _is_directory(box: "Box", remote: str) -> bool:
    try:
        box.files.list(remote)
    except InvalidPath:
        raise
    except (FileMissing, InvalidArgument):
        return False
    return True
