"""Events: in order, whole, exactly once for each reader, and nobody else's."""

import asyncio
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from event_streams import following, kept, kinds, parsed, take, to_end
from server_harness import (
    WAIT_S,
    Json,
    Served,
    World,
    add_event,
    assert_error,
    clear,
    create,
    served,
    until,
    within,
)

from bay.errors import InvalidArgument
from bay.server.events.follow import MAX_FOLLOWERS, EventNotifier
from bay.server.keys.service import ApiKeys
from bay.server.web.sealing import EventIds, Seals
from bay.store import events
from bay.store.records import NOBODY, WebhookRecord

pytestmark = pytest.mark.anyio


def client_of(bay: Served, key: str | None = None) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {key or bay.key}"}
    return httpx.AsyncClient(base_url=bay.url, headers=headers, timeout=WAIT_S)


# Pages


async def test_every_change_of_state_is_an_event(alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=WAIT_S, profile="eager")
    await alice.post(f"/v1/sandboxes/{box['id']}/stop")
    await alice.delete(f"/v1/sandboxes/{box['id']}")
    found = await kept(alice)
    assert kinds(found)[:3] == ["sandbox.created", "sandbox.starting", "sandbox.ready"]
    assert "sandbox.stopped" in kinds(found)
    assert kinds(found)[-1] == "sandbox.deleted"
    assert {event["sandbox_id"] for event in found} == {box["id"]}
    assert all(event["at"].endswith("Z") and isinstance(event["data"], dict) for event in found)


async def test_pages_go_on_where_the_last_one_ended(alice: httpx.AsyncClient) -> None:
    for _ in range(5):
        await create(alice)
    all_of_them = await kept(alice)
    found: list[Json] = []
    cursor = None
    for _ in range(len(all_of_them)):
        page = (
            await alice.get("/v1/events", params={"limit": 2, **({"cursor": cursor} if cursor else {})})
        ).json()
        found += page["items"]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
        if cursor is None:
            break
    assert found == all_of_them
    assert await kept(alice, since=found[2]["id"]) == found[3:]
    assert await kept(alice, since="0") == found


async def test_a_sandbox_has_its_own_events_by_name_and_after_its_end_by_id(alice: httpx.AsyncClient) -> None:
    await create(alice)
    box = await create(alice, name="web")
    assert kinds(await kept(alice, "/v1/sandboxes/web/events")) == ["sandbox.created"]
    await alice.delete("/v1/sandboxes/web")
    assert_error(await alice.get("/v1/sandboxes/web/events"), 404, "not_found")
    assert kinds(await kept(alice, f"/v1/sandboxes/{box['id']}/events"))[-1] == "sandbox.deleted"


# Following


async def test_a_follower_is_told_what_happens_from_now_on(live: Served) -> None:
    async with client_of(live) as client:
        await create(client)
        async with following(client) as stream:
            box = await create(client)
            [event] = await take(stream, 1)
    assert (event["type"], event["sandbox_id"]) == ("sandbox.created", box["id"])
    assert (event["_id"], event["_event"]) == (event["id"], event["type"])


async def test_a_query_does_as_well_as_the_headers(live: Served) -> None:
    async with client_of(live) as client:
        box = await create(client)
        params = {"follow": "true", "since": "0"}
        async with (
            client.stream("GET", "/v1/events", params=params) as answer,
            aclosing(parsed(answer.aiter_lines())) as stream,
        ):
            [event] = await take(stream, 1)
    assert event["sandbox_id"] == box["id"]


async def test_whoever_is_cut_off_before_the_first_event_knows_where_to_go_on(live: Served) -> None:
    async with client_of(live) as client:
        async with client.stream("GET", "/v1/events", params={"follow": "true"}) as answer:
            first = await within(anext(answer.aiter_lines()))
        box = await create(client)
        async with following(client, last=first.removeprefix("id: ")) as stream:
            [event] = await take(stream, 1)
    assert event["sandbox_id"] == box["id"]


async def test_nothing_is_lost_and_nothing_doubled_across_cuts_and_a_restart_of_bay(root: Path) -> None:
    got: list[Json] = []
    try:
        async with served(root) as bay, client_of(bay) as client:
            made = [(await create(client))["id"] for _ in range(6)]
            async with following(client, since="0") as stream:
                got += await take(stream, 2)
            async with following(client, last=got[-1]["id"]) as stream:
                got += await take(stream, 2)
        async with served(root) as bay, client_of(bay) as client:
            made.append((await create(client))["id"])
            async with following(client, last=got[-1]["id"]) as stream:
                got += await take(stream, 3)
                made.append((await create(client))["id"])
                got += await take(stream, 1)
    finally:
        await clear(root)
    assert [event["sandbox_id"] for event in got] == made


