"""The seam holds the few differences between the async and the sync client beyond `await`.

`scripts/generate_sync.py` turns each `async_x` into `x`. anyio loads its parts when they are named, so its
types are quoted: a client for threads needs none of them.
"""

import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import ParamSpec, TypeVar

import anyio
import anyio.to_thread

P = ParamSpec("P")
T = TypeVar("T")

CLEANUP_S = 10.0
"""How long giving a sandbox or a temporary file back may take when the caller is already leaving."""

_LONGEST_S = threading.TIMEOUT_MAX
"""The longest time that a thread can wait for a lock."""


async def async_sleep(seconds: float) -> None:
    """Wait without holding up the event loop."""
    await anyio.sleep(seconds)


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


async def async_in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking file work off the event loop; the one place where the SDK does so."""
    return await anyio.to_thread.run_sync(lambda: function(*args, **kwargs))


def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run blocking file work; a sync caller is in a thread already."""
    return function(*args, **kwargs)


def async_lock() -> "anyio.Lock":
    """A lock for tasks."""
    return anyio.Lock()


def lock() -> threading.Lock:
    """A lock for threads."""
    return threading.Lock()


@asynccontextmanager
async def async_turn(lock: "anyio.Lock", timeout_s: float | None) -> AsyncGenerator[bool, None]:
    """Whether the lock is held within, for which a task waits so long at most; None: for ever."""
    is_held = False
    with anyio.move_on_after(timeout_s):
        await lock.acquire()
        is_held = True
    try:
        yield is_held
    finally:
        if is_held:
            lock.release()


@contextmanager
def turn(lock: threading.Lock, timeout_s: float | None) -> Generator[bool, None, None]:
    """Whether the lock is held within, for which a thread waits so long at most; None: for ever."""
    is_held = lock.acquire(timeout=-1 if timeout_s is None else max(0.0, min(timeout_s, _LONGEST_S)))
    try:
        yield is_held
    finally:
        if is_held:
            lock.release()


@asynccontextmanager
async def async_beside(work: Callable[[], Coroutine[object, object, None]]) -> AsyncGenerator[None, None]:
    """Within, `work` is under way too; it is cancelled at the end. It must not raise."""
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        try:
            yield
        except Exception as error:  # noqa: BLE001 — the group would wrap it into another
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextmanager
def beside(work: Callable[[], None]) -> Generator[None, None, None]:
    """Within, `work` is under way too, in a thread that comes to its end by itself. It must not raise."""
    thread = threading.Thread(target=work, name="bay-beside", daemon=True)
    thread.start()
    yield
    thread.join(CLEANUP_S)


def async_cleanup() -> "anyio.CancelScope":
    """A scope that outlives the caller's cancellation, by `CLEANUP_S` at most."""
    return anyio.move_on_after(CLEANUP_S, shield=True)


@contextmanager
def cleanup() -> Generator[None, None, None]:
    """Nothing: a thread is not cancelled, and each request has its own timeout."""
    yield
