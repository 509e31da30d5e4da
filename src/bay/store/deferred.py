"""Deferred writes: rows that no caller waits for, gathered into one transaction.

A transaction costs about a millisecond, most of it the trips to the database's thread. A fact that can be
found out again after a crash (how an exec ended: Ship knows) or is only a courtesy (a pushed idle clock) need
not be written while a caller waits. A reader of such rows calls `flush` first, so that a caller always sees
its own writes. Rejected: a timer, which would make every reader wait for it.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import SQLAlchemyError

from bay.errors import DatabaseUnavailable, StorageFull
from bay.store.connection import StoreConnection
from bay.store.engine import Store

log = structlog.get_logger("bay.store")

Write = Callable[[StoreConnection], Awaitable[None]]

_BATCH = 200
_MAX_WAITING = 20_000
_GATHER_S = 0.02
_RETRY_S = 1.0


class DeferredWrites:
    """Writes waiting for a transaction of their own, in order."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[Write] = deque()
        self._some = asyncio.Event()
        # Guards the order of batches: `flush` and `run` may both want to write. Held over one transaction.
        self._writing = asyncio.Lock()
        self.settle: Callable[[], Awaitable[object]] = self.flush
        """The same as `flush` for the writes of all replicas: for readers of what others may have put."""

    def put(self, write: Write) -> None:
        """Write this soon. If none can be written for long, the oldest are given up for the newest."""
        if len(self._waiting) >= _MAX_WAITING:
            self._waiting.popleft()
            self._store.meters.deferred_lost.inc()
            log.error("store.write_lost", waiting=_MAX_WAITING)
        self._waiting.append(write)
        self._some.set()

    def __len__(self) -> int:
        """How many are not written yet."""
        return len(self._waiting)

    async def flush(self) -> None:
        """Return once all that was put before is written. Raises StorageFull or DatabaseUnavailable."""
        if not self._waiting and not self._writing.locked():
            return
        async with self._writing:
            while self._waiting:
                await self._write_batch()

    async def run(self) -> None:
        """Write until cancelled; `flush` writes what is left."""
        while True:
            await self._some.wait()
            await asyncio.sleep(_GATHER_S)  # others will come: one transaction for all of them
            self._some.clear()
            try:
                await self.flush()
            except (StorageFull, DatabaseUnavailable) as error:
                log.warning(
                    "store.full" if isinstance(error, StorageFull) else "store.waits", error=error.message
                )
                await asyncio.sleep(_RETRY_S)
                self._some.set()
            except Exception:  # such as a damaged database, which every call reports as well
                log.exception("store.write_failed")

    async def _write_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
        try:
            await self._write(batch)
        except (StorageFull, DatabaseUnavailable, asyncio.CancelledError):
            # The commit may be done, and only its answer lost: an update may come twice, and so may an event.
            self._waiting.extendleft(reversed(batch))
            raise
        except SQLAlchemyError:
            # One of them is bad; the others must not suffer for it.
            for one in batch:
                await self._write_alone(one)

    async def _write_alone(self, one: Write) -> None:
        try:
            await self._write([one])
        except SQLAlchemyError:
            log.exception("store.write_failed")

    async def _write(self, batch: list[Write]) -> None:
        async with self._store.write() as db:
            for write in batch:
                await write(db)
