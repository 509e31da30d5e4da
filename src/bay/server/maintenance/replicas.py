"""The Bays of one database, and which of them does what."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from bay import __version__
from bay.clock import Clock
from bay.models import Replica, ReplicaState
from bay.server.replicas.leases import NAMES, ReplicaLeases, parted
from bay.store import leases as lease_rows
from bay.store.engine import Store
from bay.store.records import LeaseRecord, ReplicaRecord


@dataclass(kw_only=True, eq=False)
class Replicas:
    """The service behind `/v1/replicas`. `url` gives where this Bay reaches itself."""

    store: Store
    leases: ReplicaLeases
    url: Callable[[], str]
    clock: Clock
    _started_at: datetime | None = field(init=False, default=None)

    def start(self) -> None:
        """Note that Bay begins to serve."""
        self._started_at = self.clock()

    async def state(self) -> ReplicaState:
        """The replicas that live, as their rows say; of a Bay that is alone, that one with all the work."""
        if not self.store.is_shared:
            return ReplicaState(items=(self._view(self._alone(), NAMES),), unheld=())
        async with self.store.read() as db:
            living = await lease_rows.living(db)
            rows = await lease_rows.all_of(db)
        return self._of(living, rows)

    def _of(self, living: list[ReplicaRecord], rows: list[LeaseRecord]) -> ReplicaState:
        shown = {one.id for one in living}
        return ReplicaState(
            items=tuple(
                self._view(one, [row.name for row in rows if row.holder == one.id]) for one in living
            ),
            unheld=tuple(row.name for row in rows if row.holder not in shown),
        )

    def _view(self, row: ReplicaRecord, names: Iterable[str]) -> Replica:
        shards, jobs = parted(names)
        return Replica(
            id=row.id,
            url=row.url,
            version=row.version,
            started_at=row.started_at,
            beat_at=row.beat_at,
            is_self=row.id == self.leases.me,
            shards=shards,
            jobs=jobs,
        )

    def _alone(self) -> ReplicaRecord:
        now = self.clock()
        return ReplicaRecord(
            id=self.leases.me,
            url=self.url(),
            version=__version__,
            started_at=self._started_at or now,
            beat_at=now,
        )
