"""A pool that is full: new things are refused in words, what is there goes on, and deleting makes room again."""

import asyncio

import crash_host
import httpx
import pytest
from storage_bay import MIB, Pooled

pytestmark = pytest.mark.anyio

FILL = "i=0; while fallocate -l 16M fill-$i 2>/dev/null || fallocate -l 1M fill-$i 2>/dev/null; do i=$((i+1)); done; echo $i"


def refused(bay: Pooled, answer: httpx.Response) -> None:
    """It is refused for want of room, in words that say nothing of the host and tell a way out."""
    assert answer.status_code == 507, answer.text
    error = answer.json()["error"]
    assert error["code"] == "storage_full"
    says_nothing_of_the_host(bay, answer.text)
    assert "delete" in error["message"] or "free" in error["message"]


def says_nothing_of_the_host(bay: Pooled, text: str) -> None:
    for secret in (bay.place.root, bay.place.cache, "/data/", ".making", ".checkpoints"):
        assert str(secret) not in text


async def test_a_full_pool_refuses_what_is_new_and_keeps_what_is_there(bay: Pooled) -> None:
    box, other = await bay.create("boundless"), await bay.create()
    await bay.write(other, "kept", b"kept")
    small = await bay.checkpoint(other, name="small")
    archive = await bay.ask("GET", f"/sandboxes/{other}/checkpoints/{small}/export")
    ticking = await bay.begin(other, "sh", "-c", "while :; do date +%N > tick; sleep 0.05; done")
    there = in_pool(bay)
    assert int(await bay.sh(box, FILL)) > 10

    for path, body in (
        (f"/sandboxes/{other}/checkpoints", {}),
        (f"/sandboxes/{other}/fork", {}),
        (f"/sandboxes/{other}/fork", {"checkpoint": "small"}),
        ("/cargos", {}),
        ("/cargos", {"from_checkpoint": small}),
        ("/sandboxes", {}),
        ("/sandboxes", {"from_checkpoint": small}),
    ):
        refused(bay, await bay.call("POST", path, json=body))
    refused(bay, await bay.call("POST", f"/sandboxes/{other}/checkpoints/import", content=archive))
    assert in_pool(bay) == there
    assert [item["id"] for item in (await bay.ask("GET", f"/sandboxes/{other}/checkpoints"))["items"]] == [
        small
    ]

    assert (await bay.ask("GET", f"/sandboxes/{other}/execs/{ticking}"))["state"] == "running"
    assert await bay.sh(other, "cat kept") == "kept"
    assert await bay.sh(box, "rm fill-*; ls -A") == ""
    async with asyncio.timeout(10):
        while (made := await bay.call("POST", f"/sandboxes/{other}/checkpoints", json={})).status_code == 507:
            pass
    assert made.status_code == 201, made.text
    (fork,) = await bay.fork(other)
    assert await bay.sh(fork, "cat kept") == "kept"
    assert (await bay.write(box, "new", b"x" * MIB)).status_code == 200


def in_pool(bay: Pooled) -> set[str]:
    """What is in the pool, whole or half made."""
    return {*crash_host.cargos(bay.place), *crash_host.checkpoints(bay.place), *crash_host.trash(bay.place)}
