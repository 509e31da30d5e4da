"""Several replicas in one process, on one PostgreSQL database and one data directory, with one clock and one
library of images.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import postgres_databases
from server_harness import World, clear, eventually, no_blocking, world

from bay.clock import ManualClock
from bay.images.fake import FakeLibrary
from bay.server.replicas.leases import NAMES, shard_of


@asynccontextmanager
async def replica_worlds(root: Path, count: int = 2, **given: Any) -> AsyncGenerator[list[World]]:
    """So many replicas, each with a share of the work, until the block is left; no session outlives it."""
    given = {"database_url": postgres_databases.url_for(root), "replicas": True, **given}
    clock, library = ManualClock(), FakeLibrary()
    try:
        async with AsyncExitStack() as stack:
            worlds = [
                await stack.enter_async_context(
                    world(root, clock=clock, library=library, may_block=True, **given)
                )
                for _ in range(count)
            ]
            stack.enter_context(no_blocking())
            await eventually(lambda: _is_shared_out(worlds))
            yield worlds
    finally:
        await clear(root)


async def _is_shared_out(worlds: list[World]) -> bool:
    """Whether each replica knows of all, and does the parts of the work that it will keep."""
    leases = [one.bay.leases for one in worlds]
    kept = [name for one in leases for name in NAMES if one.holds(name) and one._is_preferred(name)]
    return sorted(kept) == sorted(NAMES) and all(len(one.living()) == len(worlds) for one in leases)


def owner_first(worlds: list[World], sandbox_id: str) -> tuple[World, World]:
    """The replica that acts on the sandbox, and another one."""
    return holder_first(worlds, shard_of(sandbox_id))


def holder_first(worlds: list[World], name: str) -> tuple[World, World]:
    """The replica that has the lease of that name, and another one."""
    holder = next(one for one in worlds if one.bay.leases.holds(name))
    return holder, next(one for one in worlds if one is not holder)
