"""Whichever of three Bays takes a call, its answer is that of one Bay. Each call here names its replica."""

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from event_streams import following, kept, kinds, take
from receiver import receiving
from replica_bays import KEY, WAIT_S, ReplicaBays, replica_bays
from server_harness import Json, create, eventually, until, within

from bay.ids import new_id

pytestmark = [pytest.mark.postgres, pytest.mark.anyio, pytest.mark.long]

MOST = 7
"""Sandboxes that the owner `crowd` may have."""

Three = tuple[httpx.AsyncClient, httpx.AsyncClient, httpx.AsyncClient]
"""One owner's clients, of one replica each."""

_owners = itertools.count(1)


@pytest.fixture(scope="module")
def bays() -> Generator[ReplicaBays]:
    """Three replicas that no test of this module ends."""
    owners = json.dumps({"crowd": {"sandboxes": MOST}})
    with replica_bays(3, BAY_OWNERS=owners, BAY_WEBHOOK_ALLOW='["127.0.0.0/8"]') as running:
        yield running


@pytest.fixture
async def stack() -> AsyncGenerator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def abc(bays: ReplicaBays, stack: AsyncExitStack) -> Three:
    """The clients of an owner who has nothing yet."""
    return await three(bays, stack, bays.key_of(f"owner-{next(_owners)}"))


async def three(bays: ReplicaBays, stack: AsyncExitStack, key: str) -> Three:
    a, b, c = [
        await stack.enter_async_context(
            httpx.AsyncClient(
                base_url=bays.url(number), headers={"Authorization": f"Bearer {key}"}, timeout=WAIT_S
            )
        )
        for number in range(3)
    ]
    return a, b, c


def ok(answer: httpx.Response) -> Any:
    """The JSON of an answer, None without any."""
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


async def run(client: httpx.AsyncClient, box: str, command: str, **body: Any) -> Json:
    """An exec that has ended."""
    made = {"command": command, **body}
    return ok(await client.post(f"/v1/sandboxes/{box}/execs", json=made, params={"wait": WAIT_S}))


async def listed(client: httpx.AsyncClient) -> list[str]:
    return [box["id"] for box in ok(await client.get("/v1/sandboxes", params={"limit": 200}))["items"]]


async def is_there(client: httpx.AsyncClient, box: str, command: str) -> bool:
    """Whether the exec has begun."""
    return (await client.get(f"/v1/sandboxes/{box}/execs/{command}")).status_code == 200


async def has_happened(client: httpx.AsyncClient, box: str, kind: str) -> None:
    """Return once the sandbox has an event of that kind."""

    async def found() -> bool:
        return kind in kinds(await kept(client, f"/v1/sandboxes/{box}/events"))

    await eventually(found)


# Sandboxes and what runs in them


async def test_a_sandbox_made_at_one_replica_runs_at_another_and_is_listed_at_the_third(abc: Three) -> None:
    a, b, c = abc
    box = (await create(a))["id"]
    assert (await run(b, box, "echo hello"))["stdout"] == "hello\n"
    assert await listed(c) == [box]


async def test_a_create_waits_for_compute_at_every_replica(abc: Three) -> None:
    made = [await create(client, wait=WAIT_S) for client in abc * 4]
    assert {box["status"] for box in made} == {"ready"}


async def test_a_replica_wakes_what_another_has_stopped(bays: ReplicaBays, abc: Three) -> None:
    a, b, c = abc
    box = (await create(c, wait=WAIT_S))["id"]
    await run(b, box, "echo kept > note")
    for client, other in ((a, b), (b, c), (c, a)):
        ok(await client.post(f"/v1/sandboxes/{box}/stop"))
        await has_happened(other, box, "sandbox.stopped")
        assert (await run(other, box, "cat note"))["stdout"] == "kept\n"
    assert len(bays.ships()[box]) == 1


