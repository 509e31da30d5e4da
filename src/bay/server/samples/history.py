"""The service that tells the use of resources over time, of the rows and of what is not written yet."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import isnan

from bay.errors import CapabilityNotSupported, InvalidArgument
from bay.models import MetricsPoint, SandboxMetrics
from bay.server.replicas.leases import ReplicaLeases
from bay.server.samples.points import KEEP_S, ROW_S, STEPS, SamplePoint, from_json, rolled_up, unpack
from bay.server.samples.sampler import KIND, Sampler
from bay.server.sessions.core import Core
from bay.server.sessions.waker import Waker
from bay.server.web.auth import Caller
from bay.store import samples
from bay.store.connection import StoreConnection
from bay.store.samples import SampleRow

MOST_POINTS = 3000
_DEFAULT = timedelta(hours=1)
_EPOCH = datetime.fromtimestamp(0, UTC)
LONGEST = timedelta(seconds=KEEP_S[STEPS[-1]])
_SLACK_S = 2 * STEPS[0]
"""How much longer than a step is kept a range may reach back, and still be of it: a call takes its time."""


@dataclass(kw_only=True, eq=False)
class SampleHistory:
    """The service behind `…/metrics`. `is_on`: the setting `samples`."""

    core: Core
    waker: Waker
    leases: ReplicaLeases
    sampler: Sampler
    is_on: bool

    async def get(
        self,
        caller: Caller,
        ref: str,
        since: datetime | None = None,
        until: datetime | None = None,
        step: int | None = None,
    ) -> SandboxMetrics:
        """The use of a sandbox from `since` to `until`, by default of the last hour. The step is the finest
        that is at least `step`, is kept as far back as `since`, and gives no more than `MOST_POINTS`.
        Raises NotFound, InvalidArgument, and CapabilityNotSupported where no samples are taken.
        """
        record = await self.waker.find(caller, ref)
        if not (self.is_on and self.sampler.is_able):
            raise CapabilityNotSupported(
                "this server takes no samples of sandboxes; set `samples` to true, with a driver that measures them",
                details={"capability": "metrics"},
            )
        now = self.core.clock()
        end = until or now
        begin = since or max(end, _EPOCH + _DEFAULT) - _DEFAULT
        chosen = self._step(now, begin, end, step)
        async with self.core.store.read() as db:
            seq = await samples.seq_of(db, record.id)
        # Before the rows are read: what is written meanwhile is in both, and not in neither.
        unwritten = from_json(await self.leases.ask_owner(record.id, KIND))
        span = _floor(begin, chosen), _ceiling(end)
        async with self.core.store.read() as db:
            points = await _points(db, seq, chosen, span, unwritten) if seq is not None else []
        return SandboxMetrics(step=chosen, points=tuple(map(_told, points)))

    def _step(self, now: datetime, begin: datetime, end: datetime, wanted: int | None) -> int:
        if wanted is not None and wanted not in STEPS:
            raise InvalidArgument(
                f"step is {wanted} seconds; give 10, 60 or 900", details={"field": "query.step"}
            )
        if begin >= end:
            raise InvalidArgument(
                "`from` is not before `to`; give a range of some length", details={"field": "query.from"}
            )
        if end - begin > LONGEST:
            raise InvalidArgument(
                f"the range is longer than {LONGEST.days} days, which samples are kept for; ask for less",
                details={"field": "query.from"},
            )
        least = max(wanted or 0, self.sampler.period_s)
        for step in STEPS:
            is_kept = (now - begin).total_seconds() <= KEEP_S[step] + _SLACK_S
            is_few = (end - begin).total_seconds() / step <= MOST_POINTS
            if step >= least and is_kept and is_few:
                return step
        return STEPS[-1]


async def _points(
    db: StoreConnection, seq: int, step: int, span: tuple[int, int], unwritten: Sequence[SamplePoint]
) -> list[SamplePoint]:
    """The points of that step. Where there is no row of it yet, or never will be, those of a finer step are
    rolled up.
    """
    since, before = span
    found: list[SamplePoint] = []
    covered: list[tuple[int, int]] = []
    finer = [one for one in STEPS if one <= step]
    for one in reversed(finer):
        rows = await samples.of_sandbox(db, seq, one, since - ROW_S[one], before)
        fresh = [
            point for point in _of(rows, unwritten if one == STEPS[0] else ()) if not _in(covered, point)
        ]
        found += rolled_up(fresh, step)
        if one != STEPS[0]:
            covered += [(row.at // ROW_S[one] * ROW_S[one], ROW_S[one]) for row in rows]
    return [point for point in rolled_up(found, step) if since <= point.at < before]


def _of(rows: Sequence[SampleRow], unwritten: Sequence[SamplePoint]) -> Iterable[SamplePoint]:
    known = {point.at: point for point in unwritten}
    for row in rows:
        known |= {point.at: point for point in unpack(row.points)}
    return known.values()


def _in(covered: Sequence[tuple[int, int]], point: SamplePoint) -> bool:
    return any(start <= point.at < start + length for start, length in covered)


def _floor(moment: datetime, step: int) -> int:
    return int(moment.timestamp() // step) * step


def _ceiling(moment: datetime) -> int:
    return -int(-moment.timestamp() // 1)


def _told(point: SamplePoint) -> MetricsPoint:
    used = point.cpu_usec / 1e6 / point.seconds if point.seconds else None
    return MetricsPoint(
        at=datetime.fromtimestamp(point.at, UTC),
        seconds=round(point.seconds, 3),
        cpus_used=_shown(used),
        cpus_max=_shown(point.cpus_max),
        memory_bytes=_shown(point.memory_bytes),
        memory_max_bytes=_shown(point.memory_max_bytes),
        memory_cache_bytes=_shown(point.memory_cache_bytes),
        disk_bytes=_shown(point.disk_bytes),
        read_bytes=_shown(point.read_bytes),
        written_bytes=_shown(point.written_bytes),
        received_bytes=_shown(point.received_bytes),
        sent_bytes=_shown(point.sent_bytes),
        execs=_shown(point.execs),
        execs_max=_shown(point.execs_max),
    )


def _shown(number: float | None) -> float | None:
    return None if number is None or isnan(number) else round(number, 4)
