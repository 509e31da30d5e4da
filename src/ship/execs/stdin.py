"""Feeds bytes into a program: in order, a slice a turn, and no faster than it reads."""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ship.errors import Conflict
from ship.waiting import first_of, wake

SLICE_BYTES = 64 * 1024

_CLOSED = "stdin is closed: its end was given before"
_UNREAD = "nobody reads this stdin any more: the program has closed it"
_LEFT = "the writer went away"


@dataclass(slots=True, eq=False)
class _Given:
    left: memoryview
    last: bool
    taken: asyncio.Future[None]


class InputFeed:
    """Writes to a non-blocking descriptor of the caller's; `stopped` is called at the end of writing."""

    def __init__(self, descriptor: int, stopped: Callable[[], None]) -> None:
        self._fd = descriptor
        self._stopped = stopped
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[_Given] = deque()
        self._listening = False
        self._refusal: str | None = None

    def give(self, data: bytes, *, last: bool = False) -> None:
        """Queue `data` for a caller that does not wait; the end follows the `last`."""
        self._put(data, last)

    async def write(self, data: bytes, gone: asyncio.Future[None] | None) -> None:
        """Return when `data` is taken; the rest is dropped on cancel or `gone`. Conflict after the end."""
        if self._refusal is not None:
            raise Conflict(self._refusal)
        given = self._put(data, last=False)
        try:
            await self._wait_taken(given, gone)
        finally:
            self._drop(given)

    async def end(self, gone: asyncio.Future[None] | None) -> None:
        """Send the end after the queued bytes; return when it is there. A second end is ignored."""
        if self._refusal is None:
            await self._wait_taken(self._put(b"", last=True), gone)

    def stop(self, reason: str = _CLOSED) -> None:
        """Write no more; waiting callers get the `reason`."""
        waiting, self._waiting = self._waiting, deque()
        self._refusal = self._refusal or reason
        self._listen()
        for given in waiting:
            wake(given.taken)
        self._stopped()

    def _put(self, data: bytes, last: bool) -> _Given:
        given = _Given(memoryview(data), last, self._loop.create_future())
        self._waiting.append(given)
        if last:
            self._refusal = _CLOSED
        if len(self._waiting) == 1:
            self._pump()  # a keystroke need not wait for the next turn
        return given

    async def _wait_taken(self, given: _Given, gone: asyncio.Future[None] | None) -> None:
        if not given.taken.done():
            await first_of((given.taken,) if gone is None else (given.taken, gone), None)
        if given.left:
            raise Conflict(self._refusal or _LEFT)

    def _drop(self, given: _Given) -> None:
        if given in self._waiting:
            self._waiting.remove(given)
            self._listen()

    def _pump(self) -> None:
        try:
            self._write_slice()
        except (BlockingIOError, InterruptedError):
            self._listen()
        except OSError:
            self._refusal = _UNREAD
            self.stop()

    def _write_slice(self) -> None:
        given = self._waiting[0]
        if given.left:
            given.left = given.left[os.write(self._fd, given.left[:SLICE_BYTES]) :]
        if not given.left:
            self._waiting.popleft()
            wake(given.taken)
        if given.last and not given.left:
            self.stop()
        else:
            self._listen()

    def _listen(self) -> None:
        wanted = bool(self._waiting)
        if wanted and not self._listening:
            self._loop.add_writer(self._fd, self._pump)
        elif self._listening and not wanted:
            self._loop.remove_writer(self._fd)
        self._listening = wanted