async def test_many_events_at_once_come_whole_and_in_order(live: Served) -> None:
    async with client_of(live) as client, following(client) as stream:
        async with live.bay.store.write() as db:
            for number in range(350):
                await add_event(db, "alice", "sandbox-x", "sandbox.ready", live.bay.clock(), n=number)
        got = await take(stream, 350)
    assert [event["data"]["n"] for event in got] == list(range(350))


async def test_one_who_does_not_read_is_served_when_it_does(live: Served) -> None:
    """Some 16 MiB, which fit in no buffer between: the server must stop, and go on where it stopped."""
    async with live.bay.store.write() as db:
        for number in range(250):
            data = {"n": number, "filling": "x" * 65536}
            await add_event(db, "alice", "sandbox-x", "sandbox.ready", live.bay.clock(), **data)
    async with client_of(live) as client, following(client, since="0") as stream:
        got = await take(stream, 1)
        await create(client)  # others are served meanwhile
        got += await take(stream, 250)
    assert [event["data"].get("n") for event in got] == [*range(250), None]


async def test_a_stream_of_a_sandbox_ends_with_it_and_is_not_taken_up_again(live: Served) -> None:
    async with client_of(live) as client:
        box = await create(client)
        path = f"/v1/sandboxes/{box['id']}/events"
        async with following(client, path, since="0") as stream:
            await client.delete(f"/v1/sandboxes/{box['id']}")
            got = await within(to_end(stream))
        assert kinds(got)[-1] == "sandbox.deleted"
        async with following(client, path, last=got[-2]["id"]) as stream:
            assert kinds(await within(to_end(stream))) == ["sandbox.deleted"]
        for last in ({"Last-Event-ID": got[-1]["id"]}, {}):
            answer = await client.get(path, headers={"Accept": "text/event-stream", **last})
            assert (answer.status_code, answer.content) == (204, b"")


async def test_a_follower_is_let_go_when_the_server_ends(root: Path) -> None:
    """To the end of the answer, which a connection that is broken off does not come to."""
    stack = served(root)
    bay = await stack.__aenter__()
    async with client_of(bay) as client, following(client) as stream:
        rest = asyncio.create_task(to_end(stream))
        await until(lambda: bool(bay.bay.feed._listeners))
        await within(stack.__aexit__(None, None, None))
        assert await within(rest) == []
    await clear(root)


async def test_the_number_of_followers_is_limited_and_a_place_is_free_again(live: Served) -> None:
    with live.bay.feed.place("alice"):
        live.bay.feed._followers["alice"] = MAX_FOLLOWERS
        async with (
            client_of(live) as client,
            client_of(live, await live.bay.keys.add("bob", "b", "read")) as bob,
        ):
            answer = await client.get("/v1/events", params={"follow": "true"})
            assert_error(answer, 429, "quota_exceeded")
            assert answer.headers["retry-after"]
            async with following(bob):  # it is alice's limit
                pass
            live.bay.feed._followers["alice"] = 1
            for _ in range(3):
                async with following(client):
                    assert live.bay.feed._followers["alice"] == 2
                await until(lambda: live.bay.feed._followers["alice"] == 1)


async def test_silence_is_filled_with_signs_of_life() -> None:
    async def read() -> list[str]:
        return []

    feed = EventNotifier(ping_s=0.001)
    async with aclosing(feed.follow(read)) as batches:
        assert [await within(anext(batches)) for _ in range(3)] == [[], [], []]
        feed.close()
        with pytest.raises(StopAsyncIteration):
            await within(anext(batches))


# Whose events they are


