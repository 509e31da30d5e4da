"""Waits for an event, a disconnect or a timeout, and timers."""

import asyncio
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from functools import partial

_RETURN_S = 10.0
"""Longer than Bay, and clients of Bay, take to ask again."""


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
            wake(future)

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


class Timer:
    """Makes one call, some time after it was last set. One that is due while `hold` gives a future is made
    when that is done.
    """

    def __init__(self, hold: Callable[[], asyncio.Future[None] | None] = lambda: None) -> None:
        self._hold = hold
        self._handle: asyncio.TimerHandle | None = None
        self._call: Callable[[], object] | None = None

    def set(self, delay_s: float, call: Callable[..., object], *args: object) -> None:
        """Call after `delay_s`, and not as set before."""
        self.cancel()
        self._call = partial(call, *args)
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._due, self._call)

    def cancel(self) -> None:
        """Idempotent, also after the call."""
        self._call = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _due(self, call: Callable[[], object]) -> None:
        if self._call is not call:
            return  # it was cancelled or set anew while it was held
        if (over := self._hold()) is not None:
            over.add_done_callback(lambda _over: self._due(call))
            return
        self._call = None
        call()


class Interruption:
    """A time in which Ship itself ends connections, and its clients cannot connect again.

    A client that it cuts off has not disconnected. Its time to come back begins when the interruption ends,
    and is `return_s` at least.
    """

    def __init__(self, return_s: float = _RETURN_S) -> None:
        self._return_s = return_s
        self._is_on = False
        self._cut: set[DisconnectTimer] = set()

    def begin(self) -> None:
        """Idempotent."""
        self._is_on = True

    def end(self) -> None:
        """Clients can connect from now on. Idempotent."""
        cut, self._cut, self._is_on = self._cut, set(), False
        for timer in cut:
            timer.arm(self._return_s)

    def cuts_off(self, timer: "DisconnectTimer") -> bool:
        """Whether it is on; then it arms `timer` at its end."""
        if self._is_on:
            self._cut.add(timer)
        return self._is_on


class DisconnectTimer:
    """Calls `nobody_came` once no client was connected for `limit_s`; never without a limit."""

    def __init__(
        self, limit_s: float | None, nobody_came: Callable[[], None], interruption: Interruption
    ) -> None:
        self._limit_s = limit_s
        self._nobody_came = nobody_came
        self._interruption = interruption
        self._watchers = 0
        self._timer = Timer()
        self._over = False

    @contextmanager
    def watching(self) -> Generator[None]:
        self._watchers += 1
        self._timer.cancel()
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._interruption.cuts_off(self):
                self.arm()

    def arm(self, least_s: float = 0.0) -> None:
        """Start the time, of `least_s` or more, if no client is connected."""
        if self._limit_s is not None and not self._watchers and not self._over:
            self._timer.set(max(self._limit_s, least_s), self._nobody_came)

    def stop(self) -> None:
        self._over = True
        self._timer.cancel()


def wake(future: asyncio.Future[None] | None) -> None:
    """Have it done, if it is there and not done yet."""
    if future is not None and not future.done():
        future.set_result(None)


async def readable(descriptor: int, timeout_s: float | None = None) -> None:
    """Return when `descriptor` can be read, or after `timeout_s`."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, wake, ready)
    try:
        await (ready if timeout_s is None else first_of((ready,), timeout_s))
    finally:
        loop.remove_reader(descriptor)


async def writable(descriptor: int) -> None:
    """Return when `descriptor` can be written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(descriptor, wake, ready)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


async def first_of(waited: Iterable[asyncio.Future[None]], timeout_s: float | None) -> None:
    """Return when one is done or the time is over; nothing is cancelled."""
    await asyncio.wait(waited, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
