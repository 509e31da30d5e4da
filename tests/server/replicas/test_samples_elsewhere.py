"""The use of a sandbox over time: the replica that acts on it samples it, and each one tells of it."""

import asyncio
from pathlib import Path
from typing import Any

import postgres_databases
import postgres_server
import pytest
from replica_worlds import owner_first
from server_harness import WAIT_S, Json, World, clear, create, eventually, world

from bay.clock import ManualClock
from bay.images.fake import FakeLibrary
from bay.server.replicas.leases import shard_of

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def points(replica: World, sandbox: str) -> list[Json]:
    client = await replica.client()
    answer = await client.get(f"/v1/sandboxes/{sandbox}/metrics")
    assert answer.status_code == 200, answer.text
    return answer.json()["points"]


async def rows(replica: World) -> int:
    return (await replica.sql("SELECT count(*) FROM samples"))[0][0]


async def test_one_replica_samples_and_each_tells_also_of_what_is_not_written(replicas: list[World]) -> None:
    box = (await create(await replicas[0].client(), wait=20))["id"]
    owner, other = owner_first(replicas, box)
    for _ in range(2):
        owner.clock.advance(60)
        for replica in (owner, other):
            await replica.bay.sampler.sample()
    assert await rows(owner) == 1
    found = await points(owner, box)
    assert len(found) == 2
    assert await points(other, box) == found


async def test_samples_go_on_where_a_replica_leaves_its_sandboxes_to_another(root: Path) -> None:
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    given: dict[str, Any] = {
        "clock": ManualClock(), "library": FakeLibrary(), "may_block": True, "replicas": True,
        "database_url": postgres_databases.url_for(root),
    }  # fmt: skip
    try:
        async with world(root, **given) as staying:
            async with world(root, **given) as leaving:
                box = await box_of(leaving)
                for _ in range(2):
                    leaving.clock.advance(60)
                    await leaving.bay.sampler.sample()
            assert await rows(staying) == 2  # it writes what it has before it ends

            async def is_taken() -> bool:
                return staying.bay.leases.owns(box)

            await eventually(is_taken)
            staying.clock.advance(60)
            await staying.bay.sampler.sample()
            found = await points(staying, box)
            assert [one["cpus_used"] is None for one in found] == [True, False, True]
    finally:
        await clear(root)


async def box_of(replica: World) -> str:
    """A sandbox that this replica acts on, once it has its share of them."""
    client, leases = await replica.client(), replica.bay.leases

    async def has_some() -> bool:
        return any(leases.owns(f"sandbox-{number:024x}") for number in range(200))

    await eventually(has_some)
    async with asyncio.timeout(WAIT_S):
        while not leases.holds(shard_of(box := (await create(client))["id"])):
            continue
    await client.post(f"/v1/sandboxes/{box}/start", params={"wait": 15})
    return box
