"""The query log of a sandbox: how often each rule decided, and which names were refused."""

from collections import OrderedDict
from dataclasses import replace

from bay.clock import Clock
from bay.meters import Meters
from bay.models import RefusedName

Counts = dict[int | None, tuple[int, int]]
"""By rule, None for the mode: questions allowed and refused."""


class QueryLog:
    """One sandbox's. The names are bounded by `most`, and the one that was asked longest ago makes room."""

    def __init__(self, most: int, clock: Clock, meters: Meters) -> None:
        self._most, self._clock = most, clock
        self._verdicts = meters.names.labels("refused"), meters.names.labels("allowed")
        self._unanswered = meters.names_refused
        self._names: OrderedDict[tuple[str, str, str], RefusedName] = OrderedDict()
        self._counts: Counts = {}

    def count(self, rule: int | None, *, allowed: bool) -> None:
        """One more question that `rule` decided."""
        yes, no = self._counts.get(rule, (0, 0))
        self._counts[rule] = (yes + allowed, no + (not allowed))
        self._verdicts[allowed].inc()

    def refuse(self, name: str, kind: str, reason: str, rule: int | None) -> None:
        """One more time that `name` was not answered. `reason` is one of few words."""
        self._unanswered.labels(reason).inc()
        key, now = (name, kind, reason), self._clock()
        known = self._names.pop(key, None) or RefusedName(
            name=name, type=kind, reason=reason, rule=rule, count=0, first_at=now, last_at=now
        )
        self._names[key] = replace(known, rule=rule, count=known.count + 1, last_at=now)
        if len(self._names) > self._most:
            self._names.popitem(last=False)

    def rules_changed(self) -> None:
        """Drop the counts and rules: the numbers mean other rules now."""
        self._counts.clear()
        self._names = OrderedDict((key, replace(name, rule=None)) for key, name in self._names.items())

    def refused(self) -> tuple[RefusedName, ...]:
        """Newest last."""
        return tuple(self._names.values())

    def counts(self) -> Counts:
        """By rule, since the policy changed last."""
        return dict(self._counts)
