"""Two replicas in one process."""

from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from pathlib import Path

import postgres_databases
import postgres_server
import pytest
from server_harness import World, clear, settings_in, within

from bay.clock import ManualClock
from bay.drivers.fake import FakeDriver
from bay.images.fake import FakeLibrary
from bay.server.app import build_app
from bay.server.control_plane import ControlPlane


@pytest.fixture
def url() -> Generator[str]:
    """A database that has its tables."""
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server.shared().database(postgres_databases.migrate) as made:
        yield made


async def replica_in(root: Path, url: str, stack: AsyncExitStack) -> World:
    """A replica in this process. Others start beside it, so that nothing watches for blocking calls."""
    driver, library, clock = FakeDriver(run_dir=root / "run"), FakeLibrary(), ManualClock()
    settings = settings_in(root, database_url=url, replicas=True)
    app = build_app(settings, driver=driver, library=library, clock=clock)
    bay: ControlPlane = app.state.bay
    await within(stack.enter_async_context(bay.running()))
    return World(app, bay, driver, library, clock, root, stack)


@pytest.fixture
async def two(root: Path, url: str) -> AsyncGenerator[list[World]]:
    """Two replicas in this process."""
    try:
        async with AsyncExitStack() as stack:
            yield [await replica_in(root, url, stack) for _ in range(2)]
    finally:
        await clear(root)
