"""Pools that one replica keeps, as the others use and show them."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import postgres_server
import pytest
from replica_worlds import holder_first, replica_worlds
from server_harness import Json, World, create, eventually

from bay.store import sandboxes
from bay.units import MIB

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(postgres_server.binaries() is None, reason="PostgreSQL is not installed"),
    pytest.mark.postgres,
]


def profiles(**pooled: Any) -> Json:
    return {"python-default": {"start": "lazy"}, "pooled": pooled}


async def waiting(replica: World) -> set[str]:
    """Those of the pool that run."""
    async with replica.bay.store.read() as db:
        return {one.id for one in await sandboxes.pooled(db) if one.phase == "running"}


def has(replica: World, count: int) -> Callable[[], Awaitable[bool]]:
    async def is_there() -> bool:
        return len(await waiting(replica)) == count

    return is_there


async def clients(one: World, another: World, owner: str, scope: Any) -> list[httpx.AsyncClient]:
    client = await one.client(owner, scope)
    return [client, await another.open_client(dict(client.headers))]


async def states(admins: list[httpx.AsyncClient]) -> list[Json]:
    return [(await one.get("/v1/admin/pool")).json()["items"][0] for one in admins]


async def test_creates_at_each_replica_are_served_and_counted(root: Path) -> None:
    async with replica_worlds(root, profiles=profiles(pool_size=2)) as replicas:
        keeper, other = holder_first(replicas, "pool")
        for client in await clients(keeper, other, "alice", "write"):
            await eventually(has(keeper, 2))
            before = await waiting(keeper)
            assert (await create(client, profile="pooled"))["id"] in before
        await eventually(has(keeper, 2))
        admins = await clients(keeper, other, "root", "admin")

        async def are_all_counted() -> bool:
            told = await states(admins)
            return told[0] == told[1] and (told[0]["hits"], told[0]["ready"]) == (2, 2)

        await eventually(are_all_counted)


async def test_a_pool_follows_the_creates_at_a_replica_that_does_not_keep_it(root: Path) -> None:
    async with replica_worlds(root, profiles=profiles(pool_size=0, pool_max=2)) as replicas:
        keeper, other = holder_first(replicas, "pool")
        _, elsewhere = await clients(keeper, other, "alice", "write")
        for _ in range(2):
            await create(elsewhere, profile="pooled")
        await eventually(has(keeper, 2))
        assert [one["size"] for one in await states(await clients(keeper, other, "root", "admin"))] == [2, 2]


async def test_each_replica_tells_why_a_pool_is_not_full(root: Path) -> None:
    async with replica_worlds(root, profiles=profiles(pool_size=0, pool_max=1)) as replicas:
        keeper, other = holder_first(replicas, "pool")
        for one in replicas:
            one.driver.fail_at = "launch"
        alice, _ = await clients(keeper, other, "alice", "write")
        await create(alice, profile="pooled")
        admins = await clients(keeper, other, "root", "admin")

        async def is_told() -> bool:
            told = await states(admins)
            return told[0] == told[1] and told[0]["failures"] == 1 and told[0]["last_error"] is not None

        await eventually(is_told)
        (tally,) = other.bay.pool._tallies.values()
        assert (tally.failures, tally.refill_at is not None) == (1, True)


async def test_one_replica_gives_memory_back_to_the_host(root: Path) -> None:
    available = [1 << 40]
    async with replica_worlds(root, available_memory=lambda: available[0]) as replicas:
        keeper, other = holder_first(replicas, "pool")
        alice = await keeper.client()
        boxes = [(await create(alice, wait=20))["id"] for _ in range(2)]
        for box in boxes:
            assert (await alice.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
        available[0] = MIB
        await other.bay.pressure.relieve()
        assert other.bay.pressure._going is None

        async def are_cold() -> bool:
            return all([(await keeper.record(box)).session is None for box in boxes])

        await eventually(are_cold)
        assert other.bay.pressure._going is None
