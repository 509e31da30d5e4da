"""The collector removes files of deleted checkpoints once no fork, restore or export needs them.

It rests where the cargo backend has no checkpoints.
"""

import asyncio
from contextlib import suppress
from datetime import timedelta

import structlog

from bay.cargo.base import CargoStore, CheckpointStore, KindsOfCheckpoints
from bay.clock import Clock
from bay.drivers.base import Driver, SavesMemory
from bay.errors import BayError
from bay.server.sessions.waker import Holds
from bay.store import checkpoints, metadata
from bay.store.connection import StoreConnection
from bay.store.engine import Store

log = structlog.get_logger("bay.discards")

_AGAIN_S = 60.0
_KINDS = "checkpoint_kinds"
_SETTINGS = {"snapshot": "snapshot_class", "archive": "object_store"}
"""The setting by which checkpoints of a kind are seen."""
_GRACE = timedelta(minutes=30)
"""After so long no request of another replica's waits for its copy any longer."""


class CheckpointGarbage:
    """The collector runs when it is poked, and once a minute. Exports hold the checkpoint that they read."""

    def __init__(
        self,
        *,
        store: Store,
        cargo: CargoStore,
        driver: Driver,
        clock: Clock,
        holds: Holds,
        poked: asyncio.Event,
        is_alone: bool,
    ) -> None:
        self._grace = timedelta(0) if is_alone else _GRACE
        self._store = store
        self._cargo = cargo if isinstance(cargo, CheckpointStore) else None
        self._memories = driver if isinstance(driver, SavesMemory) else None
        self._clock = clock
        self._holds = holds
        self._poked = poked

    def poke(self) -> None:
        """Something may have become superfluous."""
        self._poked.set()

    async def take_over(self) -> None:
        """After a restart: remove copies on the host without a row, and hide a row without files."""
        if self._cargo is None:
            return
        now = self._clock()
        # The host is looked at between two looks at the rows: another replica may make a copy just now.
        async with self._store.read() as db:
            ready = await checkpoints.ids_in(db, "ready")
        there = await self._cargo.list_checkpoints()
        saved = set[str]() if self._memories is None else await self._memories.list_memories()
        seen = self._cargo.seen_kinds if isinstance(self._cargo, KindsOfCheckpoints) else frozenset[str]()
        async with self._store.write() as db:
            await checkpoints.hide_forgotten(db, now, now - self._grace)
            known = await checkpoints.ids_in(db, "making", "ready")
            lost = (ready & known) - there
            if not (unseen := await _unseen_kinds(db, seen)):
                await checkpoints.hide(db, sorted(lost), now)
        for checkpoint_id in (there | saved) - known:
            try:
                await self._remove_files(self._cargo, checkpoint_id)
            except BayError as error:  # the next start tries again
                log.warning("checkpoint.stays", id=checkpoint_id, error=error.message)
        if lost and unseen:
            settings = [_SETTINGS[kind] for kind in sorted(unseen)]
            log.warning("checkpoints.out_of_reach", ids=sorted(lost), settings=settings)
        elif lost:
            log.warning("checkpoints.lost", ids=sorted(lost))
        self.poke()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await self._poked.wait()
            self._poked.clear()
            try:
                await self.discard()
            except Exception:
                log.exception("discards.failed")

    async def discard(self) -> None:
        """Remove once what may go."""
        if self._cargo is None:
            return
        if self._grace:  # a replica that has ended comes back under another name, and may never
            now = self._clock()
            async with self._store.write() as db:
                await checkpoints.hide_forgotten(db, now, now - self._grace)
        async with self._store.read() as db:
            found = await checkpoints.removable(db)
        for checkpoint_id in found:
            if not await self._holds.any(checkpoint_id):
                await self._remove(self._cargo, checkpoint_id)

    async def _remove(self, cargo: CheckpointStore, checkpoint_id: str) -> None:
        try:
            await self._remove_files(cargo, checkpoint_id)
        except (BayError, OSError) as error:
            log.warning("checkpoint.stays", id=checkpoint_id, error=str(error))
            return
        async with self._store.write() as db:
            await checkpoints.change(db, checkpoint_id, state="gone")

    async def _remove_files(self, cargo: CheckpointStore, checkpoint_id: str) -> None:
        if self._memories is not None:
            await self._memories.remove_memory(checkpoint_id)
        await cargo.remove_checkpoint(checkpoint_id)


async def _unseen_kinds(db: StoreConnection, seen: frozenset[str]) -> set[str]:
    """The kinds of checkpoints that a Bay has seen in this database, and this one does not."""
    before = await metadata.get(db, _KINDS) or {}
    if not seen <= before.keys():
        await metadata.set(db, _KINDS, {**before, **dict.fromkeys(sorted(seen), "seen")})
    return before.keys() - seen if seen else set()
