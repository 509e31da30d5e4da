"""The usage service says what a sandbox uses at present. It wakes nothing, and looking is no activity."""

import asyncio
from dataclasses import dataclass

from bay.drivers.base import Metered, SessionUsage
from bay.models import Resources, SandboxUsage
from bay.server.cargos.usage import charged
from bay.server.sessions.core import Core
from bay.server.sessions.rows import handle_of
from bay.server.sessions.sizes import resources_of
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store import cargos
from bay.store.records import CargoRecord, SandboxRecord
from bay.units import MIB

MOST_OVER_S = 10.0
_NOTHING = SessionUsage(taken_s=0)


@dataclass(kw_only=True, eq=False)
class SandboxUsages:
    """The service behind `…/usage`."""

    core: Core
    waker: Waker

    async def get(self, caller: Caller, ref: str, over_s: float | None = None) -> SandboxUsage:
        """The usage of a sandbox; with `over_s` it takes so many seconds, and has `cpus_used` of them.
        Raises NotFound and DriverUnavailable.
        """
        record = await self.waker.find(caller, ref)
        async with self.core.store.read() as db:
            cargo = await cargos.get(db, record.cargo_id)
        earlier = now = await self._measured(record)
        if earlier is not None and over_s is not None:
            await asyncio.sleep(over_s)
            now = await self._measured(record)
        return await self._told(record, cargo, earlier, now)

    async def _measured(self, record: SandboxRecord) -> SessionUsage | None:
        session, driver = record.session, self.core.driver
        if session is None or session.phase not in ("running", "paused") or not isinstance(driver, Metered):
            return None
        return await driver.usage(handle_of(session))

    async def _told(
        self,
        record: SandboxRecord,
        cargo: CargoRecord,
        earlier: SessionUsage | None,
        now: SessionUsage | None,
    ) -> SandboxUsage:
        limits = (now and now.limits) or self._limits(record)
        seen = now or _NOTHING
        counted = await charged(self.core.cargo, cargo.id)
        at = self.core.clock()
        return SandboxUsage(
            at=at,
            cpus=limits and limits.cpus,
            cpus_used=_cpus_used(earlier, now),
            cpu_usec=seen.cpu_usec,
            memory_bytes=seen.memory_bytes,
            memory_cache_bytes=seen.memory_cache_bytes,
            memory_limit_bytes=limits and limits.memory,
            pids=seen.pids,
            pids_limit=limits and limits.pids,
            disk_bytes=cargo.used_bytes if counted is None else counted,
            disk_limit_bytes=cargo.size_limit_mb and cargo.size_limit_mb * MIB,
            disk_measured_at=cargo.measured_at if counted is None else at,
        )

    def _limits(self, record: SandboxRecord) -> Resources | None:
        """The resources that its next session will have."""
        profile = self.core.profiles.get(record.profile)
        return resources_of(record.sizes, profile) if profile else None


def _cpus_used(earlier: SessionUsage | None, now: SessionUsage | None) -> float | None:
    if earlier is None or now is None or earlier.cpu_usec is None or now.cpu_usec is None:
        return None
    passed_s = now.taken_s - earlier.taken_s
    # Some drivers lose sight of processes, and their time with them.
    return max(0, now.cpu_usec - earlier.cpu_usec) / 1_000_000 / passed_s if passed_s > 0 else None
