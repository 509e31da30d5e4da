"""Samples how late the event loop runs: what it does too long delays every call."""

import asyncio
import time
from dataclasses import dataclass

from bay.meters import Meters

_PERIOD_S = 0.25


@dataclass(eq=False)
class LoopLag:
    """Sleeps a quarter of a second again and again, and observes by how much each sleep was too long."""

    meters: Meters

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            due = time.perf_counter() + _PERIOD_S
            await asyncio.sleep(_PERIOD_S)
            self.meters.loop_lag_seconds.observe(max(0.0, time.perf_counter() - due))
