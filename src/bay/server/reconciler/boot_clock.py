"""A clock that counts elapsed time, so that a corrected wall clock ends no sandbox.

Time limits are lengths of time, and a wall clock is set right by hours after a suspend. So Bay's present goes
on with the kernel's boot clock, which never jumps. When the wall clock parts from it, the present and all
limits that still count are moved in one transaction; so they are at the start of Bay, for a jump that came
while it was down on the same boot of the host.
"""

from datetime import datetime, timedelta

import structlog

from bay.clock import Clock, since_boot, utc_now
from bay.linux.processes import boot_id
from bay.store import metadata, sandboxes
from bay.store.engine import Store

log = structlog.get_logger("bay.clock")

_TOLERATED = timedelta(seconds=2)
_FACT = "clock"


class BootClock:
    """The present: when the host booted, by the wall clock when it was last read, and the time since."""

    def __init__(self, wall: Clock = utc_now) -> None:
        self._wall = wall
        self.booted_at = wall() - since_boot()

    def __call__(self) -> datetime:
        return self.booted_at + since_boot()

    def drift(self) -> timedelta:
        """How far the wall clock is ahead of this one; zero while time servers correct as much by slewing."""
        ahead = self._wall() - self()
        return ahead if abs(ahead) > _TOLERATED else timedelta(0)

    async def settle(self, store: Store) -> None:
        """Follow a wall clock that has jumped, and move every time limit with it."""
        if by := self.drift():
            await self._move(store, by)

    async def open(self, store: Store) -> None:
        """Move the time limits by the wall clock's jump while no Bay ran, and record its present state."""
        async with store.read() as db:
            known = await metadata.get(db, _FACT)
        by = timedelta(0)
        if known is not None and known["boot_id"] == boot_id():
            by = self.booted_at - datetime.fromisoformat(known["booted_at"])
        await self._move(store, by if abs(by) > _TOLERATED else timedelta(0), at_start=True)

    async def _move(self, store: Store, by: timedelta, *, at_start: bool = False) -> None:
        booted_at = self.booted_at + (timedelta(0) if at_start else by)
        async with store.write() as db:
            moved = await sandboxes.shift_times(db, by) if by else 0
            await metadata.set(db, _FACT, {"boot_id": boot_id(), "booted_at": booted_at.isoformat()})
        self.booted_at = booted_at
        if by:
            log.warning("clock.jumped", seconds=by.total_seconds(), sandboxes=moved)


async def settle(clock: Clock, store: Store) -> None:
    """Have a clock that follows the wall clock do so now."""
    if isinstance(clock, BootClock):
        await clock.settle(store)
