"""Turns: one caller at a time for each key, in the order in which they came, and few that wait."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from bay.errors import QuotaExceeded, Timeout


@dataclass(slots=True, eq=False)
class _Queue:
    """Those who have or want a turn."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    count: int = 0


class Turns:
    """Gives turns. `most` is how many may wait for one; who is cancelled while waiting gives up its place."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._queues: dict[str, _Queue] = {}

    def waiting(self, key: str) -> int:
        """How many wait for a turn."""
        queue = self._queues.get(key)
        return queue.count - 1 if queue else 0

    @asynccontextmanager
    async def turn(self, key: str, within_s: float) -> AsyncGenerator[None]:
        """The turn of the caller, for the block. Raises QuotaExceeded when too many wait already, and Timeout
        when its turn has not come `within_s`.
        """
        queue = self._queues.setdefault(key, _Queue())
        if queue.count > self._most:
            raise QuotaExceeded(
                f"{self._most} calls wait for the browser of {key} already, which runs one at a time; send "
                "them as a batch, or try again later",
                details={"quota": "browser_turns", "limit": self._most},
            )
        queue.count += 1
        try:
            await _acquire(queue.lock, key, within_s)
            try:
                yield
            finally:
                queue.lock.release()
        finally:
            queue.count -= 1
            if not queue.count:
                del self._queues[key]


async def _acquire(lock: asyncio.Lock, key: str, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await lock.acquire()
    except TimeoutError as error:
        raise Timeout(
            f"the browser of {key} was busy with other calls for {within_s:g} s; nothing was run, try again"
        ) from error
