"""`/v1/replicas`: the Bays of one database, as each of them tells."""

from datetime import timedelta
from typing import Any

import httpx
import pytest
from server_harness import World, assert_error, eventually
from sqlalchemy import insert

import bay as bay_package
from bay.clock import utc_now
from bay.server.replicas.leases import JOBS, SHARDS
from bay.store.schema import leases

pytestmark = pytest.mark.anyio
ALL_SHARDS = [*range(SHARDS)]


async def shown(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/v1/replicas")
    assert answer.status_code == 200, answer.text
    return answer.json()


# Alone


async def test_a_bay_that_is_alone_shows_itself_with_all_the_work(bay: World) -> None:
    admin = await bay.client("root", "admin")
    state = await shown(admin)
    [one] = state["items"]
    assert (one["is_self"], one["shards"], one["jobs"]) == (True, ALL_SHARDS, [*JOBS])
    assert (one["url"], one["version"]) == (bay.bay.hosts.own_url, bay_package.__version__)
    assert state["unheld"] == []
    bay.clock.advance(5)
    [later] = (await shown(admin))["items"]
    assert (later["id"], later["started_at"]) == (one["id"], one["started_at"])
    assert later["beat_at"] > one["beat_at"]


async def test_other_keys_do_not_see_replicas(bay: World) -> None:
    for scope in ("read", "write"):
        client = await bay.client("alice", scope)
        assert_error(await client.get("/v1/replicas"), 403, "forbidden")


# Several


async def test_replicas_show_one_another_and_share_the_work(two: list[World]) -> None:
    admins = [await replica.client("root", "admin") for replica in two]

    async def shared() -> bool:
        state = await shown(admins[0])
        return (
            len(state["items"]) == 2 and not state["unheld"] and all(one["shards"] for one in state["items"])
        )

    await eventually(shared)
    seen, other = [await shown(admin) for admin in admins]
    assert sorted(number for one in seen["items"] for number in one["shards"]) == ALL_SHARDS
    assert sorted(job for one in seen["items"] for job in one["jobs"]) == sorted(JOBS)
    assert [one["is_self"] for one in seen["items"]] == [True, False]
    assert [one["is_self"] for one in other["items"]] == [False, True]
    assert [one["id"] for one in seen["items"]] == [replica.bay.leases.me for replica in two]


async def test_parts_that_no_replica_has_are_named(two: list[World]) -> None:
    admin = await two[0].client("root", "admin")
    spare = {"name": "spare", "holder": None, "epoch": 0, "until": utc_now()}
    dead = {
        "name": "of-a-dead",
        "holder": "replica-dead",
        "epoch": 1,
        "until": utc_now() + timedelta(hours=1),
    }
    async with two[0].bay.store.write() as db:
        await db.execute(insert(leases), [spare, dead])
    assert {"spare", "of-a-dead"} <= {*(await shown(admin))["unheld"]}
