"""Compares two trees of files by what their directories say, in a process of the lowest priority,
`python -m bay.cargo.tree_diff`.

Files are the same when type, size, modification time, mode and owner are: no content is read, so that a file
which was only touched is a changed one. The walk goes by descriptors, follows no link, crosses no mount, and
has bounded resources: a sandbox decides how large it is. Rejected: `btrfs send --no-data`, which needs both
trees read-only and names no path of a hard link twice; a thread of Bay's, which takes the interpreter from
calls.
"""

import asyncio
import json
import os
import resource
import stat
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from bay.errors import BadRequest, DriverUnavailable, Timeout
from bay.models import FileChange, FileVersion
from tree_tar.beneath import OPEN_DIRECTORY, closing, open_beneath

LONGEST_S = 60.0
"""How long one comparison may take."""
LONGEST_PATH = 4096
"""Below a directory with a longer path nothing is compared: no program can name what is there."""
_MEMORY = 1 << 30
_MOST_BYTES = 8 << 20
"""Of the answer: a page of names that a sandbox chose."""

Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TreePair:
    """Two directories of the host with the same place in the sandbox; None is one that is not there.
    `is_layer`: they are the upper directories of overlays, where a device of number 0 hides a file.
    """

    place: str
    before: Path | None
    after: Path | None
    is_layer: bool = False


async def tree_changes(pairs: Sequence[TreePair], *, skip: int, limit: int) -> list[FileChange]:
    """The changes from `skip` on, `limit` at most: a directory before what is in it, names by their bytes.
    Raises Timeout, BadRequest for trees too large to compare, and DriverUnavailable.
    """
    given = [[pair.place, _text(pair.before), _text(pair.after), pair.is_layer] for pair in pairs]
    asked = json.dumps({"pairs": given, "skip": skip, "limit": limit}).encode()
    command = [sys.executable, "-P", "-m", "bay.cargo.tree_diff"]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    try:
        async with asyncio.timeout(LONGEST_S):
            said, _ = await process.communicate(asked)
    except TimeoutError as error:
        raise Timeout(
            f"the files were not compared within {LONGEST_S:.0f} s; compare by commands in two forks"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = said.splitlines()
    if process.returncode or not lines:
        raise DriverUnavailable(f"the process that compares files ended with {process.returncode}")
    *found, last = map(json.loads, lines)
    if last != "end":
        raise BadRequest("a directory has too many entries to be compared, or names that are too long")
    return [_change(*one) for one in found]


def main() -> None:
    """Say each change that is asked for on a line of its own, and `"end"` on the last."""
    asked = json.load(sys.stdin)
    os.setpriority(os.PRIO_PROCESS, 0, 19)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (int(LONGEST_S), int(LONGEST_S)))
    pairs = [
        TreePair(place, _path(before), _path(after), layer) for place, before, after, layer in asked["pairs"]
    ]
    left = _MOST_BYTES
    verdict = "end"
    try:
        for found in islice(_compared(pairs), asked["skip"], asked["skip"] + asked["limit"]):
            line = json.dumps(found) + "\n"
            left -= len(line)
            if left < 0:
                verdict = "large"
                break
            sys.stdout.write(line)
    except MemoryError:
        verdict = "large"
    sys.stdout.write(json.dumps(verdict) + "\n")


Facts = tuple[str, int, int, str, str | None, int, int, int]
"""Type, size, time in nanoseconds, mode, target, uid, gid, device number."""
Found = tuple[str, str, Facts | None, Facts | None]


def _compared(pairs: Sequence[TreePair]) -> Iterator[Found]:
    for pair in pairs:
        with ExitStack() as stack:
            tops = [
                None if path is None else stack.enter_context(closing(os.open(path, OPEN_DIRECTORY)))
                for path in (pair.before, pair.after)
            ]
            yield from _PairWalk(pair, tops).changes()


