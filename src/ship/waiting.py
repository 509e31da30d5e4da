"""Waits for an event, or for a disconnect, or for a timeout."""

import asyncio
from collections.abc import Iterable


class Bell:
    """Rings for those who wait now, and remembers nothing: look first, then wait, with no await between."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()
        self.rings = 0
        """How often it has rung, for a follower that looks at other things too."""

    def ring(self) -> None:
        self.rings += 1
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(
        self,
        gone: asyncio.Future[None],
        timeout_s: float | None = None,
        *,
        ending: asyncio.Future[None] | None = None,
    ) -> None:
        """Return when it rings, when `gone` or `ending` is done, or after `timeout_s`."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await first_of((future, gone, *([ending] if ending else ())), timeout_s)
        finally:
            self._waiting.discard(future)


async def first_of(waited: Iterable[asyncio.Future[None]], timeout_s: float | None) -> None:
    """Return when one is done or the time is over; nothing is cancelled."""
    await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
