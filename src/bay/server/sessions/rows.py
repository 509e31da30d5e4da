"""Caches the rows of sandboxes, and resolves the row of a session to its container and its Ship."""

from collections.abc import Awaitable, Callable

from bay.drivers.base import Handle
from bay.server.ship.connection import Peer
from bay.store.connection import StoreConnection
from bay.store.engine import Store
from bay.store.records import SandboxRecord, SessionRecord

Key = tuple[str | None, str]
"""An owner and the id or name that the owner calls a sandbox by; without an owner a label of a host name."""

_MAX_KEYS = 20_000
_MAX_KEY_CHARS = 128  # more than any id, name or host label; a caller may ask for anything


class SandboxRows:
    """A read-through cache of sandboxes, each until the database reports that its row has changed. Rows of a
    database that other replicas write to are read anew each time.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._may_keep = not store.is_shared
        self._found: dict[Key, SandboxRecord | None] = {}
        self._keys: dict[str | None, set[Key]] = {}
        """The keys of each sandbox, by its id; None has those that led to no sandbox."""
        self._reads: dict[int, set[str]] = {}
        """Sandboxes that have changed during each read under way: such a result may be stale already."""
        store.on_change.append(self._forget)

    async def get(
        self, key: Key, read: Callable[[StoreConnection], Awaitable[SandboxRecord | None]]
    ) -> SandboxRecord | None:
        """The cached result of `read`, until the transaction that changes the row returns."""
        if key in self._found:
            return self._found[key]
        changed = set[str]()
        self._reads[id(changed)] = changed
        try:
            async with self._store.read() as db:
                found = await read(db)
        finally:
            del self._reads[id(changed)]
        if found is not None and found.id not in changed:
            self._keep(key, found)
            self._keep((key[0], found.id), found)
        elif found is None and not changed and len(key[1]) <= _MAX_KEY_CHARS:
            self._keep(key, None)
        return found

    def _keep(self, key: Key, found: SandboxRecord | None) -> None:
        if not self._may_keep:
            return
        if len(self._found) >= _MAX_KEYS:
            self._found.clear()
            self._keys.clear()
        self._found[key] = found
        self._keys.setdefault(found and found.id, set()).add(key)

    def _forget(self, changed: set[str]) -> None:
        for one in (None, *changed):  # any change may have made what was not found
            for key in self._keys.pop(one, ()):
                self._found.pop(key, None)
        for during in self._reads.values():
            during |= changed


def proxy_of(sandbox: SandboxRecord) -> str | None:
    """HOST:PORT of the egress proxy, of a sandbox whose session reaches nothing else."""
    return (sandbox.session.handle or {}).get("proxy") if sandbox.session is not None else None


def peer_of(session: SessionRecord) -> Peer | None:
    """How to reach the session's Ship, None while it has none."""
    endpoint = Handle.from_json(session.handle).endpoint if session.handle else None
    return Peer(session_id=session.id, endpoint=endpoint, token=session.token) if endpoint else None


def handle_of(session: SessionRecord) -> Handle:
    """The saved handle, or the bare one that every driver understands."""
    if session.handle is not None:
        return Handle.from_json(session.handle)
    return Handle(driver=session.driver, session_id=session.id)
