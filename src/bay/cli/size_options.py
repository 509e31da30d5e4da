"""The options of a sandbox's sizes, for the commands that make or change one."""

import re
from typing import Annotated, Any, TypedDict

import typer

_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?([mgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_MIB = {"": 1, "m": 1, "g": 1 << 10, "t": 1 << 20}


def mebibytes(text: str | int) -> int:
    """The MiB that `512`, `512m`, `1.5g` or `2GiB` names. Raises ValueError."""
    found = _SIZE.fullmatch(str(text))
    size = float(found[1]) * _MIB[found[2].lower()] if found else 0.0
    if not size or not size.is_integer():
        raise ValueError(f"it takes MiB or a size such as 512m or 2g, not {text!r}")
    return int(size)


def _size_option(help: str) -> Any:  # noqa: A002 — Typer's word
    return typer.Option(parser=mebibytes, metavar="SIZE", help=help)


CpusOption = Annotated[
    float | None, typer.Option(metavar="NUMBER", help="Cores, such as 0.5; default: the profile's.")
]
MemoryOption = Annotated[int | None, _size_option("Memory, such as 512m or 2g.")]
DiskOption = Annotated[int | None, _size_option("Most that its files may hold, such as 10g.")]
PidsOption = Annotated[int | None, typer.Option(metavar="NUMBER", help="Most processes and threads.")]


class SizeOptions(TypedDict):
    """The sizes among the options of a create."""

    cpus: float | None
    memory_mb: int | None
    disk_mb: int | None
    pids: int | None


def sizes(cpus: float | None, memory: int | None, disk: int | None, pids: int | None) -> SizeOptions:
    """The options of a create that those name."""
    return {"cpus": cpus, "memory_mb": memory, "disk_mb": disk, "pids": pids}
