"""Tells followers which ports of a sandbox are open, as its Ship tells Bay; nobody asks Ship for them.

A follower reads the newest report of the session, and nothing is queued for a slow one. A frozen sandbox
reports nothing, so its ports stay as they were. A watch neither wakes a sandbox nor keeps it from idling.

Of replicas the one that acts on the sandbox has the reports. Another one asks Ship, which is cheaper than a
question over the bus each second, and asks that replica for the ports of a frozen sandbox alone.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from bay.errors import BayError
from bay.models import Port, from_wire, to_wire
from bay.server.ports.events import PortListener
from bay.server.ports.ship_client import PortClient
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sessions.feeds import SessionFeeds
from bay.server.sessions.rows import peer_of
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections, Reason
from bay.store.records import SandboxRecord, SessionRecord

Seen = tuple[Port, ...]

_LOOK_S = 3600.0
_SEEN = "ports.seen"


@dataclass(kw_only=True, eq=False)
class PortWatches:
    """The service behind watches of ports."""

    waker: Waker
    feeds: SessionFeeds
    ship: PortClient
    connections: OpenConnections
    leases: ReplicaLeases
    bus: Bus

    def __post_init__(self) -> None:
        self.bus.answer(_SEEN, self._seen_here)

    @asynccontextmanager
    async def watch(self, caller: Caller, ref: str) -> AsyncGenerator["PortWatch"]:
        """A watch, which has its place among the caller's connections. Raises NotFound, QuotaExceeded."""
        with self.connections.place(caller.owner):
            sandbox = await self.waker.find(caller, ref)
            yield PortWatch(self, caller, sandbox.id)

    async def open_in(self, sandbox: SandboxRecord, session: SessionRecord, last: Seen | None) -> Seen | None:
        """The open ports of a live session; `last`, what the follower knows, where there is no news."""
        if self.leases.owns(sandbox.id):
            return self._seen(session.id)
        peer = peer_of(session) if session.phase == "running" else None
        if peer is not None:
            try:
                return await self.ship.listening(peer)
            except BayError:
                return last
        if last is not None:
            return last
        found = await self.leases.ask_owner(sandbox.id, _SEEN, session.id)
        return None if found is None else tuple(from_wire(Port, one) for one in found)

    def _seen(self, session_id: str) -> Seen | None:
        """The newest report; None before the first."""
        listener = self.feeds.listener_of(session_id, "ports")
        return listener.ports if isinstance(listener, PortListener) else None

    async def _seen_here(self, session_id: str) -> object:
        return to_wire(self._seen(session_id))


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
        found = await self._present(last)
        return None if found == last else found

    async def _present(self, last: Seen | None) -> Seen | None:
        """The ports of the live session; None while there is no report of it yet."""
        sandbox = await self.watches.waker.find(self.caller, self.sandbox_id)
        if sandbox.session is None or sandbox.session.phase not in ("running", "paused"):
            return ()
        return await self.watches.open_in(sandbox, sandbox.session, last)
