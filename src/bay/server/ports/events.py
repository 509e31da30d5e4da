"""Writes an event when a port of a sandbox opens or closes, as its Ship tells.

A rate limit bounds a sandbox's events; a port that opened and closed meanwhile is left out. A session that is
over has closed its ports without events.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial

from bay.models import Port
from bay.server.events.rate import BURST, event_bucket
from bay.server.ports.ship_client import ports_of
from bay.server.sessions.core import Core
from bay.server.sessions.feeds import Take
from bay.server.sessions.notifier import Notifier
from bay.store import events, sandboxes
from bay.store.records import SandboxRecord
from bay.token_bucket import TokenBucket

_REPORTS_PER_S = 10.0


@dataclass(eq=False)
class PortListener:
    """The listener to the ports of one session."""

    core: Core
    changes: Notifier
    sandbox_id: str
    session_id: str
    ports: tuple[Port, ...] | None = field(init=False, default=None)
    """The newest report; None before the first. Those who wait for a change of the sandbox are told of it."""
    _open: dict[int, str | None] | None = field(init=False, default=None)
    """The open ports with an event, and their programs; None before those of an earlier Bay are read."""
    _events: TokenBucket = field(init=False, default_factory=event_bucket)
    _reports: TokenBucket = field(init=False, default_factory=partial(TokenBucket, _REPORTS_PER_S, BURST))

    def read(self, line: bytes) -> Take:
        """Check a line. Raises ShipError."""
        return partial(self.hear, ports_of(line))

    async def hear(self, ports: tuple[Port, ...]) -> None:
        """Write the events of all that is new in `ports`, as fast as a sandbox may cause them."""
        if ports != self.ports:
            self.ports = ports
            self.changes.announce(self.sandbox_id)  # each follower reads a row then
            await asyncio.sleep(self._reports.pay())
        if self._open is None:
            async with self.core.store.read() as db:
                self._open = await events.open_ports(db, self.sandbox_id, self.session_id)
        while not await self._write(self._open, ports):
            continue

    async def _write(self, open_ports: dict[int, str | None], ports: tuple[Port, ...]) -> bool:
        """Write what is new in `ports`, or the first of it; whether that was all."""
        now = {port.port: port.process for port in ports}
        closed = [number for number in open_ports if number not in now]
        opened = [number for number in now if number not in open_ports]
        if not closed and not opened:
            return True
        async with self.core.store.read() as db:
            sandbox = await sandboxes.get(db, self.sandbox_id)
        if sandbox is None:
            return True
        for number in closed[:BURST]:
            self._add_event(sandbox, "port.closed", number, open_ports.pop(number))
        for number in opened[: BURST - len(closed[:BURST])]:
            open_ports[number] = now[number]
            self._add_event(sandbox, "port.opened", number, now[number])
        count = len(closed) + len(opened)
        await asyncio.sleep(self._events.pay(min(count, BURST)))
        return count <= BURST

    def _add_event(self, sandbox: SandboxRecord, event: str, port: int, process: str | None) -> None:
        at, told = self.core.clock(), {"port": port, "process": process, "session_id": self.session_id}
        self.core.deferred.put(lambda db: events.add(db, sandbox, event, at, **told))
