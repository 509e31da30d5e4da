"""Measures the disk usage of cargos and checkpoints that may have changed since, a few at a time.

A process that gives way to all others walks through them, so a figure may be a minute old. It bounds what is
begun, not what is written: `size_limit_mb` is for that.
"""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

import structlog

from bay.cargo.base import CargoStore, DiskUsage, SizeLimits, Weight
from bay.clock import Clock
from bay.errors import BayError
from bay.store import cargos, checkpoints, tallies
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store

log = structlog.get_logger("bay.usage")

_PERIOD_S = 60.0
_BATCH = 50  # a process for each would cost more than the measuring
_MAX_CHECKPOINTS = 200
"""Of one round: each is as much to walk through as a cargo."""
_STALE = timedelta(minutes=10)
"""Maximum age of the figure of a running sandbox without calls: its programs may write all the same."""
_CHECKPOINT_STALE = timedelta(hours=1)
"""Maximum age of a checkpoint's exclusive bytes while its sandbox is active; the others never change."""


class Usage:
    """Keeps what is known of the weight of cargos and checkpoints near the truth."""

    def __init__(self, *, store: Store, deferred: DeferredWrites, cargo: CargoStore, clock: Clock) -> None:
        self._store = store
        self._deferred = deferred
        self._disk = cargo if isinstance(cargo, DiskUsage) else None
        self._cargo = cargo
        self._clock = clock
        self._failed: set[str] = set()
        """Those whose last measurement failed."""
        self._put_off: dict[str, datetime] = {}
        """Until when what could not be weighed is let be."""

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                await self.measure()
            except Exception:
                log.exception("usage.failed")

    async def measure(self) -> None:
        """Measure once what may have changed since, where the backend can."""
        if self._disk is None:
            return
        await self._deferred.flush()
        now = self._clock()
        self._put_off = {one: until for one, until in self._put_off.items() if until > now}
        most = _MAX_CHECKPOINTS + len(self._put_off)  # those that are put off take no other's place
        async with self._store.read() as db:
            changed = await tallies.unmeasured(db, now - _STALE)
            copies = await checkpoints.unmeasured(db, now - _CHECKPOINT_STALE, most)
        self._failed &= {*changed, *copies}  # of the others most were deleted
        for some in self._batches(self._due(changed)):
            await self._weigh_cargos(some)
        for some in self._batches(self._due(copies)[:_MAX_CHECKPOINTS]):
            await self._weigh_checkpoints(some)

    def _due(self, ids: list[str]) -> list[str]:
        return [one for one in ids if one not in self._put_off]

    def _batches(self, ids: list[str]) -> Iterator[list[str]]:
        """One that could not be weighed the last time is tried alone: it must not keep others from it."""
        alone = [one for one in ids if one in self._failed]  # now: a batch that fails puts more there
        together = [one for one in ids if one not in self._failed]
        for first in range(0, len(together), _BATCH):
            yield together[first : first + _BATCH]
        yield from ([one] for one in alone)

    async def _weigh_cargos(self, ids: list[str]) -> None:
        now = self._clock()  # before: a write meanwhile asks for another measurement
        for cargo_id, weight in (await self._weigh(ids, now)).items():
            values = {
                "measured_at": now, "used_bytes": weight.used_bytes, "used_inodes": weight.used_inodes,
                "charged_bytes": await charged(self._cargo, cargo_id),
            }  # fmt: skip
            self._deferred.put(partial(cargos.change, cargo_id=cargo_id, **values))

    async def _weigh_checkpoints(self, ids: list[str]) -> None:
        now = self._clock()
        for checkpoint_id, weight in (await self._weigh(ids, now)).items():
            values = {
                "measured_at": now, "size_bytes": weight.used_bytes, "exclusive_bytes": weight.exclusive_bytes,
                "inodes": weight.used_inodes,
            }  # fmt: skip
            self._deferred.put(partial(checkpoints.change, checkpoint_id=checkpoint_id, **values))

    async def _weigh(self, ids: list[str], now: datetime) -> dict[str, Weight]:
        """The successful measurements; the rest, not there yet or too much for a turn, is put off."""
        found = await self._disk.weigh(ids) if self._disk else {}
        self._failed -= found.keys()
        for one in set(ids) - found.keys():
            self._failed.add(one)
            self._put_off[one] = now + _STALE
        return found


async def charged(store: CargoStore, cargo_id: str) -> int | None:
    """The bytes that count against a cargo's limit; None without limits, and while it is not there."""
    try:
        return await store.charged(cargo_id) if isinstance(store, SizeLimits) else None
    except BayError as error:
        log.info("usage.uncharged", id=cargo_id, error=error.message)
        return None
