"""The session feed: the host hears of listening ports and services' states, at once and after each change."""

import asyncio
import time
from collections.abc import AsyncGenerator

from ship.ports.ports import Ports
from ship.process.standstill import Standstill
from ship.services.services import Services
from ship.wire import line

_QUICK_S, _SLOW_S = 0.25, 1.0
_QUIET_S = 60.0


class SessionFeed:
    """One stream for both: ports are polled while somebody follows, services ring a bell."""

    def __init__(self, ports: Ports, services: Services, standstill: Standstill) -> None:
        self._ports = ports
        self._services = services
        self._standstill = standstill

    async def lines(self, gone: asyncio.Future[None]) -> AsyncGenerator[bytes]:
        """A line with all items of a kind, at once and after each change, until `gone` or Ship's end."""
        ports: object = None
        services: object = None
        seen, bell, changed_at = -1, self._services.changed, time.monotonic()
        while not gone.done() and not self._ports.ending.done():
            await self._standstill.wait_over(gone)
            if (found := await self._ports.known()) != ports:
                ports, changed_at = found, time.monotonic()
                yield line({"type": "ports", "items": ports})
            if seen != bell.rings:
                seen, states = bell.rings, [one.state_to_wire() for one in self._services.list()]
                if states != services:
                    services = states
                    yield line({"type": "services", "items": services})
            if seen == bell.rings:
                is_quiet = time.monotonic() - changed_at > _QUIET_S
                await bell.wait(gone, _SLOW_S if is_quiet else _QUICK_S, ending=self._ports.ending)
