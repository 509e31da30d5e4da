"""The command `cp`: copies files and directories in and out, to the same targets as `docker cp`."""

import posixpath
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bay.cli.complete import complete_paths
from bay.cli.output import note, print_json, printable
from bay.cli.progress import Bar
from bay.cli.state import DEFAULT_SANDBOX, JsonOption, connect, state_of
from bay.errors import FileMissing, InvalidArgument

if TYPE_CHECKING:
    from bay.client import Box, Files

_REMOTE = re.compile(r"([a-z0-9][a-z0-9-]*|\.):(.*)", re.DOTALL)
_NAMED = 3
"""How many of the things that were left out are named."""


def cp(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="A local path, NAME:PATH, or - for stdin.", autocompletion=complete_paths
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(
            metavar="DST", help="NAME:PATH, a local path, or - for stdout.", autocompletion=complete_paths
        ),
    ],
    as_json: JsonOption = False,
) -> None:
    """Copy a file or a directory into a sandbox, or out of one.

    A local path with a colon is written ./a:b.
    """
    remote_source, remote_target = _REMOTE.fullmatch(source), _REMOTE.fullmatch(target)
    with connect(ctx) as client:
        if remote_target is not None and remote_source is None:
            size = put(client.sandboxes.get(_name_of(ctx, remote_target)), source, remote_target[2])
        elif remote_source is not None and remote_target is None:
            files = client.sandboxes.get(_name_of(ctx, remote_source)).files
            size = _get(files, remote_source[2] or ".", target)
        else:
            raise InvalidArgument("exactly one of SRC and DST must be in a sandbox, written NAME:PATH")
    if as_json and target != "-":
        print_json({"source": source, "target": target, "bytes": size})


def _name_of(ctx: typer.Context, remote: "re.Match[str]") -> str:
    return state_of(ctx).default_sandbox() if remote[1] == DEFAULT_SANDBOX else remote[1]


def put(box: "Box", source: str, remote: str) -> int:
    """Send a local file or directory (`-` is stdin) to a path, or into it when it is a directory."""
    with Bar(printable(source)) as bar:
        if source == "-":
            return box.files.upload(sys.stdin.buffer, remote, progress=bar)
        path = Path(source)
        if not path.exists():
            raise InvalidArgument(f"there is no local file {source!r}")
        wanted = remote or "."
        if wanted.endswith("/") or _is_directory(box.files, wanted):
            wanted = f"{wanted.rstrip('/')}/{path.resolve().name}"
        if not path.is_dir():
            return box.files.upload(path, wanted, progress=bar)
        left = list[str]()
        size = box.files.upload_dir(path, wanted, progress=bar, left_out=left.append)
    _say_left_out(left)
    return size


def _get(files: "Files", remote: str, target: str) -> int:
    is_directory = files.stat(remote).is_dir
    with Bar(printable(remote)) as bar:
        if target == "-":
            if is_directory:
                raise InvalidArgument(
                    f"{remote} is a directory, and only a file can go to stdout; name a local directory"
                )
            return files.download(remote, sys.stdout.buffer, progress=bar)
        path = Path(target)
        if path.is_dir():
            path /= _name(remote)
        if not is_directory:
            return files.download(remote, path, progress=bar)
        left = list[str]()
        size = files.download_dir(remote, path, progress=bar, left_out=left.append)
    _say_left_out(left)
    return size


def _name(remote: str) -> str:
    """The name of a path; empty for one that means its contents: `.`, `src/.`, or the top."""
    if remote.rstrip("/").rpartition("/")[2] in ("", "."):
        return ""
    return posixpath.basename(posixpath.normpath(posixpath.join("/workspace", remote)))


def _is_directory(files: "Files", remote: str) -> bool:
    try:
        return files.stat(remote).is_dir
    except FileMissing:
        return False


def _say_left_out(names: list[str]) -> None:
    if names:
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        note(f"left out special files, or links that lead elsewhere: {', '.join(names[:_NAMED])}{more}")
