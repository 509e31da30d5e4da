"""The service behind `/metrics`: it brings the gauges up to date, and writes all metrics as text.

`bay.meters` declares them. Counters and histograms move as things happen; a gauge of rows or of memory is set
by a scrape, so that nothing is counted while none comes.
"""

import asyncio
from dataclasses import dataclass

from bay.clock import Clock
from bay.meters import Meters
from bay.store.deferred import DeferredWrites
from bay.store.engine import Store
from bay.store.image_totals import ImageTotals, totals


@dataclass(kw_only=True, eq=False)
class Metrics:
    """Of one Bay. With several replicas each has its own, and those of rows are the same in all."""

    meters: Meters
    store: Store
    deferred: DeferredWrites
    clock: Clock

    async def text(self) -> bytes:
        """All metrics of this moment, in Prometheus' text format."""
        async with self.store.read() as db:
            found = await totals(db, self.clock())
        self._set_images(found)
        self.meters.deferred_waiting.set(len(self.deferred))
        return await asyncio.to_thread(self.meters.text)

    def _set_images(self, found: ImageTotals) -> None:
        meters = self.meters
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
