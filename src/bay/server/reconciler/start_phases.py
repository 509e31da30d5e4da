"""The phases of a start, measured and traced: each from the end of the one before."""

import time
from typing import Literal

from bay.drivers.base import Handle
from bay.meters import Meters, known_label
from bay.tracing import Tracing

Phase = Literal["files", "queue", "prepare", "record"]
"""Those that every start has, beside the steps of its driver."""

_STEPS = frozenset(("claimed", "launched", "created", "introduced", "ready"))
"""The steps of Bay's drivers, as their handles name them."""


class StartPhases:
    """One start, which begins now."""

    def __init__(self, meters: Meters, tracing: Tracing) -> None:
        self._meters = meters
        self._tracing = tracing
        self._began = self._at = time.perf_counter()

    def end(self, phase: Phase) -> None:
        """That phase is over."""
        self._observe(phase)

    def end_step(self, handle: Handle) -> None:
        """The driver has taken the step that the handle names."""
        self._observe(known_label(str(handle.data.get("step")), _STEPS))

    def succeed(self, meters: Meters) -> None:
        """The session runs, and its row says so."""
        self.end("record")
        meters.start_seconds.observe(time.perf_counter() - self._began)
        meters.starts.labels("ready").inc()

    def _observe(self, phase: str) -> None:
        now = time.perf_counter()
        self._meters.start_phase_seconds.labels(phase).observe(now - self._at)
        self._tracing.took(f"start {phase}", now - self._at)
        self._at = now
