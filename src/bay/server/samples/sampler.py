"""The sampler: a pass over all sandboxes that run every ten seconds, written once a minute.

A pass is one query, one look of the driver at all sessions, and a little arithmetic. Its points wait in
memory for the end of their minute, and are then written in one transaction; who reads them asks here. A Bay
that is killed loses a minute of them. No failure of a pass or of the database reaches anything else: then
there is a gap. Why so: docs/design/0042-samples-are-packed-by-the-minute.md
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan

import structlog
from sqlalchemy.exc import SQLAlchemyError

from bay.drivers.base import Handle, Metered, Sampled, SessionSample
from bay.errors import BayError
from bay.server.replicas.bus import Bus
from bay.server.replicas.leases import ReplicaLeases
from bay.server.samples.points import ROW_S, STEP_S, SamplePoint, pack, rolled_up, to_json
from bay.server.sessions.core import Core
from bay.store import samples
from bay.store.samples import RunningSession, SampleRow

log = structlog.get_logger("bay.samples")

KIND = "samples"
"""The question to a replica for the points of a sandbox that it has not written yet."""

_ALONE_S = 60
"""Between two passes of a driver that measures each session by itself, as by a call to its Ship."""
_AT_ONCE = 8
_MOST_UNWRITTEN = 18
"""Points of a sandbox that wait for a database that takes no writes: three minutes of them."""
_FORGET_AFTER = 360
"""Passes after which the counters of a frozen session are forgotten, and those of one that ended."""
_COUNTERS = ("cpu_usec", "read_bytes", "written_bytes", "received_bytes", "sent_bytes")


@dataclass(slots=True)
class _Counted:
    """The counters of a session in the pass of that number."""

    sample: SessionSample
    number: int


@dataclass(slots=True)
class _Unwritten:
    """Points of a sandbox that wait in memory."""

    sandbox_seq: int
    points: list[SamplePoint]


class Sampler:
    """Takes samples of the sandboxes that this replica acts on. One task calls `sample` and `write`."""

    def __init__(self, core: Core, leases: ReplicaLeases, bus: Bus) -> None:
        self._core = core
        self._leases = leases
        self._number = 0
        self._passed_at: float | None = None
        """When the pass before was, in seconds since 1970."""
        self._handles: dict[str, Handle] = {}
        self._counted: dict[str, _Counted] = {}
        self._unwritten: dict[str, _Unwritten] = {}
        bus.answer(KIND, self._unwritten_here)

    @property
    def is_able(self) -> bool:
        """Whether the driver tells of anything."""
        return isinstance(self._core.driver, Sampled | Metered)

    @property
    def period_s(self) -> int:
        """Seconds between two passes."""
        return STEP_S if isinstance(self._core.driver, Sampled) else _ALONE_S

    async def run(self) -> None:
        """Sample at each multiple of the period until cancelled; what is left is written."""
        try:
            while self.is_able:
                now = self._core.clock().timestamp()
                await asyncio.sleep(self.period_s - now % self.period_s)
                try:
                    await self.sample()
                except BayError as error:
                    log.warning("samples.missed", error=error.message)
                except Exception:
                    log.exception("samples.failed")
        finally:
            await self.write()

    async def sample(self) -> None:
        """Take one sample of each sandbox that runs, and write those of the minute before."""
        now = self._core.clock().timestamp()
        # A sample is of the step that ends with it, also when it comes a little early or late.
        at = (round(now / STEP_S) - 1) * STEP_S
        await self._write_before(at)
        async with self._core.store.read() as db:
            running = await samples.running(db)
        running = [one for one in running if self._leases.owns(one.sandbox_id)]
        found = await self._measured(await self._handles_of(running))
        self._number += 1
        for session in running:
            if (sample := found.get(session.session_id)) is not None:
                self._add(session, self._point(at, now, session, sample))
        self._passed_at = now
        self._forget()

    async def write(self) -> None:
        """Write all points that wait. They go on waiting where that cannot be, the newest of them."""
        if not self._unwritten:
            return
        writing, self._unwritten = self._unwritten, {}
        try:
            async with self._core.store.write() as db:
                seqs = [one.sandbox_seq for one in writing.values()]
                present = await samples.present(db, seqs)
                kept = [one for one in writing.values() if one.sandbox_seq in present]
                await samples.add(db, [row for one in kept for row in _rows(one)])
        except (BayError, SQLAlchemyError) as error:
            log.warning("samples.unwritten", sandboxes=len(writing), error=str(error))
            self._unwritten = {
                name: _Unwritten(one.sandbox_seq, one.points[-_MOST_UNWRITTEN:])
                for name, one in writing.items()
            }

    async def _write_before(self, at: int) -> None:
        row_s = ROW_S[STEP_S]
        if any(one.points[0].at // row_s != at // row_s for one in self._unwritten.values()):
            await self.write()

    async def _unwritten_here(self, sandbox_id: str) -> list[list[float | None]]:
        found = self._unwritten.get(sandbox_id)
        return to_json(found.points) if found else []

    async def _handles_of(self, running: Sequence[RunningSession]) -> list[Handle]:
        """The handles, each of which is read once: that of a session that runs stays as it is."""
        ids = [one.session_id for one in running]
        if new := [one for one in ids if one not in self._handles]:
            async with self._core.store.read() as db:
                read = await samples.handles(db, new)
            self._handles |= {name: Handle.from_json(handle) for name, handle in read.items()}
        self._handles = {name: self._handles[name] for name in ids if name in self._handles}
        return list(self._handles.values())

    async def _measured(self, handles: Sequence[Handle]) -> Mapping[str, SessionSample]:
        driver = self._core.driver
        if isinstance(driver, Sampled):
            return await driver.samples(handles) if handles else {}
        if not isinstance(driver, Metered):
            return {}
        places = asyncio.Semaphore(_AT_ONCE)
        found: dict[str, SessionSample] = {}

        async def measure(handle: Handle) -> None:
            try:
                async with places:
                    usage = await driver.usage(handle)
            except BayError as error:
                log.info("samples.silent", id=handle.session_id, error=error.message)
                return
            if usage is not None:
                found[handle.session_id] = SessionSample.of(usage)

        async with asyncio.TaskGroup() as group:
            for handle in handles:
                group.create_task(measure(handle))
        return found

    def _point(self, at: int, now: float, session: RunningSession, sample: SessionSample) -> SamplePoint:
        used = self._used(now, session, sample)
        self._counted[session.session_id] = _Counted(sample, self._number)
        seconds, cpu_usec = used["seconds"], used["cpu_usec"]
        memory, execs = _number(sample.memory_bytes), float(session.execs)
        return SamplePoint(
            at=at,
            samples=1,
            cpus_max=cpu_usec / 1e6 / seconds if seconds else nan,
            memory_bytes=memory,
            memory_max_bytes=memory,
            memory_cache_bytes=_number(sample.memory_cache_bytes),
            disk_bytes=_number(session.disk_bytes),
            execs=execs,
            execs_max=execs,
            **used,
        )

    def _used(self, now: float, session: RunningSession, sample: SessionSample) -> dict[str, float]:
        """The use since the sample before. A session that began meanwhile has used all that it counts; of one
        that this Bay has not seen it is not known.
        """
        before = self._counted.get(session.session_id)
        if before is not None:
            seconds = sample.taken_s - before.sample.taken_s
            if before.number < self._number - 1:
                # It was frozen in between, and used nothing then: it ran for no more than two periods.
                seconds = min(seconds, 2 * self.period_s)
            counters = {name: _more(before.sample, sample, name) for name in _COUNTERS}
        elif self._passed_at is not None and session.started_at > self._passed_at:
            # Its counters have the use of its start too, which takes most of a core for a moment.
            seconds = now - max(session.created_at, self._passed_at)
            counters = {name: _number(getattr(sample, name)) for name in _COUNTERS}
        else:
            seconds, counters = 0.0, {}
        if seconds <= 0:
            return {"seconds": 0.0, **dict.fromkeys(_COUNTERS, nan)}
        return {"seconds": seconds, **counters}

    def _add(self, session: RunningSession, point: SamplePoint) -> None:
        waiting = self._unwritten.setdefault(session.sandbox_id, _Unwritten(session.sandbox_seq, []))
        waiting.points.append(point)
        if len(waiting.points) > 1 and waiting.points[-2].at >= point.at:
            waiting.points = rolled_up(waiting.points, STEP_S)  # the clock was set back, or a pass was late

    def _forget(self) -> None:
        oldest = self._number - _FORGET_AFTER
        if any(one.number < oldest for one in self._counted.values()):
            self._counted = {name: one for name, one in self._counted.items() if one.number >= oldest}


def _more(before: SessionSample, after: SessionSample, name: str) -> float:
    """How far a counter came; not at all where it began again."""
    first, second = getattr(before, name), getattr(after, name)
    return nan if first is None or second is None else float(max(0, second - first))


def _number(value: int | None) -> float:
    return nan if value is None else float(value)


def _rows(waiting: _Unwritten) -> list[SampleRow]:
    """A row for each minute."""
    row_s = ROW_S[STEP_S]
    minutes: dict[int, list[SamplePoint]] = {}
    for point in waiting.points:
        minutes.setdefault(int(point.at // row_s), []).append(point)
    return [
        SampleRow(waiting.sandbox_seq, STEP_S, int(points[0].at), pack(points)) for points in minutes.values()
    ]
