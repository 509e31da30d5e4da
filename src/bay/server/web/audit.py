"""The edge's part of the audit: a row when a changing call begins, and its outcome."""

from collections.abc import Mapping
from datetime import datetime, timedelta

import structlog

from bay.clock import Clock
from bay.ids import is_id
from bay.server.web.auth import Caller
from bay.store import audit
from bay.store.audit import AuditedCall
from bay.store.deferred import DeferredWrites

log = structlog.get_logger("bay.audit")

READING = frozenset(("GET", "HEAD", "OPTIONS"))
_PATH = 512
_METHOD = 16

REFUSED = 600
"""Rows for each minute of one key's calls that were refused and changed nothing."""

NAMELESS = 60
"""Audit rows each minute for unauthenticated calls: a caller without a key must not fill the disk."""
_MINUTE = timedelta(minutes=1)


class Auditor:
    """Makes the calls that `bay.store.audit` writes down."""

    def __init__(self, deferred: DeferredWrites, clock: Clock) -> None:
        self._deferred = deferred
        self._clock = clock
        self._nameless = _Ration("nobody", NAMELESS)
        self._refused: dict[str, _Ration] = {}
        """Rows of each key for calls that changed nothing: one key must not push out all others' rows."""

    def begin(self, method: str, path: str, request_id: str) -> AuditedCall | None:
        """A call that starts now; `path` has no key in it. None for one that only reads: no audit."""
        if method in READING:
            return None
        return AuditedCall(
            at=self._clock(), method=method[:_METHOD], path=path[:_PATH], request_id=request_id
        )

    def end(
        self, call: AuditedCall, status: int | None, code: str | None, params: Mapping[str, object]
    ) -> None:
        """Write its result soon; `params` are those of its route, and no `status` means that it was cut."""
        call.status, call.code = status, code
        if call.resource_id is None:
            call.resource_id = next((p for p in params.values() if isinstance(p, str) and is_id(p)), None)
        has_done = call.owner is not None and status is not None and status < 400  # such as to write a file
        if call.seq is not None or has_done or self._ration_of(call).take(self._clock()):
            self._deferred.put(lambda db: audit.finish(db, call))

    def _ration_of(self, call: AuditedCall) -> "_Ration":
        if call.key_id is None:
            return self._nameless
        return self._refused.setdefault(call.key_id, _Ration(call.key_id, REFUSED))


def name_caller(call: AuditedCall | None, caller: Caller) -> None:
    """Write the authenticated caller into its call."""
    if call is not None:
        call.owner, call.key_id = caller.owner, caller.key_id


class _Ration:
    """A rate limit for each minute. Rows above it are counted, and reported in one line after the minute."""

    def __init__(self, whose: str, most: int) -> None:
        self._whose = whose
        self._most = most
        self._ends: datetime | None = None
        self._taken = 0

    def take(self, now: datetime) -> bool:
        # A clock that was put back must not hold the ration for as long.
        if self._ends is None or not now < self._ends <= now + _MINUTE:
            self._start(now)
        self._taken += 1
        if self._taken == self._most + 1:
            log.warning("audit.limit", whose=self._whose, most=self._most, seconds=_MINUTE.total_seconds())
        return self._taken <= self._most

    def _start(self, now: datetime) -> None:
        if self._taken > self._most:
            log.warning("audit.left_out", whose=self._whose, count=self._taken - self._most)
        self._ends, self._taken = now + _MINUTE, 0
