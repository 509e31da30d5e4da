"""Frees memory when the host runs short of it: the sandboxes that were idle for longest are stopped first."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from bay.server.reconciler.sweep import cool
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sandboxes.pool import Pool
from bay.server.sessions.core import Core
from bay.server.sessions.waker import Holds
from bay.server.sessions.work_queue import WorkQueue
from bay.store import sandboxes
from bay.store.records import SandboxRecord

log = structlog.get_logger("bay.pressure")

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int:
    """Bytes that programs can have without swapping, as the kernel estimates (proc(5), MemAvailable)."""
    lines = _MEMINFO.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


@dataclass(kw_only=True, eq=False)
class Pressure:
    """Watches the host's memory; below `reserve` bytes it takes one sandbox at a time. Of replicas the one
    that keeps the pools does: each would take another.
    """

    core: Core
    queue: WorkQueue
    pool: Pool
    holds: Holds
    leases: ReplicaLeases
    reserve: int
    available: Callable[[], int]
    _going: str | None = field(init=False, default=None)
    """The sandbox that was taken last: until it is cold, nothing can be said about the memory."""

    async def relieve(self) -> None:
        """Check once: frozen sandboxes go first, then those of the pool; those at work never."""
        available = await asyncio.to_thread(self.available)
        self.pool.set_spare(available - self.reserve)
        if available >= self.reserve or not self.leases.holds("pool") or await self._is_going():
            return
        async with self.core.store.read() as db:
            frozen = await sandboxes.longest_idle(db, "paused")
        if frozen is None:
            await self.pool.shrink()
        elif not await self.holds.any(frozen.id):
            await self._cool(frozen, available)

    async def _cool(self, sandbox: SandboxRecord, available: int) -> None:
        await cool(self.core, sandbox, "the host is short of memory")
        log.warning("sandbox.cooled", sandbox=sandbox.id, available=available, reserve=self.reserve)
        self._going = sandbox.id
        self.queue.put(sandbox.id)

    async def _is_going(self) -> bool:
        if self._going is None:
            return False
        async with self.core.store.read() as db:
            found = await sandboxes.get(db, self._going)
        session = None if found is None else found.session
        is_cold = session is None or session.phase == "hibernated"
        if found is None or is_cold or found.target not in ("hibernated", "stopped"):
            self._going = None
        return self._going is not None
