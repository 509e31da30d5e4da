"""Wakes followers of events. Each reads rows behind its place, and nothing is queued for a slow one."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

from bay.server.web.open_connections import one_place

T = TypeVar("T")

PING_S = 15.0
"""After so long without an event a follower gets a sign of life."""

MAX_FOLLOWERS = 100


class EventNotifier:
    """Tells listeners that something was committed, until it is closed."""

    def __init__(self, ping_s: float = PING_S) -> None:
        self._ping_s = ping_s
        self._listeners: set[asyncio.Event] = set()
        self._followers: Counter[str] = Counter()
        self.is_closed = False

    def wake(self) -> None:
        """A change was committed; followers look again. Costs next to nothing."""
        for listener in self._listeners:
            listener.set()

    def close(self) -> None:
        """End every `follow`, now and from now on: the server is shutting down."""
        self.is_closed = True
        self.wake()

    @contextmanager
    def listening(self) -> Generator[asyncio.Event, None, None]:
        """An event that is set by each `wake`; the listener clears it before it looks."""
        listener = asyncio.Event()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)

    def place(self, owner: str) -> AbstractContextManager[None]:
        """Room for one more follower of `owner`. Raises QuotaExceeded when all is taken."""
        doing = "connections of this owner follow events, the limit; close one"
        return one_place(self._followers, owner, MAX_FOLLOWERS, doing)

    async def follow(self, read: Callable[[], Awaitable[Sequence[T]]]) -> AsyncGenerator[Sequence[T], None]:
        """The batches of each `read`, in order, while the feed is open; an empty batch is a sign of life."""
        with self.listening() as woken:
            while not self.is_closed:
                woken.clear()
                batch = await read()
                if batch or not await self._waited(woken):
                    yield batch

    async def _waited(self, woken: asyncio.Event) -> bool:
        """Whether something was committed within the time after which a sign of life is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ping_s):
                return await woken.wait()
        return False
