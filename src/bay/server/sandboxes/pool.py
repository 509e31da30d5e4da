"""The pool keeps started sandboxes for future creates: ordinary rows without an owner.

A create claims one in its own transaction; without one here it starts its own. The fingerprint of its kind
tells that the session is the one it would have started. Old rows, and those of no kind that is wanted, go.
A pool with a `pool_max` follows the creates: `pool_demand` says how.

Of replicas one keeps the pools, and all claim from them. Each tells the others of its creates, so that the
pools follow the creates of all, and knows what is there by a look each second.
"""

import asyncio
import json
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog

from bay.backoff import Backoff
from bay.errors import QuotaExceeded, StorageFull
from bay.models import PoolState, from_wire, to_wire
from bay.server.images import named
from bay.server.images.requests import HOST, ImageRequests
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sandboxes.pool_demand import REMEMBERED, size_wanted
from bay.server.sandboxes.pool_kinds import PoolKind
from bay.server.sessions.core import Core
from bay.server.sessions.notifier import Notifier
from bay.server.sessions.quotas import Quotas
from bay.server.sessions.work_queue import WorkQueue
from bay.store import cargos, images, sandboxes, services, templates
from bay.store.connection import StoreConnection
from bay.store.records import ImageRecord, SandboxRecord, TemplateRecord

log = structlog.get_logger("bay.pool")

_PERIOD_S = 1.0
_BREATH_S = 0.2  # the claimer is about to use its sandbox: it gets the processor first
_DRAIN_S = 5.0
_REMOVE_S = 60.0
_BACKOFF = Backoff(1.0, 60.0)
_JOB, _ASKED_FOR, _TROUBLE, _STATE = "pool", "pool.asked_for", "pool.trouble", "pool.state"
_WHY_CHARS = 2000
"""Of an error in a message to the other replicas."""


@dataclass(slots=True)
class _Tally:
    """The in-memory state of one pool."""

    ready: int = 0
    """How many waited when last looked at, less those claimed since."""
    hits: int = 0
    misses: int = 0
    failures: int = 0
    last_error: str | None = None
    failed_at: datetime | None = None
    refill_at: datetime | None = None
    creates: deque[datetime] = field(default_factory=lambda: deque[datetime](maxlen=REMEMBERED))
    """When it was asked for a sandbox, whether or not it had one."""
    seen: set[str] = field(default_factory=set[str])
    """Failed rows that are counted already."""


