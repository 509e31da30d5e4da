"""Start slots bound how many starts go on at once: the urgent first, each kind in the order it came."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext


class StartSlots:
    """`at_once` turns, of which those that are not urgent have at most half: an urgent one finds a free one.

    Rejected: a semaphore for all, where a refill of the pool goes before a create that waits.
    """

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()
        # The half of the others. Taken before a turn is waited for, and held as long.
        self._half = asyncio.Semaphore(max(1, at_once // 2))

    @asynccontextmanager
    async def take(self, *, urgent: bool) -> AsyncGenerator[None, None]:
        """Wait for a turn and have it for the length of the block."""
        async with nullcontext() if urgent else self._half:
            await self._wait(self._urgent if urgent else self._others)
            try:
                yield
            finally:
                self._pass_on()

    def urgent(self) -> int:
        """How many urgent ones wait."""
        return sum(not turn.done() for turn in self._urgent)

    async def _wait(self, waiting: deque[asyncio.Future[None]]) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # the slot came just when its waiter gave up
            raise

    def _pass_on(self) -> None:
        for waiting in (self._urgent, self._others):
            while waiting:
                if not (turn := waiting.popleft()).done():
                    turn.set_result(None)
                    return
        self._free += 1
