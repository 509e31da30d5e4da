"""Watches a spool while something unknown is written to it: how much there is, and whether it is too much."""

import contextlib
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

from bay.linux.processes import closing_fd
from tree_tar.openat2 import openat2

TICK_S = 0.25
MAX_FILES = 10_000
_MAX_DEPTH = 6
_BLOBS = "blobs/sha256"


@dataclass(frozen=True, slots=True)
class SpoolUse:
    """The content of a spool: the bytes of all files, and the digests of the blobs that are whole."""

    bytes: int = 0
    whole: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolLimits:
    """Bounds on what is written. `stall_s` is without any change, `deadline` by the monotonic clock."""

    stall_s: float
    deadline: float
    max_bytes: int


class SpoolWatch:
    """Compares a spool with its limits, at most some times a second, and tells of changes. Blocks.
    Without a spool only the time counts.
    """

    def __init__(self, spool: int | None, limits: SpoolLimits, on_change: Callable[[SpoolUse], None]) -> None:
        self._spool = spool
        self._limits = limits
        self._on_change = on_change
        self._seen = SpoolUse()
        self._changed_at = self._looked_at = time.monotonic()

    def look(self, *, now: bool = False) -> str | None:
        """The limit that is passed, by its name: `files`, `bytes`, `time` or `stall`. `now`: do not wait."""
        at = time.monotonic()
        if now or at - self._looked_at >= TICK_S:
            self._looked_at = at
            try:
                if self._spool is not None:
                    self._compare(spool_use(self._spool), at)
            except OverflowError:
                return "files"
        if self._seen.bytes > self._limits.max_bytes:
            return "bytes"
        if at > self._limits.deadline:
            return "time"
        return "stall" if at - self._changed_at > self._limits.stall_s else None

    def _compare(self, use: SpoolUse, at: float) -> None:
        if use != self._seen:
            self._seen, self._changed_at = use, at
            self._on_change(use)


def spool_use(spool: int) -> SpoolUse:
    """The content of the spool behind the descriptor. Raises OverflowError for too many files."""
    total, count = 0, 0
    whole: list[str] = []
    places = [""]
    for place in places:  # grows while it is walked
        for name, info in _entries(spool, place):
            count += 1
            path = f"{place}/{name}" if place else name
            if count > MAX_FILES or path.count("/") > _MAX_DEPTH:
                raise OverflowError
            if stat.S_ISDIR(info.st_mode):
                places.append(path)
            total += info.st_size
            if place == _BLOBS and info.st_size:
                whole.append(f"sha256:{name}")
    return SpoolUse(total, frozenset(whole))


def _entries(spool: int, place: str) -> list[tuple[str, os.stat_result]]:
    """The entries of a directory, but for those that go meanwhile, and for all after too many."""
    found: list[tuple[str, os.stat_result]] = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        directory = openat2(spool, os.fsencode(place or "."), os.O_RDONLY | os.O_DIRECTORY, links=False)
        with closing_fd(directory), os.scandir(directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    found.append((entry.name, entry.stat(follow_symlinks=False)))
                if len(found) > MAX_FILES:
                    break
    return found
