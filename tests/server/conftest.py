"""A running Bay for each test, and nothing left of it afterwards."""

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import httpx
import pytest
from server_harness import Served, World, clear, served, ships, short_dir, world

from bay.server import logs


@pytest.fixture(scope="session", autouse=True)
def quiet_logs() -> None:
    """As `bay serve` logs to a file; the renderer for terminals reads source files on the event loop."""
    logs.configure("error", "json")


@pytest.fixture
def root() -> Generator[Path]:
    """A short temporary directory, in which no session may be left running."""
    with short_dir() as path:
        yield path
        assert ships(path) == []


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    """A Bay that runs in this process, with the `fake` driver and a clock that is told."""
    try:
        async with world(root) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def alice(bay: World) -> httpx.AsyncClient:
    """A client with a write key."""
    return await bay.client("alice")


@pytest.fixture
async def bob(bay: World) -> httpx.AsyncClient:
    """Another owner's client."""
    return await bay.client("bob")


@pytest.fixture
async def live(root: Path) -> AsyncGenerator[Served]:
    """A Bay behind a real port."""
    try:
        async with served(root) as running:
            yield running
    finally:
        await clear(root)
