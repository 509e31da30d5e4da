"""A running Bay for each test, and nothing left of it afterwards."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import httpx
import pytest
import structlog
from blockbuster import blockbuster_ctx
from lying_ship import DEADLINE_S, Liar, Lie, Script
from server_harness import IS_POSTGRES, WAIT_S, Served, World, clear, served, ships, short_dir, world

from bay.server import logs
from bay.server.ship.client import ShipClient


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With BAY_TEST_DATABASE=postgresql, tests about SQLite's words and its file are left out."""
    if IS_POSTGRES:
        for item in items:
            if item.get_closest_marker("sqlite") or item.path.parent.name == "offline":
                item.add_marker(pytest.mark.skip("is about SQLite"))


@pytest.fixture(scope="session", autouse=True)
def quiet_logs() -> None:
    """As `bay serve` logs to a file; the renderer for terminals reads source files on the event loop."""
    logs.configure("error", "json")


@pytest.fixture
def own_logs(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """Logs that the test may set up as it likes. No logger keeps a stream that is closed with the test."""
    configure, before = logs.configure, structlog.get_config()

    def configure_uncached(level: logs.Level, form: logs.Format) -> None:
        configure(level, form)
        structlog.configure(cache_logger_on_first_use=False)

    monkeypatch.setattr(logs, "configure", configure_uncached)
    yield
    structlog.configure(**before)


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


@pytest.fixture
async def lie() -> AsyncGenerator[Lie]:
    """Starts a Ship that answers what a script says, while no call of the server may block."""
    servers: list[asyncio.Server] = []
    liars: list[Liar] = []
    with short_dir() as directory, blockbuster_ctx(["bay.server"]):

        async def start(script: Script) -> Liar:
            liar = Liar(directory / "ship.sock", script)
            liars.append(liar)
            servers.append(await asyncio.start_unix_server(liar.serve, liar.path))
            return liar

        yield start
        for server in servers:
            server.close()
        for liar in liars:
            await liar.aclose()


@pytest.fixture
def deadline_s(request: pytest.FixtureRequest) -> float:
    """Seconds that a link waits for Ship: few only where a test is about a Ship that says nothing."""
    return DEADLINE_S if request.node.get_closest_marker("silent_ship") else WAIT_S


@pytest.fixture
async def link(deadline_s: float) -> AsyncGenerator[ShipClient]:
    made = ShipClient(deadline_s=deadline_s, transfer_s=deadline_s)
    yield made
    made.close()
    await asyncio.sleep(0)
