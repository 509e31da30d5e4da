"""Events as a client reads them: by the page, and as a stream of server-sent events."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
from server_harness import Json, within


@asynccontextmanager
async def following(
    client: httpx.AsyncClient, path: str = "/v1/events", last: str | None = None, **params: str
) -> AsyncGenerator[AsyncIterator[Json]]:
    """The events of a stream as dicts; each has its `id:` and `event:` lines under `_id` and `_event`."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
    async with client.stream("GET", path, headers=headers, params=params) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.aiter_lines()
        place = await within(anext(lines))
        assert place.startswith("id: ")
        async with aclosing(parsed(lines)) as found:
            yield found


async def parsed(lines: AsyncIterator[str]) -> AsyncGenerator[Json]:
    fields: dict[str, str] = {}
    async for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "data" in fields:
            yield {**json.loads(fields["data"]), "_id": fields["id"], "_event": fields["event"]}
            fields = {}


async def take(stream: AsyncIterator[Json], count: int) -> list[Json]:
    return [await within(anext(stream)) for _ in range(count)]


async def to_end(stream: AsyncIterator[Json]) -> list[Json]:
    return [event async for event in stream]


async def kept(client: httpx.AsyncClient, path: str = "/v1/events", **params: Any) -> list[Json]:
    answer = await client.get(path, params={"limit": 200, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def kinds(found: list[Json]) -> list[str]:
    return [event["type"] for event in found]
