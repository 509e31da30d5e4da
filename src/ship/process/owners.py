"""Finds the exec to which a process belongs."""

from collections.abc import Iterable

from ship.process import table, trees
from ship.process.table import Process


class Owners:
    """A look-up among execs, each given as its id and the group of its tree."""

    def __init__(self, execs: Iterable[tuple[str, int | None]]) -> None:
        self._groups = dict(execs)
        self._by_group = {group: exec_id for exec_id, group in self._groups.items() if group is not None}

    def of(self, process: Process) -> str | None:
        """The exec's id, None when it is no exec's."""
        for group in table.groups(process.pid) or ():
            if group in self._by_group:
                return self._by_group[group]
        marked = trees.marked_with(process.pid)
        return marked if marked in self._groups else None