class _PairWalk:
    """Walks through both trees of a pair at once."""

    def __init__(self, pair: TreePair, tops: Sequence[int | None]) -> None:
        self._pair = pair
        self._tops = tops
        self._devices = [None if top is None else os.fstat(top).st_dev for top in tops]

    def changes(self) -> Iterator[Found]:
        stack = [self._directory((), (True, True))]
        while stack:
            for parts, before, after in stack[-1]:
                if change := self._named(before, after):
                    yield (self._shown(parts), change, before, after)
                sides = (_is_directory(before), _is_directory(after))
                if any(sides) and len(os.fsencode("/".join(parts))) <= LONGEST_PATH:
                    stack.append(self._directory(parts, sides))
                    break
            else:
                stack.pop()

    def _directory(
        self, parts: Parts, sides: tuple[bool, bool]
    ) -> Iterator[tuple[Parts, Facts | None, Facts | None]]:
        """The entries of a directory that differ, and all directories in it. No descriptor stays open."""
        with ExitStack() as stack:
            opened = [
                self._opened(number, parts, stack) if side else None for number, side in enumerate(sides)
            ]
            names = {name for fd in opened if fd is not None for name in os.listdir(fd)}
            if not parts and self._pair.is_layer:
                names.discard("workspace")  # where the other pair is mounted
            kept: list[tuple[Parts, Facts | None, Facts | None]] = []
            for name in sorted(names, key=os.fsencode):
                before, after = (None if fd is None else _facts(fd, name) for fd in opened)
                if before != after or _is_directory(after):
                    kept.append(((*parts, name), before, after))
        return iter(kept)

    def _opened(self, number: int, parts: Parts, stack: ExitStack) -> int | None:
        """A descriptor of the directory; None for a mount, and for what was replaced after it was listed."""
        top = self._tops[number]
        if top is None:
            return None
        try:
            fd = stack.enter_context(closing(open_beneath(top, parts)))
        except OSError:
            return None
        return fd if os.fstat(fd).st_dev == self._devices[number] else None

    def _named(self, before: Facts | None, after: Facts | None) -> str | None:
        if before == after:
            return None
        if self._pair.is_layer and (_hides(before) or _hides(after)):
            return "removed" if _hides(after) else "added"
        if before is None:
            return "added"
        if after is None:
            return "removed"
        return "changed" if before[0] == after[0] else "type_changed"

    def _shown(self, parts: Parts) -> str:
        path = "/".join((self._pair.place.rstrip("/"), *parts))
        return os.fsencode(path).decode("utf-8", "replace")


def _facts(directory: int, name: str) -> Facts | None:
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        target = os.readlink(name, dir_fd=directory) if stat.S_ISLNK(found.st_mode) else None
    except OSError:  # it was removed, or replaced, after it was listed
        return None
    mode = found.st_mode
    is_file = stat.S_ISREG(mode)
    return (
        _TYPES.get(stat.S_IFMT(mode), "device"),
        found.st_size if is_file else 0,
        0
        if stat.S_ISDIR(mode) or target is not None
        else found.st_mtime_ns,  # those of contents, and of copies
        f"{stat.S_IMODE(mode):04o}",
        None if target is None else os.fsencode(target).decode("utf-8", "replace"),
        found.st_uid,
        found.st_gid,
        found.st_rdev,
    )


_TYPES = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}  # fmt: skip


def _is_directory(facts: Facts | None) -> bool:
    return facts is not None and facts[0] == "directory"


def _hides(facts: Facts | None) -> bool:
    return facts is not None and facts[0] == "device" and facts[7] == 0


def _change(
    path: str, change: Literal["added", "removed", "changed", "type_changed"], before: Any, after: Any
) -> FileChange:
    return FileChange(path=path, change=change, before=_version(before), after=_version(after))


def _version(facts: Any) -> FileVersion | None:
    if facts is None or (facts[0] == "device" and facts[7] == 0):
        return None
    kind, size, time, mode, target, uid, gid, _ = facts
    return FileVersion(
        type=kind, size=size if kind == "file" else None, mode=mode, uid=uid, gid=gid,
        mtime=time / 1e9 if time else None, target=target,
    )  # fmt: skip


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None or not os.path.isdir(text) else Path(text)


if __name__ == "__main__":
    main()