class Pool:
    """Keeps every pool at its size."""

    def __init__(
        self,
        core: Core,
        queue: WorkQueue,
        *,
        notifier: Notifier,
        images: ImageRequests,
        quotas: Quotas,
        max_age: timedelta,
        is_busy: Callable[[], bool],
        leases: ReplicaLeases,
        bus: Bus,
    ) -> None:
        self._core = core
        self._queue = queue
        self._notifier = notifier
        self._images = images
        self._quotas = quotas
        self._of_profiles = [PoolKind.of_profile(profile) for profile in core.profiles.values()]
        self._kinds = _by_fingerprint(self._of_profiles)
        """By fingerprint; those of templates as they were when last looked at."""
        self._is_ending = False
        self._max_age = max_age
        self._is_busy = is_busy
        """Whether owned sandboxes wait for their start: those come first."""
        self._tallies = defaultdict[str, _Tally](_Tally)
        """By fingerprint."""
        self._poked = asyncio.Event()
        self._spare: int | None = None
        # Guards what is there against what is wanted: two looks at once would both begin what is missing.
        self._looking = asyncio.Lock()
        self._leases = leases
        self._bus = bus
        self._counted = 0
        """Creates of this replica: two words of them that are alike would be told as one."""
        bus.hear(_ASKED_FOR, self._hear_asked)
        bus.hear(_TROUBLE, self._hear_troubles)
        bus.answer(_STATE, self._state_here)

    async def run(self) -> None:
        """Refill until cancelled: a moment after each claim, and once a second for all other changes."""
        while True:
            try:
                await self.tend()
            except Exception:
                log.exception("pool.failed")
            try:
                async with asyncio.timeout(_PERIOD_S):
                    await self._poked.wait()
            except TimeoutError:
                pass
            await asyncio.sleep(_BREATH_S)
            self._poked.clear()

    async def watch(self) -> None:
        """Know what is there while another replica keeps the pools, until cancelled."""
        while self._bus.is_shared:
            await asyncio.sleep(_PERIOD_S)
            try:
                if not self._leases.holds(_JOB):
                    await self.look()
            except Exception:
                log.exception("pool.not_looked_at")

    async def look(self) -> None:
        """See which pools are kept, and how many wait in each."""
        async with self._looking:
            async with self._core.store.read() as db:
                self._kinds = await self._present_kinds(db)
                found = await sandboxes.pooled(db)
            self._forget_kinds()
            for print_ in self._kinds:
                waiting = [r for r in found if r.pool == print_ and r.phase == "running"]
                self._tallies[print_].ready = len(waiting)

    def poke(self) -> None:
        """Something has changed: look at once."""
        self._poked.set()

    def set_spare(self, spare: int) -> None:
        """Hear how many bytes the host has above its reserve. Nothing is begun before the first word."""
        if self._spare is None:
            self.poke()
        self._spare = spare

    def kind_of(self, profile_id: str, template_id: str | None) -> PoolKind | None:
        """The kind of the sandboxes of that profile and that template, if a pool of them is kept."""
        wanted = profile_id, template_id
        return next((k for k in self._kinds.values() if (k.profile.id, k.template_id) == wanted), None)

    def served(self) -> tuple[int, int]:
        """How many creates the pools have served since Bay began, and how many found none there."""
        tallies = self._tallies.values()
        return sum(tally.hits for tally in tallies), sum(tally.misses for tally in tallies)

    def seen(self, template_id: str) -> tuple[int, str | None]:
        """How many waited in the pool of a template when last looked at, and why it is not full."""
        kind = next((kind for kind in self._kinds.values() if kind.template_id == template_id), None)
        if kind is None:
            return 0, None
        tally = self._tallies[kind.fingerprint]
        return tally.ready, tally.last_error if tally.failures else None

    async def claim(self, db: StoreConnection, kind: PoolKind, image_id: str | None) -> SandboxRecord | None:
        """A started sandbox of that kind and image, to be claimed in the transaction of `db`, or None."""
        found = await sandboxes.first_pooled(db, kind.fingerprint)
        return found if found is not None and found.image_id == image_id else None

    def may_have(self, kind: PoolKind) -> bool:
        """Whether a claim will likely find one: a guess without a look at the database."""
        return self._tallies[kind.fingerprint].ready > 0

    def count(self, kind: PoolKind, *, hit: bool) -> None:
        """Note a create that the pool served, or could have, once it is committed; and make up for it."""
        self._count_create(kind.fingerprint, hit=hit)
        self._core.meters.pool_claims.labels("hit" if hit else "miss").inc()
        self._counted += 1
        self._bus.tell(_ASKED_FOR, [f"{kind.fingerprint} {hit:d} {self._counted}"])

    def _hear_asked(self, items: list[str]) -> None:
        for print_, hit, _ in map(str.split, items):
            self._count_create(print_, hit=hit == "1")

    def _count_create(self, print_: str, *, hit: bool) -> None:
        tally = self._tallies[print_]
        tally.hits, tally.misses = tally.hits + hit, tally.misses + (not hit)
        tally.ready = max(0, tally.ready - 1) if hit else 0
        tally.creates.append(self._core.clock())
        self.poke()

    async def tend(self) -> None:
        """Remove what should not be there, and begin what is missing."""
        async with self._looking:
            await self._tend()

    async def _tend(self) -> None:
        async with self._core.store.read() as db:
            self._kinds = await self._present_kinds(db)
            found = await sandboxes.pooled(db)
            moved = await self._moved(db, found)
        self._forget_kinds()
        by_kind = {
            print_: [r for r in found if r.pool == print_ and r not in moved] for print_ in self._kinds
        }
        unwanted = [r for r in found if r.pool not in self._kinds or r in moved]
        for print_, records in by_kind.items():
            unwanted += self._unwanted(self._kinds[print_], records)
            self._tallies[print_].ready = sum(r.phase == "running" for r in records)
        await self._drop([record.id for record in unwanted])
        if not self._is_busy():
            gone = {record.id for record in unwanted}
            for print_, records in by_kind.items():
                await self._refill(self._kinds[print_], [r for r in records if r.id not in gone])

    def _forget_kinds(self) -> None:
        for print_ in self._tallies.keys() - self._kinds.keys():
            del self._tallies[print_]

    async def _present_kinds(self, db: StoreConnection) -> dict[str, PoolKind]:
        of_templates = [PoolKind.of_template(t, self._core.profiles) for t in await templates.pooled(db)]
        found = _by_fingerprint([*self._of_profiles, *(kind for kind in of_templates if kind is not None)])
        return {p: kind for p, kind in found.items() if not (self._is_ending and kind.follows_demand)}

    async def _moved(self, db: StoreConnection, found: list[SandboxRecord]) -> list[SandboxRecord]:
        """Those whose profile names another image by now: a newer one was pulled."""
        named = {p: kind.profile.image for p, kind in self._kinds.items() if kind.template is None}
        ready = {p: await self._images.ready_for(db, image) for p, image in named.items() if image != HOST}
        newest = {print_: image.id for print_, image in ready.items() if image is not None}
        return [r for r in found if r.pool in newest and newest[r.pool] != r.image_id]

    async def drain(self) -> None:
        """Remove, within a bound, what waits in pools that follow demand: without a Bay there is none.

        A pool of fixed size is what its operator asked for, and waits for the next Bay.
        """
        try:
            await self._drain()
        except Exception as error:  # noqa: BLE001 - Bay is ending, and the next one finds them
            log.warning("pool.not_drained", error=str(error))

    async def _drain(self) -> None:
        async with self._looking:
            async with self._core.store.read() as db:
                kinds = await self._present_kinds(db)
                following = {print_ for print_, kind in kinds.items() if kind.follows_demand}
                gone = [r.id for r in await sandboxes.pooled(db) if r.pool in following]
            self._is_ending = True
            self._kinds = {print_: kind for print_, kind in kinds.items() if not kind.follows_demand}
            await self._drop(gone)
        await self._wait_removed(gone, _DRAIN_S)

    async def remove_of(self, image_id: str) -> None:
        """Remove, within a bound, what waits of an image whose template keeps no pool by now."""
        async with self._looking:
            async with self._core.store.read() as db:
                gone = await sandboxes.pooled_of(db, image_id)
            await self._drop(gone)
        await self._wait_removed(gone, _REMOVE_S)

    async def _wait_removed(self, sandbox_ids: list[str], most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                for one in sandbox_ids:
                    await self._notifier.wait_for(one, partial(self._is_removed, one), most_s)

    async def _is_removed(self, sandbox_id: str) -> bool | None:
        """Whether it is gone, or was claimed meanwhile; None while it is not."""
        async with self._core.store.read() as db:
            found = await sandboxes.get(db, sandbox_id)
        return True if found is None or found.deleted_at or found.pool is None else None

    async def shrink(self) -> bool:
        """Give back the memory of one that waits; whether there was one."""
        async with self._core.store.read() as db:
            found = await sandboxes.pooled(db)
        await self._drop([record.id for record in found[:1]])
        return bool(found)

    def levels(self) -> dict[str, tuple[int, int]]:
        """How many wait and how many should, of the pools of each profile and of templates made of it, as far
        as this replica knows.
        """
        found: dict[str, tuple[int, int]] = {}
        for print_, kind in self._kinds.items():
            ready, wanted = found.get(kind.profile.id, (0, 0))
            found[kind.profile.id] = ready + self._tallies[print_].ready, wanted + self._size(kind)
        return found

    def _size(self, kind: PoolKind) -> int:
        """How many it should hold now."""
        creates, now = self._tallies[kind.fingerprint].creates, self._core.clock()
        return size_wanted(creates, now, kind.pool_size, kind.largest)

    async def state(self) -> list[PoolState]:
        """How full each pool is, as told by the replica that keeps them; else as far as this one knows."""
        if self._leases.holds(_JOB):
            return await self._states(self._kinds.values())
        await self.look()
        kinds = list(self._kinds.values())
        asked = (self._leases.ask_holder(_JOB, _STATE, kind.fingerprint) for kind in kinds)
        told = await asyncio.gather(*asked)
        own = await self._states(kinds)
        return [from_wire(PoolState, a) if a else b for a, b in zip(told, own, strict=True)]

    async def _state_here(self, print_: str) -> object:
        kind = self._kinds.get(print_)
        return to_wire((await self._states([kind]))[0]) if kind is not None else None

    async def _states(self, kinds: Iterable[PoolKind]) -> list[PoolState]:
        async with self._core.store.read() as db:
            found = await sandboxes.pooled(db)
        return [self._state(kind, [r for r in found if r.pool == kind.fingerprint]) for kind in kinds]

    def _state(self, kind: PoolKind, records: list[SandboxRecord]) -> PoolState:
        tally = self._tallies[kind.fingerprint]
        phases = [r.phase for r in records]
        return PoolState(
            profile=kind.profile.id,
            template_id=kind.template_id,
            size=self._size(kind),
            ready=phases.count("running"),
            starting=len(phases) - phases.count("running"),
            oldest_at=min((r.created_at for r in records), default=None),
            hits=tally.hits,
            misses=tally.misses,
            failures=tally.failures,
            last_error=tally.last_error,
            refill_at=tally.refill_at,
        )

    def _unwanted(self, kind: PoolKind, records: list[SandboxRecord]) -> list[SandboxRecord]:
        """Those that failed, those beyond the size, and an old one if the pool is full without it."""
        failed = [r for r in records if r.target != "running"]
        self._count(kind, failed, records)
        good = [r for r in records if r.target == "running"]
        size = self._size(kind)
        if len(good) > size:
            return failed + good[size:]
        old = [r for r in good[:1] if r.created_at + self._max_age <= self._core.clock()]
        return failed + (old if all(r.phase == "running" for r in good) else [])

    def _count(self, kind: PoolKind, failed: list[SandboxRecord], records: list[SandboxRecord]) -> None:
        """Failed starts delay the next refill with a doubling backoff; one that works resets it."""
        tally = self._tallies[kind.fingerprint]
        new = [r for r in failed if r.id not in tally.seen]
        tally.seen = {r.id for r in failed}
        if new:
            self._put_off(kind, next((r.error.message for r in new if r.error), "it ended by itself"))
        elif tally.failed_at and any(_started_after(r, tally.failed_at) for r in records):
            tally.failures, tally.failed_at, tally.refill_at = 0, None, None
            self._tell_trouble(kind.fingerprint)

    def _put_off(self, kind: PoolKind, why: str) -> None:
        tally, now = self._tallies[kind.fingerprint], self._core.clock()
        tally.last_error, tally.failed_at = why, now
        if tally.refill_at is not None and now < tally.refill_at:
            return  # one of several that were begun together
        tally.failures += 1
        wait_s = _BACKOFF.pause(tally.failures)
        tally.refill_at = tally.failed_at + timedelta(seconds=wait_s)
        self._tell_trouble(kind.fingerprint)
        log.warning(
            "pool.start_failed",
            profile=kind.profile.id,
            template=kind.template_id,
            retry_in_s=wait_s,
            error=why,
        )

    def _tell_trouble(self, print_: str) -> None:
        """Have the other replicas know, of which one may have to go on with it."""
        tally = self._tallies[print_]
        why = tally.last_error and tally.last_error[:_WHY_CHARS]
        times = [at and at.isoformat() for at in (tally.failed_at, tally.refill_at)]
        self._bus.tell(_TROUBLE, [json.dumps([print_, tally.failures, why, *times])])

    def _hear_troubles(self, items: list[str]) -> None:
        for print_, failures, why, *times in map(json.loads, items):
            tally = self._tallies[print_]
            tally.failures, tally.last_error = failures, why
            tally.failed_at, tally.refill_at = (at and datetime.fromisoformat(at) for at in times)

    async def _drop(self, sandbox_ids: list[str]) -> None:
        if not sandbox_ids:
            return
        async with self._core.store.write() as db:
            for one in sandbox_ids:
                await sandboxes.drop_pooled(db, one)
        for one in sandbox_ids:
            self._queue.put(one)

    async def _refill(self, kind: PoolKind, present: list[SandboxRecord]) -> None:
        missing = min(self._to_begin(kind, present), self._room_in_memory(kind))
        if missing <= 0 or not await self._has_disk(kind):
            return
        try:
            async with self._core.store.write() as db:
                begun = await self._begin(db, kind, missing)
        except QuotaExceeded as error:
            self._put_off(kind, error.message)
            return
        for sandbox_id in begun:
            self._queue.put(sandbox_id)

    async def _begin(self, db: StoreConnection, kind: PoolKind, count: int) -> list[str]:
        """Ids of the new rows; none while their image is not here, or once their template keeps no pool."""
        of: dict[str, Any] = {}
        if kind.template is None and not self._core.driver.capabilities.layered:
            of = {"image": named.full(kind.profile.image)}
        elif kind.template is not None or kind.profile.image != HOST:
            image = await self._image(db, kind)
            if image is None or image.state != "ready":
                return []
            of = {"image": image.ref, "image_id": image.id}
        files = None if kind.template is None else kind.template.checkpoint_id
        records = [replace(kind.fresh_record(self._core.clock()), **of) for _ in range(count)]
        for record in records:
            await add_cargo(db, record, self._core.cargo.name, kind.disk_mb, files)
            await sandboxes.add(db, record)
            for spec in kind.services:
                await services.put(db, record.id, spec)
        return [record.id for record in records]

    async def _image(self, db: StoreConnection, kind: PoolKind) -> ImageRecord | None:
        if kind.template is None:
            return await self._images.of_profile(db, kind.profile.image)
        present = await templates.get(db, kind.template.id)
        if present is None or present.image_id is None or not _is_kept(present):
            return None
        await self._quotas.admit_pooled(db, present)
        return await images.get(db, present.image_id)

    def _room_in_memory(self, kind: PoolKind) -> int:
        """How many more are no strain. The pool that an operator has given a size has it while there is any;
        each other leaves room for as many at work.
        """
        if self._spare is None or self._spare < 0:
            return 0
        is_fixed = kind.template is None and not kind.follows_demand
        return sys.maxsize if is_fixed else self._spare // kind.resources.memory

    async def _has_disk(self, kind: PoolKind) -> bool:
        """Whether one more leaves the disk's reserve alone; without room it is asked again after a while."""
        try:
            await self._core.cargo.check_room("one more in the pool")
        except StorageFull as error:
            self._put_off(kind, error.message)
            return False
        return True

    def _to_begin(self, kind: PoolKind, present: list[SandboxRecord]) -> int:
        """How many are begun now. After a failure one goes first, to see whether it works again."""
        missing = self._size(kind) - len(present)
        due = self._tallies[kind.fingerprint].refill_at
        if due is None:
            return missing
        is_trying = any(r.phase != "running" for r in present)
        return 0 if is_trying or due > self._core.clock() else min(missing, 1)


async def add_cargo(
    db: StoreConnection,
    sandbox: SandboxRecord,
    backend: str,
    limit_mb: int | None,
    origin_id: str | None = None,
) -> None:
    """Insert the managed cargo of a new sandbox. `origin_id`: the checkpoint that it is copied from."""
    await cargos.add(
        db,
        {"id": sandbox.cargo_id, "owner": sandbox.owner, "managed_by_sandbox_id": sandbox.id, "backend": backend,
         "size_limit_mb": limit_mb, "origin_id": origin_id, "created_at": sandbox.created_at,
         "last_accessed_at": sandbox.created_at},
    )  # fmt: skip


def _by_fingerprint(kinds: Iterable[PoolKind]) -> dict[str, PoolKind]:
    return {kind.fingerprint: kind for kind in kinds if kind.largest}


def _is_kept(template: TemplateRecord) -> bool:
    """Whether its pool is wanted still."""
    return template.deleted_at is None and template.tag is not None and template.pool_largest > 0


def _started_after(record: SandboxRecord, moment: datetime) -> bool:
    session = record.session
    return session is not None and session.started_at is not None and session.started_at > moment
