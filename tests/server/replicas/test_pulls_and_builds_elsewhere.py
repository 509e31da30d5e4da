"""Pulls and builds, asked for at a replica that does another part of the work."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx
import postgres_server
import pytest
from build_machines import machines
from replica_worlds import holder_first, replica_worlds
from server_harness import World, eventually, within

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]

PROFILES = {"machine": {"persist": "machine", "start": "eager"}, "python-default": {"start": "eager"}}


@pytest.fixture
async def replicas(root: Path) -> AsyncGenerator[list[World]]:
    """Two whose sandboxes templates can be made of."""
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    async with replica_worlds(root, profiles=PROFILES) as running:
        for one in running:
            machines(one)
        yield running


async def admins(replicas: list[World], job: str) -> tuple[World, httpx.AsyncClient, httpx.AsyncClient]:
    """The replica that does the job, an administrator's client of it, and one of another replica."""
    holder, other = holder_first(replicas, job)
    client = await holder.client("root", "admin")
    return holder, client, await other.open_client(dict(client.headers))


async def test_a_pull_is_shown_and_cancelled_at_each_replica(replicas: list[World]) -> None:
    holder, here, there = await admins(replicas, "images")
    holder.library.let_go.clear()
    image = (await there.post("/v1/images", json={"ref": "debian:13"})).json()

    async def is_shown(client: httpx.AsyncClient) -> bool:
        shown = (await client.get(f"/v1/images/{image['id']}")).json()
        listed = (await client.get("/v1/images")).json()["items"]
        is_fetching = shown["progress"] is not None and shown["progress"]["step"] == "fetching"
        return is_fetching and listed == [shown]

    for client in (here, there):
        await eventually(lambda client=client: is_shown(client))
    holder.library.layers.add("sha256:fetched")
    assert (await within(there.delete(f"/v1/images/{image['id']}"))).status_code == 204
    await eventually(lambda: _is_empty(holder))
    assert (await here.get("/v1/images")).json()["items"] == []


async def _is_empty(replica: World) -> bool:
    await replica.bay.puller.collect()
    return replica.library.layers == set()


async def test_the_log_of_a_build_is_followed_to_its_end_at_each_replica(
    replicas: list[World], tmp_path: Path
) -> None:
    _, here, there = await admins(replicas, "templates")
    go = tmp_path / "go"
    script = f"echo begun; until [ -e {go} ]; do sleep 0.05; done; echo over"
    body = {"name": "web", "profile": "machine", "image": "debian:13", "steps": [{"run": script}]}
    made = (await there.post("/v1/templates", json=body)).json()
    path = f"/v1/templates/{made['id']}"

    async def has_begun() -> bool:
        return "\nbegun\n" in (await there.get(f"{path}/log")).text

    await eventually(has_begun)
    following = asyncio.create_task(there.get(f"{path}/log", params={"follow": "true"}))
    go.touch()
    assert (await within(following)).text.endswith("begun\nover\nfreezing\n")
    assert (await here.get(path, params={"wait": 20})).json()["state"] == "ready"


async def test_a_build_that_is_deleted_at_another_replica_ends_and_leaves_no_sandbox(
    replicas: list[World], root: Path
) -> None:
    holder, here, there = await admins(replicas, "templates")
    steps = [{"run": "echo begun; sleep 1000"}]
    body = {"name": "web", "profile": "machine", "image": "debian:13", "steps": steps}
    made = (await there.post("/v1/templates", json=body)).json()
    path = f"/v1/templates/{made['id']}"

    async def has_begun() -> bool:
        return "\nbegun\n" in (await there.get(f"{path}/log")).text

    await eventually(has_begun)
    assert (await there.delete(path)).status_code == 204
    assert made["id"] not in holder.bay.template_maker._making
    assert (await here.get("/v1/sandboxes")).json()["items"] == []
    assert list((root / "data" / "builds").iterdir()) == []


async def test_snapshots_that_a_build_has_found_stay_when_another_replica_collects(
    replicas: list[World],
) -> None:
    holder, other = holder_first(replicas, "templates")
    collected: list[str] = []
    for name, one in (("holder", holder), ("other", other)):

        async def note(name: str = name) -> None:
            collected.append(name)

        one.bay.template_maker.builds.collect = note  # type: ignore[method-assign]
    await other.bay.template_maker.collect()
    assert collected == ["holder"]
