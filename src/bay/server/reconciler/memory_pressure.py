"""Frees memory when the host runs short of it: the sandboxes that were idle for longest are stopped first."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog

from bay.clock import Clock
from bay.server.sandboxes.pool import Pool
from bay.server.sessions.waker import Holds
from bay.server.sessions.work_queue import WorkQueue
from bay.store import events, sandboxes
from bay.store.engine import Store
from bay.store.records import SandboxRecord

log = structlog.get_logger("bay.pressure")

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int:
    """Bytes that programs can have without swapping, as the kernel estimates (proc(5), MemAvailable)."""
    lines = _MEMINFO.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


class Pressure:
    """Watches the host's memory; below `reserve` bytes it takes one sandbox at a time."""

    def __init__(
        self,
        *,
        store: Store,
        queue: WorkQueue,
        pool: Pool,
        holds: Holds,
        clock: Clock,
        reserve: int,
        available: Callable[[], int],
    ) -> None:
        self._store = store
        self._queue = queue
        self._pool = pool
        self._holds = holds
        self._clock = clock
        self._reserve = reserve
        self._available = available
        self._going: str | None = None
        """The sandbox that was taken last: until it is cold, nothing can be said about the memory."""

    async def relieve(self) -> None:
        """Check once: frozen sandboxes go first, then those of the pool.

        Sandboxes at work are never taken.
        """
        available = await asyncio.to_thread(self._available)
        self._pool.is_held_back = available < self._reserve
        if not self._pool.is_held_back or await self._is_going():
            return
        async with self._store.read() as db:
            frozen = await sandboxes.longest_idle(db, "paused")
        if frozen is None:
            await self._pool.shrink()
        elif not self._holds.any(frozen.id):
            await self._cool(frozen, available)

    async def _cool(self, sandbox: SandboxRecord, available: int) -> None:
        now = self._clock()
        async with self._store.write() as db:
            if await sandboxes.change_target(db, sandbox.id, old=("paused",), new="stopped"):
                await events.add(db, sandbox, "sandbox.cooled", now, reason="the host is short of memory")
        log.warning("sandbox.cooled", id=sandbox.id, available=available, reserve=self._reserve)
        self._going = sandbox.id
        self._queue.put(sandbox.id)

    async def _is_going(self) -> bool:
        if self._going is None:
            return False
        async with self._store.read() as db:
            found = await sandboxes.get(db, self._going)
        if found is None or found.session is None or found.target != "stopped":
            self._going = None
        return self._going is not None