async def test_output_is_read_by_offset_at_one_replica_while_the_caller_waits_at_another(abc: Three) -> None:
    a, b, c = abc
    box, command = (await create(a, wait=WAIT_S))["id"], new_id("exec")
    waits = asyncio.create_task(
        run(b, box, "echo one; until test -e go; do sleep 0.05; done; echo two", id=command)
    )
    path = f"/v1/sandboxes/{box}/execs/{command}"
    await eventually(lambda: is_there(c, box, command))
    async with c.stream("GET", f"{path}/output", params={"since": 0, "follow": True}) as output:
        lines = output.aiter_lines()
        first = json.loads(await within(anext(lines)))
        assert (first["offset"], first["data"]) == (0, "b25lCg==")
        assert not waits.done()
        ok(await a.put(f"/v1/sandboxes/{box}/filesystem/files", json={"path": "go", "content": ""}))
        assert json.loads(await within(anext(lines)))["offset"] == len("one\n")
        assert json.loads(await within(anext(lines)))["exit_code"] == 0
    assert (await within(waits))["stdout"] == "one\ntwo\n"
    rest = ok_lines(await a.get(f"{path}/output", params={"since": 4}))
    assert [line["data"] for line in rest if "data" in line] == ["dHdvCg=="]


def ok_lines(answer: httpx.Response) -> list[Json]:
    assert answer.is_success, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_variables_of_a_kernel_are_there_at_every_replica(abc: Three) -> None:
    a, b, c = abc
    box = (await create(a))["id"]
    path = f"/v1/sandboxes/{box}/python/exec"
    ok(await b.post(path, json={"code": "x = 20"}))
    ok(await c.post(path, json={"code": "x += 1"}))
    assert ok(await a.post(path, json={"code": "print(x * 2)"}))["output"] == "42\n"


async def test_a_file_written_at_one_replica_is_read_and_changed_at_the_others(abc: Three) -> None:
    a, b, c = abc
    box = (await create(a))["id"]
    path, name = f"/v1/sandboxes/{box}/files/content", {"path": "data"}
    for client, other in ((a, b), (b, c), (c, a)):
        content = f"{client.base_url}".encode() * 10_000
        ok(await client.put(path, params=name, content=content))
        assert (await other.get(path, params=name)).content == content


async def test_a_change_answered_at_one_replica_is_seen_at_the_others_at_once(abc: Three) -> None:
    a, b, c = abc
    box = (await create(a, labels={"turn": "0"}))["id"]
    for turn, client in enumerate(abc * 5):
        ok(await client.patch(f"/v1/sandboxes/{box}", json={"labels": {"turn": str(turn)}}))
        seen = [ok(await other.get(f"/v1/sandboxes/{box}"))["labels"] for other in (a, b, c)]
        assert seen == [{"turn": str(turn)}] * 3


async def test_a_secret_set_at_one_replica_is_given_by_the_others(abc: Three) -> None:
    a, b, c = abc
    ok(await a.put("/v1/secrets/token", json={"value": "first"}))
    ok(await b.put("/v1/secrets/token", json={"value": "second"}))
    box = (await create(c, secrets=[{"name": "token", "env": "TOKEN"}]))["id"]
    assert (await run(c, box, "echo $TOKEN"))["stdout"] == "second\n"


async def test_a_frozen_sandbox_thaws_at_any_replica(bays: ReplicaBays, abc: Three) -> None:
    a, b, c = abc
    box = (await create(a, wait=WAIT_S))["id"]
    (ship,) = bays.ships()[box]
    for one, two, three in ((a, b, c), (b, c, a), (c, a, b)):
        assert ok(await one.post(f"/v1/sandboxes/{box}/pause"))["compute"] == "warm"
        assert ok(await two.get(f"/v1/sandboxes/{box}"))["compute"] == "warm"
        assert (await run(two, box, "echo awake"))["stdout"] == "awake\n"
        ok(await two.post(f"/v1/sandboxes/{box}/pause"))
        assert ok(await three.post(f"/v1/sandboxes/{box}/resume"))["compute"] == "running"
    assert bays.ships()[box] == {ship}


