"""The service behind `/metrics`: it brings the gauges up to date, and writes all metrics as text.

`bay.meters` declares them. Counters and histograms move as things happen; a gauge of rows or of memory is set
by a scrape, so that nothing is counted while none comes. Packets are counted by the kernel, and read then.
"""

import asyncio
from dataclasses import dataclass, field

import structlog

from bay.drivers.base import CountsRefusals
from bay.errors import DriverUnavailable
from bay.server.reconciler.reconciler import Reconciler
from bay.server.replicas.leases import JOBS, ReplicaLeases, parted
from bay.server.sandboxes.pool import Pool
from bay.server.sessions.core import Core
from bay.server.sessions.work_queue import WorkQueue
from bay.store import sandboxes
from bay.store.image_totals import ImageTotals, totals
from bay.store.records import StateTotal

log = structlog.get_logger("bay.metrics")


@dataclass(kw_only=True, eq=False)
class Metrics:
    """Of one Bay. With several replicas each has its own, and those of rows are the same in all."""

    core: Core
    queue: WorkQueue
    reconciler: Reconciler
    pool: Pool
    leases: ReplicaLeases
    _refused: dict[str, int] = field(default_factory=dict[str, int], init=False)
    """The packets that were counted so far, by reason."""

    async def text(self) -> bytes:
        """All metrics of this moment, in Prometheus' text format."""
        now = self.core.clock()
        async with self.core.store.read() as db:
            images = await totals(db, now)
            shown = await sandboxes.state_totals(db, now)
        self._set_images(images)
        self._set_sandboxes(shown)
        self._set_work()
        self._set_replica()
        await self._count_refusals()
        return await asyncio.to_thread(self.core.meters.text)

    def _set_sandboxes(self, shown: list[StateTotal]) -> None:
        meters = self.core.meters
        meters.sandboxes.clear()
        for total in shown:
            if not total.pooled:
                meters.sandboxes.labels(total.status, total.compute).set(total.sandboxes)
        for gauge in (meters.pool_ready, meters.pool_wanted):
            gauge.clear()
        for profile, (ready, wanted) in self.pool.levels().items():
            meters.pool_ready.labels(profile).set(ready)
            meters.pool_wanted.labels(profile).set(wanted)

    def _set_work(self) -> None:
        meters = self.core.meters
        length, lag_s = self.queue.waiting()
        meters.queue_length.set(length)
        meters.queue_lag.set(lag_s)
        meters.queue_working.set(len(self.queue.working()))
        meters.queue_retrying.set(self.reconciler.retrying)
        meters.deferred_waiting.set(len(self.core.deferred))

    def _set_replica(self) -> None:
        meters = self.core.meters
        shards, jobs = parted(self.leases.work())
        meters.replica_live.set(self.leases.is_live)
        meters.replica_shards.set(len(shards))
        for job in JOBS:
            meters.replica_jobs.labels(job).set(job in jobs)

    async def _count_refusals(self) -> None:
        driver = self.core.driver
        if not isinstance(driver, CountsRefusals):
            return
        try:
            found = await driver.refused_packets()
        except DriverUnavailable as error:
            log.warning("metrics.packets_unread", error=error.message)
            return
        for reason, packets in found.items():
            before = self._refused.get(reason, 0)
            self._refused[reason] = max(before, packets)  # another scrape may have read later, and been first
            self.core.meters.packets_refused.labels(reason).inc(self._refused[reason] - before)

    def _set_images(self, found: ImageTotals) -> None:
        meters = self.core.meters
        meters.images.labels("ready").set(found.images)
        meters.images.labels("pulling").set(found.pulling)
        meters.templates.set(found.templates)
        meters.image_layers.set(found.layers)
        meters.image_layers_bytes.set(found.layer_bytes)
        meters.template_files_bytes.set(found.workspace_bytes)
        meters.images_unused.set(found.unused)
        meters.images_unused_bytes.set(found.unused_bytes)
        meters.build_cache_steps.set(found.cached_steps)
        meters.build_cache_bytes.set(found.cached_bytes)
