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
from functools import partial
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
_BATCH = 50  # a process for each would cost more than the measuring
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
        for first in range(0, len(due), _BATCH):
            await self._measure(due[first : first + _BATCH])

    async def _measure(self, cargo_ids: list[str]) -> None:
        now = self._clock()  # before: what is written meanwhile asks for another measurement
        found = await disk_use([self._cargo.path(cargo_id) for cargo_id in cargo_ids])
        for cargo_id, used in zip(cargo_ids, found, strict=False):
            values = {"measured_at": now} if used is None else {"measured_at": now, "used_bytes": used}
            self._later.put(partial(cargos.change, cargo_id=cargo_id, **values))


async def disk_use(paths: list[Path]) -> list[int | None]:
    """Bytes on disk below each of `paths`, in order; None for one that is not there.

    Ends early, with None for the one that took too long and nothing for those behind it.
    """
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "du", "-0skx", "--", *map(str, paths), stdin=null, stdout=pipe, stderr=null
    )
    found: dict[str, int] = {}
    try:
        _humble(process.pid)
        async with asyncio.timeout(_DU_S):
            await _read_sums(process, found)
            return [found.get(str(path)) for path in paths]
    except TimeoutError:
        said = max((number for number, path in enumerate(paths, 1) if str(path) in found), default=0)
        log.warning("usage.too_slow", path=str(paths[min(said, len(paths) - 1)]), seconds=_DU_S)
        return [*(found.get(str(path)) for path in paths[:said]), None]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _read_sums(process: asyncio.subprocess.Process, found: dict[str, int]) -> None:
    """Take down each sum as it is said. `du` fails when a file goes away under it, but says the sum of the others then."""
    assert process.stdout is not None  # noqa: S101 - it was asked for
    while True:
        try:
            line = await process.stdout.readuntil(b"\0")
        except asyncio.IncompleteReadError:
            await process.wait()
            return
        kibibytes, _, path = line[:-1].partition(b"\t")
        if kibibytes.isdigit():
            found[path.decode()] = int(kibibytes) * 1024


def _humble(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.setpriority(os.PRIO_PROCESS, pid, 19)
        resource.prlimit(pid, resource.RLIMIT_AS, (_DU_BYTES, _DU_BYTES))
