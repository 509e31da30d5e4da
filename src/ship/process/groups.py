"""Marker groups: a supplementary group for each tree of programs, by which the kernel knows its members.

Only root can give one up, and every child inherits it: a process that has it belongs to the tree, whatever
became of its parents, its session and its environment.
"""

from collections.abc import Iterator

from ship.process import table
from ship.process.identity import Identity

NUMBERS = range(60_000, 61_000)  # no image gives these to its users (Debian Policy 9.2.2 ends at 59999)
_LOOKS = 5


class Groups:
    """Allocates groups that no living process has, and no tree that may still be ended."""

    def __init__(self, numbers: range = NUMBERS) -> None:
        self._numbers = numbers
        self._held: set[int] = set()
        self._free: Iterator[int] = iter(numbers)
        self._possible: bool | None = None

    def take(self, identity: Identity) -> int | None:
        """A group for a new tree of `identity`; None where users are not switched, or all are in use."""
        if not identity.switch or not self._may_set():
            return None
        group = next(self._free, None) or next(self._look(), None)
        if group is not None:
            self._held.add(group)
        return group

    def give_back(self, group: int | None) -> None:
        """Release the group of a tree that is not ended again; a process that still has it keeps it taken."""
        if group is not None:
            self._held.discard(group)

    def _look(self) -> Iterator[int]:
        # Each was allocated once since the last look, so those without a process are free until the next.
        used = self._held | _used()
        self._free = iter([group for group in self._numbers if group not in used])
        return self._free

    def _may_set(self) -> bool:
        if self._possible is None:
            # The user namespace's map may forbid it: user_namespaces(7). Not tried, since that would ask
            # every thread.
            self._possible = table.read_file("/proc/self/setgroups", 16).strip() != b"deny"
        return self._possible


def _used() -> set[int]:
    found: set[int] = set()
    for _ in range(_LOOKS):
        gone = False
        for pid in table.pids():
            groups = table.groups(pid)
            gone = gone or groups is None
            found.update(groups or ())
        if not gone:  # else it may have left a child that was on no list
            break
    return found
