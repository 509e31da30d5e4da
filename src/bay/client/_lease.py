"""Renews the leases of the sandboxes of `with` blocks for as long as the program lives, and no longer.

Such a sandbox has a time to live of `LEASE_S`, and a thread puts its end off while the block lasts. A program
that is killed renews nothing, and Bay removes what it left. It is a thread in the async client too: code that
holds up the event loop must not cost it its sandbox. Rejected: a renewal by each call, since a program may
compute for an hour between two.
"""

import math
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from bay.client._answers import check
from bay.client._calls import Call
from bay.client._config import Config, http_options
from bay.client._failures import http_errors
from bay.client._paths import sandbox_path
from bay.errors import BayError, CallerError

LEASE_S = 600
"""How long a sandbox of a `with` block outlives its program, at most."""

RENEW_S = 120.0
_AGAIN_S = 5.0
_TIMEOUT_S = 20.0
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # a machine that slept must make good for it


def lease_now() -> float:
    """The time on the clock that counts for leases."""
    return time.clock_gettime(_CLOCK)


@dataclass(slots=True)
class _Lease:
    """`paid_to`: the time up to which its end was put off; `due`: when it is put off next."""

    paid_to: float
    due: float


class Leases:
    """The sandboxes that one client keeps alive. Its thread runs while there are any."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._changed = threading.Condition()
        self._held: dict[str, _Lease] = {}  # guarded by _changed, as is _thread
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, sandbox_id: str, since: float) -> Generator[None, None, None]:
        """Renew the lease of a sandbox that was made at `since` until the block is left."""
        with self._changed:
            self._held[sandbox_id] = _Lease(since, since + RENEW_S)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="bay-leases", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._held.pop(sandbox_id, None)
                self._changed.notify()

    def _run(self) -> None:
        with httpx.Client(**http_options(self._config), timeout=_TIMEOUT_S) as http:
            while (due := self._next_due()) is not None:
                for sandbox_id in due:
                    self._renew(http, sandbox_id)

    def _next_due(self) -> list[str] | None:
        """Those to renew, once there are some; None when none is held, and the thread ends."""
        with self._changed:
            while self._held:
                now = lease_now()
                if due := [one for one, lease in self._held.items() if lease.due <= now]:
                    return due
                pause = min(lease.due for lease in self._held.values()) - now
                self._changed.wait(min(pause, threading.TIMEOUT_MAX))  # it is inf where none is due
            self._thread = None
            return None

    def _renew(self, http: httpx.Client, sandbox_id: str) -> None:
        lease = self._held.get(sandbox_id)
        if lease is None:
            return
        seconds = max(1, round(lease_now() - lease.paid_to))
        try:
            self._extend(http, sandbox_id, seconds)
        except BayError as error:
            # It may be deleted, or not ours: the next call of the program reports it.
            is_over = isinstance(error, CallerError) and not error.retryable
            lease.due = math.inf if is_over else lease_now() + _AGAIN_S
        else:
            lease.paid_to += seconds
            lease.due = lease_now() + RENEW_S

    def _extend(self, http: httpx.Client, sandbox_id: str, seconds: int) -> None:
        call = Call.once(sandbox_path(sandbox_id, "extend_ttl"), {"extend_by": seconds})
        with http_errors(self._config.url):
            answer = http.post(call.address, content=call.json_content, headers=call.all_headers)
        check(answer, self._config.url)
