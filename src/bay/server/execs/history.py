"""The history: executions of `shell/exec` and `python/exec` in a sandbox, and their owner's notes.

It is read from rows alone and never wakes anything. An end that a dead Bay missed is asked of a running Ship.
"""

from bay.errors import NotFound
from bay.models import ExecType, HistoryEntry
from bay.server.execs.results import ExecResults
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store import history
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import HistoryFilters, SandboxRecord


class History:
    """The service behind `…/history`."""

    def __init__(
        self, *, store: Store, deferred: DeferredWrites, waker: Waker, outcomes: ExecResults
    ) -> None:
        self._store = store
        self._deferred = deferred
        self._waker = waker
        self._outcomes = outcomes

    async def page(
        self, caller: Caller, ref: str, filters: HistoryFilters, *, limit: int, offset: int
    ) -> tuple[list[HistoryEntry], int]:
        """Some of a sandbox's entries, newest first, and how many there are in all."""
        sandbox = await self._settled(caller, ref)
        async with self._store.read() as db:
            return await history.page(db, sandbox.id, _live(sandbox), filters, limit=limit, offset=offset)

    async def last(self, caller: Caller, ref: str, kind: ExecType | None) -> HistoryEntry:
        """The newest entry. Raises NotFound when there is none."""
        sandbox = await self._settled(caller, ref)
        async with self._store.read() as db:
            found = await history.last(db, sandbox.id, _live(sandbox), kind)
        if found is None:
            raise NotFound("the history of this sandbox has no such entry yet; run something first")
        return found

    async def get(self, caller: Caller, ref: str, execution_id: str) -> HistoryEntry:
        """One entry."""
        return await self._get(await self._settled(caller, ref), execution_id)

    async def annotate(
        self, caller: Caller, ref: str, execution_id: str, notes: dict[str, str | None]
    ) -> HistoryEntry:
        """Set the description, tags or notes that are given; the entry as it is then."""
        sandbox = await self._settled(caller, ref)
        await self._get(sandbox, execution_id)
        if notes:
            async with self._store.write() as db:
                await history.annotate(db, sandbox.id, execution_id, **notes)
        return await self._get(sandbox, execution_id)

    async def _settled(self, caller: Caller, ref: str) -> SandboxRecord:
        """The sandbox, once all that is known of its executions is in their rows."""
        sandbox = await self._waker.find(caller, ref)
        await self._deferred.flush()
        await self._outcomes.learn_history(sandbox)
        return sandbox

    async def _get(self, sandbox: SandboxRecord, execution_id: str) -> HistoryEntry:
        async with self._store.read() as db:
            found = await history.get(db, sandbox.id, _live(sandbox), execution_id)
        if found is None:
            raise NotFound(f"there is no execution {execution_id} in the history of this sandbox")
        return found


def _live(sandbox: SandboxRecord) -> str | None:
    return sandbox.session.id if sandbox.session else None
