"""Measures how much disk the cargos use, for `disk_mb`: those that were used since they were last measured, one at a time.

`du` does it, in a process of its own at the lowest priority: it walks by descriptors to any depth, follows no link and
crosses no mount. Rejected: a thread of Bay's, which would take the interpreter from the calls it serves; file
system quotas, which not every file system has. So the figure is a minute old at times, and bounds what is begun, not what is written.
"""

import asyncio
import os
import resource
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import structlog

from bay.cargo.base import CargoBackend
from bay.clock import Clock
from bay.store import cargos, tallies
from bay.store.engine import Store
from bay.store.later import Later

log = structlog.get_logger("bay.usage")

_PERIOD_S = 60.0
_DU_S = 120.0
_DU_BYTES = 1 << 30
"""Memory that `du` may have: it remembers each file with several names."""
_STALE = timedelta(minutes=10)
"""How old the figure of a running sandbox may get that nobody calls: what runs in it may write all the same."""


class Usage:
    """Keeps `used_bytes` of cargos near the truth."""

    def __init__(self, *, store: Store, later: Later, cargo: CargoBackend, clock: Clock) -> None:
        self._store = store
        self._later = later
        self._cargo = cargo
        self._clock = clock

    async def run(self) -> None:
        """Measure until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            try:
                await self.measure()
            except Exception:
                log.exception("usage.failed")

    async def measure(self) -> None:
        """Measure once what was used since."""
        await self._later.flush()
        async with self._store.read() as db:
            due = await tallies.unmeasured(db, self._clock() - _STALE)
        for cargo_id in due:
            await self._measure(cargo_id)

    async def _measure(self, cargo_id: str) -> None:
        now = self._clock()  # before: what is written meanwhile asks for another measurement
        found = await disk_use(self._cargo.path(cargo_id))
        values = {"measured_at": now} if found is None else {"measured_at": now, "used_bytes": found}
        self._later.put(lambda db: cargos.change(db, cargo_id, **values))


async def disk_use(path: Path) -> int | None:
    """Bytes on disk below `path`; None when it is not there, or is so large that it takes too long."""
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "du", "-skx", "--", str(path), stdin=null, stdout=pipe, stderr=null
    )
    try:
        _humble(process.pid)
        async with asyncio.timeout(_DU_S):
            said, _ = await process.communicate()
    except TimeoutError:
        log.warning("usage.too_slow", path=str(path), seconds=_DU_S)
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # It fails when a file goes away under it, but says the sum of the others then.
    kibibytes = said.split(b"\t")[0]
    return int(kibibytes) * 1024 if kibibytes.isdigit() else None


def _humble(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        resource.prlimit(pid, resource.RLIMIT_AS, (_DU_BYTES, _DU_BYTES))
