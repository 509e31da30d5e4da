"""The overview of a host: its load, memory and storage, and the sandboxes of all owners in numbers.

A page asks for it every few seconds. It costs one query, two small files of the kernel and one statvfs(2),
however many sandboxes there are.
"""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from bay import __version__
from bay.cargo.base import CargoStore, Roomy
from bay.clock import Clock
from bay.meters import Meters
from bay.models import HostMemory, HostOverview, HostSandboxes, HostStorage, StartBucket, StartTimes
from bay.server.replicas.leases import ReplicaLeases
from bay.server.sandboxes.pool import Pool
from bay.store import sandboxes
from bay.store.engine import Store
from bay.store.records import StateTotal

_MEMINFO = Path("/proc/meminfo")
STARTS = "bay_start_duration_seconds"
"""The histogram of `/metrics` that has the times of starts."""


@dataclass(kw_only=True, eq=False)
class HostView:
    """The service behind `/v1/admin/host`: of the Bay that answers, and the host that this runs on."""

    store: Store
    driver: str
    cargo: CargoStore
    pool: Pool
    meters: Meters
    leases: ReplicaLeases
    memory_reserve: int
    clock: Clock
    _started_at: datetime | None = field(init=False, default=None)

    def start(self) -> None:
        """Note that Bay begins to serve."""
        self._started_at = self.clock()

    async def get(self) -> HostOverview:
        """All of it, of this moment."""
        now = self.clock()
        async with self.store.read() as db:
            counted = await sandboxes.state_totals(db, now)
        hits, misses = self.pool.served()
        started_at = self._started_at or now
        return HostOverview(
            version=__version__,
            driver=self.driver,
            replica=self.leases.me if self.store.is_shared else None,
            started_at=started_at,
            uptime_s=max(0.0, (now - started_at).total_seconds()),
            processors=os.cpu_count() or 1,
            load=os.getloadavg(),
            memory=await asyncio.to_thread(self._memory),
            storage=await self._storage(),
            sandboxes=_summed(counted),
            starts=start_times(self.meters.registry),
            pool_hits=hits,
            pool_misses=misses,
        )

    def _memory(self) -> HostMemory:
        lines = (line.split() for line in _MEMINFO.read_text().splitlines())
        found = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        return HostMemory(
            total_bytes=found["MemTotal:"],
            available_bytes=found["MemAvailable:"],
            reserve_bytes=self.memory_reserve,
        )

    async def _storage(self) -> HostStorage | None:
        if not isinstance(self.cargo, Roomy):
            return None
        room = await self.cargo.room()
        return HostStorage(
            backend=self.cargo.name,
            total_bytes=room.total,
            # Blocks that no program can have, such as a reserve of root's, count as used.
            used_bytes=room.total - room.free,
            free_bytes=room.free,
        )


def _summed(counted: Sequence[StateTotal]) -> HostSandboxes:
    by_status, by_compute = Counter[str](), Counter[str]()
    owned = [one for one in counted if not one.pooled]
    for one in owned:
        by_status[one.status] += one.sandboxes
        by_compute[one.compute] += one.sandboxes
    return HostSandboxes(
        total=sum(one.sandboxes for one in owned),
        by_status=dict(by_status),
        by_compute=dict(by_compute),
        pooled=sum(one.sandboxes for one in counted if one.pooled),
        sessions=sum(one.sessions for one in counted),
    )


def start_times(registry: CollectorRegistry) -> StartTimes:
    """The histogram of starts, each start in one bucket: Prometheus' own have all that is no longer."""
    # Of that metric alone: a collection of all reads files of the kernel.
    only = registry.restricted_registry([f"{STARTS}_{part}" for part in ("bucket", "count", "sum")]).collect()
    samples = [sample for metric in only for sample in metric.samples]
    values = {sample.name: sample.value for sample in samples if "le" not in sample.labels}
    bounds = sorted((float(s.labels["le"]), int(s.value)) for s in samples if "le" in s.labels)
    before = 0
    buckets: list[StartBucket] = []
    for bound, count in bounds:
        buckets.append(StartBucket(le_s=None if bound == math.inf else bound, count=count - before))
        before = count
    return StartTimes(
        count=int(values.get(f"{STARTS}_count", 0)),
        sum_s=values.get(f"{STARTS}_sum", 0.0),
        buckets=tuple(buckets),
    )
