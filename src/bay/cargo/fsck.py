"""Checks the pool's file, device, mount and file system; changes nothing. Bay may run or not.

A mounted pool cannot be read through while it is written to: the file system's own counts of errors must do.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bay.cargo import backend_detection
from bay.cargo.pool import BtrfsPool, device_at
from bay.cargo.pool_sizing import pool_reserve
from bay.errors import DriverUnavailable
from bay.linux import btrfs, loops
from bay.units import MIB

_CHECK_S = 3600
_SAID = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check: its subject, its finding, and the way out when that is not good."""

    level: Literal["ok", "warning", "error"]
    what: str
    seen: str
    way_out: str = ""


def check(data_dir: Path) -> list[Finding]:
    """Look at all that keeps a data directory's cargos. Blocks, for minutes if a large pool is unmounted."""
    return list(_findings(data_dir))


def _findings(data_dir: Path) -> Iterator[Finding]:
    try:
        found = backend_detection.look(data_dir)
    except DriverUnavailable as error:
        yield Finding(level="error", what="backend", seen=error.message)
        return
    kind = found.recorded or ("pool" if found.has_pool else None)
    if kind is None:
        yield _ok("backend", "none is chosen yet, which the first start of Bay does")
        return
    yield _ok("backend", kind)
    if kind == "pool":
        yield from _pool(backend_detection.pool_of(data_dir))
    else:
        yield from _room(data_dir / backend_detection.ROOT)
    if kind == "btrfs" and not btrfs.are_quotas_on(data_dir):
        yield Finding(
            level="warning", what="limits", seen="quotas are off on this file system, so size limits do not hold",
            way_out=f"btrfs quota enable --simple {data_dir}",
        )  # fmt: skip


def _pool(pool: BtrfsPool) -> Iterator[Finding]:
    if not pool.file.exists():
        yield Finding(
            level="error", what="pool", seen=f"{pool.file} is not there, and the cargos were in it",
            way_out="put the file back where it was, or restore a backup with `bay admin restore`",
        )  # fmt: skip
        return
    held, size = pool.host().held // MIB, pool.file.stat().st_size // MIB
    yield _ok("pool", f"{pool.file}, {held} MiB on the disk of {size}")
    device = device_at(pool.mount)
    attached = loops.device_of(pool.file)
    if device is None:
        yield from _unmounted(pool, attached)
    elif device != attached:
        yield Finding(
            level="error", what="mount", seen=f"{device} is mounted at {pool.mount} and is not the pool",
            way_out=f"stop Bay, then: umount {pool.mount}",
        )  # fmt: skip
    else:
        yield from _mounted(pool, device)
    yield from _backing(pool)


def _unmounted(pool: BtrfsPool, attached: Path | None) -> Iterator[Finding]:
    if attached is not None:
        yield Finding(
            level="warning", what="mount",
            seen=f"Bay does not run, and {attached} is still in use, by sandboxes that do; the pool cannot be read through",
            way_out="start Bay, which finds it again, or stop the sandboxes",
        )  # fmt: skip
        return
    yield _ok("mount", "not mounted, as Bay does not run")
    yield _read_through(pool.file)


def _read_through(file: Path) -> Finding:
    command = ["btrfs", "check", "--readonly", str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_CHECK_S)
    except FileNotFoundError:
        return _unread("`btrfs` is not installed", "install btrfs-progs")
    except subprocess.TimeoutExpired:
        return _unread(f"btrfs check took more than {_CHECK_S} s", "run it by hand: " + " ".join(command))
    if done.returncode == 0:
        return _ok("file system", "btrfs check found nothing")
    return Finding(
        level="error", what="file system", seen=f"btrfs check: {(done.stderr or done.stdout).strip()[-_SAID:]}",
        way_out=f"copy {file} away before anything else; then restore a backup, or see btrfs-rescue(8)",
    )  # fmt: skip


def _mounted(pool: BtrfsPool, device: Path) -> Iterator[Finding]:
    yield _ok("mount", f"{device} at {pool.mount}")
    if os.statvfs(pool.mount).f_flag & os.ST_RDONLY:
        yield Finding(
            level="error", what="file system", seen="it can only be read, as after an error of the disk or a full host",
            way_out="make room on the host, stop Bay and all sandboxes, and check again: what was committed is still there",
        )  # fmt: skip
    if errors := btrfs.device_errors(pool.mount):
        counts = ", ".join(f"{count} {kind}" for kind, count in errors.items())
        yield Finding(
            level="error", what="file system", seen=f"errors of the disk since the pool was made: {counts}",
            way_out=f"look at the host's disk and log; what is damaged says: btrfs scrub start -B {pool.mount}",
        )  # fmt: skip
    else:
        yield _ok("file system", "no errors counted; stop Bay for a check of all of it")
    if not btrfs.are_quotas_on(pool.mount):
        yield Finding(
            level="error", what="limits", seen="quotas are off, so size limits do not hold",
            way_out="start Bay again, which turns them on",
        )  # fmt: skip
    yield from _room(pool.mount)


def _room(mount: Path) -> Iterator[Finding]:
    with contextlib.suppress(FileNotFoundError):
        disk = shutil.disk_usage(mount)
        seen = f"{disk.free // MIB} MiB of {disk.total // MIB} are free for cargos"
        yield _free("room", seen, enough=disk.free >= pool_reserve(disk.total))


def _backing(pool: BtrfsPool) -> Iterator[Finding]:
    host = pool.host()
    seen = f"{host.free // MIB} MiB of {host.total // MIB} are free on the host's disk"
    yield _free("host's disk", seen, enough=not pool.lacks_backing())


def _free(what: str, seen: str, *, enough: bool) -> Finding:
    if enough:
        return _ok(what, seen)
    return Finding(
        level="warning", what=what, seen=f"{seen}: new sandboxes and checkpoints are refused",
        way_out="delete checkpoints or sandboxes, or enlarge the disk",
    )  # fmt: skip


def _ok(what: str, seen: str) -> Finding:
    return Finding(level="ok", what=what, seen=seen)


def _unread(seen: str, way_out: str) -> Finding:
    return Finding(level="warning", what="file system", seen=f"not read through: {seen}", way_out=way_out)
