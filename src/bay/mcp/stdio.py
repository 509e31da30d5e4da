"""`bay mcp`: one client over stdin and stdout, until it closes them or a signal ends the command."""

import asyncio
import os
import secrets
import signal
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import cast

import anyio
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.stdio import stdio_server

import bay
from bay.mcp.agent import Agent, KeptSandbox, LeasedSandbox
from bay.mcp.resources import Context
from bay.mcp.server import BayTools, Subscriptions, mcp_server

_AT_ONCE = 16
"""Calls that are made at once; a client may ask for more, and they wait."""

_AT_ANY_TIME = ("end_command", "read_output")
"""Tools that are asked about calls under way, so they wait for none."""

LINE_BYTES = 8 << 20
"""Of a message. A file of `BLOB_BYTES` as base64 fits in."""


def serve(url: str | None, api_key: str | None, sandbox: str | None) -> int:
    """Serve until the end of stdin, or a signal. `sandbox` names the default one, which then stays."""
    return anyio.run(partial(_serve, url, api_key, sandbox))


async def _serve(url: str | None, api_key: str | None, sandbox: str | None) -> int:
    async with bay.AsyncClient(url, api_key) as client:
        leased = LeasedSandbox(f"mcp-{secrets.token_hex(6)}")
        agent = Agent(client, KeptSandbox(sandbox) if sandbox else leased)
        try:
            return await _until_signalled(partial(_talk, agent))
        finally:
            with anyio.CancelScope(shield=True):
                await leased.aclose()


async def _until_signalled(work: Callable[[], Awaitable[None]]) -> int:
    """Do `work` until it ends, or a signal: then 128 and its number."""
    ended = 0

    async def told() -> None:
        nonlocal ended
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                ended = 128 + number
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(told)
        await work()
        group.cancel_scope.cancel()
    return ended


async def _talk(agent: Agent) -> None:
    """Serve until the client closes its side of either pipe."""
    room = anyio.CapacityLimiter(_AT_ONCE)

    @asynccontextmanager
    async def agent_of(ctx: Context) -> AsyncGenerator[Agent]:
        if (ctx.params or {}).get("name") in _AT_ANY_TIME:
            yield agent
            return
        async with room:
            yield agent

    @asynccontextmanager
    async def listener_of(_ctx: Context) -> AsyncGenerator[Agent]:
        yield agent  # it lasts, and takes no room

    server = mcp_server(BayTools(agent_of, listener_of), Subscriptions(listener_of))
    try:
        async with stdio_server(cast("anyio.AsyncFile[str]", StdinLines())) as (read, write):
            await server.run(read, write, server.create_initialization_options())
    except* (BrokenPipeError, anyio.BrokenResourceError):
        pass  # the client no longer reads


class StdinLines:
    """The lines of stdin, read by a thread of its own.

    The library's reader waits in a thread too, and a signal would wait for it: a read cannot be cancelled.
    """

    async def __aiter__(self) -> AsyncIterator[str]:
        send, receive = anyio.create_memory_object_stream[str](1)
        read = partial(self._read, asyncio.get_running_loop(), send)
        threading.Thread(target=read, name="bay-stdin", daemon=True).start()
        async with receive:
            async for line in receive:
                yield line

    def _read(self, loop: asyncio.AbstractEventLoop, send: MemoryObjectSendStream[str]) -> None:
        # The reader may have left, and its loop.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, RuntimeError, OSError):
            for line in lines_of(sys.stdin.fileno()):
                asyncio.run_coroutine_threadsafe(send.send(line), loop).result()
            loop.call_soon_threadsafe(send.close)


def lines_of(descriptor: int) -> Iterator[str]:
    """The lines that come, each whole. One of more than `LINE_BYTES` is given empty, which is no message."""
    begun: list[bytes] = []
    size = 0
    while data := os.read(descriptor, 1 << 16):
        first, *others = data.split(b"\n")
        size += len(first)
        begun.append(first if size <= LINE_BYTES else b"")
        for piece in others:
            yield _text(begun, size)
            begun, size = [piece], len(piece)
    if size:
        yield _text(begun, size)


def _text(pieces: list[bytes], size: int) -> str:
    return b"".join(pieces).decode("utf-8", "replace") if size <= LINE_BYTES else ""
