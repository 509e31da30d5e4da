"""Shares bound how much of one kind of work goes on at once, and how much of it is one owner's."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class Shares:
    """`at_once` turns, of which one owner has `each` at most, in the order they came.
    A start that takes longer than `longest_s` goes on without its slot, which the next one gets: it waits,
    and uses no processor.

    Thousands may wait, so no turn is looked at more than twice: those of an owner that has its share are put
    aside, and they came before all that was not looked at yet.
    """

    def __init__(self, at_once: int, each: int, longest_s: float) -> None:
        self._at_once = at_once
        self._each = each
        self._longest_s = longest_s
        self._had: dict[asyncio.Future[None], str] = {}
        self._share: Counter[str] = Counter()
        """How many turns each owner has."""
        self._waiting: deque[tuple[int, asyncio.Future[None], str]] = deque()
        self._aside: dict[str, deque[tuple[int, asyncio.Future[None], str]]] = {}
        """Those of owners that had their share when they were looked at."""
        self._came = 0

    @asynccontextmanager
    async def take(self, owner: str) -> AsyncGenerator[None, None]:
        """Wait for a turn and have it for the length of the block, or for `longest_s`."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._came += 1
        self._waiting.append((self._came, turn, owner))
        timer = None
        try:
            self._give()
            await turn
            timer = loop.call_later(self._longest_s, self._pass_on, turn)
            yield
        finally:
            if timer is not None:
                timer.cancel()
            turn.cancel()  # one that waits is passed over from now on
            self._pass_on(turn)

    def _pass_on(self, turn: asyncio.Future[None]) -> None:
        if (owner := self._had.pop(turn, None)) is not None:
            self._share[owner] -= 1
            if not self._share[owner]:
                del self._share[owner]
            self._give()

    def _give(self) -> None:
        while len(self._had) < self._at_once and (found := self._next()) is not None:
            _, turn, owner = found
            self._had[turn] = owner
            self._share[owner] += 1
            turn.set_result(None)

    def _next(self) -> tuple[int, asyncio.Future[None], str] | None:
        """The turn that came first among those that are wanted still and whose owner has room."""
        for owner, aside in list(self._aside.items()):
            while aside and aside[0][1].done():
                aside.popleft()
            if not aside:
                del self._aside[owner]
        heads = [aside[0] for owner, aside in self._aside.items() if self._share[owner] < self._each]
        if heads:
            return self._aside[min(heads)[2]].popleft()
        while self._waiting:
            one = self._waiting.popleft()
            _, turn, owner = one
            if turn.done():
                continue
            if self._share[owner] < self._each:
                return one
            self._aside.setdefault(owner, deque()).append(one)
        return None