async def test_a_checkpoint_of_one_replica_is_restored_and_forked_at_the_others(abc: Three) -> None:
    a, b, c = abc
    box = (await create(a, wait=WAIT_S))["id"]
    path = f"/v1/sandboxes/{box}"
    await run(b, box, "echo old > note")
    ok(await a.post(f"{path}/checkpoints", json={"name": "before"}))
    await run(c, box, "echo new > note")
    ok(await b.post(f"{path}/checkpoints/before/restore"))
    assert (await run(a, box, "cat note"))["stdout"] == "old\n"
    forks = ok(await c.post(f"{path}/fork", json={"count": 3, "checkpoint": "before"}))["items"]
    for client, fork in zip((a, b, c), forks, strict=True):
        assert (await run(client, fork["id"], "cat note"))["stdout"] == "old\n"
    assert sorted(await listed(b)) == sorted([box, *(fork["id"] for fork in forks)])


async def test_a_delete_at_one_replica_ends_the_call_that_waits_at_another(abc: Three) -> None:
    for client, other in itertools.permutations(abc, 2):
        box = (await create(client, wait=WAIT_S))["id"]
        waits = asyncio.create_task(
            other.post(
                f"/v1/sandboxes/{box}/execs",
                json={"command": "touch began; exec sleep 1000"},
                params={"wait": WAIT_S},
            )
        )

        async def began(client: httpx.AsyncClient = client, box: str = box) -> bool:
            return (await client.get(f"/v1/sandboxes/{box}/files/stat", params={"path": "began"})).is_success

        await eventually(began)
        ok(await client.delete(f"/v1/sandboxes/{box}"))
        answer = await within(waits)
        assert answer.is_error or answer.json()["state"] in ("killed", "lost"), answer.text
        assert (await other.get(f"/v1/sandboxes/{box}")).status_code == 404


# Idle clocks: a replica that does not own a sandbox's shard holds it too


async def test_a_sandbox_in_which_any_replica_has_a_call_under_way_is_not_idle(abc: Three) -> None:
    """The command counts for nothing, so only the call that waits for it holds the sandbox: in the memory of
    one replica, while another decides.
    """

    async def held(client: httpx.AsyncClient) -> list[str]:
        box, command = (await create(client, wait=WAIT_S))["id"], new_id("exec")
        waits = asyncio.create_task(run(client, box, "sleep 4; echo done", keep_alive=False, id=command))
        await eventually(lambda: is_there(client, box, command))
        ok(await client.patch(f"/v1/sandboxes/{box}", json={"idle_timeout": 1}))
        ended = await waits
        assert (ended["stdout"], ended["exit_code"]) == ("done\n", 0)
        # That the clock works at all: without a call it ends.
        await has_happened(client, box, "sandbox.paused")
        found = await kept(client, f"/v1/sandboxes/{box}/events")
        return kinds([event for event in found if event["at"] < ended["ended_at"]])

    found = await asyncio.gather(*(held(client) for client in abc * 3))
    assert found == [["sandbox.created", "sandbox.starting", "sandbox.ready", "sandbox.updated"]] * 9


async def test_a_command_that_counts_keeps_its_sandbox_whichever_replica_began_it(abc: Three) -> None:
    async def kept_awake(client: httpx.AsyncClient) -> list[str]:
        box, body = (await create(client, wait=WAIT_S))["id"], {"command": "sleep 4; touch ended"}
        ok(await client.post(f"/v1/sandboxes/{box}/execs", json=body))
        ok(await client.patch(f"/v1/sandboxes/{box}", json={"idle_timeout": 1}))
        await has_happened(client, box, "sandbox.paused")
        assert (await run(client, box, "ls"))["stdout"] == "ended\n"
        return kinds(await kept(client, f"/v1/sandboxes/{box}/events"))

    for found in await asyncio.gather(*(kept_awake(client) for client in abc * 3)):
        assert found.count("sandbox.starting") == 1


# Each thing once


async def test_equal_creates_at_all_replicas_with_one_idempotency_key_make_one_sandbox(abc: Three) -> None:
    key = {"Idempotency-Key": "the-same"}
    calls = [client.post("/v1/sandboxes", json={"labels": {"a": "b"}}, headers=key) for client in abc * 7]
    answers = await asyncio.gather(*calls[:20])
    calls[20].close()
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.text for answer in answers}) == 1
    assert [await listed(client) for client in abc] == [[answers[0].json()["id"]]] * 3


