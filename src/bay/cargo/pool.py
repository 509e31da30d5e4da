"""A pool is Bay's own btrfs in a sparse file, for data directories on other file systems.

The file takes only used blocks from the host's disk, and gives them back. It is never larger than the host
can back, up and down: a write beyond that would fail after it was accepted. Rejected: a file of full size.
"""

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from bay.cargo.pool_sizing import SMALLEST, Host, host_reserve, next_size, wanted
from bay.cargo.trash import make_private
from bay.errors import DriverUnavailable, StorageFull
from bay.linux import btrfs, loops, renames
from bay.units import MIB

_NOSUID, _NODEV, _NOATIME = 2, 4, 1024
_OPTIONS = b"discard=async"
_MKFS_S = 120
_CLOSE_TRIES, _CLOSE_AGAIN_S = 20, 0.05
_BLOCK = 512

log = structlog.get_logger("bay.cargo")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class BtrfsPool:
    """The pool in `file`, mounted at `mount`, of at most `max_bytes`. All here blocks, and raises OSError."""

    file: Path
    mount: Path
    max_bytes: int | None = None

    def open(self) -> None:
        """Make and mount the pool where it is not. Raises StorageFull when the host has no room for one."""
        self._unmade.unlink(missing_ok=True)
        if not self.file.exists():
            self._make()
        self.attach()
        if os.statvfs(self.mount).f_flag & os.ST_RDONLY:
            raise DriverUnavailable(
                f"the pool {self.file} is read-only, as after a disk error; stop Bay and its sandboxes, "
                f"then see: bay admin cargo check"
            )
        make_private(self.mount)
        btrfs.enable_quotas(self.mount)
        while self.refit():
            pass

    def attach(self) -> None:
        """Mount the pool if it is not. Raises DriverUnavailable when something else is in its place."""
        if not self.is_mounted():
            make_private(self.mount)
            self._mount()

    def is_mounted(self) -> bool:
        """Whether the pool is mounted where it belongs. Raises DriverUnavailable when something else is."""
        if (device := device_at(self.mount)) is None:
            return False
        if loops.device_of(self.file) != device:
            raise DriverUnavailable(
                f"{device} is mounted at {self.mount} and is not the pool {self.file}; unmount it: umount {self.mount}"
            )
        return True

    def close(self) -> None:
        """Unmount. Present users of the pool keep it, and the next `open` finds it."""
        for _ in range(_CLOSE_TRIES):
            if not _libc.umount2(os.fsencode(self.mount), 0):
                return
            # A thread whose task was cancelled may still be at its last call in there.
            time.sleep(_CLOSE_AGAIN_S)
        number = ctypes.get_errno()
        log.warning("pool.stays_mounted", path=str(self.mount), error=os.strerror(number))

    def refit(self) -> bool:
        """Let the pool's size follow the room on the host, by one step; False when there is nothing to do."""
        now = btrfs.size(self.mount)
        size = next_size(now, wanted(self.host(), self.max_bytes))
        if size > now:
            self._grow(size)
        elif size < now:
            return self._shrink(size)
        return size != now

    def host(self) -> Host:
        """The host's file system."""
        disk = shutil.disk_usage(self.file.parent)
        held = self.file.stat().st_blocks * _BLOCK if self.file.exists() else 0
        return Host(total=disk.total, free=disk.free, held=held)

    def lacks_backing(self) -> bool:
        """Whether something else fills the host's disk, faster than the pool could become smaller."""
        host = self.host()
        return host.free < host_reserve(host.total) // 2

    @property
    def _unmade(self) -> Path:
        return self.file.with_name(f"{self.file.name}.making")

    def _make(self) -> None:
        size = wanted(self.host(), self.max_bytes)
        if size < SMALLEST:
            raise StorageFull(
                f"{self.file.parent} has room for a pool of {size // MIB} MiB, and the smallest is {SMALLEST // MIB} MiB; "
                "free space there, or set cargo_backend to `directory`"
            )
        with open(self._unmade, "xb", opener=_private) as file:
            file.truncate(size)
            _mkfs(self._unmade)
            os.fsync(file.fileno())
        self._unmade.rename(self.file)
        renames.sync_directory(self.file.parent)

    def _mount(self) -> None:
        with loops.attached(self.file) as device:
            source, target = os.fsencode(device), os.fsencode(self.mount)
            if _libc.mount(source, target, b"btrfs", _NOSUID | _NODEV | _NOATIME, _OPTIONS):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(self.mount))

    def _grow(self, size: int) -> None:
        # In this order a crash leaves a disk that is larger than what is on it, which is fine.
        if self.file.stat().st_size < size:
            os.truncate(self.file, size)
        loops.see_size(self.file)
        btrfs.resize(self.mount, size)
        log.debug("pool.grew", mib=size // MIB)

    def _shrink(self, size: int) -> bool:
        try:
            btrfs.resize(self.mount, size)
        except OSError as error:  # its content needs the room
            log.debug("pool.cannot_shrink", mib=size // MIB, error=str(error))
            return False
        os.truncate(self.file, size)
        loops.see_size(self.file)
        log.debug("pool.shrank", mib=size // MIB)
        return True


def device_at(mount: Path) -> Path | None:
    """The device that is mounted at `mount`, the topmost; None when nothing is mounted there."""
    found = [source for where, source in _mounts() if where == os.path.realpath(mount)]
    return Path(found[-1]) if found else None


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        yield _unescaped(before.split(" ")[4]), _unescaped(after.split(" ")[1])


def _unescaped(name: str) -> str:
    for character in " \t\n\\":
        name = name.replace(f"\\{ord(character):03o}", character)
    return name


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _mkfs(file: Path) -> None:
    try:
        subprocess.run(
            ["mkfs.btrfs", "--quiet", "--label", "bay", str(file)], capture_output=True, text=True,
            stdin=subprocess.DEVNULL, timeout=_MKFS_S, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise DriverUnavailable(
            "mkfs.btrfs is not installed; install btrfs-progs, or set cargo_backend to `directory`"
        ) from None
    except subprocess.CalledProcessError as error:
        raise DriverUnavailable(f"mkfs.btrfs cannot make {file}: {error.stderr.strip()[-300:]}") from error
    except subprocess.TimeoutExpired:
        raise DriverUnavailable(f"mkfs.btrfs took more than {_MKFS_S} s for {file}") from None
