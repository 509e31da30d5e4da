"""Rolls samples up to coarser steps, and forgets those whose time is over: a part of retention.

A row of a coarser step is made once its time is over, of all rows of the finer one in that time. So it needs
no memory of its own: after a crash, or after hours without Bay, it goes on at the first time without one.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from bay.server.samples.points import KEEP_S, ROW_S, STEPS, SamplePoint, pack, rolled_up, unpack
from bay.server.sessions.core import Core
from bay.store import samples
from bay.store.samples import SampleRow

_LATE_S = 240
"""So long after the end of a row's time its finer rows may still be written."""
_SANDBOXES = 200
"""Of one transaction."""


class Rolling:
    """Keeps samples at falling resolution. Called by one job."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def roll_up(self) -> None:
        """Make the rows that are due, then drop the old ones."""
        now = self._core.clock().timestamp()
        for finer, coarser in pairwise(STEPS):
            await self._make(finer, coarser, now - _LATE_S)
        for step in STEPS:
            await self._trim(step, int(now) - KEEP_S[step] - ROW_S[step])

    async def _make(self, finer: int, coarser: int, until: float) -> None:
        row_s = ROW_S[coarser]
        async with self._core.store.read() as db:
            last = await samples.last(db, coarser)
        since = 0 if last is None else last // row_s * row_s + row_s
        while True:
            async with self._core.store.read() as db:
                first = await samples.first(db, finer, since)
            if first is None or (start := first // row_s * row_s) + row_s > until:
                return
            await self._make_rows(finer, coarser, start)
            since = start + row_s

    async def _make_rows(self, finer: int, coarser: int, start: int) -> None:
        """A row for each sandbox with samples in that time, some sandboxes at a time."""
        after = 0
        while True:
            async with self._core.store.read() as db:
                found = await samples.within(db, finer, start, start + ROW_S[coarser], after, _SANDBOXES)
            if not found:
                return
            after = found[-1].sandbox_seq
            rows = await asyncio.to_thread(_coarser, found, coarser)
            async with self._core.store.write() as db:
                present = await samples.present(db, [row.sandbox_seq for row in rows])
                await samples.add(db, [row for row in rows if row.sandbox_seq in present])

    async def _trim(self, step: int, before: int) -> None:
        """Drop old rows, those of one beginning at a time: of each sandbox there is one or two."""
        while True:
            async with self._core.store.read() as db:
                first = await samples.first(db, step)
            if first is None or first >= before:
                return
            async with self._core.store.write() as db:
                await samples.forget(db, step, min(before, first + ROW_S[step]))


def _coarser(rows: Sequence[SampleRow], step: int) -> list[SampleRow]:
    points: dict[int, list[SamplePoint]] = defaultdict(list)
    for row in rows:
        points[row.sandbox_seq] += unpack(row.points)
    made: list[SampleRow] = []
    for sandbox_seq, its in points.items():
        if rolled := rolled_up(its, step):
            made.append(SampleRow(sandbox_seq, step, int(rolled[0].at), pack(rolled)))
    return made
