"""What is known of a transaction whose commit was not answered, on either kind of database."""

import asyncio
import threading
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from bay.errors import DatabaseUnavailable, StorageFull
from bay.store import metadata
from bay.store.connection import StoreConnection
from bay.store.engine import Database, Store
from bay.store.lost_commits import may_be_there

pytestmark = [pytest.mark.anyio, pytest.mark.pure]

LOST = DatabaseUnavailable("Bay's database cannot be used just now")


@pytest.fixture
async def store(database: Database) -> AsyncGenerator[Store]:
    made = Store(database)
    await made.open()
    yield made
    await made.aclose()


async def put(store: Store) -> None:
    async with store.write() as db:
        await metadata.set(db, "fact", {})


async def find(db: StoreConnection) -> object:
    return await metadata.get(db, "fact")


async def test_a_row_is_there_or_not_whatever_the_lost_answer_was(store: Store) -> None:
    for error in (LOST, asyncio.CancelledError()):
        assert not await may_be_there(store, error, find)
    await put(store)
    for error in (LOST, asyncio.CancelledError()):
        assert await may_be_there(store, error, find)


async def test_no_row_of_a_transaction_that_failed_otherwise_is_there(store: Store) -> None:
    async def never(db: StoreConnection) -> object:
        raise AssertionError(db)

    for error in (StorageFull("full"), ValueError()):
        assert not await may_be_there(store, error, never)


async def test_a_row_may_be_there_while_the_database_cannot_say(store: Store) -> None:
    async def away(_: StoreConnection) -> object:
        raise LOST

    assert await may_be_there(store, LOST, away)


async def test_a_caller_who_is_cancelled_at_the_commit_finds_the_row(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, begun, go = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    writer: Any = getattr(store, "_writer")  # noqa: B009
    commit = writer._commit

    def slowly() -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(30)
        commit()

    async with asyncio.timeout(30):
        with monkeypatch.context() as patch:
            patch.setattr(writer, "_commit", slowly)
            task = asyncio.create_task(put(store))
            await begun.wait()
            task.cancel()
            go.set()
            await asyncio.wait([task])
        assert task.cancelled()
        assert await may_be_there(store, asyncio.CancelledError(), find)
