"""Tells followers which ports of a sandbox are open, as its Ship tells Bay; nobody asks Ship for them.

A follower reads the newest report of the session, and nothing is queued for a slow one. A frozen sandbox
reports nothing, so its ports stay as they were. A watch neither wakes a sandbox nor keeps it from idling.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from bay.models import Port
from bay.server.ports.events import PortListener
from bay.server.sessions.feeds import SessionFeeds
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, Reason

Seen = tuple[Port, ...]

_LOOK_S = 3600.0


@dataclass(kw_only=True, eq=False)
class PortWatches:
    """The service behind watches of ports."""

    waker: Waker
    feeds: SessionFeeds
    connections: OpenConnections

    @asynccontextmanager
    async def watch(self, caller: Caller, ref: str) -> AsyncGenerator["PortWatch"]:
        """A watch, which has its place among the caller's connections. Raises NotFound, QuotaExceeded."""
        with self.connections.place(caller.owner):
            sandbox = await self.waker.find(caller, ref)
            yield PortWatch(self, caller, sandbox.id)


@dataclass(eq=False)
class PortWatch:
    """One follower of the ports of a sandbox."""

    watches: PortWatches
    caller: Caller
    sandbox_id: str

    async def must_leave(self) -> Reason:
        """Return once the connection has to end for Bay's sake, and why."""
        return await self.watches.connections.over(self.caller)

    async def open_ports(self) -> AsyncGenerator[Seen]:
        """The open ports, now and after each change. Raises NotFound when the sandbox is deleted."""
        last: Seen | None = None
        while True:
            read = partial(self._other_than, last)
            found = await self.watches.waker.wait_for(self.sandbox_id, read, _LOOK_S)
            if found is not None:
                last = found
                yield found

    async def _other_than(self, last: Seen | None) -> Seen | None:
        found = await self._present()
        return None if found == last else found

    async def _present(self) -> Seen | None:
        """The ports of the live session; None while there is no report of it yet."""
        sandbox = await self.watches.waker.find(self.caller, self.sandbox_id)
        if sandbox.session is None or sandbox.session.phase not in ("running", "paused"):
            return ()
        listener = self.watches.feeds.listener_of(sandbox.session.id, "ports")
        return listener.ports if isinstance(listener, PortListener) else None
