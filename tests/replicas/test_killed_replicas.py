"""Bays of one database are killed, frozen, ended, cut off and added while they are called: nothing that was
answered is lost, and no sandbox has two Ships.
"""

import asyncio
import json
from collections.abc import Generator
from contextlib import suppress

import httpx
import pytest
from event_streams import following, kept, take
from receiver import receiving
from replica_bays import KEY, WAIT_S, ReplicaBays, replica_bays
from replica_calls import (
    calling,
    check_nothing_is_lost,
    client_of,
    eventually,
    http_client_of,
    never_two_ships,
)
from server_harness import Json

import bay
from bay.server.replicas.leases import JOBS, SHARDS

pytestmark = [pytest.mark.postgres, pytest.mark.anyio, pytest.mark.long]


@pytest.fixture
def bays() -> Generator[ReplicaBays]:
    """Three replicas of the test's own."""
    with replica_bays(3, BAY_WEBHOOK_ALLOW='["127.0.0.0/8"]') as running:
        yield running


async def test_what_was_answered_before_during_and_after_a_kill_is_there(bays: ReplicaBays) -> None:
    key = bays.key_of("alice")
    async with never_two_ships(bays):
        async with calling(bays, key) as ledger:
            await ledger.has(30)
            await asyncio.to_thread(bays.kill, 1)
            await ledger.has(30)
        await check_nothing_is_lost(bays, key, ledger)
        async with client_of(bays.address, key) as client:
            async for box in client.sandboxes.list():
                await box.stop()
                assert (await box.run("echo again")).stdout == "again\n"


async def test_one_replica_after_the_other_is_killed_and_started_again_under_calls(bays: ReplicaBays) -> None:
    key = bays.key_of("alice")
    async with never_two_ships(bays):
        async with calling(bays, key, workers=3) as ledger:
            for number in (0, 1, 2):
                await ledger.has(10)
                await asyncio.to_thread(bays.kill, number)
                await ledger.has(10)
                await asyncio.to_thread(bays.start, number)
            await ledger.has(10)
        await check_nothing_is_lost(bays, key, ledger)


async def test_all_replicas_are_killed_at_once_and_started_again(bays: ReplicaBays) -> None:
    key = bays.key_of("alice")
    async with never_two_ships(bays):
        async with calling(bays, key, workers=3) as ledger:
            await ledger.has(20)
            for number in bays.numbers:
                await asyncio.to_thread(bays.kill, number)
            await asyncio.to_thread(bays.start, 0, 1, 2)
            await ledger.has(10)
        await check_nothing_is_lost(bays, key, ledger)


async def test_output_that_is_followed_goes_on_when_the_replica_that_sent_it_is_killed(
    bays: ReplicaBays,
) -> None:
    key = bays.key_of("alice")
    wanted = "".join(f"{number}\n" for number in range(40))

    async def follow() -> str:
        async with client_of(bays.address, key) as client:
            box = await client.sandboxes.create(wait=WAIT_S)
            begun.append(box.id)
            return (await box.run("for i in $(seq 0 39); do echo $i; sleep 0.1; done")).stdout

    begun: list[str] = []
    async with never_two_ships(bays), asyncio.TaskGroup() as group:
        found = [group.create_task(follow()) for _ in range(6)]
        await eventually(lambda: len(begun) == 6)
        await asyncio.to_thread(bays.kill, 2)
    assert [task.result() for task in found] == [wanted] * 6


async def test_a_key_is_made_and_revoked_while_a_replica_that_was_killed_still_counts(
    bays: ReplicaBays,
) -> None:
    bays.kill(2)
    async with client_of(bays.url(0), KEY) as admin:
        for number in range(3):
            made = await admin.keys.create(f"k{number}", owner="alice")
            async with client_of(bays.url(1), made.secret or "") as alice:
                assert [box async for box in alice.sandboxes.list()] == []
                await admin.keys.revoke(made.id)
                with pytest.raises(bay.Unauthorized):
                    _ = [box async for box in alice.sandboxes.list()]


# Events


async def lives(url: str, key: str, times: int) -> None:
    """Sandboxes that come and go: two events each."""
    async with client_of(url, key) as client:
        for _ in range(times):
            box = await client.sandboxes.create(profile="lazy")
            await box.delete()


async def next_events(bays: ReplicaBays, number: int, key: str, place: str, count: int) -> list[Json]:
    async with http_client_of(bays.url(number), key) as client, following(client, last=place) as stream:
        return await take(stream, count)


async def test_a_follower_misses_nothing_over_replicas_that_are_killed(bays: ReplicaBays) -> None:
    key, place = bays.key_of("alice"), "0"
    followed: list[Json] = []
    for number in (1, 0, 2):
        await lives(bays.address, key, 5)
        followed += await next_events(bays, number, key, place, 10)
        bays.kill(number)
        await lives(bays.address, key, 5)
        bays.start(number)
        followed += await next_events(bays, number, key, followed[-1]["_id"], 10)
        place = followed[-1]["_id"]
    async with http_client_of(bays.url(1), key) as client:
        assert [event["id"] for event in followed] == [event["id"] for event in await kept(client)]


