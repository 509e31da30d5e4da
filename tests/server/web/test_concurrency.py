"""Guards of a piece of work begin when it takes longer, end it with their error, and end with it."""

import asyncio
import time
from typing import NoReturn

import pytest

from bay.errors import Timeout
from bay.server.web.concurrency import guarded

pytestmark = [pytest.mark.pure, pytest.mark.anyio, pytest.mark.filterwarnings("error")]

WAIT_S = 20.0


class Guard:
    """Notes its own life."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.has_begun = asyncio.Event()

    async def watch(self, error: Exception | None = None) -> NoReturn:
        self.seen.append("begun")
        self.has_begun.set()
        try:
            if error is not None:
                raise error
            await asyncio.Event().wait()
        finally:
            self.seen.append("ended")
        raise AssertionError


async def test_short_work_has_no_guard() -> None:
    guard = Guard()

    async def work() -> str:
        return "done"

    assert await guarded(work(), guard.watch(), after_s=WAIT_S) == "done"
    assert guard.seen == []


async def test_work_that_takes_a_moment_is_guarded_and_ends_its_guards() -> None:
    guard = Guard()

    async def work() -> None:
        await guard.has_begun.wait()
        raise ValueError

    with pytest.raises(ValueError):
        await asyncio.wait_for(guarded(work(), guard.watch()), WAIT_S)
    assert guard.seen == ["begun", "ended"]


@pytest.mark.parametrize("after_s", [0, 0.01])
async def test_the_error_of_a_guard_ends_the_work(after_s: float) -> None:
    guard, is_over = Guard(), asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            is_over.set()

    began = time.monotonic()
    with pytest.raises(Timeout, match="enough"):
        await asyncio.wait_for(guarded(work(), guard.watch(Timeout("enough")), after_s=after_s), WAIT_S)
    assert is_over.is_set()
    assert time.monotonic() - began < WAIT_S
    assert guard.seen == ["begun", "ended"]


async def test_work_that_is_cancelled_takes_its_guards_along() -> None:
    guard = Guard()
    task = asyncio.create_task(guarded(asyncio.Event().wait(), guard.watch(), after_s=0))
    await asyncio.wait_for(guard.has_begun.wait(), WAIT_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert guard.seen == ["begun", "ended"]
