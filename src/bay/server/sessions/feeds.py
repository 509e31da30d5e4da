"""One connection to the Ship of each session, over which Bay hears of open ports and of services' states.

A listener of each kind takes the news in, at its own pace: while it is busy, a newer line replaces one that
waits. So neither kind delays the other, and a Ship that tells without end costs a bounded rate of lines.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from bay.backoff import Backoff
from bay.errors import BayError
from bay.server.sessions.shares import Shares
from bay.server.ship.client import ShipClient
from bay.server.ship.connection import Peer

log = structlog.get_logger("bay.feeds")

_BACKOFF = Backoff(0.5, 30.0)
_AT_ONCE, _LONGEST_S = 16, 1.0
"""How many connections are made at the same time: a Bay that takes thousands of sessions over answers calls
meanwhile. A Ship that takes longer keeps none of the others waiting.
"""

Take = Callable[[], Awaitable[None]]
"""Takes one line in. A failure is tried again, unless a newer line has come."""


class FeedListener(Protocol):
    """The listener to one kind of a session's lines."""

    def read(self, line: bytes) -> Take:
        """Check a line. Raises ShipError, which ends the connection."""
        ...


@dataclass(slots=True, eq=False)
class _Following:
    """A session whose feed is followed."""

    peer: Peer
    listeners: Mapping[str, FeedListener]
    waiting: Mapping[str, asyncio.Queue[Take]]
    """The newest line of each kind that its listener has not begun to take in."""
    running: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear while it is frozen: calls to a frozen Ship only fill its backlog."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at a thaw, which ends the pause before the next attempt."""
    task: asyncio.Task[None] | None = None


class SessionFeeds:
    """Follows the feeds of sessions until it is cancelled. `listeners` make those of a session, by kind."""

    def __init__(
        self, *, ship: ShipClient, listeners: Mapping[str, Callable[[str, str], FeedListener]]
    ) -> None:
        self._ship = ship
        self._listeners = listeners
        self._followed: dict[str, _Following] = {}
        self._group: asyncio.TaskGroup | None = None
        self._connecting = Shares(_AT_ONCE, _AT_ONCE, _LONGEST_S)

    async def run(self) -> None:
        """Follow until cancelled, also the sessions that were added before."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for following in self._followed.values():
                    self._start(following)
                await asyncio.Event().wait()
        finally:
            self._group = None

    def follow(self, sandbox_id: str, peer: Peer, *, frozen: bool = False) -> None:
        """Follow a session's feed, if it is not followed yet."""
        if peer.session_id not in self._followed:
            made = {kind: make(sandbox_id, peer.session_id) for kind, make in self._listeners.items()}
            following = _Following(peer, made, {kind: asyncio.Queue(1) for kind in made})
            self._followed[peer.session_id] = following
            self._start(following)
        if not frozen:
            self.thawed(peer.session_id)

    def listener_of(self, session_id: str, kind: str) -> FeedListener | None:
        """The listener to one kind of a session's lines; None for a session that is not followed."""
        following = self._followed.get(session_id)
        return following.listeners[kind] if following else None

    def froze(self, session_id: str) -> None:
        """Open no connection to the session from now on."""
        if (following := self._followed.get(session_id)) is not None:
            following.running.clear()

    def thawed(self, session_id: str) -> None:
        """Listen to the session again, at once."""
        if (following := self._followed.get(session_id)) is not None:
            following.running.set()
            following.woken.set()

    async def end(self, session_id: str) -> None:
        """Stop following the session; no listener takes anything in after this returns."""
        following = self._followed.pop(session_id, None)
        if following is not None and following.task is not None:
            following.task.cancel()
            await asyncio.wait([following.task])

    def _start(self, following: _Following) -> None:
        if self._group is not None:
            following.task = self._group.create_task(self._follow(following))

    async def _follow(self, following: _Following) -> None:
        async with asyncio.TaskGroup() as group:
            for queue in following.waiting.values():
                group.create_task(self._take_in(following, queue))
            group.create_task(self._listen_always(following))

    async def _take_in(self, following: _Following, queue: asyncio.Queue[Take]) -> None:
        failures = 0
        while True:
            take = await queue.get()
            try:
                await take()
            except BayError as error:
                log.warning("feed.not_taken_in", id=following.peer.session_id, error=error.message)
            except Exception:  # it ends neither Bay nor the other listeners
                log.exception("feed.not_taken_in", id=following.peer.session_id)
            else:
                failures = 0
                continue
            failures += 1
            await asyncio.sleep(_BACKOFF.pause(failures))
            if queue.empty():
                queue.put_nowait(take)

    async def _listen_always(self, following: _Following) -> None:
        """Listen, and reconnect when the connection is over: the reconciler says when the session is."""
        failures = 0
        while True:
            await following.running.wait()
            following.woken.clear()
            began = time.monotonic()
            try:
                await self._listen(following)
            except BayError as error:
                log.info("feed.unheard", id=following.peer.session_id, error=error.message)
            except Exception:  # it ends neither Bay nor the rest
                log.exception("feed.failed", id=following.peer.session_id)
            failures = 1 if time.monotonic() - began > _BACKOFF.longest_s else failures + 1
            await _pause(following, _BACKOFF.pause(failures))

    async def _listen(self, following: _Following) -> None:
        turn = self._connecting.take(following.peer.session_id)
        async with aclosing(self._ship.feed(following.peer, turn)) as lines:
            async for kind, line in lines:
                take, queue = following.listeners[kind].read(line), following.waiting[kind]
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(take)


async def _pause(following: _Following, wait_s: float) -> None:
    try:
        async with asyncio.timeout(wait_s):
            await following.woken.wait()
    except TimeoutError:
        return
