"""What the traffic did and what went wrong, and which failures have a cause that was put there on purpose.

An error is excused only when something that can cause it happened to that sandbox, or to Bay, while the call
was under way or a moment before. Everything else is counted by its kind and makes the soak fail.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import TypeVar

from bay.errors import BayError

T = TypeVar("T")

RECOVERED_S = 5.0
"""So long after a crash a call may still notice it."""

CUT = {"connection_failed": RECOVERED_S, "late": 20.0}
"""Codes that a killed Bay excuses, and how long after its next start: what has its time may
then come late.
"""

BROKEN = frozenset({"ship_error", "session_not_ready", "output_gone", "lost"})
OVER = BROKEN | {"sandbox_expired", "not_found"}


class Wrong(Exception):
    """An answer that is not what it must be; the message is its kind."""

    code = "wrong"


class Lost(Wrong):
    """A command whose end nobody saw."""

    code = "lost"


class Late(Wrong):
    """Something that has its time and did not happen by then."""

    code = "late"


@dataclass(slots=True)
class Journal:
    """Shared by all threads of a soak."""

    done: Counter[str] = field(default_factory=Counter[str])
    excused: Counter[str] = field(default_factory=Counter[str])
    unexpected: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, str] = field(default_factory=dict[str, str])
    _outages: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    _struck: dict[str, float] = field(default_factory=dict[str, float])
    _ends: dict[str, float] = field(default_factory=dict[str, float])
    # Guards everything above; nothing else is waited for while it is held.
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def outage(self) -> Callable[[], None]:
        """Bay goes down now; call what this returns when it is up again."""
        with self._lock:
            number, began = len(self._outages), time.monotonic()
            self._outages.append((began, float("inf")))

        def over() -> None:
            with self._lock:
                self._outages[number] = (began, time.monotonic())

        return over

    def strike(self, sandbox_id: str) -> None:
        """The processes of this sandbox are killed now."""
        with self._lock:
            self._struck[sandbox_id] = time.monotonic()

    def will_end(self, sandbox_id: str, in_s: float) -> None:
        """From then on the sandbox may have expired."""
        with self._lock:
            self._ends[sandbox_id] = time.monotonic() + in_s

    def has_ended(self, sandbox_id: str) -> bool:
        """Whether the sandbox may have expired by now."""
        with self._lock:
            return self._ends.get(sandbox_id, float("inf")) < time.monotonic()

    def attempt(self, what: str, sandbox_id: str, act: Callable[[], T]) -> T | None:
        """What `act` gives, None when it failed; either is written down."""
        began = time.monotonic()
        try:
            result = act()
        except (BayError, Wrong) as error:
            self._failed(what, sandbox_id, began, error.code, str(error))
        except (OSError, HTTPException) as error:
            self._failed(what, sandbox_id, began, "connection_failed", repr(error))
        else:
            self.count(what)
            return result
        return None

    def count(self, what: str) -> None:
        """One more of `what` was done."""
        with self._lock:
            self.done[what] += 1

    def _failed(self, what: str, sandbox_id: str, began: float, code: str, said: str) -> None:
        with self._lock:
            cause = self._cause(sandbox_id, began, code)
            if cause:
                self.excused[f"{code}: {cause}"] += 1
                return
            kind = f"{what}: {code}" if code != "wrong" else f"{what}: {said}"
            self.unexpected[kind] += 1
            self.examples.setdefault(kind, f"{sandbox_id} {said}")

    def _cause(self, sandbox_id: str, began: float, code: str) -> str | None:
        now = time.monotonic()
        if code in CUT and any(down < now and up > began - CUT[code] for down, up in self._outages):
            return "Bay was killed"
        if code in BROKEN and self._struck.get(sandbox_id, 0) > began - RECOVERED_S:
            return "its Ship was killed"
        if code in OVER and self._ends.get(sandbox_id, float("inf")) < now:
            return "its time was over"
        return None
