"""Limits of settings have 64 bits in either database, beside counts and places in an order too."""

from datetime import UTC, datetime

import pytest

from bay.store import audit, checkpoints, events, history
from bay.store.engine import Database, Store
from bay.store.records import Keep

pytestmark = pytest.mark.anyio

NOW = datetime(2030, 1, 1, tzinfo=UTC)
LARGE = 1 << 40


async def test_a_limit_beyond_32_bits_is_one(database: Database) -> None:
    store = Store(database)
    try:
        await store.open()
        async with store.write() as db:
            large = Keep(count=LARGE, size=LARGE)
            assert await history.grown(db, 0, large) == []
            assert await history.surplus(db, "sandbox-1", "successful", large) == []
            assert await history.aged(db, LARGE, NOW, 10) == ([], None)
            assert await checkpoints.stale_steps(db, NOW, LARGE, LARGE) == []
            assert await audit.trim(db, NOW, LARGE) == 0
            assert await events.after(db, "alice", None, LARGE, 10) == []
    finally:
        await store.aclose()
