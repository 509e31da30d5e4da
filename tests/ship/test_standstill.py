"""What Ship does to programs, and a standstill of them, keep out of each other's way."""

import asyncio
from collections.abc import Collection

import pytest

from ship.errors import Conflict
from ship.process.standstill import Standstill
from ship.process.stopping import Key, NeverStill
from ship.waiting import Timer

pytestmark = [pytest.mark.anyio, pytest.mark.host]

PATIENCE_S = 20.0


class Programs:
    """Programs that can be stopped, or not."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.obey = True

    def stop(self) -> Collection[Key]:
        self.log.append("stop")
        if not self.obey:
            raise NeverStill
        return {(7, 1)}

    def go_on(self, but: Collection[Key]) -> None:
        self.log.append(f"go on, but {sorted(but)}")


def made() -> tuple[Standstill, Programs]:
    programs = Programs()
    return Standstill(programs.stop, programs.go_on), programs


async def test_what_was_stopped_before_is_remembered_and_twice_is_once() -> None:
    standstill, programs = made()
    for _ in range(2):
        await standstill.begin()
    for _ in range(2):
        await standstill.end()
    assert programs.log == ["stop", "go on, but [(7, 1)]"]


async def test_a_standstill_waits_for_what_ship_does_and_ship_for_its_end() -> None:
    standstill, programs = made()
    steps: list[str] = []

    async def act(name: str) -> None:
        async with standstill.acting():
            steps.append(name)

    async with asyncio.timeout(PATIENCE_S):
        async with standstill.acting():
            beginning = asyncio.ensure_future(standstill.begin())
            await asyncio.sleep(0)
            later = asyncio.ensure_future(act("later"))
            await asyncio.sleep(0)
            assert programs.log == []
        await beginning
        assert (standstill.is_on, steps) == (True, [])
        await standstill.end()
        await later
    assert steps == ["later"]


async def test_one_that_does_not_come_about_lets_everything_go_on() -> None:
    standstill, programs = made()
    programs.obey = False
    with pytest.raises(Conflict, match="go on"):
        await standstill.begin()
    assert (standstill.is_on, standstill.over) == (False, None)
    async with asyncio.timeout(PATIENCE_S), standstill.acting() as waited_s:
        assert waited_s < PATIENCE_S
    programs.obey = True
    await standstill.begin()
    assert standstill.is_on


async def test_it_is_finished_when_its_caller_leaves() -> None:
    standstill, programs = made()
    async with asyncio.timeout(PATIENCE_S):
        async with standstill.acting():
            beginning = asyncio.ensure_future(standstill.begin())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            beginning.cancel()
        await standstill.begin()
    assert (standstill.is_on, programs.log) == (True, ["stop"])


async def test_none_begins_once_the_sandbox_ends() -> None:
    standstill, programs = made()
    async with asyncio.timeout(PATIENCE_S):
        async with standstill.acting():
            beginning = asyncio.ensure_future(standstill.begin())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await standstill.close()
        with pytest.raises(Conflict):
            await beginning
        with pytest.raises(Conflict, match="ending"):
            await standstill.begin()
    assert programs.log == []


async def test_a_timer_that_is_due_meanwhile_makes_its_call_afterwards() -> None:
    standstill, _ = made()
    called: list[str] = []
    done = asyncio.Event()
    held, given_up = Timer(lambda: standstill.over), Timer(lambda: standstill.over)
    await standstill.begin()
    given_up.set(0, called.append, "given up")
    held.set(0, done.set)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not done.is_set()
    given_up.cancel()
    await standstill.end()
    async with asyncio.timeout(PATIENCE_S):
        await done.wait()
    assert called == []
