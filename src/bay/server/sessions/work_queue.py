"""A queue of keys that merges: a key waits at most once and is never worked on twice at once.

A key that is put while it is being worked on comes round again afterwards, so that no change is
missed. Order is first in, first out.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from bay.tracing import Span, present


class WorkQueue:
    """Keys to be worked on by any number of workers. Those that are not `owned` here go `elsewhere`."""

    def __init__(
        self,
        owned: Callable[[str], bool] = lambda _: True,
        elsewhere: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._owned = owned
        self._elsewhere = elsewhere
        self._ready: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: dict[str, float] = {}
        """Since when (monotonic) each key waits, the one that comes next first."""
        self._working: dict[str, asyncio.Event] = {}
        """Keys that are worked on; the event says that the key was put again meanwhile."""
        self._causes: dict[str, Span] = {}
        """The work that put a key first since it was taken last, when it was put by any."""
        self._left: dict[str, asyncio.Future[None]] = {}
        """Of keys that are worked on, when somebody waits for the end of that."""

    def put(self, key: str) -> None:
        """See to it that `key` is worked on, from now on, at least once more."""
        if not self._owned(key):
            self._causes.pop(key, None)
            self._elsewhere(key)
        else:
            self._put(key)

    def put_here(self, key: str) -> None:
        """The same for a key that another process told of, which knows where else it belongs."""
        if self._owned(key):
            self._put(key)

    def _put(self, key: str) -> None:
        if (span := present()) is not None:
            self._causes.setdefault(key, span)
        if key in self._working:
            self._working[key].set()
        elif key not in self._waiting:
            self._waiting[key] = time.monotonic()
            self._ready.put_nowait(key)

    def put_idle(self, key: str) -> None:
        """The same, but work that goes on counts: nothing has changed since it began."""
        if key not in self._working:
            self.put(key)

    @asynccontextmanager
    async def take(self) -> AsyncGenerator[str, None]:
        """The next key, which is ours alone until the block is left."""
        key = await self._ready.get()
        self._waiting.pop(key, None)
        again = self._working[key] = asyncio.Event()
        try:
            yield key
        finally:
            del self._working[key]
            if (left := self._left.pop(key, None)) is not None:
                left.set_result(None)
            if again.is_set():
                self.put(key)
            else:
                self._causes.pop(key, None)  # of what `put_again` has told of

    def waiting(self) -> tuple[int, float]:
        """How many keys wait, and for how many seconds the first has; 0 without any."""
        first = next(iter(self._waiting.values()), None)
        return len(self._waiting), 0.0 if first is None else time.monotonic() - first

    def working(self) -> list[str]:
        """The keys that are worked on."""
        return list(self._working)

    def cause(self, key: str) -> Span | None:
        """The work that asked first for this work on `key`; told once."""
        return self._causes.pop(key, None)

    async def left(self, key: str) -> None:
        """Return when the present work on `key`, if there is any, is over."""
        if key in self._working:
            if key not in self._left:
                self._left[key] = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._left[key])

    async def put_again(self, key: str) -> None:
        """Return when `key`, which the caller works on, is put again: the caller must look at it again."""
        await self._working[key].wait()
        self._working[key].clear()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)