async def test_a_webhook_gets_every_event_in_order_over_replicas_that_are_killed(bays: ReplicaBays) -> None:
    key = bays.key_of("alice")
    async with receiving() as receiver, http_client_of(bays.address, key) as client:

        def got() -> list[str]:
            # One that was sent just before its replica was killed is sent again.
            return list(dict.fromkeys(json.loads(got.body)["id"] for got in receiver.got))

        assert (await client.post("/v1/webhooks", json={"url": receiver.url})).status_code == 201
        for number in (0, 1, 2):
            await lives(bays.address, key, 10)
            bays.kill(number)
            await lives(bays.address, key, 5)
            bays.start(number)
        await eventually(lambda: len(got()) >= 90)
        async with http_client_of(bays.url(1), key) as one:
            assert got() == [event["id"] for event in await kept(one)]


# Frozen past its leases


async def test_a_replica_that_was_frozen_past_its_leases_changes_nothing_and_works_on(
    bays: ReplicaBays,
) -> None:
    key = bays.key_of("alice")

    async def create_at(number: int, name: str) -> None:
        """Its answer may come when the replica is thawed, and be an error then."""
        async with http_client_of(bays.url(number), key) as client:
            with suppress(httpx.HTTPError):
                await client.post("/v1/sandboxes", json={"name": name})

    async with (
        never_two_ships(bays),
        client_of(bays.url(1), key) as one,
        client_of(bays.url(0), key) as thawed,
        asyncio.TaskGroup() as group,
    ):
        for number in range(24):
            group.create_task(create_at(number % 3, f"box-{number}"))
        await eventually(lambda: len(bays.ships()) >= 3)  # the others' starts are under way
        bays.freeze(0)
        try:
            await eventually(lambda: not bays.leases(0))
            boxes = [box async for box in one.sandboxes.list()]
            for box in boxes:
                assert (await box.start(wait=WAIT_S)).status == "ready"
            before = {box.id: await sessions_of(bays, key, box.id) for box in boxes}
            ships = bays.ships()
        finally:
            bays.thaw(0)
        await eventually(lambda: bool(bays.leases(0)))
        for box in boxes:
            found = await (await thawed.sandboxes.get(box.id)).run("echo here")
            assert found.stdout == "here\n"
            assert await sessions_of(bays, key, box.id) == before[box.id]
        assert {box.id: bays.ships()[box.id] for box in boxes} == {box.id: ships[box.id] for box in boxes}
        async with thawed.sandbox() as box:
            assert (await box.run("echo new")).stdout == "new\n"


async def sessions_of(bays: ReplicaBays, key: str, box: str) -> list[tuple[str, str]]:
    """The changes of compute that a sandbox has had, each with its session; no session became ready twice."""
    async with http_client_of(bays.url(1), key) as client:
        events = await kept(client, f"/v1/sandboxes/{box}/events")
    found = [
        (event["type"], event["data"]["session_id"]) for event in events if "session_id" in event["data"]
    ]
    assert len(set(found)) == len(found), found
    return found


# Ended, and added


async def test_a_replica_that_is_told_to_end_hands_its_leases_over(bays: ReplicaBays) -> None:
    key = bays.key_of("alice")
    await eventually(lambda: all(bays.leases(number) for number in range(3)))
    async with never_two_ships(bays), client_of(bays.url(1), key) as client:
        boxes = [await client.sandboxes.create(wait=WAIT_S) for _ in range(12)]
        ships = bays.ships()
        assert await asyncio.to_thread(bays.stop, 0) == 0
        # Not at the end of their ten seconds: its last act was to let go.
        assert bays.leases(0) == set()
        assert bays.ships() == ships
        for box in boxes:
            await box.stop()
            assert (await box.run("echo again")).stdout == "again\n"
        held = await all_leases(bays)
        assert held == bays.leases(1) | bays.leases(2)


async def all_leases(bays: ReplicaBays) -> set[str]:
    """The names of all leases, once each has a holder."""
    await eventually(lambda: not bays.unheld())
    return {str(name) for (name,) in bays.sql("SELECT name FROM leases")}


async def test_calls_go_on_while_replicas_are_told_to_end_and_started_again(bays: ReplicaBays) -> None:
    key = bays.key_of("alice")
    async with never_two_ships(bays):
        async with calling(bays, key, workers=3) as ledger:
            for number in (0, 1, 2):
                await ledger.has(10)
                assert await asyncio.to_thread(bays.stop, number) == 0
                await asyncio.to_thread(bays.start, number)
            await ledger.has(10)
        await check_nothing_is_lost(bays, key, ledger)


