"""Turns at something of which only so much may go on at once."""

import asyncio

import pytest
from server_harness import within

from bay.server.turns import Turns

pytestmark = pytest.mark.anyio


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_urgent_come_first_and_each_kind_in_order() -> None:
    turns, order = Turns(1), list[str]()

    async def work(name: str, *, urgent: bool) -> None:
        async with turns.take(urgent=urgent):
            order.append(name)

    async with asyncio.TaskGroup() as group, turns.take(urgent=False):
        for name, urgent in (("a", False), ("B", True), ("c", False), ("D", True)):
            group.create_task(work(name, urgent=urgent))
        await settle()
        assert turns.any_urgent()
        assert order == []
    assert order == ["B", "D", "a", "c"]
    assert not turns.any_urgent()


async def test_no_more_than_so_many_go_on_at_once() -> None:
    turns, go, inside = Turns(2), asyncio.Event(), set[int]()

    async def work(number: int) -> None:
        async with turns.take(urgent=True):
            inside.add(number)
            assert len(inside) <= 2
            await go.wait()
            inside.discard(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(number))
        await settle()
        assert inside == {0, 1}
        go.set()


@pytest.mark.parametrize("given_already", [False, True])
async def test_a_turn_that_is_wanted_no_more_goes_to_the_next(given_already: bool) -> None:
    turns = Turns(1)

    async def work() -> None:
        async with turns.take(urgent=True):
            pass

    async with turns.take(urgent=True):
        first = asyncio.create_task(work())
        second = asyncio.create_task(work())
        await settle()
        if not given_already:
            first.cancel()
    if given_already:
        first.cancel()
    await within(second)
    await asyncio.wait([first])
    assert first.cancelled() != given_already or first.done()
    await within(work())
