"""Which replica does which part of the work, and that no two do one."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
from replica_members import Join, Member
from server_harness import eventually, until, within
from sqlalchemy import select

from bay.clock import since_boot
from bay.server.replicas.leases import JOBS, NAMES, shard_of
from bay.store import leases
from bay.store.fences import LeaseLost

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def holders(one: Member) -> Counter[str | None]:
    """How many parts each replica has, by the database."""
    async with one.store.read() as db:
        return Counter(lease.holder for lease in await leases.all_of(db))


async def settled(*members: Member) -> None:
    """Return once these replicas have all parts among them, and know it."""

    async def is_settled() -> bool:
        names = [name for one in members for name in NAMES if one.leases._does(name)]
        return sorted(names) == sorted(NAMES) and set(await holders(members[0])) == {m.name for m in members}

    await eventually(is_settled)


async def bury(one: Member, name: str) -> None:
    """Make a replica one that has said nothing for longer than a lease."""
    late = "clock_timestamp() - interval '11 s'"
    await one.sql("UPDATE leases SET until = clock_timestamp() WHERE holder = :name", name=name)
    await one.sql(f"UPDATE replicas SET beat_at = {late} WHERE id = :name", name=name)  # noqa: S608
    one.leases._look.set()


async def test_one_replica_has_every_part(member: Join) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    assert all(one.leases.owns(f"sandbox-{number:024x}") for number in range(100))
    assert all(one.leases.holds(name) for name in JOBS)


async def test_each_part_is_one_replicas_and_all_have_some(member: Join) -> None:
    members = [await member(name) for name in ("one", "two", "three")]
    for one in members:
        one.begin()
    await settled(*members)
    boxes = [f"sandbox-{number:024x}" for number in range(200)]
    assert {sum(one.leases.owns(box) for one in members) for box in boxes} == {1}
    assert all(any(one.leases.owns(box) for box in boxes) for one in members)


async def test_a_replica_that_joins_gets_its_share_and_one_that_leaves_gives_it_back(member: Join) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    two = await member("two")
    two.begin()
    await settled(one, two)
    await two.stop("leases")
    await two.leases.leave()
    await settled(one)


async def test_a_part_goes_to_another_only_once_its_work_is_at_rest(member: Join) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    one.at_rest.clear()
    two = await member("two")
    two.begin()
    await until(lambda: any(what == "rest" for what, _ in one.shards))
    moving = {shard for what, shard in one.shards if what == "rest"}
    for _ in range(3):  # beats of both, which must not hand it over
        one.leases._look.set()
        two.leases._look.set()
        await one.sql("SELECT pg_sleep(0.02)")
    async with one.store.read() as db:
        held = {lease.name for lease in await leases.all_of(db) if lease.holder == "one"}
    assert moving <= held
    assert not any(one.leases._does(shard) for shard in moving), "nothing new begins meanwhile"
    one.at_rest.set()
    await settled(one, two)
    assert {shard for what, shard in two.shards if what == "take"} >= moving
    assert [what for what, shard in one.shards if shard in moving][-1] == "drop"


async def test_the_parts_of_a_replica_that_died_are_taken_by_the_others(member: Join) -> None:
    one, two = await member("one"), await member("two")
    one.begin()
    two.begin()
    await settled(one, two)
    for name in ("leases", "bus"):
        await two.stop(name)
    await bury(one, "two")
    await settled(one)


async def test_a_replica_that_slept_past_its_leases_does_nothing_and_learns_of_it(member: Join) -> None:
    one, two = await member("one"), await member("two")
    one.begin()
    two.begin()
    await settled(one, two)
    had = [name for name in NAMES if two.leases._does(name) and name not in JOBS]
    box = next(box for box in (f"sandbox-{n:024x}" for n in range(1000)) if shard_of(box) in had)
    await two.stop("leases")
    await bury(one, "two")
    await settled(one)
    with two.leases.working_on(box), pytest.raises(LeaseLost):  # it believes that it has it
        async with two.store.write():
            pytest.fail("the write must not begin")
    two.tasks["leases"] = asyncio.create_task(two.leases.run())
    await until(lambda: {shard for what, shard in two.shards if what == "drop"} >= set(had))
    await settled(one, two)


async def test_a_lease_is_believed_no_longer_than_it_lasts(
    member: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    await one.stop("leases")
    box = "sandbox-000000000000000000000000"
    assert one.leases.owns(box)
    later = one.leases._until + 0.001
    monkeypatch.setattr("bay.server.replicas.leases._now", lambda: later)
    assert not one.leases.owns(box)
    assert not one.leases.holds("pool")
    with pytest.raises(LeaseLost):
        one.leases.check(box)


async def test_a_lease_that_was_taken_without_an_answer_is_not_kept_for_ever(member: Join) -> None:
    one = await member("one")
    async with one.store.write() as db:  # and then the answer to the commit was lost
        taken = await leases.take(db, NAMES, "one")
    one.begin()
    await settled(one)
    async with one.store.read() as db:
        assert {lease.epoch for lease in await leases.all_of(db)} == {epoch + 1 for epoch in taken.values()}


async def test_a_replica_whose_row_is_gone_comes_back_under_its_own_address(member: Join) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    await one.sql("DELETE FROM replicas")
    one.leases._look.set()

    async def is_there() -> bool:
        async with one.store.read() as db:
            return [replica.url for replica in await leases.living(db)] == ["http://one"]

    await eventually(is_there)


async def test_everything_is_looked_at_again_when_a_replica_is_gone(member: Join) -> None:
    """It may have died between a commit and its word of it."""
    one, two = await member("one"), await member("two")
    one.begin()
    two.begin()
    await settled(one, two)
    kept = {name for name in NAMES if one.leases._does(name) and name not in JOBS}
    for name in ("leases", "bus"):
        await two.stop(name)
    one.shards.clear()
    await bury(one, "two")
    await until(lambda: {shard for what, shard in one.shards if what == "recheck"} >= kept)


async def test_a_job_is_done_by_one_replica_at_a_time_and_by_the_next_after_it(member: Join) -> None:
    members = [await member(name) for name in ("one", "two", "three")]
    working, most, began = Counter[str](), 0, Counter[str]()

    async def work(name: str) -> None:
        nonlocal most
        working[name] += 1
        began[name] += 1
        most = max(most, working.total())
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # its end takes a moment
            working[name] -= 1

    async def work_of(name: str) -> None:
        await work(name)

    jobs = [asyncio.create_task(one.leases.do("pool", lambda one=one: work_of(one.name))) for one in members]
    for one in members:
        one.begin()
    await settled(*members)
    await until(lambda: working.total() == 1)
    first = next(iter(working.elements()))
    gone = next(one for one in members if one.name == first)
    jobs[members.index(gone)].cancel()
    await gone.stop("leases")
    await gone.leases.leave()
    await until(lambda: working.total() == 1 and next(iter(working.elements())) != first)
    assert most == 1
    for job in jobs:
        job.cancel()
    await asyncio.wait(jobs)


async def test_a_job_that_fails_is_begun_again(member: Join) -> None:
    one = await member("one")
    runs = 0

    async def fail_once() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("a defect")
        await asyncio.Event().wait()

    job = asyncio.create_task(one.leases.do("usage", fail_once))
    one.begin()
    await until(lambda: runs == 2)
    job.cancel()
    await asyncio.wait([job])


async def test_a_job_that_has_nothing_to_do_is_begun_once_for_each_lease(member: Join) -> None:
    one = await member("one")
    runs = 0

    async def nothing() -> None:
        nonlocal runs
        runs += 1

    job = asyncio.create_task(one.leases.do("pushes", nothing))
    one.begin()
    await settled(one)
    await until(lambda: runs > 0)
    await one.sql("UPDATE leases SET epoch = epoch + 1, holder = NULL WHERE name = 'pushes'")
    one.leases._look.set()
    await until(lambda: not one.leases._does("pushes"))
    assert runs == 1
    await settled(one)
    await until(lambda: runs == 2)
    job.cancel()
    await asyncio.wait([job])


async def test_shards_that_cannot_be_begun_go_to_another_replica_or_are_tried_again(member: Join) -> None:
    one = await member("one")
    tried = 0

    async def fail_once(_shards: object) -> None:
        nonlocal tried
        tried += 1
        if tried == 1:
            raise OSError("the host does not answer")

    one.leases.take = fail_once
    one.begin()
    await within(settled(one))
    assert tried > 1


async def test_an_earlier_hand_over_does_not_let_go_of_a_lease_that_was_taken_anew(member: Join) -> None:
    one = await member("one")
    async with one.store.write() as db:
        earlier = await leases.take(db, ["pool"], "one")
        await leases.release(db, earlier, "one")
        await leases.take(db, ["pool"], "one")
        await leases.release(db, earlier, "one")
    assert (await holders(one))["one"] == 1


async def test_a_job_ends_with_its_lease_and_begins_again_once_that_is_renewed(member: Join) -> None:
    one = await member("one")
    one.begin()
    await settled(one)
    await one.stop("leases")
    working = asyncio.Event()

    async def work() -> None:
        working.set()
        try:
            await asyncio.Event().wait()
        finally:
            working.clear()

    one.leases._until = since_boot().total_seconds() + 0.3
    job = asyncio.create_task(one.leases.do("pool", work))
    await until(working.is_set)
    await until(lambda: not working.is_set())
    one.tasks["leases"] = asyncio.create_task(one.leases.run())
    await until(working.is_set)
    job.cancel()
    await asyncio.wait([job])


async def test_leases_are_renewed_while_another_replica_keeps_the_turn_to_write(member: Join) -> None:
    one, two = await member("one"), await member("two")
    one.begin()
    await settled_alone(one)
    async with two.store.write() as db:
        await leases.leave(db, "two")  # one is to have its share, and waits for this transaction
        before = await beats(one)
        for _ in range(2):
            await until_beaten(one, before)
            before = await beats(one)
            await db.execute(select(1))
    await settled(one)


async def settled_alone(one: Member) -> None:
    """Return once the replica has all that is its share."""
    await until(lambda: any(one.leases._does(name) for name in NAMES) and not one.leases._is_taking)


async def beats(one: Member) -> object:
    """When the replica said last that it lives."""
    ((when,),) = await one.sql("SELECT beat_at FROM replicas WHERE id = :name", name=one.name)
    return when


async def until_beaten(one: Member, before: object) -> None:
    """Return once it has said so again."""

    async def has() -> bool:
        one.leases._look.set()
        return await beats(one) != before

    await eventually(has)


async def test_what_was_begun_of_a_shard_that_was_lost_meanwhile_is_dropped_after_that(member: Join) -> None:
    one = await member("one")
    begun, go_on = list[str](), asyncio.Event()

    async def take(shards: Sequence[str]) -> None:
        begun.extend(shards)
        await go_on.wait()
        one.shards += [("take", shard) for shard in shards]

    one.leases.take = take
    one.begin()
    await until(lambda: bool(begun))
    await one.sql("UPDATE leases SET holder = 'two', epoch = epoch + 1")
    one.leases._look.set()
    await until(lambda: {shard for what, shard in one.shards if what == "drop"} >= set(begun))
    go_on.set()
    await until(lambda: all(lasts(one, shard) == ["take", "drop"] for shard in begun))


def lasts(one: Member, shard: str) -> list[str]:
    """The last two things that it was told of a shard."""
    return [what for what, name in one.shards if name == shard][-2:]
