"""Waiting for a row to change."""

import asyncio

import pytest
from server_harness import within

from bay.server.sessions.notifier import Notifier

pytestmark = [pytest.mark.anyio, pytest.mark.pure]


class Row:
    """A value that is read as a row is."""

    def __init__(self) -> None:
        self.value: str | None = None
        self.reads = 0

    async def read(self) -> str | None:
        self.reads += 1
        await asyncio.sleep(0)
        return self.value


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_there_already_is_given_at_once() -> None:
    row = Row()
    row.value = "there"
    assert await within(Notifier().wait_for("a", row.read, 60)) == "there"


async def test_a_waiter_reads_again_after_each_announcement_and_not_otherwise() -> None:
    changes, row = Notifier(), Row()
    waiting = asyncio.create_task(changes.wait_for("a", row.read, 60))
    await turns()
    changes.announce("b")
    await turns()
    assert row.reads == 1
    changes.announce("a")
    await turns()
    assert (row.reads, waiting.done()) == (2, False)
    row.value = "changed"
    changes.announce("a")
    assert await within(waiting) == "changed"


async def test_a_change_during_the_read_is_not_missed() -> None:
    changes, row = Notifier(), Row()

    async def read() -> str | None:
        seen = await row.read()
        if row.reads == 1:
            row.value = "changed"  # after we looked, before we wait
            changes.announce("a")
        return seen

    assert await within(changes.wait_for("a", read, 60)) == "changed"


async def test_everybody_who_waits_is_woken() -> None:
    changes, row = Notifier(), Row()
    waiting = [asyncio.create_task(changes.wait_for("a", row.read, 60)) for _ in range(5)]
    await turns()
    row.value = "changed"
    changes.announce("a")
    assert await within(asyncio.gather(*waiting)) == ["changed"] * 5


async def test_time_that_is_up_gives_none_and_leaves_no_waiter_behind() -> None:
    changes, row = Notifier(), Row()
    assert await within(changes.wait_for("a", row.read, 0.01)) is None
    assert changes._waiters == {}


async def test_a_waiter_that_is_cancelled_leaves_nothing_behind() -> None:
    changes, row = Notifier(), Row()
    waiting = asyncio.create_task(changes.wait_for("a", row.read, 60))
    await turns()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert changes._waiters == {}
