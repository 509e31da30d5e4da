"""Whether a Bay can serve: its database answers. A replica's leases last, too, and it hears the others."""

import asyncio
from dataclasses import dataclass

from bay.errors import DatabaseUnavailable
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases, parted
from bay.store.engine import Store

_PATIENCE_S = 3.0
"""A balancer asks again soon, and gives up on a check that takes longer than a few seconds."""

_TROUBLES = {
    "database": "its database does not answer",
    "leases": "its leases have ended, since it could not renew them",
    "bus": "it hears nothing from the other replicas",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyReplica:
    """A replica that can serve, and the shards and jobs that it works on."""

    replica: str
    shards: tuple[int, ...]
    jobs: tuple[str, ...]


@dataclass(kw_only=True, eq=False)
class Readiness:
    """The service behind `/health/ready`."""

    store: Store
    leases: ReplicaLeases
    bus: Bus

    async def check(self) -> ReadyReplica | None:
        """This replica, None for a Bay that is alone. Raises DatabaseUnavailable, of a replica with `failing`
        in its details: `database`, `leases`, `bus`. For a damaged database it raises InternalError.
        """
        if not self.store.is_shared:
            await self._ask_database()
            return None
        ready = {"database": await self._answers(), "leases": self.leases.is_live, "bus": self.bus.hears}
        if failing := [part for part, is_ready in ready.items() if not is_ready]:
            raise DatabaseUnavailable(
                f"{self.leases.me} cannot serve just now: "
                f"{'; '.join(_TROUBLES[part] for part in failing)}; ask another replica, or try again later",
                details={"replica": self.leases.me, "failing": failing},
            )
        shards, jobs = parted(self.leases.work())
        return ReadyReplica(replica=self.leases.me, shards=shards, jobs=jobs)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await self._ask_database()
        except (DatabaseUnavailable, TimeoutError):
            return False
        return True

    async def _ask_database(self) -> None:
        async with self.store.read() as db:
            await db.exec_driver_sql("SELECT 1")
