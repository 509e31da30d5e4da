"""Collections that an operator asks one replica for, seen at another one."""

import asyncio

import pytest
from server_harness import World

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def test_each_replica_tells_of_a_run_of_another(replicas: list[World]) -> None:
    first, second = replicas
    admin = await first.client("root", "admin")
    elsewhere = await second.open_client(dict(admin.headers))
    assert (await elsewhere.get("/v1/admin/gc/status")).json()["ran_at"] is None
    removing, go = asyncio.Event(), asyncio.Event()
    orphans = first.bay.reconciler.orphans
    remove = orphans.remove_sessions

    async def slowly() -> int:
        removing.set()
        await go.wait()
        return await remove()

    orphans.remove_sessions = slowly  # type: ignore[method-assign]
    body = {"tasks": ["orphan_container"]}
    running = asyncio.create_task(admin.post("/v1/admin/gc/run", json=body))
    await removing.wait()
    assert (await elsewhere.get("/v1/admin/gc/status")).json()["is_running"] is True
    go.set()
    done = (await running).json()
    told = [(await one.get("/v1/admin/gc/status")).json() for one in (admin, elsewhere)]
    assert told[0] == told[1]
    assert told[0]["results"] == done["results"]
    assert (told[0]["is_running"], told[0]["ran_at"] is not None) == (False, True)
