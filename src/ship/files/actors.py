"""The users in whose names files are touched: the sandbox's own, and others that a call names."""

import os
from collections import OrderedDict
from dataclasses import dataclass

from ship.files.workspace import FileThreads
from ship.process.accounts import Accounts
from ship.process.identity import Identity

_MAX_OTHERS = 4
"""Users beside the own one whose threads are kept."""


@dataclass(frozen=True, slots=True)
class Actor:
    """A user, and the threads that have the user's identity for files."""

    identity: Identity
    threads: FileThreads

    def from_home(self, path: str) -> str:
        """A path that is absolute, or begins at the user's home, which `~` is."""
        first, _, rest = path.partition("/")
        return os.path.join(self.identity.home, rest if first == "~" else path)


class Actors:
    """Finds the actor of a call. A user's first call starts threads, the least used of others lose theirs."""

    def __init__(self, own: FileThreads, accounts: Accounts) -> None:
        self.accounts = accounts
        self._own = own
        self._others: OrderedDict[tuple[int, int], FileThreads] = OrderedDict()

    def of(self, user: str | None) -> Actor:
        """The actor with that name or uid, of None the sandbox's own. Raises InvalidArgument or Forbidden."""
        found, own = self.accounts.find(user), self.accounts.own
        key = found.uid, found.gid
        if not found.switch or key == (own.uid, own.gid):
            return Actor(found, self._own)
        threads = self._others.pop(key, None) or FileThreads(found)
        self._others[key] = threads
        if len(self._others) > _MAX_OTHERS:
            self._others.popitem(last=False)[1].close()
        return Actor(found, threads)
