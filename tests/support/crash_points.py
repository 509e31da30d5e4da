"""The places at which a Bay may be killed, found by standing around its calls; nothing of this is in Bay
itself.

Each place has a name made of what is called and by whom, and a number for how often it was passed before. So
a new step, transaction or call is a new place by itself, and no list has to follow.
"""

import asyncio
import functools
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from bay.drivers.base import Handle, Owned, SessionSpec
from bay.drivers.oci.kept_memory import KeptMemory
from bay.drivers.oci.memory_image import ImageDirectory
from bay.server.control_plane import ControlPlane

_CALLS: dict[str, tuple[str, ...]] = {
    "driver": (
        "observe",
        "pause",
        "resume",
        "hibernate",
        "make_durable",
        "_settle_restored",  # before it the processes are there again, and stand still
        "save_memory",
        "_go_on_after",  # before it the image of a checkpoint is in its place, and the processes stand still
        "_lay_down",
        "remove_memory",
        "check_memory",
        "stop",
        "destroy",
    ),
    "cargo": (
        "create",
        "fence",
        "remove",
        "list_ids",
        "settle",
        "checkpoint",
        "prepare_restore",
        "restore",
        "remove_checkpoint",
    ),
    "ship": ("run",),
}
"""What is stood around.

`driver.start`, `driver.list_owned` and the store's transactions have more than two sides.
"""
_STEPS: dict[type, tuple[str, ...]] = {
    KeptMemory: ("_copy_layers",),
    ImageDirectory: ("finish", "keep_as", "copy_to", "take"),
}
"""The steps on disk by which memory comes into its place; each has a place behind it."""


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass(slots=True)
class Points:
    """The places passed, in order, once `armed`; at `kill_at` this process ends.

    A place half-way through a call is `kill_after_s` seconds after its beginning, or its end when that is
    sooner.
    """

    armed: bool = False
    kill_at: str | None = None
    kill_after_s: float = 0
    hold_at: frozenset[str] = frozenset()
    """Places where whoever comes stays for ever, whether armed or not."""
    held: set[str] = field(default_factory=set[str])
    seen: dict[str, float] = field(default_factory=dict[str, float])
    """Each place with the seconds that the call around it took, 0 for the two sides of a call."""
    _passed: Counter[str] = field(default_factory=Counter[str])

    async def reach(self, name: str) -> None:
        """Pass a place."""
        point = self._count(name)
        if point and point == self.kill_at:
            die()
        if name in self.hold_at:
            self.held.add(name)
            await asyncio.Event().wait()
        if point:
            self.seen[point] = 0

    def pass_by(self, name: str) -> None:
        """Pass a place in a thread."""
        if (point := self._count(name)) is not None:
            if point == self.kill_at:
                die()
            self.seen[point] = 0

    @contextmanager
    def half_way(self, name: str) -> Generator[None]:
        """Pass the middle of what is done in the block."""
        point = self._count(name)
        begun = time.monotonic()
        if point and point == self.kill_at:
            timer = threading.Timer(self.kill_after_s, die)
            timer.daemon = True
            timer.start()
        yield
        if point and point == self.kill_at:
            die()
        if point:
            self.seen[point] = time.monotonic() - begun

    @asynccontextmanager
    async def around(self, name: str) -> AsyncGenerator[None]:
        """Pass the three places of a call."""
        await self.reach(f"before {name}")
        with self.half_way(f"half-way {name}"):
            yield
        await self.reach(f"after {name}")

    def _count(self, name: str) -> str | None:
        if not self.armed:
            return None
        self._passed[name] += 1
        return f"{name} #{self._passed[name]}"


def watch(bay: ControlPlane, points: Points) -> None:
    """Stand around every call and transaction of `bay`."""
    for part, names in _CALLS.items():
        thing = getattr(bay, part)
        for name in names:
            if hasattr(thing, name):
                setattr(thing, name, _around(points, f"{part}.{name}", getattr(thing, name)))
    driver: Any = bay.driver
    driver.start = functools.partial(_start, points, driver.start)
    driver.list_owned = functools.partial(_list_owned, points, driver.list_owned)
    store: Any = bay.store
    store.write = functools.partial(_write, points, store.write)


def watch_disk(points: Points) -> None:
    """Stand behind every step of memory on disk, of all Bays of this process, which is to be killed."""
    for kind, names in _STEPS.items():
        for name in names:
            setattr(kind, name, _behind(points, f"{kind.__name__}.{name}", getattr(kind, name)))


def _behind(points: Points, name: str, step: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(step)
    def stepped(*args: Any) -> object:
        done = step(*args)
        points.pass_by(f"after {name}")
        return done

    return stepped


def _around(
    points: Points, name: str, call: Callable[..., Awaitable[object]]
) -> Callable[..., Awaitable[object]]:
    @functools.wraps(call)
    async def called(*args: Any, **named: Any) -> object:
        async with points.around(name):
            return await call(*args, **named)

    return called


async def _start(
    points: Points,
    start: Callable[[SessionSpec, Handle | None], AsyncGenerator[Handle]],
    spec: SessionSpec,
    handle: Handle | None,
) -> AsyncGenerator[Handle]:
    await points.reach("before driver.start")
    at = "its begin"
    async with aclosing(start(spec, handle)) as steps:
        while True:
            with points.half_way(f"half-way driver.start after {at}"):
                step = await anext(steps, None)
            if step is None:
                return
            at = str(step.data["step"])
            await points.reach(f"driver.start yielded {at}")
            yield step
            await points.reach(f"driver.start goes on after {at}")


async def _list_owned(points: Points, listed: Callable[[], AsyncIterator[Owned]]) -> AsyncIterator[Owned]:
    await points.reach("before driver.list_owned")
    async for owned in listed():
        yield owned
    await points.reach("after driver.list_owned")


@asynccontextmanager
async def _write(points: Points, write: Callable[..., Any], **options: Any) -> AsyncGenerator[Any]:
    name = _caller()
    await points.reach(f"before BEGIN of {name}")
    async with write(**options) as db:
        yield db
        await points.reach(f"before COMMIT of {name}")
    await points.reach(f"after COMMIT of {name}")


def _caller() -> str:
    """The function of Bay that opened the block we are in."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_globals["__name__"].startswith("bay."):
        frame = frame.f_back
    return frame.f_code.co_qualname if frame else "?"
