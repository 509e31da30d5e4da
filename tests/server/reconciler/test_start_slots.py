"""Turns at something of which only so much may go on at once."""

import asyncio

import pytest
from server_harness import WAIT_S, within

from bay.server.reconciler.start_slots import StartSlots
from bay.server.sessions.shares import Shares

pytestmark = [pytest.mark.anyio, pytest.mark.pure]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_urgent_come_first_and_each_kind_in_order() -> None:
    turns, order = StartSlots(1), list[str]()

    async def work(name: str, *, urgent: bool) -> None:
        async with turns.take(urgent=urgent):
            order.append(name)

    async with asyncio.TaskGroup() as group, turns.take(urgent=False):
        for name, urgent in (("a", False), ("B", True), ("c", False), ("D", True)):
            group.create_task(work(name, urgent=urgent))
        await settle()
        assert turns.urgent() == 2
        assert order == []
    assert order == ["B", "D", "a", "c"]
    assert turns.urgent() == 0


async def test_no_more_than_so_many_go_on_at_once() -> None:
    turns, go, inside = StartSlots(2), asyncio.Event(), set[int]()

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


async def test_those_that_are_not_urgent_leave_half_of_the_turns() -> None:
    turns, go, inside = StartSlots(4), asyncio.Event(), list[bool]()

    async def work(*, urgent: bool) -> None:
        async with turns.take(urgent=urgent):
            inside.append(urgent)
            await go.wait()

    async with asyncio.TaskGroup() as group:
        for urgent in (False, False, False, True, True, True):
            group.create_task(work(urgent=urgent))
        await settle()
        assert inside == [False, False, True, True]
        go.set()
    assert inside[4:] == [True, False]


@pytest.mark.parametrize("given_already", [False, True])
async def test_a_turn_that_is_wanted_no_more_goes_to_the_next(given_already: bool) -> None:
    turns = StartSlots(1)

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


async def test_one_owner_has_a_share_of_the_turns_and_the_others_do_not_wait_for_it() -> None:
    shares, go, inside = Shares(3, 2, WAIT_S), asyncio.Event(), list[str]()

    async def work(name: str) -> None:
        async with shares.take(name[0]):
            inside.append(name)
            await go.wait()

    async with asyncio.TaskGroup() as group:
        for name in ("a1", "a2", "a3", "b1", "b2"):
            group.create_task(work(name))
        await settle()
        assert inside == ["a1", "a2", "b1"]
        go.set()
    assert inside == ["a1", "a2", "b1", "a3", "b2"]


async def test_what_takes_too_long_goes_on_without_its_turn() -> None:
    shares, go = Shares(1, 1, 0.01), asyncio.Event()

    async def work() -> None:
        async with shares.take("a"):
            await go.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        await settle()
        async with asyncio.timeout(WAIT_S), shares.take("b"):
            go.set()
    async with asyncio.timeout(WAIT_S), shares.take("b"):
        assert len(shares._had) == 1  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("given_already", [False, True])
async def test_a_share_that_is_wanted_no_more_goes_to_the_next(given_already: bool) -> None:
    shares = Shares(1, 1, WAIT_S)

    async def work() -> None:
        async with shares.take("a"):
            pass

    async with shares.take("b"):
        waiting = asyncio.create_task(work())
        await settle()
        if not given_already:
            waiting.cancel()
            await settle()
    waiting.cancel()
    await asyncio.wait([waiting])
    async with asyncio.timeout(WAIT_S), shares.take("c"):
        pass


class Owner(str):
    """An owner that counts how often it was looked up."""

    __slots__ = ()
    looks = 0

    def __hash__(self) -> int:
        Owner.looks += 1
        return super().__hash__()


@pytest.mark.parametrize("count", [20, 2000])
async def test_thousands_that_wait_for_a_share_cost_as_much_each_as_a_few(count: int) -> None:
    shares, owner, done = Shares(4, 2, WAIT_S), Owner("alice"), 0

    async def work() -> None:
        nonlocal done
        async with shares.take(owner):
            await asyncio.sleep(0)
            done += 1

    Owner.looks = 0
    await within(asyncio.wait([asyncio.create_task(work()) for _ in range(count)]))
    assert done == count
    assert Owner.looks < 40 * count
