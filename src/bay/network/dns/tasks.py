"""A task group for what is opened and closed, not entered: its tasks end when it is closed."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """A parent for tasks that handle their own errors."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends or this is closed."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def __len__(self) -> int:
        return len(self._running)

    async def aclose(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
