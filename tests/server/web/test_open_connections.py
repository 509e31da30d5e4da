"""How long connections may go on that have no end of their own."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from server_harness import World, within

from bay.errors import Timeout, Unauthorized
from bay.server.web.auth import Caller
from bay.server.web.open_connections import OpenConnections

pytestmark = [pytest.mark.anyio, pytest.mark.pure]


@pytest.fixture
async def caller(bay: World) -> Caller:
    key = await bay.bay.keys.add("alice", "alice", "write")
    return bay.bay.keys.authenticate(f"Bearer {key}")


async def backlog() -> AsyncGenerator[int]:
    """Items that nobody ever has to wait for."""
    number = 0
    while True:
        yield number
        number += 1


@pytest.mark.parametrize("what", ["revoked", "leaving"])
async def test_what_comes_without_waiting_ends_too(bay: World, caller: Caller, what: str) -> None:
    stays = OpenConnections(bay.bay.keys, look_s=0.01)
    seen: list[int] = []

    async def follow() -> None:
        async with aclosing(stays.allowed(caller, backlog())) as items:
            async for item in items:
                seen.append(item)
                if item == 10:
                    end(bay, stays, what)

    await within(follow())
    assert seen[:11] == list(range(11))


@pytest.mark.parametrize(("what", "error"), [("revoked", Unauthorized), ("leaving", Timeout)])
async def test_work_without_end_is_cancelled(
    bay: World, caller: Caller, what: str, error: type[Exception]
) -> None:
    stays = OpenConnections(bay.bay.keys, look_s=0.01)
    was_cancelled = asyncio.Event()

    async def work() -> None:
        end(bay, stays, what)
        try:
            await asyncio.Event().wait()
        finally:
            was_cancelled.set()

    with pytest.raises(error):
        await within(stays.during(caller, work()))
    assert was_cancelled.is_set()


def end(bay: World, stays: OpenConnections, what: str) -> None:
    if what == "revoked":
        bay.bay.keys._by_hash.clear()
    else:
        stays.close()