async def test_creates_at_all_replicas_at_once_never_pass_a_quota(
    bays: ReplicaBays, stack: AsyncExitStack
) -> None:
    crowd = await three(bays, stack, bays.key_of("crowd"))
    body = {"profile": "lazy"}
    answers = await asyncio.gather(*(client.post("/v1/sandboxes", json=body) for client in crowd * 10))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(201), codes.count(429)) == (MOST, 30 - MOST)
    assert [len(await listed(client)) for client in crowd] == [MOST] * 3
    for box in await listed(crowd[0]):
        ok(await crowd[1].delete(f"/v1/sandboxes/{box}"))
        ok(await crowd[2].post("/v1/sandboxes", json=body))


async def test_a_name_is_taken_once_by_creates_at_all_replicas_at_once(abc: Three) -> None:
    for name in ("first", "second", "third"):
        body = {"name": name, "profile": "lazy"}
        answers = await asyncio.gather(*(client.post("/v1/sandboxes", json=body) for client in abc * 4))
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 11


async def test_starts_of_one_sandbox_at_all_replicas_at_once_make_one_session(
    bays: ReplicaBays, abc: Three
) -> None:
    a, _, _ = abc
    for _ in range(5):
        box = (await create(a, profile="lazy"))["id"]
        await asyncio.gather(*(run(client, box, "true") for client in abc * 2))
        found = kinds(await kept(a, f"/v1/sandboxes/{box}/events"))
        assert found == ["sandbox.created", "sandbox.starting", "sandbox.ready"]
        assert len(bays.ships()[box]) == 1


# Keys


async def test_a_key_opens_every_replica_once_it_is_made_and_none_once_it_is_revoked(
    bays: ReplicaBays, stack: AsyncExitStack
) -> None:
    admins = await three(bays, stack, KEY)
    for number, admin in enumerate(admins * 4):
        made = ok(await admin.post("/v1/keys", json={"name": f"k{number}", "owner": "brief"}))
        holders = await three(bays, stack, made["secret"])
        opened = await asyncio.gather(*(holder.get("/v1/sandboxes") for holder in holders))
        assert [answer.status_code for answer in opened] == [200] * 3
        ok(await admin.delete(f"/v1/keys/{made['id']}"))
        shut = await asyncio.gather(*(holder.get("/v1/sandboxes") for holder in holders))
        assert [answer.status_code for answer in shut] == [401] * 3


async def test_a_revoked_key_ends_its_stream_of_events_at_another_replica(
    bays: ReplicaBays, stack: AsyncExitStack
) -> None:
    admins = await three(bays, stack, KEY)
    for admin, number in ((admins[0], 1), (admins[1], 2), (admins[2], 0)):
        made = ok(await admin.post("/v1/keys", json={"name": "follower", "owner": "followed"}))
        holder = (await three(bays, stack, made["secret"]))[number]
        async with following(holder) as stream:
            ok(await admin.delete(f"/v1/keys/{made['id']}"))
            with pytest.raises(StopAsyncIteration):
                await within(anext(stream))


# Events, webhooks and the audit


async def some_life(client: httpx.AsyncClient, other: httpx.AsyncClient, times: int) -> None:
    """Sandboxes that are made at one replica, and changed and deleted at another."""
    for _ in range(times):
        box = (await create(client, profile="lazy"))["id"]
        ok(await other.patch(f"/v1/sandboxes/{box}", json={"labels": {"a": "b"}}))
        ok(await other.delete(f"/v1/sandboxes/{box}"))


LIFE = ["sandbox.created", "sandbox.updated", "sandbox.deleted"]


async def test_a_follower_at_one_replica_is_told_all_that_happens_at_the_others(abc: Three) -> None:
    a, b, c = abc
    async with following(b) as stream, asyncio.TaskGroup() as group:
        for client, other in ((a, c), (c, a), (a, b)):
            group.create_task(some_life(client, other, 10))
        found = await take(stream, 90)
    assert [event["id"] for event in found] == [event["id"] for event in await kept(c)]
    for box in {event["sandbox_id"] for event in found}:
        assert kinds([event for event in found if event["sandbox_id"] == box]) == LIFE


