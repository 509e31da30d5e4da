"""Writes an event when a port of a sandbox opens or closes, as its Ship tells.

A rate limit bounds a sandbox's events: so many at once and then one a second; a port that opened and closed
meanwhile is left out. A session that is over has closed its ports without events.
"""

import asyncio
from functools import partial

from bay.clock import Clock
from bay.models import Port
from bay.server.events.rate import BURST, event_bucket
from bay.server.ports.ship_client import ports_of
from bay.server.sessions.feeds import Take
from bay.store import events, sandboxes
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.records import SandboxRecord


class PortListener:
    """The listener to the ports of one session."""

    def __init__(
        self, sandbox_id: str, session_id: str, *, store: Store, deferred: DeferredWrites, clock: Clock
    ) -> None:
        self._sandbox_id = sandbox_id
        self._session_id = session_id
        self._store = store
        self._deferred = deferred
        self._clock = clock
        self._open: dict[int, str | None] | None = None
        """The open ports with an event, and their programs; None before those of an earlier Bay are read."""
        self._events = event_bucket()

    def read(self, line: bytes) -> Take:
        """Check a line. Raises ShipError."""
        return partial(self.hear, ports_of(line))

    async def hear(self, ports: tuple[Port, ...]) -> None:
        """Write the events of all that is new in `ports`, as fast as a sandbox may cause them."""
        if self._open is None:
            async with self._store.read() as db:
                self._open = await events.open_ports(db, self._sandbox_id, self._session_id)
        while not await self._write(self._open, ports):
            continue

    async def _write(self, open_ports: dict[int, str | None], ports: tuple[Port, ...]) -> bool:
        """Write what is new in `ports`, or the first of it; whether that was all."""
        now = {port.port: port.process for port in ports}
        closed = [number for number in open_ports if number not in now]
        opened = [number for number in now if number not in open_ports]
        if not closed and not opened:
            return True
        async with self._store.read() as db:
            sandbox = await sandboxes.get(db, self._sandbox_id)
        if sandbox is None:
            return True
        for number in closed[:BURST]:
            self._write_closed(sandbox, number, open_ports.pop(number))
        for number in opened[: BURST - len(closed[:BURST])]:
            open_ports[number] = now[number]
            self._write_opened(sandbox, number, now[number])
        count = len(closed) + len(opened)
        await asyncio.sleep(self._events.pay(min(count, BURST)))
        return count <= BURST

    def _write_opened(self, sandbox: SandboxRecord, port: int, process: str | None) -> None:
        at, session_id = self._clock(), self._session_id
        self._deferred.put(
            lambda db: events.add(
                db, sandbox, "port.opened", at, port=port, process=process, session_id=session_id
            ),
        )

    def _write_closed(self, sandbox: SandboxRecord, port: int, process: str | None) -> None:
        at, session_id = self._clock(), self._session_id
        self._deferred.put(
            lambda db: events.add(
                db, sandbox, "port.closed", at, port=port, process=process, session_id=session_id
            ),
        )
