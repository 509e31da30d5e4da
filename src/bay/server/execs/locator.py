"""The locator finds an exec: its row, and the Ship of its session for as long as that lives."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from bay.errors import NotFound, OutputGone
from bay.models import Exec
from bay.server.sessions.waker import Waker
from bay.server.ship.client import OutputEnd
from bay.server.ship.connection import Peer
from bay.server.web.auth import Caller
from bay.store import execs
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import SandboxRecord

LOST = OutputEnd(exit_code=None, signal=None, state="lost")
"""The message for an exec whose session ended before it."""


@dataclass(frozen=True, slots=True)
class Located:
    """An exec as last seen, and who can tell more of it; None once its session is over."""

    sandbox_id: str
    item: Exec
    peer: Peer | None

    @property
    def live_peer(self) -> Peer:
        """The Ship that has its output. Raises OutputGone when that went with the session."""
        if self.peer is None:
            raise OutputGone(
                f"the session of {self.item.id} has ended, and its output is lost",
                details={"first_offset": self.item.output_bytes},
            )
        return self.peer


class ExecLocator:
    """Finds execs for their owners. Never starts compute for one whose session is over, unless the next
    session begins with a memory that may have it.
    """

    def __init__(self, *, store: Store, deferred: DeferredWrites, waker: Waker) -> None:
        self._store = store
        self._deferred = deferred
        self._waker = waker

    @asynccontextmanager
    async def locate(
        self, caller: Caller, ref: str, exec_id: str, *, thaw: bool, follower: bool = False
    ) -> AsyncGenerator[Located]:
        """The exec, kept awake in the block; a frozen sandbox is asked with `thaw` only. Raises NotFound."""
        async with self._waker.holding(caller, ref, follower=follower) as sandbox:
            item, session_id = await self._row(sandbox, exec_id)
            if thaw and sandbox.memory_id is not None and _is_over(session_id, sandbox):
                async with self._waker.reach(sandbox) as (sandbox, _):
                    item, session_id = await self._row(sandbox, exec_id)
            async with self._waker.reach_session(sandbox, session_id, thaw=thaw) as peer:
                yield Located(sandbox.id, item, peer)

    async def _row(self, sandbox: SandboxRecord, exec_id: str) -> tuple[Exec, str]:
        await self._deferred.flush()
        async with self._store.read() as db:
            found = await execs.get(db, sandbox.id, exec_id)
        if found is None:
            raise NotFound(f"there is no exec {exec_id} in this sandbox")
        item, session_id = found
        return as_it_is(item, session_id, sandbox), session_id


def as_it_is(item: Exec, session_id: str, sandbox: SandboxRecord) -> Exec:
    """The exec; lost, and its row marked as a session's end would have, when its session is over."""
    over = _is_over(session_id, sandbox) and item.state == "running"
    return replace(item, state="lost") if over else item


def _is_over(session_id: str, sandbox: SandboxRecord) -> bool:
    return sandbox.session is None or sandbox.session.id != session_id
