"""Live sessions: what Bay keeps in memory of each, and the tasks that follow it until it ends."""

import asyncio
from collections.abc import Callable

import structlog

from bay.drivers.base import Driver, Exited, Gone, Handle
from bay.errors import DriverUnavailable, InternalError
from bay.server.managed_services.syncer import ServiceSyncer
from bay.server.sessions import lifecycle
from bay.server.sessions.feeds import SessionFeeds
from bay.server.sessions.work_queue import WorkQueue
from bay.server.ship.connection import Peer
from bay.store.records import SandboxRecord

log = structlog.get_logger("bay.reconcile")

_WATCH_RETRY_S = 5.0


class LiveSessions:
    """A session's end is put into `queue` at once; `feeds` and `syncer` follow its Ship."""

    def __init__(self, driver: Driver, queue: WorkQueue, feeds: SessionFeeds, syncer: ServiceSyncer) -> None:
        self.feeds = feeds
        self._group: asyncio.TaskGroup | None = None
        self.syncer = syncer
        self.exited: set[str] = set()
        """Sessions whose container has ended; only the event loop touches it."""
        self.hostnames: dict[str, str] = {}
        """The host name that each session was last given, as far as this Bay has given it."""
        self._driver = driver
        self._queue = queue
        self._adopted: list[tuple[str, Handle]] = []
        """Sandboxes and sessions of an earlier run, to be watched from the start."""
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._sandboxes: dict[str, str] = {}
        """The sandbox of each session that is followed."""

    def adopt(self, sandbox_id: str, handle: Handle, peer: Peer | None, *, frozen: bool) -> None:
        """Follow a session of an earlier Bay or another replica, once `watch_adopted` was called."""
        if self._group is None:
            self._adopted.append((sandbox_id, handle))
        else:
            self._watch(sandbox_id, handle)
        if peer is not None:
            self.syncer.adopt(sandbox_id, peer, frozen=frozen)
            self.feeds.follow(sandbox_id, peer, frozen=frozen)

    def adopted(self) -> int:
        """How many sessions were adopted."""
        return len(self._adopted)

    def watch_adopted(self, group: asyncio.TaskGroup) -> None:
        """Watch the adopted sessions, and those that are followed later, in tasks of `group`."""
        self._group = group
        adopted, self._adopted = self._adopted, []
        for sandbox_id, handle in adopted:
            self._watch(sandbox_id, handle)

    def follow(self, sandbox: SandboxRecord, handle: Handle, peer: Peer | None) -> None:
        """Follow a session that has just started under the sandbox's host name."""
        self.hostnames[handle.session_id] = lifecycle.hostname_of(sandbox)
        self._watch(sandbox.id, handle)
        if peer is not None:
            self.feeds.follow(sandbox.id, peer)

    def froze(self, session_id: str) -> None:
        """Nothing is sent to the session's Ship from now on."""
        self.syncer.froze(session_id)
        self.feeds.froze(session_id)

    async def end(self, session_id: str) -> None:
        """Follow the session no longer; it is about to be ended."""
        await self.feeds.end(session_id)
        if watch := self._watches.pop(session_id, None):
            watch.cancel()
            await asyncio.wait([watch])
        await self.syncer.end(session_id)

    def forget(self, session_id: str) -> None:
        """The session has ended, and its row says so."""
        self.exited.discard(session_id)
        self.hostnames.pop(session_id, None)
        self._sandboxes.pop(session_id, None)

    async def drop(self, is_dropped: Callable[[str], bool]) -> None:
        """Follow no session of those sandboxes any longer: another replica does. They go on."""
        for session_id in [one for one, of in self._sandboxes.items() if is_dropped(of)]:
            await self.end(session_id)
            self.forget(session_id)

    def _watch(self, sandbox_id: str, handle: Handle) -> None:
        if self._group is None:
            raise InternalError("sessions are watched once the reconciler runs")
        self._sandboxes[handle.session_id] = sandbox_id
        self._watches[handle.session_id] = self._group.create_task(self._wait_for_end(sandbox_id, handle))

    async def _wait_for_end(self, sandbox_id: str, handle: Handle) -> None:
        ended = await self._ended(handle)
        log.warning("session.exited", id=handle.session_id, observed=repr(ended))
        self._watches.pop(handle.session_id, None)
        self.exited.add(handle.session_id)
        self._queue.put(sandbox_id)

    async def _ended(self, handle: Handle) -> Exited | Gone:
        """How the session ended, once it has; a driver that cannot tell for the time being is asked again."""
        while True:
            try:
                return await self._driver.wait(handle)
            except (DriverUnavailable, OSError) as error:  # such as: no descriptor is left to watch with
                log.warning("session.unknown", id=handle.session_id, error=str(error))
            await asyncio.sleep(_WATCH_RETRY_S)
