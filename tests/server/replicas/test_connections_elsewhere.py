"""Connections to a session, kept by a replica that does not act on its sandbox."""

import pytest
from replica_worlds import owner_first
from server_harness import World, create, eventually, shell

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def test_no_replica_keeps_a_connection_to_a_session_that_is_over(replicas: list[World]) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    client = await other.open_client(dict(alice.headers))
    await shell(client, box["id"], "true")
    session = (await owner.session(box["id"])).id
    assert session in other.bay.ship._idle
    assert (await alice.post(f"/v1/sandboxes/{box['id']}/stop")).status_code == 200

    async def is_forgotten() -> bool:
        return session not in other.bay.ship._idle

    await eventually(is_forgotten)
