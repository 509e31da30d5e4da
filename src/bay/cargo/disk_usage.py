"""Measures the disk usage of trees in a process of the lowest priority, `python -m bay.cargo.disk_usage`.

It walks by descriptors to any depth, follows no link, crosses no mount, and counts a file with several names
once, with bounded resources: a sandbox decides how large the walk is. Rejected: a thread of Bay's, which
takes the interpreter from calls; `du`, which cannot count the blocks of one tree alone.
"""

import asyncio
import contextlib
import fcntl
import os
import resource
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from bay.cargo.base import Weight
from bay.cargo.tree_walk import Node, opened, unless_changed
from tree_tar.beneath import OPEN_DIRECTORY, OPEN_FILE, closing

_TOGETHER_S = 120.0
_BATCH = 50
_MEMORY = 1 << 30
_BLOCK = 512
# From linux/fiemap.h.
_FIEMAP = 0xC020_660B
_EXTENTS = 256
_HEAD, _EXTENT = struct.Struct("=2Q4L"), struct.Struct("=5Q4L")
_LAST, _UNKNOWN_PLACE, _INLINE, _SHARED = 0x1, 0x2, 0x200, 0x2000
_WHOLE = (1 << 64) - 1

log = structlog.get_logger("bay.cargo")


async def weigh(places: Sequence[Path]) -> dict[Path, Weight]:
    """The usage of each of `places` but absent ones, and those over `_TOGETHER_S` with earlier ones."""
    found: dict[Path, Weight] = {}
    for first in range(0, len(places), _BATCH):
        found |= await _weigh(places[first : first + _BATCH])
    return found


async def _weigh(places: Sequence[Path]) -> dict[Path, Weight]:
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    command = [sys.executable, "-P", "-m", "bay.cargo.disk_usage", *map(str, places)]
    process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=pipe, stderr=null)
    found: dict[Path, Weight] = {}
    try:
        async with asyncio.timeout(_TOGETHER_S):
            assert process.stdout is not None  # noqa: S101 - it was asked for
            while line := await process.stdout.readline():
                number, used, inodes, alone = map(int, line.split())
                found[places[number]] = Weight(used_bytes=used, used_inodes=inodes, exclusive_bytes=alone)
            await process.wait()
    except TimeoutError:
        log.warning("cargo.too_slow_to_weigh", after=len(found), seconds=_TOGETHER_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return found


class _Scale:
    """Adds up one tree."""

    def __init__(self, top: int) -> None:
        self._top = top
        self._device = os.fstat(top).st_dev
        self._seen: set[int] = set()
        self.used = self.inodes = self.exclusive = 0

    def weigh(self) -> Weight:
        """Walk through everything, one directory at a time."""
        pending: list[Node | None] = [None]
        while pending:
            node = pending.pop()
            with unless_changed(), opened(self._top, node) as fd:
                pending += [Node(node, name) for name in self._directory(fd)]
        return Weight(used_bytes=self.used, used_inodes=self.inodes, exclusive_bytes=self.exclusive)

    def _directory(self, fd: int) -> list[str]:
        """Add a directory and the files in it; the names of the directories in it."""
        facts = os.fstat(fd)
        if facts.st_dev != self._device:  # a mount, or a subvolume inside, which is no part of it
            return []
        self._add(facts, facts.st_blocks * _BLOCK)
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if self._entry(fd, entry.name)]

    def _entry(self, directory: int, name: str) -> bool:
        with unless_changed():
            facts = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISDIR(facts.st_mode):
                return True
            if facts.st_nlink > 1:
                if facts.st_ino in self._seen:
                    return False
                self._seen.add(facts.st_ino)
            self._add(facts, self._alone(directory, name, facts))
        return False

    def _add(self, facts: os.stat_result, alone: int) -> None:
        self.inodes += 1
        self.used += facts.st_blocks * _BLOCK
        self.exclusive += alone

    def _alone(self, directory: int, name: str, facts: os.stat_result) -> int:
        """Bytes of the file that nothing else shares."""
        held = facts.st_blocks * _BLOCK
        if not stat.S_ISREG(facts.st_mode) or not held:
            return held
        with closing(os.open(name, OPEN_FILE, dir_fd=directory)) as fd:
            return max(0, held - sum(_shared(fd)))


def _shared(fd: int) -> Iterator[int]:
    """The lengths of the pieces that another file has as well; none where the file system does not say."""
    start = 0
    with contextlib.suppress(OSError):
        while True:
            extents = _extents(fd, start)
            yield from (length for _, length, flags in extents if flags & _SHARED)
            if not extents or extents[-1][2] & _LAST:
                return
            start = extents[-1][0] + extents[-1][1]


def _extents(fd: int, start: int) -> list[tuple[int, int, int]]:
    request = bytearray(_HEAD.size + _EXTENTS * _EXTENT.size)
    _HEAD.pack_into(request, 0, start, _WHOLE - start, 0, 0, _EXTENTS, 0)
    fcntl.ioctl(fd, _FIEMAP, request)
    count = _HEAD.unpack_from(request)[3]
    packed = (_EXTENT.unpack_from(request, _HEAD.size + number * _EXTENT.size) for number in range(count))
    return [(extent[0], extent[2], extent[5]) for extent in packed]


def main(places: Sequence[str]) -> None:
    """Say the weight of each place on a line of its own, as soon as it is known."""
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for number, place in enumerate(places):
        with contextlib.suppress(OSError, MemoryError):
            with closing(os.open(place, OPEN_DIRECTORY)) as top:
                weight = _Scale(top).weigh()
            sys.stdout.write(f"{number} {weight.used_bytes} {weight.used_inodes} {weight.exclusive_bytes}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
