"""Creates of pods that the API server has given no answer to, and may commit later.

Bay gives up such a start and removes the pod by its name, of which there is none yet. One that is committed
after that would belong to no row until Bay starts again. So the name is remembered, and a pod that the watch
tells of is removed.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bay.drivers.kubernetes.pod_watch import PodState, PodWatch
from bay.drivers.kubernetes.session_state import is_released
from bay.errors import DriverUnavailable

log = structlog.get_logger("bay.drivers.kubernetes")

LATE_S = 600.0
"""An API server gives a request up after a minute, and what stands before it may keep it a while longer."""
_AGAIN_S = 5.0


class LateCreates:
    """The names of pods whose create was not answered. `remove` takes the session's id."""

    def __init__(self, remove: Callable[[str], Awaitable[None]], late_s: float = LATE_S) -> None:
        self._remove = remove
        self._late_s = late_s
        self._unanswered: set[str] = set()
        self._looking: dict[str, asyncio.Task[None]] = {}

    def note(self, name: str) -> None:
        """Its create was not answered."""
        self._unanswered.add(name)

    def forget(self, name: str) -> None:
        """A pod of that name is wanted."""
        self._unanswered.discard(name)
        if (task := self._looking.pop(name, None)) is not None:
            task.cancel()

    def look_out(self, watch: PodWatch, name: str, session_id: str) -> None:
        """No pod of that name is wanted any more: one that comes of a create that was noted is removed."""
        if name in self._unanswered:
            self._unanswered.discard(name)
            self._looking[name] = asyncio.create_task(self._look_out(watch, name, session_id))

    async def aclose(self) -> None:
        """Look out no longer; the next Bay removes what it has no row for."""
        tasks = list(self._looking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _look_out(self, watch: PodWatch, name: str, session_id: str) -> None:
        try:
            async with asyncio.timeout(self._late_s):
                while not await self._is_removed(watch.get(name), session_id):
                    await _changed(watch, name)
        except TimeoutError:
            return
        finally:
            if self._looking.get(name) is asyncio.current_task():
                del self._looking[name]

    async def _is_removed(self, state: PodState | None, session_id: str) -> bool:
        if state is None or is_released(state):
            return False
        log.warning("kubernetes.late_pod", pod=state.name)
        try:
            await self._remove(session_id)
        except DriverUnavailable as error:
            log.warning("kubernetes.late_pod_stays", pod=state.name, reason=error.message)
            return False
        return True


async def _changed(watch: PodWatch, name: str) -> None:
    """Wait for the watch to tell of that pod; where there is one already, not for long."""
    seen = watch.get(name)
    limit_s = None if seen is None else _AGAIN_S
    try:
        async with asyncio.timeout(limit_s):
            await watch.changed(name, seen)
    except TimeoutError:
        return
