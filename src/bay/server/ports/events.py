"""Writes an event when a port of a sandbox opens or closes, as its Ship tells.

One connection to the Ship of each running session. A rate limit bounds a sandbox's events: so many at once
and then one a second; a port that opened and closed meanwhile is left out. A session that is over has closed
its ports without events.
"""

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from bay.clock import Clock
from bay.errors import BayError
from bay.models import Port
from bay.server.events.rate import BURST, event_bucket
from bay.server.ports.ship_client import PortLink
from bay.server.ship.connection import Peer
from bay.store import events, sandboxes
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import SandboxRecord
from bay.token_bucket import TokenBucket

log = structlog.get_logger("bay.ports")

_RETRY_S, _LONGEST_RETRY_S = 1.0, 60.0


@dataclass(slots=True)
class _Watched:
    """A session whose ports are followed."""

    sandbox_id: str
    peer: Peer
    open: dict[int, str | None] = field(default_factory=dict[int, str | None])
    """The ports of which it was said that they are open, and by which program."""
    is_remembered: bool = False
    again: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when it should be listened to now, and not by and by."""
    events: TokenBucket = field(default_factory=event_bucket)


class PortWatch:
    """Follows the ports of sessions until it is cancelled."""

    def __init__(self, *, store: Store, later: DeferredWrites, link: PortLink, clock: Clock) -> None:
        self._store = store
        self._later = later
        self._link = link
        self._clock = clock
        self._watched: dict[str, _Watched] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def watch(self, sandbox_id: str, peer: Peer) -> None:
        """Follow the session's ports. Again, as when it was thawed: listen to it now."""
        if (known := self._watched.get(peer.session_id)) is not None:
            known.again.set()
            return
        watched = self._watched[peer.session_id] = _Watched(sandbox_id, peer)
        self._start(watched)

    async def unwatch(self, session_id: str) -> None:
        """Stop following it: its session ends. No event of its ports is written after this returns."""
        self._watched.pop(session_id, None)
        if task := self._tasks.pop(session_id, None):
            task.cancel()
            await asyncio.wait([task])

    async def run(self) -> None:
        """Follow until cancelled, also what was to be watched before."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for watched in list(self._watched.values()):
                    self._start(watched)
                await asyncio.Event().wait()
        finally:
            self._group = None

    def _start(self, watched: _Watched) -> None:
        if self._group is not None:
            task = self._group.create_task(self._follow(watched))
            self._tasks[watched.peer.session_id] = task

    async def _follow(self, watched: _Watched) -> None:
        """Follow Ship, and reconnect with a backoff: the caller cancels it when the session is over."""
        wait_s = _RETRY_S
        while True:
            began = time.monotonic()
            watched.again.clear()
            try:
                await self._remember(watched)
                if await self._is_running(watched):
                    await self._listen(watched)
            except BayError as error:
                log.info("ports.unheard", id=watched.peer.session_id, error=error.message)
            except Exception:
                log.exception(
                    "ports.watch_failed", id=watched.peer.session_id
                )  # it ends neither Bay nor the rest
            wait_s = (
                _RETRY_S if time.monotonic() - began > _LONGEST_RETRY_S else min(2 * wait_s, _LONGEST_RETRY_S)
            )
            await self._pause(watched, wait_s)

    async def _remember(self, watched: _Watched) -> None:
        """The events that an earlier Bay wrote of this session, so that none is written twice."""
        if watched.is_remembered:
            return
        async with self._store.read() as db:
            watched.open = await events.open_ports(db, watched.sandbox_id, watched.peer.session_id)
        watched.is_remembered = True

    async def _is_running(self, watched: _Watched) -> bool:
        """A frozen Ship answers no call; each one only fills its queue."""
        async with self._store.read() as db:
            found = await sandboxes.get(db, watched.sandbox_id)
        session = found.session if found else None
        return session is not None and session.id == watched.peer.session_id and session.phase == "running"

    async def _pause(self, watched: _Watched, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await watched.again.wait()
        except TimeoutError:
            return

    async def _listen(self, watched: _Watched) -> None:
        async for ports in self._link.feed(watched.peer):
            while not await self._write(watched, ports):
                continue

    async def _write(self, watched: _Watched, ports: tuple[Port, ...]) -> bool:
        """Write what is new in `ports`, or the first of it; whether that was all."""
        now = {port.port: port.process for port in ports}
        closed = [number for number in watched.open if number not in now]
        opened = [number for number in now if number not in watched.open]
        if not closed and not opened:
            return True
        async with self._store.read() as db:
            sandbox = await sandboxes.get(db, watched.sandbox_id)
        if sandbox is None:
            return True
        for number in closed[:BURST]:
            self._write_closed(sandbox, watched, number, watched.open.pop(number))
        for number in opened[: BURST - len(closed[:BURST])]:
            watched.open[number] = now[number]
            self._write_opened(sandbox, watched, number, now[number])
        count = len(closed) + len(opened)
        await asyncio.sleep(watched.events.pay(min(count, BURST)))
        return count <= BURST

    def _write_opened(
        self, sandbox: SandboxRecord, watched: _Watched, port: int, process: str | None
    ) -> None:
        at, session_id = self._clock(), watched.peer.session_id
        self._later.put(
            lambda db: events.add(
                db, sandbox, "port.opened", at, port=port, process=process, session_id=session_id
            ),
        )

    def _write_closed(
        self, sandbox: SandboxRecord, watched: _Watched, port: int, process: str | None
    ) -> None:
        at, session_id = self._clock(), watched.peer.session_id
        self._later.put(
            lambda db: events.add(
                db, sandbox, "port.closed", at, port=port, process=process, session_id=session_id
            ),
        )
