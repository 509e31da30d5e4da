"""A command by an agent's tool, over each transport of MCP, beside the same by the SDK."""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import fmean
from typing import Literal

import anyio
import httpx2
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

import bay
from bench import host
from bench.base import Bench
from bench.figures import Figure, Ratio, Result
from bench.processor import Timed

CALLS = 200
BOX = "bench-mcp"
Mode = Literal["auto", "legacy"]


def mcp(bench: Bench) -> list[Result]:
    """The tool `run` over stdio, over HTTP, and in a session over HTTP, by turns with the SDK's `run`."""
    return anyio.run(_measured, bench)


async def _measured(bench: Bench) -> list[Result]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        direct = await enter(bay.AsyncClient(bench.server.url, bench.server.api_key))
        box = await enter(direct.sandbox(name=BOX))
        agents = {
            "MCP over stdio": await enter(_over_stdio(bench)),
            "MCP over HTTP": await enter(_over_http(bench, "auto")),
            "MCP over HTTP, in a session": await enter(_over_http(bench, "legacy")),
        }
        timed = {name: Timed(bench.server) for name in ("the SDK", *agents)}
        beside_s = dict.fromkeys(timed, 0.0)
        for _ in range(bench.count(CALLS)):
            with timed["the SDK"].taking():
                await box.run("true", check=True)
            for name, agent in agents.items():
                before = _stdio_s()
                with timed[name].taking():
                    answer = await agent.call_tool("run", {"command": "true"})
                beside_s[name] += _stdio_s() - before
                assert not answer.is_error
    sdk, *others = (_figure(name, one, beside_s[name]) for name, one in timed.items())
    return [sdk, *others, *(Ratio(other, sdk) for other in others)]


def _figure(name: str, timed: Timed, beside_s: float) -> Figure:
    taken = timed.figure(f"`true` by {name}")
    each_ms = beside_s * 1000 / len(taken.samples)
    return Figure(taken.name, "ms", taken.samples, "", (fmean(taken.processor_ms) + each_ms,))


def _stdio_s() -> float:
    """The processor time of `bay mcp`, which is a child of this program."""
    return sum(host.exact_cpu_s(pid) for pid, parent in host.parents().items() if parent == os.getpid())


@asynccontextmanager
async def _over_stdio(bench: Bench) -> AsyncGenerator[Client]:
    environment = {**os.environ, "BAY_URL": bench.server.url, "BAY_API_KEY": bench.server.api_key}
    command = str(Path(sys.executable).with_name("bay"))
    server = StdioServerParameters(command=command, args=["mcp", "--sandbox", BOX], env=environment)
    async with Client(stdio_client(server)) as client:
        yield client


@asynccontextmanager
async def _over_http(bench: Bench, mode: Mode) -> AsyncGenerator[Client]:
    headers = {"Authorization": f"Bearer {bench.server.api_key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=60) as http:
        transport = streamable_http_client(f"{bench.server.url}/mcp?sandbox={BOX}", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client
