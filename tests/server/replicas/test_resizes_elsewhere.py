"""Other sizes of a live sandbox, asked for at a replica that does not act on it."""

import pytest
from replica_worlds import owner_first
from server_harness import World, assert_error, create, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


async def test_a_refusal_of_the_host_reaches_the_caller_at_each_replica(replicas: list[World]) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    path = f"/v1/sandboxes/{box['id']}"
    hold = "import sys; x = b'x' * (150 << 20); open('held', 'w').close(); sys.stdin.read()"
    body = {"argv": ["python3", "-c", hold], "stdin_open": True}
    holder = (await alice.post(f"{path}/execs", json=body)).json()["id"]

    async def is_held() -> bool:
        return (replicas[0].workspace(box) / "held").exists()

    await eventually(is_held)
    clients = [await one.open_client(dict(alice.headers)) for one in owner_first(replicas, box["id"])]
    for client in clients:
        error = assert_error(await client.patch(path, json={"memory_mb": 128}), 409, "conflict")
        assert "leaves no way to give it 128 MiB" in error["message"]
        assert error["details"]["used_bytes"] > 150 << 20
    await alice.post(f"{path}/execs/{holder}/stdin", params={"eof": "true"})
    await alice.get(f"{path}/execs/{holder}", params={"wait": 20})
    assert (await clients[1].patch(path, json={"memory_mb": 128})).json()["memory_mb"] == 128
