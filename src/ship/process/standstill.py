"""The standstill of a sandbox: all its programs are stopped, and Ship does nothing to them meanwhile.

A freezer of the host stops Ship as well, and its timers go off once it is thawed. Here Ship goes on, so that
it can be asked, and whatever it does to programs by itself (a timeout, a service that is started again, a
health check) waits for the end of the standstill. So does each change of a file that a call has begun.

A pause and copies of the files may want one at the same time. It ends with the last of them.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import asynccontextmanager

from ship.errors import Conflict
from ship.process import stopping
from ship.process.stopping import Key, NeverStill
from ship.waiting import first_of, wake

_SETTLE_S = 15.0
"""Longer than it takes to end a tree of processes."""
_PAUSE = "pause"


class Standstill:
    """One for the sandbox. `stop_all` and `continue_all` block."""

    def __init__(
        self,
        stop_all: Callable[[], Collection[Key]] = stopping.stop_all,
        continue_all: Callable[[Collection[Key]], None] = stopping.continue_all,
    ) -> None:
        self.is_on = False
        self.number = 0
        """How many have begun, for a caller that would know whether there was one."""
        self._stop_all = stop_all
        self._continue_all = continue_all
        self._stopped_before: Collection[Key] = ()
        self._wanted_by: set[object] = set()
        """All that want the one which is on; with none of them it ends."""
        self._changing = asyncio.Lock()
        self._over: asyncio.Future[None] | None = None
        """There while it lasts or begins, and done at its end."""
        self._acts = 0
        self._idle: asyncio.Future[None] | None = None
        self._closed = False

    @property
    def over(self) -> asyncio.Future[None] | None:
        """Done at the end of the one that lasts or begins; None when there is none."""
        return self._over

    @property
    def is_pause(self) -> bool:
        """Whether there is one that `end` ends, unless something else wants it too."""
        return _PAUSE in self._wanted_by

    async def begin(self, wanted_by: object = _PAUSE) -> None:
        """Return when all programs stand still; idempotent. It is finished when its caller is cancelled.
        Raises Conflict, with all as before, when they do not.
        """
        await asyncio.shield(asyncio.ensure_future(self._begin(wanted_by)))

    async def end(self, wanted_by: object = _PAUSE) -> None:
        """Let the programs go on, unless another wants them to stand still; idempotent. It is finished when
        its caller is cancelled.
        """
        await asyncio.shield(asyncio.ensure_future(self._end({wanted_by})))

    @asynccontextmanager
    async def lasting(self) -> AsyncGenerator[None]:
        """Within, all programs stand still. Raises Conflict, as `begin`."""
        wanted_by = object()
        try:
            await self.begin(wanted_by)
            yield
        finally:
            await self.end(wanted_by)

    async def close(self) -> None:
        """End it for good: the sandbox ends."""
        self._closed = True
        wake(self._idle)  # one that begins is given up
        await self._end(None)

    @asynccontextmanager
    async def acting(self) -> AsyncGenerator[float]:
        """Within, Ship may do something to programs or files, and no standstill begins. It waits for the end
        of one, and gives the seconds that it has waited. It may not be entered within itself.
        """
        began = time.monotonic()
        while self._over is not None:
            await self.wait_over()
        self._acts += 1
        try:
            yield time.monotonic() - began
        finally:
            self._acts -= 1
            if not self._acts:
                wake(self._idle)

    async def wait_over(self, gone: asyncio.Future[None] | None = None) -> None:
        """Return when there is none, or `gone` is done."""
        while (over := self._over) is not None and not (gone and gone.done()):
            await first_of((over,) if gone is None else (over, gone), None)

    async def _begin(self, wanted_by: object) -> None:
        async with self._changing:
            if self.is_on:
                self._wanted_by.add(wanted_by)
                return
            if self._closed:
                raise Conflict("the sandbox is ending")
            over = self._over = asyncio.get_running_loop().create_future()
            self.number += 1
            try:
                await self._wait_idle()
                self._stopped_before = await asyncio.to_thread(self._stop_all)
                self.is_on = True
                self._wanted_by.add(wanted_by)
            except NeverStill as error:
                raise Conflict("some programs cannot be stopped now, so all go on; try again") from error
            finally:
                if not self.is_on:
                    self._over = None
                    wake(over)

    async def _wait_idle(self) -> None:
        """Whatever was begun before is done first: a program that is being started, a tree that is ended."""
        self._idle = asyncio.get_running_loop().create_future()
        if self._acts:
            await first_of((self._idle,), _SETTLE_S)
        if self._acts:
            raise Conflict("Ship still starts or ends programs, or changes files, so all go on; try again")

    async def _end(self, wanting_no_more: set[object] | None) -> None:
        async with self._changing:
            self._wanted_by -= self._wanted_by if wanting_no_more is None else wanting_no_more
            if self._wanted_by or not self.is_on:
                return
            await asyncio.to_thread(self._continue_all, self._stopped_before)
            self.is_on = False
            over, self._over = self._over, None
            wake(over)
