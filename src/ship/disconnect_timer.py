"""The disconnect timer: acts when no client has been connected for some time."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager


class DisconnectTimer:
    """Calls `nobody_came` once no client was connected for `limit_s`; never without a limit."""

    def __init__(self, limit_s: float | None, nobody_came: Callable[[], None]) -> None:
        self._limit_s = limit_s
        self._nobody_came = nobody_came
        self._watchers = 0
        self._timer: asyncio.TimerHandle | None = None
        self._over = False

    @contextmanager
    def watching(self) -> Generator[None]:
        """Within, a client is connected."""
        self._watchers += 1
        self._disarm()
        try:
            yield
        finally:
            self._watchers -= 1
            self.arm()

    def arm(self) -> None:
        """Start the time, if no client is connected."""
        if self._limit_s is None or self._watchers or self._over:
            return
        self._disarm()
        self._timer = asyncio.get_running_loop().call_later(self._limit_s, self._nobody_came)

    def stop(self) -> None:
        """Cancel the timer for good."""
        self._over = True
        self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
