"""Watchers that are asked: each follows a directory for a client that comes for the events now and then.

The events wait in memory, by count and bytes, and are for the client's next question. A watcher that nobody
asks for ten minutes ends; so does the least asked one of a sandbox or an owner that makes too many. None
outlives Bay: a client then hears that there is no such watcher, and makes another.
"""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from bay.errors import BayError
from bay.server.compat.e2b.connect import RpcError
from bay.server.compat.e2b.entries import filesystem_event
from bay.server.compat.e2b.file_service import LOST, EnvdFiles
from bay.server.web.auth import Caller

log = structlog.get_logger("bay.e2b")

FORGOTTEN_S = 600.0
_OF_SANDBOX, _OF_OWNER = 16, 64
"""Watchers that one of these may have."""
_MAX_EVENTS, _MAX_BYTES = 4096, 256 << 10
"""The most that waits for the client of one."""
_MOMENT_S = 0.1
"""How long a question without an answer waits for one: an event is on its way while its cause is answered."""


@dataclass(eq=False, slots=True)
class _Watcher:
    id: str
    caller: Caller
    ref: str
    asked_at: float
    waiting: deque[tuple[int, Mapping[str, Any]]] = field(
        default_factory=deque[tuple[int, Mapping[str, Any]]]
    )
    bytes: int = 0
    lost: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    limit: asyncio.Timeout | None = None
    task: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody has asked for so long that it ends, though its watch may still be closing."""
        return self.limit is not None and self.limit.expired()

    def put(self, event: Mapping[str, Any]) -> None:
        size = len(json.dumps(event))
        if len(self.waiting) >= _MAX_EVENTS or self.bytes + size > _MAX_BYTES:
            self.lose()
            return
        self.waiting.append((size, event))
        self.bytes += size
        self.changed.set()

    def lose(self) -> None:
        self.waiting.clear()
        self.bytes, self.lost = 0, True
        self.changed.set()

    def take(self) -> list[Mapping[str, Any]]:
        found = [event for _, event in self.waiting]
        self.waiting.clear()
        self.bytes = 0
        self.changed.clear()
        return found


class EnvdWatchers:
    """The service behind `CreateWatcher` and the calls that follow it."""

    def __init__(self, *, files: EnvdFiles, forgotten_s: float = FORGOTTEN_S) -> None:
        self._files = files
        self._forgotten_s = forgotten_s
        self._all: dict[str, _Watcher] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follow the directories of watchers, until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._group = None  # one that ends takes no further task

    async def create(
        self, caller: Caller, ref: str, user: str | None, path: str, *, recursive: bool, entries: bool
    ) -> str:
        """The id of a new watcher, which watches by now. It may be gone when this returns, as at any time."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        made = _Watcher(f"watcher-{secrets.token_hex(12)}", caller, ref, self._now())
        if self._group is None:
            raise RpcError("unavailable", "Bay is starting or ending; try again")
        work = self._follow(made, ready, user, path, recursive=recursive, entries=entries)
        made.task = self._group.create_task(work)
        try:
            await ready
        except BaseException:
            made.task.cancel()
            raise
        return made.id

    async def events(self, caller: Caller, ref: str, watcher_id: str) -> list[Mapping[str, Any]]:
        """The events since the last question. Raises RpcError once when some were lost."""
        found = self._found(caller, ref, watcher_id)
        found.asked_at = self._now()
        if found.limit is not None:
            found.limit.reschedule(found.asked_at + self._forgotten_s)
        if not found.waiting and not found.lost:
            with suppress(TimeoutError):
                async with asyncio.timeout(_MOMENT_S):
                    await found.changed.wait()
        if found.lost:
            found.lost = False
            raise RpcError("resource_exhausted", "events were lost; list the directory again")
        return found.take()

    async def remove(self, caller: Caller, ref: str, watcher_id: str) -> None:
        """End a watcher."""
        self._end(self._found(caller, ref, watcher_id))

    async def _follow(
        self,
        made: _Watcher,
        ready: asyncio.Future[None],
        user: str | None,
        path: str,
        *,
        recursive: bool,
        entries: bool,
    ) -> None:
        try:
            async with (
                asyncio.timeout(self._forgotten_s) as made.limit,
                self._files.watch(
                    made.caller, made.ref, user, path, recursive=recursive, entries=entries, goes_on=True
                ) as told,
            ):
                async for message in told:
                    if not ready.done():
                        # Here, not where the result is awaited: by then the watch may have ended.
                        self._make_room(made)
                        self._all[made.id] = made
                        ready.set_result(None)
                    if message == LOST:
                        made.lose()
                    elif (event := filesystem_event(message)) is not None:
                        made.put(event)
                # The directory is gone; its last events are still for the client.
                await asyncio.get_running_loop().create_future()
        except (BayError, RpcError, TimeoutError) as error:
            if not ready.done():
                ready.set_exception(error)
        except Exception as error:
            # The edge of a watcher, as of a request: what goes wrong in one must not end Bay.
            log.exception("e2b.watcher_failed", sandbox_id=made.ref)
            if not ready.done():
                ready.set_exception(RpcError("internal", f"the watch failed ({type(error).__name__})"))
        finally:
            self._all.pop(made.id, None)
            if not ready.done():  # it was cancelled
                ready.set_exception(RpcError("unavailable", "Bay is ending; try again"))

    def _make_room(self, made: _Watcher) -> None:
        """End the watchers that were asked least lately, for there to be room for one more."""
        mine = sorted(
            (one for one in self._all.values() if one.caller.owner == made.caller.owner),
            key=lambda one: one.asked_at,
        )
        beside = [one for one in mine if one.ref == made.ref]
        for least in {*_but(mine, _OF_OWNER - 1), *_but(beside, _OF_SANDBOX - 1)}:
            self._end(least)

    def _end(self, found: _Watcher) -> None:
        self._all.pop(found.id, None)
        if found.task is not None:
            found.task.cancel()

    def _found(self, caller: Caller, ref: str, watcher_id: str) -> _Watcher:
        found = self._all.get(watcher_id)
        if found is None or found.is_over or found.caller.owner != caller.owner or found.ref != ref:
            raise RpcError("not_found", f"watcher with id {watcher_id[:64]} not found")
        return found

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _but(watchers: list[_Watcher], most: int) -> list[_Watcher]:
    """All but the last `most`."""
    return watchers[: max(0, len(watchers) - most)]
