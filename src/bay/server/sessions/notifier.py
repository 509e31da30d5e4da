"""The notifier wakes those who wait for a change of a row. It holds no state: the row is the truth."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Notifier:
    """Wakes waiters by key, and has `tell` wake those of other replicas. With `look_s` each waiter also reads
    after so many seconds, since a word from another replica may be lost.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None, look_s: float | None = None) -> None:
        self._waiters: dict[str, set[asyncio.Event]] = {}
        self._tell = tell
        self._look_s = look_s

    def announce(self, key: str) -> None:
        """A change of `key` was committed; those who wait for it read again."""
        self.hear(key)
        self._tell(key)

    def hear(self, key: str) -> None:
        """The same of a change in another replica."""
        for event in self._waiters.get(key, ()):
            event.set()

    def hear_all(self) -> None:
        """Any change may have been missed."""
        for events in self._waiters.values():
            for event in events:
                event.set()

    async def wait_for(self, key: str, read: Callable[[], Awaitable[T | None]], timeout_s: float) -> T | None:
        """Call `read` now and after each change of `key` until it gives something; None when time is up."""
        event = asyncio.Event()
        waiters = self._waiters.setdefault(key, set())
        waiters.add(event)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._read_until(event, read)
        except TimeoutError:
            return None
        finally:
            waiters.discard(event)
            if not waiters and self._waiters.get(key) is waiters:
                del self._waiters[key]

    async def _read_until(self, event: asyncio.Event, read: Callable[[], Awaitable[T | None]]) -> T:
        while True:
            event.clear()
            found = await read()
            if found is not None:
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_s):
                    await event.wait()
