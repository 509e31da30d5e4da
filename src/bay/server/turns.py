"""Turns at something of which only so much may go on at once: the urgent first, each kind in the order it came."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Turns:
    """`at_once` turns. Rejected: a semaphore, in which a refill of the pool would be served before a create that waits."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._urgent: deque[asyncio.Future[None]] = deque()
        self._others: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def take(self, *, urgent: bool) -> AsyncGenerator[None, None]:
        """Wait for a turn and have it for the length of the block."""
        await self._wait(self._urgent if urgent else self._others)
        try:
            yield
        finally:
            self._pass_on()

    def any_urgent(self) -> bool:
        """Whether somebody urgent waits."""
        return any(not turn.done() for turn in self._urgent)

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
                self._pass_on()  # it was given just when it was wanted no more
            raise

    def _pass_on(self) -> None:
        for waiting in (self._urgent, self._others):
            while waiting:
                if not (turn := waiting.popleft()).done():
                    turn.set_result(None)
                    return
        self._free += 1
