"""Agents of tests: the protocol's own client, over both transports and both of the protocol's ways."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Literal

import httpx2
import mcp_types as types
from cli_runner import BIN
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from real_bay import KEY

Way = Literal["stdio", "stdio-sessions", "http", "http-sessions"]
"""A transport, and whether the client opens a session as versions of the protocol before 2026 do."""

WAYS: tuple[Way, ...] = ("stdio", "stdio-sessions", "http", "http-sessions")
LONGEST_S = 60


@asynccontextmanager
async def agent(
    way: Way, url: str, key: str = KEY, *arguments: str, query: str = "", **more: Any
) -> AsyncGenerator[Client]:
    """A connected client. `arguments` are those of `bay mcp`, `query` is the URL's."""
    mode = "legacy" if way.endswith("sessions") else "auto"
    if way.startswith("stdio"):
        transport = stdio_client(stdio(url, key, *arguments))
        async with Client(transport, mode=mode, read_timeout_seconds=LONGEST_S, **more) as client:
            yield client
        return
    async with httpx2.AsyncClient(headers=bearer(key), timeout=LONGEST_S) as http:
        transport = streamable_http_client(f"{url}/mcp{query}", http_client=http)
        async with Client(transport, mode=mode, read_timeout_seconds=LONGEST_S, **more) as client:
            yield client


def bearer(key: str = KEY) -> dict[str, str]:
    """The header of a key."""
    return {"Authorization": f"Bearer {key}"}


def stdio(url: str, key: str, *arguments: str) -> StdioServerParameters:
    """How a client starts `bay mcp`."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = {**kept, "BAY_URL": url, "BAY_API_KEY": key}
    return StdioServerParameters(command=str(BIN), args=["mcp", *arguments], env=environment)


async def told(client: Client, tool: str, **given: Any) -> str:
    """The text of a tool's answer, which is no error."""
    answer = await client.call_tool(tool, given)
    assert not answer.is_error, text_of(answer)
    return text_of(answer)


async def data(client: Client, tool: str, **given: Any) -> Mapping[str, Any]:
    """The structured part of a tool's answer, error or not."""
    answer = await client.call_tool(tool, given)
    assert answer.structured_content is not None
    return answer.structured_content


async def refusal(client: Client, tool: str, **given: Any) -> tuple[str, str]:
    """The code and the message of an answer that is an error."""
    answer = await client.call_tool(tool, given)
    assert answer.is_error
    assert answer.structured_content is not None
    error = answer.structured_content["error"]
    assert error["message"] == text_of(answer)
    return error["code"], error["message"]


def text_of(answer: types.CallToolResult) -> str:
    """The text that an agent reads."""
    assert isinstance(answer.content[0], types.TextContent)
    return answer.content[0].text