async def test_a_fourth_replica_has_its_share_and_ends_no_session(bays: ReplicaBays) -> None:
    key = bays.key_of("alice")
    async with never_two_ships(bays), client_of(bays.url(0), key) as client:
        boxes = [await client.sandboxes.create(wait=WAIT_S) for _ in range(12)]
        ships = bays.ships()
        await asyncio.to_thread(bays.start, 3)
        await eventually(lambda: bool(bays.leases(3)))
        held = await all_leases(bays)
        shares = [bays.leases(number) for number in range(4)]
        assert set[str]().union(*shares) == held
        assert sum(len(share) for share in shares) == len(held)
        assert bays.ships() == ships
        async with client_of(bays.url(3), key) as fourth:
            for box in boxes:
                same = await fourth.sandboxes.get(box.id)
                await same.stop()
                assert (await same.run("echo again")).stdout == "again\n"


async def test_every_replica_names_those_that_live_and_their_work(bays: ReplicaBays) -> None:
    async def work(number: int) -> dict[str, set[str]]:
        async with http_client_of(bays.url(number), KEY) as admin:
            answer = (await admin.get("/v1/replicas")).json()
        assert [one["url"] for one in answer["items"] if one["is_self"]] == [bays.url(number)]
        return {one["url"]: {*map(str, one["shards"]), *one["jobs"]} for one in answer["items"]}

    async def is_shared_among(numbers: list[int]) -> bool:
        seen = [await work(number) for number in numbers]
        parts = sorted(part for one in seen[0].values() for part in one)
        return (
            all(one == seen[0] for one in seen)
            and set(seen[0]) == {bays.url(number) for number in numbers}
            and parts == sorted({*map(str, range(SHARDS)), *JOBS})
        )

    await eventually(lambda: is_shared_among([0, 1, 2]))
    bays.kill(1)
    await eventually(lambda: is_shared_among([0, 2]))
    bays.stop(2)
    await eventually(lambda: is_shared_among([0]))
    bays.start(3)
    await eventually(lambda: is_shared_among([0, 3]))


async def test_the_pool_is_one_and_is_filled_again_after_its_keeper_was_killed() -> None:
    profiles = json.dumps({"python-default": {"pool_size": 2}})
    with replica_bays(3, BAY_PROFILES=profiles) as bays:
        key = bays.key_of("alice")

        async def is_full() -> bool:
            async with http_client_of(bays.url(bays.numbers[-1]), KEY) as admin:
                (pool,) = (await admin.get("/v1/admin/pool")).json()["items"]
            return pool["ready"] == 2 and len(bays.ships()) == len(made) + 2

        made: list[str] = []
        async with never_two_ships(bays):
            await eventually(is_full)
            for keeper in (next(number for number in bays.numbers if "pool" in bays.leases(number)), None):
                for number in bays.numbers:
                    async with client_of(bays.url(number), key) as client:
                        box = await client.sandboxes.create(wait=WAIT_S)
                        assert (await box.run("echo pooled")).stdout == "pooled\n"
                        made.append(box.id)
                if keeper is not None:
                    await asyncio.to_thread(bays.kill, keeper)
                await eventually(is_full)
        assert len(set(made)) == len(made)


# Cut off from the database


async def test_a_replica_whose_connections_to_the_database_are_cut_goes_on() -> None:
    with replica_bays(2) as bays:
        key = bays.key_of("alice")
        before = backends(bays)
        bays.start(2)
        async with never_two_ships(bays):
            async with calling(bays, key, workers=3) as ledger:
                for _ in range(5):
                    await ledger.has(5)
                    cut(bays, backends(bays) - before)
                await ledger.has(10)
            await check_nothing_is_lost(bays, key, ledger)
            await eventually(lambda: bool(bays.leases(2)))
            async with client_of(bays.url(2), key) as client, client.sandbox() as box:
                assert (await box.run("echo on")).stdout == "on\n"


async def test_replicas_that_were_all_cut_off_hear_of_changes_again(bays: ReplicaBays) -> None:
    """A key is known to all when its change is answered only while all hear one another."""

    async def statuses(key: str) -> list[int]:
        found: list[int] = []
        for number in range(3):
            async with http_client_of(bays.url(number), key) as client:
                found.append((await client.get("/v1/sandboxes")).status_code)
        return found

    async with client_of(bays.url(0), KEY) as admin:

        async def is_known_at_once() -> bool:
            """Three times: a beat alone may make one known by chance."""
            for _ in range(3):
                made = await admin.keys.create("short", owner="alice")
                opened = await statuses(made.secret or "")
                await admin.keys.revoke(made.id)
                if (opened, await statuses(made.secret or "")) != ([200] * 3, [401] * 3):
                    return False
            return True

        for _ in range(3):
            cut(bays, backends(bays))
            await eventually(is_known_at_once)


def backends(bays: ReplicaBays) -> set[int]:
    """The server's processes for the connections of the replicas."""
    query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    return {int(pid) for (pid,) in bays.sql(query)}


def cut(bays: ReplicaBays, pids: set[int]) -> None:
    """Have the server end the connections of these processes of its own."""
    bays.sql("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) AS pid", [*pids])
