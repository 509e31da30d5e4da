"""Removes orphans, things on the host without a row: when Bay starts, or when an operator asks.

A sandbox does not start beside an orphan of its own. So a replica tells the others of each that it could not
remove.
"""

import asyncio
import json
from dataclasses import dataclass, field

import structlog

from bay.drivers.base import Handle, Owned
from bay.errors import BayError, DriverUnavailable
from bay.server.replicas.bus import Bus
from bay.server.sessions.core import Core
from bay.store import cargos, sessions

log = structlog.get_logger("bay.orphans")

_AT_ONCE = 8
_AGAIN_S = 5.0
_LEFT = "orphans.left"


@dataclass(kw_only=True, eq=False)
class Orphans:
    """Orphaned sessions and cargos. A removal that fails is tried again."""

    core: Core
    bus: Bus
    _left: dict[str, Owned] = field(init=False, default_factory=dict[str, Owned])
    """Sessions that could not be removed yet."""
    _told: set[str] = field(init=False, default_factory=set[str])
    """Those of them that other replicas know of, too."""
    _is_stale: bool = field(init=False, default=False)
    """Whether something may be on the host since the last look that no row knows."""

    def __post_init__(self) -> None:
        self.bus.hear(_LEFT, self._hear)

    def __len__(self) -> int:
        return len(self._left)

    def left(self) -> list[str]:
        """The sessions that could not be removed yet."""
        return list(self._left)

    async def remove_all(self) -> int:
        """Find, remove and count them. Raises DriverUnavailable when what the driver owns cannot be known."""
        return await self.remove_sessions() + await self.remove_cargos()

    async def remove_sessions(self) -> int:
        """Remove the orphaned sessions and count them. `left` then says which stay.
        The host is listed first: a session's row is written before anything of it exists, so a thing without
        a row is an orphan, also while sandboxes start.
        """
        found = [owned async for owned in self.core.driver.list_owned()]
        async with self.core.store.read() as db:
            known = await sessions.live_ids(db)
        self._left |= {owned.session_id: owned for owned in found if owned.session_id not in known}
        return await self._remove_together(list(self._left.values()))

    async def remove_cargos(self) -> int:
        """Remove the orphaned cargos and count them. The host is listed first, as for sessions."""
        found = await self.core.cargo.list_ids()
        async with self.core.store.read() as db:
            strays = found - await cargos.live_ids(db)
        for cargo_id in strays:
            await self.core.cargo.remove(cargo_id)
        return len(strays)

    async def run(self) -> None:
        """Try again, one at a time and in turn, until cancelled."""
        while True:
            await asyncio.sleep(_AGAIN_S)
            if self._is_stale:
                await self._look()
            await self.try_again()

    def look_again(self) -> None:
        """A start or an end was left in the middle: look at the host soon."""
        self._is_stale = True

    async def _look(self) -> None:
        self._is_stale = False
        try:
            await self.remove_sessions()
        except BayError as error:
            log.warning("session.orphans_unknown", error=error.message)
            self._is_stale = True

    async def try_again(self) -> None:
        """Try to remove the one of those that are left that was tried longest ago."""
        for owned in list(self._left.values())[:1]:
            await self._remove(owned)

    async def remove_of(self, sandbox_id: str) -> None:
        """See to it that none is left of that sandbox. Raises DriverUnavailable when one stays."""
        for owned in [o for o in self._left.values() if o.sandbox_id == sandbox_id]:
            if not await self._remove(owned):
                raise DriverUnavailable(
                    f"session {owned.session_id} of this sandbox still exists and cannot be removed; Bay "
                    "tries again by itself"
                )

    async def _remove_together(self, found: list[Owned]) -> int:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def in_turn(owned: Owned) -> bool:
            async with limit:
                return await self._remove(owned)

        return sum(await asyncio.gather(*map(in_turn, found)))

    async def _remove(self, owned: Owned) -> bool:
        try:
            await self.core.driver.destroy(owned.handle)
        except (BayError, OSError) as error:
            log.warning("session.orphan_stays", id=owned.session_id, error=str(error))
            if owned.session_id not in self._told:
                self._told.add(owned.session_id)
                self.bus.tell(
                    _LEFT, [json.dumps([owned.session_id, owned.sandbox_id, owned.handle.to_json()])]
                )
            self._left[owned.session_id] = self._left.pop(owned.session_id, owned)  # behind the others
            return False
        self._left.pop(owned.session_id, None)
        self._told.discard(owned.session_id)
        return True

    def _hear(self, items: list[str]) -> None:
        for session_id, sandbox_id, handle in map(json.loads, items):
            self._told.add(session_id)
            self._left.setdefault(session_id, Owned(session_id, sandbox_id, Handle.from_json(handle)))
