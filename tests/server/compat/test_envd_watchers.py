"""Watchers of envd that end by themselves, at each moment at which a client may ask."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from server_harness import pass_time, within

from bay.server.compat.e2b.connect import RpcError
from bay.server.compat.e2b.file_service import EnvdFiles
from bay.server.compat.e2b.watchers import FORGOTTEN_S, EnvdWatchers
from bay.server.web.auth import Caller

pytestmark = pytest.mark.anyio

ALICE = Caller("alice", "write", "key-1")


class Directories(EnvdFiles):
    """Files of which nothing is told; a watch of them may break at once, and closes when a test lets it."""

    def __init__(self, *, breaks: bool = False, begins: bool = True) -> None:
        self._breaks, self._begins = breaks, begins
        self.opened, self.closing, self.may_close = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def watch(
        self,
        caller: Caller,
        ref: str,
        user: str | None,
        path: str,
        *,
        recursive: bool,
        entries: bool,
        goes_on: bool = False,
    ) -> AsyncGenerator[AsyncIterator[Mapping[str, Any]]]:
        """Opens at once."""
        self.opened.set()
        try:
            yield self._events()
        finally:
            self.closing.set()
            await self.may_close.wait()

    async def _events(self) -> AsyncGenerator[Mapping[str, Any]]:
        if self._begins:
            yield {"start": {}}
        if self._breaks:
            raise RpcError("unavailable", "the sandbox has stopped")
        await asyncio.get_running_loop().create_future()


@asynccontextmanager
async def following(files: Directories) -> AsyncGenerator[tuple[EnvdWatchers, asyncio.Task[None]]]:
    watchers = EnvdWatchers(files=files)
    running = asyncio.create_task(watchers.run())
    await asyncio.sleep(0)
    try:
        yield watchers, running
    finally:
        files.may_close.set()
        running.cancel()
        await asyncio.wait([running], timeout=30)


async def made(watchers: EnvdWatchers) -> str:
    return await watchers.create(ALICE, "box", None, ".", recursive=False, entries=False)


async def test_a_watcher_whose_watch_breaks_as_it_is_made_is_not_found() -> None:
    files = Directories(breaks=True)
    files.may_close.set()
    async with following(files) as (watchers, _):
        watcher = await within(made(watchers))
        for call in (watchers.events, watchers.remove):
            with pytest.raises(RpcError, match="not found"):
                await call(ALICE, "box", watcher)
        assert not watchers._all


async def test_a_question_while_a_forgotten_watcher_closes_finds_none() -> None:
    files = Directories()
    async with following(files) as (watchers, _):
        watcher = await within(made(watchers))
        pass_time(FORGOTTEN_S + 1)
        await within(files.closing.wait())
        with pytest.raises(RpcError, match="not found"):
            await watchers.events(ALICE, "box", watcher)


@pytest.mark.parametrize("begins", [True, False])
async def test_a_watcher_that_is_made_while_bay_ends_is_refused_in_words(begins: bool) -> None:
    files = Directories(begins=begins)
    async with following(files) as (watchers, running):
        first = asyncio.create_task(made(watchers))
        await within(files.opened.wait())
        running.cancel()
        await within(files.closing.wait())
        with pytest.raises(RpcError, match="ending") as refused:
            await within(made(watchers))
        assert refused.value.code == "unavailable"
        files.may_close.set()
        if begins:
            assert await within(first)
        else:
            with pytest.raises(RpcError, match="ending"):
                await within(first)
