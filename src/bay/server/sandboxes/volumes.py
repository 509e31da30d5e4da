"""The rules on volumes: external cargos at paths of a sandbox. Pure.

A volume may lie anywhere but in places that a start mounts or that the system stands on. The host makes the
mount point without following a link; the driver refuses one that a link of the sandbox's own files leads to.
"""

import posixpath
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from bay.errors import InvalidArgument
from bay.models import Volume

MAX_VOLUMES = 16
MAX_PATH = 512
_MAX_NAME = 255

_CLOSED = ("/workspace", "/.ship", "/.ship-run", "/proc", "/sys", "/dev", "/etc", "/tmp", "/run", "/var/run")  # noqa: S108 - inside
"""Nothing is mounted here or below."""
_SYSTEM = (
    "/bin",
    "/boot",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/sbin",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/sbin",
    "/var",
)
"""Nothing is mounted over these; below them it may be."""


def checked(given: Sequence[Volume], workspace: str | None) -> tuple[Volume, ...]:
    """The same; `workspace` is the cargo that the create has as its workspace. Raises InvalidArgument."""
    for index, volume in enumerate(given):
        _check_path(index, volume.path)
        if volume.cargo == workspace:
            _refuse(index, f"cargo {volume.cargo} is the workspace already; leave one of the two out")
        for other in given[:index]:
            _check_apart(index, volume, other)
    return tuple(given)


def of_fork(volumes: Sequence[Volume]) -> tuple[Volume, ...]:
    """The volumes of a fork: it reads what its source may write, as a cargo has one writing session."""
    return tuple(replace(volume, read_only=True) for volume in volumes)


def _check_path(index: int, path: str) -> None:
    if not path.startswith("/") or posixpath.normpath(path) != path or path.startswith("//") or path == "/":
        _refuse(
            index,
            f"path {path!r} must be absolute and plain, such as /data: no `..`, `.` or `//`, no / at the end",
        )
    longest = max(len(name.encode()) for name in path.split("/"))
    if not path.isprintable() or len(path.encode()) > MAX_PATH or longest > _MAX_NAME:
        _refuse(index, f"path must be printable and have {MAX_PATH} bytes at most, each name {_MAX_NAME}")
    closed = next((one for one in _CLOSED if path == one or path.startswith(f"{one}/")), None)
    if closed is not None:
        _refuse(
            index, f"path {path} is in {closed}, which belongs to the system; choose another, such as /data"
        )
    if path in _SYSTEM:
        _refuse(index, f"path {path} would cover what programs need; choose another, such as /data")


def _check_apart(index: int, volume: Volume, other: Volume) -> None:
    if volume.cargo == other.cargo:
        _refuse(index, f"cargo {volume.cargo} is listed twice; mount it once")
    one, two = f"{volume.path}/", f"{other.path}/"
    if one.startswith(two) or two.startswith(one):
        _refuse(
            index, f"path {volume.path} overlaps {other.path}; choose paths of which neither is in the other"
        )


def _refuse(index: int, why: str) -> NoReturn:
    raise InvalidArgument(f"volumes.{index}: {why}", details={"field": f"body.volumes.{index}"})
