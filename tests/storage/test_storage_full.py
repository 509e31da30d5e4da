"""A pool that is full: new things are refused in words, what is there goes on, and deleting
makes room again.
"""

import asyncio
import os

import crash_host
import httpx
import pytest
from storage_bay import MIB, Pooled

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

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


async def test_what_a_session_writes_outside_of_its_workspace_has_a_limit_of_its_own(bay: Pooled) -> None:
    before = layers_in(bay)
    box = await bay.create("tight")
    assert layers_in(bay) > before
    for path, user in (("/var/tmp/flood", "ship"), ("/usr/flood", "root")):
        said = await bay.sh(box, f"head -c 300M /dev/zero 2>&1 > {path}; stat -c %s {path}", user=user)
        assert "Disk quota exceeded" in said
        assert int(said.split()[-1]) <= 97 * MIB
        assert (await bay.write(box, "kept", b"x" * (8 * MIB))).status_code == 200
        assert await bay.sh(box, f"rm {path} && head -c 1M /dev/zero > /var/tmp/small", user=user) == ""

    await bay.ask("POST", f"/sandboxes/{box}/stop")
    assert layers_in(bay) == before
    assert await bay.sh(box, "ls -A /var/tmp; stat -c %s /workspace/kept") == str(8 * MIB)


async def test_a_session_that_makes_files_without_end_is_stopped_by_the_same_limit(bay: Pooled) -> None:
    box = await bay.create("tiny")
    script = "import os\nfor n in range(200_000): os.close(os.open(f'/var/tmp/{n:0200}', os.O_CREAT))"
    said = await bay.sh(box, f'python3 -c "{script}" 2>&1; ls /var/tmp | wc -l')
    assert "Disk quota exceeded" in said
    assert int(said.split()[-1]) < 60_000


def layers_in(bay: Pooled) -> set[str]:
    """The sessions that have layers in the pool."""
    return set(os.listdir(bay.place.data_dir / "cargo/.layers"))


def in_pool(bay: Pooled) -> set[str]:
    """What is in the pool, whole or half made."""
    return {*crash_host.cargos(bay.place), *crash_host.checkpoints(bay.place), *crash_host.trash(bay.place)}
