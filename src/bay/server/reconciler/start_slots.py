"""Start slots bound how many starts go on at once: the urgent first, each kind in the order it came."""

import asyncio
from collections import Counter, deque
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


class Shares:
    """`at_once` turns, of which one owner has `each` at most, in the order they came.
    A start that takes longer than `longest_s` goes on without its slot, which the next one gets: it waits,
    and uses no processor.
    """

    def __init__(self, at_once: int, each: int, longest_s: float) -> None:
        self._at_once = at_once
        self._each = each
        self._longest_s = longest_s
        self._had: dict[asyncio.Future[None], str] = {}
        self._waiting: dict[asyncio.Future[None], str] = {}

    @asynccontextmanager
    async def take(self, owner: str) -> AsyncGenerator[None, None]:
        """Wait for a turn and have it for the length of the block, or for `longest_s`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting[turn] = owner
        timer = None
        try:
            self._give()
            await turn
            timer = loop.call_later(self._longest_s, self._pass_on, turn)
            yield
        finally:
            if timer is not None:
                timer.cancel()
            self._waiting.pop(turn, None)
            self._pass_on(turn)

    def _pass_on(self, turn: asyncio.Future[None]) -> None:
        if self._had.pop(turn, None) is not None:
            self._give()

    def _give(self) -> None:
        share = Counter(self._had.values())
        for turn, owner in list(self._waiting.items()):
            if len(self._had) < self._at_once and share[owner] < self._each and not turn.done():
                self._had[turn] = self._waiting.pop(turn)
                share[owner] += 1
                turn.set_result(None)
