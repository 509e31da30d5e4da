"""Reads one file of a tree that a sandbox filled: by descriptors, following no link, and only so much."""

import os
import posixpath
import stat
from pathlib import Path

from bay.errors import BadRequest, FileMissing, PayloadTooLarge
from bay.units import MIB
from tree_tar.beneath import OPEN_DIRECTORY, OPEN_FILE, closing, open_beneath

MOST_BYTES = 8 * MIB
_WORKSPACE = "/workspace"


def read_file(top: Path, path: str) -> bytes:
    """The bytes of the file at `path` of a sandbox, whose `workspace` and `machine` are in `top`. Blocks.
    Raises FileMissing, also for a way through a link, BadRequest for what is no file, and PayloadTooLarge.
    """
    whole = posixpath.normpath(posixpath.join(_WORKSPACE, path))
    is_work = whole.startswith(f"{_WORKSPACE}/")
    root = top / "workspace" if is_work else top / "machine" / "upper"
    *above, name = whole.removeprefix(_WORKSPACE if is_work else "").strip("/").split("/")
    try:
        with (
            closing(os.open(root, OPEN_DIRECTORY)) as here,
            closing(open_beneath(here, above)) as directory,
            closing(os.open(name or ".", OPEN_FILE, dir_fd=directory)) as fd,
        ):
            return _content(fd, path)
    except OSError as error:
        raise FileMissing(
            f"the checkpoint has no file {path}, or there is a link on the way; links are not followed here"
        ) from error


def _content(fd: int, path: str) -> bytes:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise BadRequest(f"{path} is no regular file in the checkpoint")
    if found.st_size > MOST_BYTES:
        raise PayloadTooLarge(
            f"{path} has {found.st_size} bytes in the checkpoint, and {MOST_BYTES} are given; read it in a fork"
        )
    parts: list[bytes] = []
    while part := os.read(fd, MIB):
        parts.append(part)
    return b"".join(parts)
