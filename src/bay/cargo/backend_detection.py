"""Detects the cargo backend of a data directory, once: it is recorded in `cargo.json`, and stays the same."""

import contextlib
import json
import os
import shutil
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bay.cargo.btrfs import BtrfsCargo
from bay.cargo.directory import DirectoryCargo
from bay.cargo.pool import BtrfsPool
from bay.errors import DriverUnavailable
from bay.ids import is_id
from bay.linux import btrfs
from bay.linux.directories import nearest_directory
from bay.linux.renames import sync_directory

Kind = Literal["pool", "btrfs", "directory"]
"""`btrfs` is the data directory's own file system, `pool` one of Bay's own in a file."""
Setting = Literal["auto", "btrfs", "directory"]

RECORD, POOL_FILE, ROOT = "cargo.json", "pool.img", "cargo"
_KINDS: tuple[Kind, ...] = ("pool", "btrfs", "directory")
_CAP_SYS_ADMIN = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryFacts:
    """The facts about a data directory and its host."""

    recorded: Kind | None = None
    has_pool: bool = False
    has_cargos: bool = False
    on_btrfs: bool = False
    lacking: str | None = None
    """The missing requirements of a pool."""


def decide(setting: Setting, facts: DirectoryFacts) -> Kind:
    """The backend of a data directory. Raises DriverUnavailable when it cannot be the one of the setting."""
    there = _already(facts)
    if there is not None:
        if setting != "auto" and (setting == "directory") != (there == "directory"):
            raise DriverUnavailable(
                f"cargo_backend is {setting}, and this data directory's cargos are kept by the backend {there}; "
                "set it to auto, or start with an empty data directory"
            )
        return there
    if setting == "directory":
        return "directory"
    if facts.on_btrfs and not facts.lacking:
        return "btrfs"
    if not facts.lacking:
        return "pool"
    if setting == "btrfs":
        raise DriverUnavailable(f"cargo_backend is btrfs, and {facts.lacking}; set it to auto or directory")
    return "directory"


def look(data_dir: Path) -> DirectoryFacts:
    """Look at a data directory and its host. Blocks."""
    return DirectoryFacts(
        recorded=_recorded(data_dir / RECORD),
        has_pool=(data_dir / POOL_FILE).exists(),
        has_cargos=_has_cargos(data_dir / ROOT),
        on_btrfs=btrfs.is_btrfs(nearest_directory(data_dir)),
        lacking=_lacking(nearest_directory(data_dir)),
    )


def record(data_dir: Path, kind: Kind) -> None:
    """Write down what was chosen, once it was made. Blocks."""
    target, new = data_dir / RECORD, data_dir / f"{RECORD}.new"
    if _recorded(target) != kind:
        with open(new, "w") as file:
            json.dump({"backend": kind}, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(target)
        sync_directory(data_dir)


def make(
    data_dir: Path, kind: Kind, max_bytes: int | None = None, *, shared: bool = False
) -> BtrfsCargo | DirectoryCargo:
    """The backend. Nothing is opened. `shared`: other processes work in that data directory, too."""
    if kind == "directory":
        return DirectoryCargo(data_dir / ROOT, shared=shared)
    pool = pool_of(data_dir, max_bytes) if kind == "pool" else None
    return BtrfsCargo(data_dir / ROOT, pool, shared=shared)


def pool_of(data_dir: Path, max_bytes: int | None = None) -> BtrfsPool:
    """The pool of a data directory, whether there is one or not."""
    return BtrfsPool(data_dir / POOL_FILE, data_dir / ROOT, max_bytes)


@contextlib.contextmanager
def files_of(data_dir: Path) -> Generator[Path]:
    """All cargos' directory, a stopped Bay's pool mounted in the block. Raises OSError, DriverUnavailable."""
    pool = pool_of(data_dir)
    if not pool.file.exists() or pool.is_mounted():
        yield pool.mount
        return
    pool.attach()
    try:
        yield pool.mount
    finally:
        pool.close()


def _already(facts: DirectoryFacts) -> Kind | None:
    if facts.recorded is not None:
        return facts.recorded
    if facts.has_pool:
        return "pool"
    return "directory" if facts.has_cargos else None


def _recorded(path: Path) -> Kind | None:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        found = None
    for kind in _KINDS:
        if found == {"backend": kind}:
            return kind
    raise DriverUnavailable(
        f'{path} names no backend; put {{"backend": "pool"}} there when {POOL_FILE} is beside it, else "directory", or "btrfs" '
        "when the cargos are subvolumes"
    )


def _has_cargos(root: Path) -> bool:
    return root.is_dir() and any(is_id(name) for name in os.listdir(root))


def _lacking(near: Path) -> str | None:
    if not _is_admin():
        return "Bay may not mount anything here, as it is not root or has no CAP_SYS_ADMIN"
    if btrfs.is_btrfs(near):
        return None
    if "btrfs" not in Path("/proc/filesystems").read_text().split() and not _has_module():
        return "this kernel has no btrfs"
    if not Path("/dev/loop-control").exists():
        return "there is no /dev/loop-control, as in a container; load the module `loop`"
    return None if shutil.which("mkfs.btrfs") else "mkfs.btrfs is not installed (package btrfs-progs)"


def _is_admin() -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value, 16) >> _CAP_SYS_ADMIN & 1) and os.geteuid() == 0
    return False


def _has_module() -> bool:
    """Whether the kernel would load btrfs by itself when something is mounted."""
    listed = Path("/lib/modules") / os.uname().release / "modules.dep"
    return listed.exists() and "/btrfs.ko" in listed.read_text()
