"""Ends open connections when Bay shuts down, or when their key is revoked.

Followers of output and attachments may last for days, so they are looked after here, and counted: each costs
a descriptor and memory.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, NoReturn, TypeVar

from bay.errors import QuotaExceeded, Timeout, Unauthorized
from bay.server.web.auth import Caller, Keys
from bay.server.web.concurrency import first

T = TypeVar("T")
Reason = Literal["leaving", "revoked"]
"""`leaving`: Bay goes down. `revoked`: the key was revoked or has expired."""

LOOK_S = 3.0
"""How often the key of a connection is looked at."""

LIMIT = 1000


class OpenConnections:
    """Connections that go on, by owner, until it is closed."""

    def __init__(self, keys: Keys, look_s: float = LOOK_S) -> None:
        self._keys = keys
        self._look_s = look_s
        self._leaving = asyncio.Event()
        self._nudged = asyncio.Event()
        self._places: Counter[str] = Counter()

    def close(self) -> None:
        """End all of them, now and from now on: the server is shutting down."""
        self._leaving.set()
        self.look()

    def look(self) -> None:
        """Look at the keys of all of them now: one was revoked."""
        self._nudged.set()
        self._nudged = asyncio.Event()

    def place(self, owner: str) -> AbstractContextManager[None]:
        """Room for one more connection of `owner`. Raises QuotaExceeded when all is taken."""
        doing = "connections of this owner follow or are attached, the limit; close one"
        return one_place(self._places, owner, LIMIT, doing)

    async def over(self, caller: Caller) -> Reason:
        """Return once a connection of `caller` has to end, and why."""
        return await self.over_for(caller.key_id)

    async def over_for(self, key_id: str | None) -> Reason:
        """The same for a caller with that key. None needed no key, and stays until Bay shuts down."""
        if key_id is None:
            await self._leaving.wait()
        while not self._leaving.is_set():
            if key_id is not None and not self._keys.is_valid(key_id):
                return "revoked"
            await self._look_again()
        return "leaving"

    async def over_when(self, is_shut: Callable[[], Awaitable[bool]]) -> Reason:
        """The same for a caller without a key at a public port: `revoked` once it is no longer public."""
        while not self._leaving.is_set():
            await self._look_again()
            if await is_shut():
                return "revoked"
        return "leaving"

    async def allowed(self, caller: Caller, items: AsyncIterator[T]) -> AsyncGenerator[T]:
        """The items while a connection of `caller` may go on; then they end, with none to say so."""
        over = asyncio.create_task(self.over(caller))
        try:
            while not over.done() and (item := await first(_next(items), _none_after(over))) is not None:
                yield item
        finally:
            over.cancel()

    async def during(self, caller: Caller, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; cancels it and raises Unauthorized or Timeout when `caller` must go."""
        return await first(work, self._refused(caller))

    async def _refused(self, caller: Caller) -> NoReturn:
        if await self.over(caller) == "revoked":
            raise Unauthorized("the key was revoked or has expired")
        raise Timeout("Bay is shutting down; part of this call may have taken effect")

    async def _look_again(self) -> None:
        try:
            async with asyncio.timeout(self._look_s):
                await self._nudged.wait()
        except TimeoutError:
            return


@contextmanager
def one_place(taken: Counter[str], owner: str, most: int, doing: str) -> Generator[None]:
    """One of the `most` places that `owner` may take at once. Raises QuotaExceeded when all are `taken`."""
    if taken[owner] >= most:
        raise QuotaExceeded(f"{most} {doing} and try again")
    taken[owner] += 1
    try:
        yield
    finally:
        taken[owner] -= 1
        if not taken[owner]:
            del taken[owner]


async def _next(items: AsyncIterator[T]) -> T | None:
    return await anext(items, None)


async def _none_after(over: asyncio.Task[Reason]) -> None:
    await asyncio.wait((over,))
