"""Writes under a lease: nothing is changed once the lease is another's, or over."""

import asyncio

import pytest
from replica_members import Join

from bay.store import leases, metadata
from bay.store.fences import LeaseLost, WriteFence, fenced

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

SHARD = "shard:03"


async def test_work_under_a_lease_writes_while_the_lease_lasts(member: Join) -> None:
    one = await member("one")
    async with one.store.write() as db:
        epoch = (await leases.take(db, [SHARD], "one"))[SHARD]
    with fenced(WriteFence(SHARD, "one", epoch)):
        async with one.store.write() as db:
            await metadata.set(db, "fact", {"by": "one"})
    async with one.store.read() as db:
        assert await metadata.get(db, "fact") == {"by": "one"}


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE leases SET until = clock_timestamp()",
        "UPDATE leases SET holder = 'two', epoch = epoch + 1",
        "UPDATE leases SET holder = NULL",
        "UPDATE leases SET epoch = epoch + 2",
    ],
)
async def test_work_under_a_lease_that_is_over_writes_nothing(member: Join, change: str) -> None:
    """The last: it went to another, and came back."""
    one = await member("one")
    async with one.store.write() as db:
        epoch = (await leases.take(db, [SHARD], "one"))[SHARD]
    await one.sql(change)
    with fenced(WriteFence(SHARD, "one", epoch)), pytest.raises(LeaseLost):
        async with one.store.write():
            pytest.fail("the write must not begin")
    async with one.store.write() as db:  # other work goes on
        assert await metadata.get(db, "fact") is None


async def test_tasks_that_work_under_a_lease_makes_are_held_to_it(member: Join) -> None:
    one = await member("one")

    async def write() -> None:
        async with one.store.write() as db:
            await metadata.set(db, "fact", {"by": "task"})

    with fenced(WriteFence(SHARD, "one", 7)):
        task = asyncio.create_task(write())
    with pytest.raises(LeaseLost):
        await task


async def test_a_lease_is_not_taken_between_the_look_at_it_and_the_commit(member: Join) -> None:
    one, two = await member("one"), await member("two")
    async with one.store.write() as db:
        epoch = (await leases.take(db, [SHARD], "one"))[SHARD]

    async def take() -> dict[str, int]:
        async with two.store.write() as db:
            return await leases.take(db, [SHARD], "two")

    with fenced(WriteFence(SHARD, "one", epoch)):
        async with one.store.write() as db:
            await one.sql("UPDATE leases SET until = clock_timestamp()")
            with fenced(None):
                taking = asyncio.create_task(take())
            await one.sql("SELECT pg_sleep(0.05)")
            assert not taking.done()
            await metadata.set(db, "fact", {"by": "one"})
    assert await taking == {SHARD: epoch + 1}
    async with two.store.read() as db:
        assert await metadata.get(db, "fact") == {"by": "one"}
