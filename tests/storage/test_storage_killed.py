"""Bay is killed while forks start: the next Bay has all of them or none, and no half of one."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from crash_case import WAIT_S, Place, until
from storage_bay import FORKS, Json, Pooled, pooled

pytestmark = [pytest.mark.host, pytest.mark.anyio, pytest.mark.long]

HERE = Path(__file__).parent


@asynccontextmanager
async def forking(place: Place, key: str) -> AsyncGenerator[asyncio.StreamReader]:
    """What a Bay in a process of its own says, which is killed when this is left."""
    paths = os.pathsep.join([str(HERE), str(HERE.parent / "support"), os.environ.get("PYTHONPATH", "")])
    marked = dict([place.mark.split("=", 1)])
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(HERE / "forking_bay.py"), str(place.root), str(place.cache), key,
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths, **marked},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


async def line(said: asyncio.StreamReader) -> str:
    async with asyncio.timeout(WAIT_S):
        return (await said.readline()).decode().strip()


@pytest.mark.parametrize(("answered", "later_s"), [(False, 0.01), (True, 0.15)])
async def test_forks_of_a_bay_that_is_killed_are_all_there_or_none(
    place: Place, answered: bool, later_s: float
) -> None:
    key = f"after-{later_s}-{answered}".replace(".", "_")
    async with forking(place, key) as said:
        box = await line(said)
        assert await line(said) == "asked"
        known = (await line(said)).split() if answered else []
        await asyncio.sleep(later_s)  # so far it gets
    async with pooled(place) as bay:
        there = {item["id"] for item in (await bay.ask("GET", "/sandboxes"))["items"]} - {box}
        assert len(there) in (0, FORKS["count"])
        assert not known or there == set(known)
        again = await forked_again(bay, box, key)
        assert not there or there == again
        assert {item["id"] for item in (await bay.ask("GET", "/sandboxes"))["items"]} == {box, *again}
        said_by = await asyncio.gather(
            *(bay.sh(one, "cat kept; echo -n; hostname >> own; wc -l < own") for one in again)
        )
        assert said_by == ["kept1"] * FORKS["count"]
        await bay.delete_all()
        assert await until(lambda: not bay.leftovers(), WAIT_S), bay.leftovers()


async def forked_again(bay: Pooled, box: str, key: str) -> set[str]:
    """The same call with the same key."""
    made: Json = await bay.ask("POST", f"/sandboxes/{box}/fork", json=FORKS, headers={"Idempotency-Key": key})
    return {item["id"] for item in made["items"]}
