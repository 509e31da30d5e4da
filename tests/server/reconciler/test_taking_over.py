"""A Bay that takes sessions over asks a driver that hears of their ends by itself for none that goes on."""

from collections import Counter
from pathlib import Path

import pytest
from server_harness import WAIT_S, clear, create, world

from bay.drivers.base import Gone, Handle, Observed, Running
from bay.drivers.fake import FakeDriver

pytestmark = pytest.mark.anyio


class Watchful(FakeDriver):
    """A fake driver that hears of all ends but those in `unheard`, and counts what it is asked."""

    def __init__(self, *, run_dir: Path) -> None:
        super().__init__(run_dir=run_dir)
        self.observed: Counter[str] = Counter()
        self.unheard: set[str] = set()

    def running(self, handle: Handle) -> Running | None:
        if handle.session_id in self.unheard or handle.endpoint is None:
            return None
        return Running(handle.endpoint)

    async def observe(self, handle: Handle) -> Observed:
        self.observed[handle.session_id] += 1
        if handle.session_id in self.unheard:
            return Gone()
        return await super().observe(handle)


async def test_sessions_that_go_on_are_taken_over_unasked_and_one_that_ended_is_asked_for(root: Path) -> None:
    try:
        async with world(root) as bay:
            alice = await bay.client()
            made = [await create(alice, profile="eager", wait=WAIT_S) for _ in range(3)]
            live = [(await bay.session(one["id"])).id for one in made]
        driver = Watchful(run_dir=root / "run")
        driver.unheard = {live[0]}
        async with world(root, driver) as bay:
            assert driver.observed == {live[0]: 1}
            await bay.settled(made[0]["id"], lambda record: record.session is None)
            for one, session in zip(made[1:], live[1:], strict=True):
                assert (await bay.session(one["id"])).id == session
                assert (await bay.session(one["id"])).phase == "running"
    finally:
        await clear(root)
