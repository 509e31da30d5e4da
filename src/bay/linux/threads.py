"""The thread seam: the one way for blocking work to leave the event loop."""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from bay.errors import DriverUnavailable

T = TypeVar("T")


async def in_new_thread(function: Callable[[], T], stop: Callable[[], None] | None = None) -> T:
    """Run `function` in a thread of its own, which ends with it, and return its result.
    Not in a pool, because the work may move the thread into other namespaces for good. Cancellation waits for
    the work to end (all of it is bounded), so its result is complete enough to be found and removed; `stop`
    makes it end sooner.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def work() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - carried to the caller, whatever it is
            loop.call_soon_threadsafe(done.set_exception, error)
        else:
            loop.call_soon_threadsafe(done.set_result, result)

    try:
        threading.Thread(target=work, name="bay-oci", daemon=True).start()
    except RuntimeError as error:
        refused = f"the host refuses more threads to Bay ({error}); raise its pids limit"
        raise DriverUnavailable(refused) from error
    return await uninterrupted(done, stop)


async def opened_in_thread(function: Callable[[], int | None]) -> int | None:
    """The descriptor that `function` opens in a thread of its own, or None; closed on cancellation."""
    opened: list[int] = []

    def work() -> None:
        if (descriptor := function()) is not None:
            opened.append(descriptor)

    try:
        await in_new_thread(work)
    except asyncio.CancelledError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return opened[0] if opened else None


async def uninterrupted(done: asyncio.Future[T], stop: Callable[[], None] | None = None) -> T:
    """The result of `done`; cancellation calls `stop`, waits for the end, and then takes effect."""
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        if stop is not None:
            stop()
        await asyncio.wait([done])
        if not done.cancelled():
            done.exception()  # seen, so that asyncio does not report it as lost
        raise