async def test_a_stream_that_was_cut_at_one_replica_goes_on_at_another(abc: Three) -> None:
    a, b, c = abc
    found: list[Json] = []
    async with asyncio.TaskGroup() as group:
        for client, other in ((a, c), (c, b), (b, a)):
            group.create_task(some_life(client, other, 12))
        place = "0"
        for client in itertools.islice(itertools.cycle((b, c, a)), 12):
            async with following(client, last=place) as stream:
                found += await take(stream, 9)
            place = found[-1]["_id"]
    assert [event["id"] for event in found] == [event["id"] for event in await kept(a)]


async def test_a_stream_of_one_sandbox_ends_with_it_at_any_replica(abc: Three) -> None:
    a, b, c = abc
    box = (await create(a, profile="lazy"))["id"]
    async with following(b, f"/v1/sandboxes/{box}/events") as stream:
        ok(await c.delete(f"/v1/sandboxes/{box}"))
        assert (await within(anext(stream)))["type"] == "sandbox.deleted"
        with pytest.raises(StopAsyncIteration):
            await within(anext(stream))


async def test_a_webhook_gets_each_event_once_and_in_order_whichever_replica_took_the_call(
    abc: Three,
) -> None:
    a, b, c = abc
    async with receiving() as receiver:
        hook = ok(await b.post("/v1/webhooks", json={"url": receiver.url}))
        async with asyncio.TaskGroup() as group:
            for client, other in ((a, c), (c, b), (b, a)):
                group.create_task(some_life(client, other, 5))
        await until(lambda: len(receiver.got) >= 45)
        assert [json.loads(got.body)["id"] for got in receiver.got] == [
            event["id"] for event in await kept(a)
        ]
        # One more is the next: nothing was sent twice, by two replicas or late.
        await create(c, profile="lazy")
        await until(lambda: len(receiver.got) >= 46)
        assert [json.loads(got.body)["id"] for got in receiver.got] == [
            event["id"] for event in await kept(b)
        ]
        ok(await c.delete(f"/v1/webhooks/{hook['id']}"))


async def test_the_audit_has_each_call_once_and_in_its_order(abc: Three) -> None:
    a, _, c = abc
    box = (await create(a))["id"]
    ids = [f"call-{number}" for number in range(15)]
    for request_id, client in zip(ids, itertools.cycle(abc)):
        body, headers = {"labels": {"by": request_id}}, {"X-Request-Id": request_id}
        ok(await client.patch(f"/v1/sandboxes/{box}", json=body, headers=headers))
    await asyncio.gather(*(run(client, box, "true") for client in abc * 3))

    async def rows() -> list[Json]:
        return ok(await c.get("/v1/audit", params={"limit": 200}))["items"]

    async def have_results() -> bool:
        return None not in {row["status"] for row in await rows()}

    await eventually(have_results)  # a result is written a moment after its answer
    found = await rows()
    assert [row["request_id"] for row in found if row["method"] == "PATCH"] == ids
    assert [row["status"] for row in found if row["path"].endswith("/execs")] == [201] * 9
    assert len({row["request_id"] for row in found}) == len(found) == 25


async def test_what_a_call_has_answered_is_read_at_every_replica_at_once(abc: Three) -> None:
    """Also what is written a moment later where one Bay has all calls: ends of commands, and the history."""
    a, _, _ = abc
    box = (await create(a, wait=WAIT_S))["id"]
    path = f"/v1/sandboxes/{box}"
    for client, other in itertools.permutations(abc, 2):
        ended = await run(client, box, "exit 3")
        seen = ok(await other.get(f"{path}/execs/{ended['id']}"))
        assert (seen["state"], seen["exit_code"]) == ("exited", 3)
        done = ok(await client.post(f"{path}/shell/exec", json={"command": "echo noted"}))
        assert ok(await other.get(f"{path}/history/last"))["id"] == done["execution_id"]
