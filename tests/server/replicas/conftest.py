"""Replicas on one PostgreSQL database for each test."""

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from pathlib import Path

import postgres_databases
import postgres_server
import pytest
from replica_members import Join, Member, make
from replica_worlds import replica_worlds
from server_harness import World


@pytest.fixture
def url() -> Generator[str]:
    """The URL of a database with Bay's tables and no rows."""
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    with postgres_server.shared().database(postgres_databases.migrate) as made:
        yield made


@pytest.fixture
async def member(url: str) -> AsyncGenerator[Join]:
    """Makes replicas."""
    async with AsyncExitStack() as stack:

        async def joined(name: str) -> Member:
            made = await make(url, name)
            stack.push_async_callback(made.aclose)
            return made

        yield lambda name: asyncio.ensure_future(joined(name))


@pytest.fixture
async def replicas(root: Path) -> AsyncGenerator[list[World]]:
    """Two Bays that share the work."""
    if postgres_server.binaries() is None:
        pytest.skip("PostgreSQL is not installed")
    async with replica_worlds(root) as running:
        yield running
