"""An agent's place at Bay: its client, and the sandbox that a call means which names none."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio

import bay

READY_S = 60
"""How long a new sandbox has to get ready."""

LIFE_S = 24 * 3600
"""How long a session's own sandbox outlives the last call that used it; at least half of that."""

Options = dict[str, Any]
"""Options of the SDK's `sandboxes.create`."""


@dataclass(frozen=True, slots=True)
class KeptSandbox:
    """A sandbox that somebody named. It stays."""

    name: str

    async def open(self, client: bay.AsyncClient, options: Options) -> bay.AsyncBox:
        """It, made with `options` if it is not there."""
        return await _found_or_made(client, self.name, options)


@dataclass(frozen=True, slots=True)
class SessionSandbox:
    """A session's own sandbox. It ends some time after the last use: see `LIFE_S`."""

    name: str

    async def open(self, client: bay.AsyncClient, options: Options) -> bay.AsyncBox:
        """It, made with `options` if it is not there."""
        box = await _found_or_made(client, self.name, {"ttl": LIFE_S, **options})
        if (ends := box.info.expires_at) is not None:
            left_s = round((ends - datetime.now(ends.tzinfo)).total_seconds())
            if left_s < LIFE_S / 2:
                await box.extend_ttl(LIFE_S - left_s)
        return box


class LeasedSandbox:
    """A sandbox that ends with this process: made by the first call that needs it, deleted by `aclose`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._making = anyio.Lock()
        self._stack = AsyncExitStack()
        self._box: bay.AsyncBox | None = None

    async def open(self, client: bay.AsyncClient, options: Options) -> bay.AsyncBox:
        """It, made with `options` if it is not there."""
        async with self._making:
            if self._box is not None and not await _is_there(self._box):
                await self._stack.aclose()
                self._box = None
            if self._box is None:
                wanted: Options = {"wait": READY_S, **options, "name": self.name}
                self._box = await self._stack.enter_async_context(client.sandbox(**wanted))
            return self._box

    async def aclose(self) -> None:
        """Delete it."""
        await self._stack.aclose()


async def _found_or_made(client: bay.AsyncClient, name: str, options: Options) -> bay.AsyncBox:
    """By one request where it is there; one that was made is ready."""
    with suppress(bay.NotFound):
        box = await client.sandboxes.get(name)
        if box.info.status != "expired":
            return box
    return await client.sandboxes.get_or_create(name, wait=READY_S, **options)


async def _is_there(box: bay.AsyncBox) -> bool:
    try:
        return (await box.refresh()).status != "expired"
    except bay.NotFound:
        return False


DefaultSandbox = KeptSandbox | SessionSandbox | LeasedSandbox
"""The sandbox of calls that name none."""

Progress = Callable[[float, str], Awaitable[None]]
"""Tells the agent's client how far a call is: seconds, and words."""


@dataclass(frozen=True, slots=True)
class Agent:
    """One caller."""

    client: bay.AsyncClient
    default: DefaultSandbox

    async def sandbox(self, name: str | None) -> bay.AsyncBox:
        """The sandbox of that name or id, else the caller's default one, made if need be. Raises NotFound."""
        if name is None or name == self.default.name:
            return await self.default.open(self.client, {})
        return await self.client.sandboxes.get(name)

    async def existing(self, name: str | None) -> bay.AsyncBox:
        """The same, but none is made. Raises NotFound."""
        return await self.client.sandboxes.get(self.default.name if name is None else name)
