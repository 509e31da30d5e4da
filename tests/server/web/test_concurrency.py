"""Guards of a piece of work begin when it takes longer, end it with their error, and end with it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import NoReturn

import pytest
from starlette.requests import Request
from starlette.types import Message

from bay.errors import BadRequest, Timeout
from bay.server.web.concurrency import entered_while_connected, guarded

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


def request(gone: asyncio.Event) -> Request:
    """A request whose client leaves when told."""

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    return Request({"type": "http"}, receive)


async def test_what_was_entered_as_its_caller_was_cancelled_is_left() -> None:
    left = asyncio.Event()

    @asynccontextmanager
    async def entered() -> AsyncGenerator[None]:
        calling.cancel()
        try:
            yield
        finally:
            left.set()

    calling = asyncio.create_task(entered_while_connected(request(asyncio.Event()), entered()))
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asyncio.shield(calling), WAIT_S)
    assert left.is_set()


async def test_what_ends_its_entering_after_the_client_left_is_left() -> None:
    gone, left = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def entered() -> AsyncGenerator[None]:
        gone.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            yield
        finally:
            left.set()

    with pytest.raises(BadRequest, match="disconnected"):
        await asyncio.wait_for(entered_while_connected(request(gone), entered()), WAIT_S)
    assert left.is_set()


async def test_what_is_entered_stays_until_its_stack_is_closed() -> None:
    left = asyncio.Event()

    @asynccontextmanager
    async def entered() -> AsyncGenerator[str]:
        yield "in"
        left.set()

    stack, found = await entered_while_connected(request(asyncio.Event()), entered())
    assert (found, left.is_set()) == ("in", False)
    await stack.aclose()
    assert left.is_set()
