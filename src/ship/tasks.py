"""Tasks: programs of the sandbox keep it awake by them, each for a limited time.

They are in memory, and end with the session. Their number is bounded, and so is the time for which one may
be renewed: a program that was forgotten does not keep its sandbox awake for ever. One that takes task after
task does, until the sandbox expires. Tasks only count against idleness: a pause or a stop by the sandbox's
owner asks for none.
"""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from ship.errors import Conflict, InvalidArgument, NotFound
from ship.http.conversation import Answer, Request, json_answer
from ship.wire import printable, rfc3339

MAX_TASKS = 32
MAX_TTL_S = 3600.0
MAX_TOTAL_S = 86_400.0
_REFUSED_S = MAX_TTL_S
"""How long after its end a task that was renewed for `MAX_TOTAL_S` cannot begin anew."""
_DEFAULT_TTL_S = 300.0
_NAME_CHARS = 64
_BODY_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Task:
    """One hold. `until` is monotonic, and so is `end`, which no renewal passes."""

    id: str
    name: str
    until: float
    end: float

    def is_known(self, now: float) -> bool:
        """Whether it holds, or is refused its renewal."""
        return now < (self.until if self.until < self.end else self.end + _REFUSED_S)

    def to_wire(self, now: float) -> dict[str, object]:
        """`expires_at` by the wall clock, which may jump; the limit does not."""
        left_s = self.until - now
        return {"id": self.id, "name": self.name, "expires_at": rfc3339(time.time() + left_s)}


class Tasks:
    """The tasks of the session, and the requests on them."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._known: dict[str, Task] = {}

    async def answer(self, request: Request) -> Answer:
        """A request to `/tasks`, or inside to `/v1/tasks`. Raises ShipError."""
        segments = request.segments[request.segments.index("tasks") + 1 :]
        match request.method, segments:
            case "GET", ():
                now = self._now()
                return json_answer(200, {"tasks": [task.to_wire(now) for task in self.list()]})
            case "POST", ():
                task = self.hold(*_wanted(await request.read_json(_BODY_BYTES)))
                return json_answer(201, task.to_wire(self._now()))
            case "DELETE", (ref,):
                self.release(ref)
                return json_answer(200, {"status": "ok"})
            case _:
                raise NotFound("there is no such route")

    def list(self) -> list[Task]:
        """Those whose time is not over."""
        now = self._now()
        self._known = {name: task for name, task in self._known.items() if task.is_known(now)}
        return [task for task in self._known.values() if now < task.until]

    def hold(self, name: str | None, ttl_s: float) -> Task:
        """A task of that name from now on; one that is held is renewed. Raises Conflict."""
        held, now = self.list(), self._now()
        task_id = f"task-{secrets.token_hex(8)}"
        name = name or task_id
        before = self._known.get(name)
        if before is None:
            if len(held) >= MAX_TASKS:
                raise Conflict(f"there are {MAX_TASKS} tasks, the limit; end one")
            before = Task(task_id, name, now, now + MAX_TOTAL_S)
        elif now >= before.end:
            raise Conflict(
                f"task {name} has been renewed for {MAX_TOTAL_S:g} s, the limit; delete it and begin another"
            )
        task = self._known[name] = replace(before, until=min(now + ttl_s, before.end))
        return task

    def release(self, ref: str) -> None:
        """End the task of that id or name. Raises NotFound."""
        self.list()
        for task in self._known.values():
            if ref in (task.id, task.name):
                del self._known[task.name]
                return
        raise NotFound(f"there is no task {ref[:_NAME_CHARS]!a}")


def _wanted(body: object) -> tuple[str | None, float]:
    """Name and seconds of a request. Raises InvalidArgument."""
    if not isinstance(body, dict):
        raise InvalidArgument("the body must be a JSON object")
    given = cast("dict[str, Any]", body)
    name, ttl_s = given.get("name"), given.get("ttl", _DEFAULT_TTL_S)
    if name is not None and not (isinstance(name, str) and 0 < len(name) <= _NAME_CHARS):
        raise InvalidArgument(f"name must be a text of 1 to {_NAME_CHARS} characters")
    if isinstance(ttl_s, bool) or not isinstance(ttl_s, int | float):
        raise InvalidArgument("ttl must be a number of seconds")
    if not 0 < ttl_s <= MAX_TTL_S:
        raise InvalidArgument(f"ttl must be above 0 and at most {MAX_TTL_S:g} s")
    return None if name is None else printable(name), float(ttl_s)
