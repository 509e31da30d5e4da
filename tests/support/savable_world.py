"""A Bay in the test's process whose profiles `sleeps` and `also` hibernate; the driver's part is a note."""

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import PROFILES, Json, World, clear, create, short_dir, world

from bay.drivers.fake import FakeDriver
from bay.server.settings import ProfileSettings

__all__ = ["alice", "bay", "box", "kinds", "opened", "root", "shown"]

_PROFILES = {
    **PROFILES,
    "sleeps": ProfileSettings.model_validate({"hibernate": True, "idle_timeout": 100, "warm_timeout": 1000}),
    "also": ProfileSettings.model_validate({"hibernate": True}),
}


def opened(root: Path, *, memory: bool = True, **given: Any) -> AbstractAsyncContextManager[World]:
    """One below `root`, on a host that can save memory or cannot."""
    driver = FakeDriver(run_dir=root / "run", memory=memory, volumes=True)
    return world(root, driver, profiles=_PROFILES, **given)


@pytest.fixture
def root() -> Generator[Path]:
    with short_dir() as directory:
        yield directory


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    async with opened(root) as found:
        yield found
    await clear(root)


@pytest.fixture
async def alice(bay: World) -> httpx.AsyncClient:
    return await bay.client()


@pytest.fixture
async def box(alice: httpx.AsyncClient) -> str:
    return (await create(alice, profile="sleeps", wait=15))["id"]


async def shown(client: httpx.AsyncClient, sandbox: str) -> Json:
    """The sandbox as its owner sees it."""
    return (await client.get(f"/v1/sandboxes/{sandbox}")).json()


async def kinds(client: httpx.AsyncClient, sandbox: str) -> list[str]:
    """The types of its events, the oldest first."""
    answer = await client.get(f"/v1/sandboxes/{sandbox}/events", params={"limit": 100})
    return [event["type"] for event in answer.json()["items"]]