async def test_nobody_is_told_of_anothers_events(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    box = await create(alice, name="alices")
    own = await create(bob)
    assert {event["sandbox_id"] for event in await kept(bob)} == {own["id"]}
    for ref in (box["id"], "alices"):
        for headers in ({}, {"Accept": "text/event-stream"}):
            answer = await bob.get(f"/v1/sandboxes/{ref}/events", headers=headers)
            assert_error(answer, 404, "not_found")


async def test_an_id_is_of_use_only_to_its_owner_and_tells_nothing(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    await create(alice)
    [event] = await kept(alice)
    for wrong in (event["id"], "1", "x" * 32, "0" * 32, event["id"][:-1], "é", "00"):
        assert_error(await bob.get("/v1/events", params={"since": wrong}), 422, "validation_error")
    ids = [bay.bay.event_ids.id_of("alice", seq) for seq in range(50)]
    assert len({event_id[-8:] for event_id in ids}) == 50
    assert bay.bay.event_ids.id_of("bob", 7) != ids[7]


async def test_ids_outlive_a_restart(bay: World) -> None:
    seals = Seals()
    await seals.open(bay.bay.store)
    again = EventIds(seals)
    assert again.seq_of("alice", bay.bay.event_ids.id_of("alice", 2**40)) == 2**40
    with pytest.raises(InvalidArgument):
        again.seq_of("bob", bay.bay.event_ids.id_of("alice", 1))


async def test_what_happened_in_the_pool_is_nobodys(bay: World, alice: httpx.AsyncClient) -> None:
    box = await create(alice)
    async with bay.bay.store.write() as db:
        await add_event(db, NOBODY, box["id"], "sandbox.ready", bay.clock())
    assert kinds(await kept(alice)) == ["sandbox.created"]
    assert kinds(await kept(alice, f"/v1/sandboxes/{box['id']}/events")) == ["sandbox.created"]


async def test_a_reading_key_is_enough_and_no_key_is_not(bay: World) -> None:
    reader = await bay.client("alice", "read")
    assert (await reader.get("/v1/events")).status_code == 200
    nobody = await bay.open_client()
    assert_error(await nobody.get("/v1/events"), 401, "unauthorized")


# What is no longer kept


async def trim(bay: World, most: int = 1000) -> int:
    async with bay.bay.store.write() as db:
        return await events.trim(db, bay.clock() + timedelta(seconds=1), most)


async def test_what_is_forgotten_shows_as_a_gap_once(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    for client in (alice, alice, bob, alice):
        await create(client)
    first, _, last = await kept(alice)
    assert await trim(bay, most=3) == 3
    [gap, rest] = await kept(alice, since=first["id"])
    assert (gap["type"], gap["sandbox_id"]) == ("events.gap", None)
    assert rest == last
    assert await kept(alice, since=gap["id"]) == [last]
    assert await kept(alice, since=last["id"]) == []
    assert await kept(alice) == [last]  # from the oldest that is kept, there is no gap


async def test_trimming_takes_the_oldest_and_no_more_than_it_may(
    bay: World, alice: httpx.AsyncClient
) -> None:
    for _ in range(4):
        await create(alice)
    assert await trim(bay, most=1) == 1
    assert len(await kept(alice)) == 3
    async with bay.bay.store.write() as db:
        assert await events.trim(db, bay.clock() - timedelta(hours=1), 1000) == 0
    assert await trim(bay) == 3
    assert await trim(bay) == 0
    async with bay.bay.store.read() as db:
        here = await events.newest(db, "alice")
    await create(alice)
    after = bay.bay.event_ids.id_of("alice", here)
    assert kinds(await kept(alice, since=after)) == ["sandbox.created"]  # who asked for "now" meets no gap


async def test_a_quiet_owner_is_told_of_no_gap_that_is_anothers(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    await create(bob)
    [event] = await kept(bob)
    bay.clock.advance(10)
    for _ in range(3):
        await create(alice)
    async with bay.bay.store.write() as db:
        await events.trim(db, bay.clock() + timedelta(seconds=1), 1000)
    assert kinds(await kept(bob, since=event["id"])) == []


async def test_a_follower_whose_key_is_revoked_is_told_nothing_more(live: Served) -> None:
    secret = await live.bay.keys.add("alice", "leaked", "read")
    caller = live.bay.keys.authenticate(f"Bearer {secret}")
    async with client_of(live) as client, client_of(live, secret) as leaked, following(leaked) as stream:
        await create(client)
        await take(stream, 1)
        await ApiKeys(store=live.bay.store, keys=live.bay.keys, clock=live.bay.clock).revoke(caller.key_id)
        await create(client)
        assert await within(to_end(stream)) == []


async def test_a_follower_that_waits_is_cut_off_when_its_key_is_revoked_and_not_with_the_next_ping(
    live: Served,
) -> None:
    secret = await live.bay.keys.add("alice", "leaked", "read")
    caller = live.bay.keys.authenticate(f"Bearer {secret}")
    live.bay.feed._ping_s = live.bay.connections._look_s = 3600.0  # neither of which is waited for
    async with client_of(live, secret) as leaked, following(leaked) as stream:
        await ApiKeys(store=live.bay.store, keys=live.bay.keys, clock=live.bay.clock).revoke(caller.key_id)
        assert await within(to_end(stream)) == []


async def test_a_webhook_of_rare_types_is_told_of_one_that_comes_after_many_others(live: Served) -> None:
    """What it was looked through in vain for is not looked through again, and nothing behind it is missed."""
    deliverer = live.bay.deliverer
    async with live.bay.store.write() as db:
        record = WebhookRecord(
            id="hook-1", owner="alice", url="https://example.com", secret="s", types=("sandbox.failed",), after_seq=0,
            attempts=0, last_error=None, next_attempt_at=None, created_at=live.bay.clock(),
        )  # fmt: skip
        for kind in ("sandbox.ready", "sandbox.ready"):
            await add_event(db, "alice", "sandbox-x", kind, live.bay.clock())
    async with live.bay.store.read() as db:
        assert await deliverer._next(db, record) is None
        assert deliverer._passed["hook-1"] == await events.newest(db, "alice")
    async with live.bay.store.write() as db:
        await add_event(db, "alice", "sandbox-x", "sandbox.failed", live.bay.clock())
    async with live.bay.store.read() as db:
        found = await deliverer._next(db, record)
    assert found is not None
    assert found.type == "sandbox.failed"
