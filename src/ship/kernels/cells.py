"""Cells: pieces of code that a kernel runs, each with its events. They outlive the connection that asked."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ship.waiting import Bell
from ship.wire import line, raw_line, rfc3339
from ship_protocol import CELL_BYTES, ERROR_BYTES

State = Literal["queued", "running", "ended"]
Status = Literal["ok", "error", "timeout", "interrupted", "lost"]

_MAX_PER_KERNEL = 200
_KEPT_S = 600.0
_KEPT_BYTES = 40 << 20
_EVENT_OVERHEAD = 160


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRequest:
    id: str
    code: str
    timeout_s: float | None
    environment: Mapping[str, str]
    """The sandbox's, as it is now."""
    own_environment: Mapping[str, str]
    """Set while this cell runs, over all others."""
    trace: Mapping[str, str] = field(default_factory=dict[str, str])
    """The variables that name its trace, for kernels that can set some while a cell runs."""
    describe: bool = False
    """Whether figures and tables are described as data too."""


class Cell:
    """One cell. `news` rings at every event."""

    def __init__(self, order: CellRequest, kernel_id: str) -> None:
        self.id = order.id
        self.kernel_id = kernel_id
        self.code = order.code
        self.timeout_s = order.timeout_s
        self.environment = order.environment
        self.own_environment = order.own_environment
        self.trace = order.trace
        self.describe = order.describe
        self.state: State = "queued"
        self.status: Status | None = None
        self.execution_count: int | None = None
        self.started_at: float | None = None
        self.ended_at: float | None = None
        self.ended_monotonic = 0.0
        self.truncated = False
        self.kept_bytes = 0
        self.news = Bell()
        self._events: list[bytes] = []
        self._started_monotonic = 0.0

    @property
    def ended(self) -> bool:
        return self.state == "ended"

    @property
    def next_seq(self) -> int:
        return len(self._events)

    def to_wire(self) -> dict[str, object]:
        return {
            "id": self.id,
            "kernel": self.kernel_id,
            "state": self.state,
            "status": self.status,
            "started_at": None if self.started_at is None else rfc3339(self.started_at),
            "ended_at": None if self.ended_at is None else rfc3339(self.ended_at),
        }

    def events(self, since: int, limit: int) -> list[bytes]:
        """The lines of the events from number `since` on, about `limit` bytes at most but one at least."""
        found: list[bytes] = []
        for index in range(since, len(self._events)):
            if found and limit < len(self._events[index]):
                break
            limit -= len(self._events[index])
            found.append(self._events[index])
        return found

    def begin(self) -> None:
        self.state = "running"
        self.started_at = time.time()
        self._started_monotonic = time.monotonic()
        self.code = ""  # may be large, and is done with

    def add(self, kind: str, fields: Mapping[str, object]) -> None:
        """Add one event; events over the cell's limit are left out."""
        if self.ended:
            return
        encode = raw_line if kind == "error" else line
        added = encode({"seq": self.next_seq, "type": kind, **fields})
        cost = len(added) + _EVENT_OVERHEAD
        room = CELL_BYTES + (ERROR_BYTES if kind == "error" else 0)
        if kind != "end" and self.kept_bytes + cost > room:
            self.truncated = True
            return
        self._events.append(added)
        self.kept_bytes += cost
        self.news.ring()

    def end(self, status: Status, message: str | None = None, *, restarted: bool = False) -> None:
        """The last event. A second end changes nothing."""
        if self.ended:
            return
        now = time.monotonic()
        duration_s = now - self._started_monotonic if self.started_at is not None else 0.0
        self.add(
            "end",
            {
                "status": status,
                "execution_count": self.execution_count,
                "restarted": restarted,
                "message": message,
                "duration_ms": round(duration_s * 1000, 3),
                "truncated": self.truncated,
            },
        )
        self.state, self.status = "ended", status
        self.ended_at, self.ended_monotonic = time.time(), now
        self.code = ""
        self.news.ring()


def expired(cells: Iterable[Cell]) -> list[Cell]:
    """The ended `cells` to drop: over the limit of their kernel, the kept time, or the kept bytes of all."""
    ended = sorted((cell for cell in cells if cell.ended), key=lambda cell: -cell.ended_monotonic)
    oldest = time.monotonic() - _KEPT_S
    room = _KEPT_BYTES
    count: dict[str, int] = {}
    found: list[Cell] = []
    for cell in ended:
        count[cell.kernel_id] = count.get(cell.kernel_id, 0) + 1
        room -= cell.kept_bytes
        too_many = count[cell.kernel_id] > _MAX_PER_KERNEL
        if too_many or room < 0 or cell.ended_monotonic < oldest:
            found.append(cell)
    return found
