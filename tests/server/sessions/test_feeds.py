"""The feed of a session: each kind of news reaches its listener, whatever becomes of the other and of the
connection.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from lying_ship import Lie, head, saying
from server_harness import turns, within

from bay.errors import ShipError, StorageFull
from bay.server.sessions.feeds import SessionFeeds, Take
from bay.server.ship.client import ShipClient

pytestmark = [pytest.mark.anyio, pytest.mark.pure]


@dataclass
class Listener:
    """A listener that notes what it takes in, and may be held up or fail."""

    lines: "asyncio.Queue[str]" = field(default_factory=lambda: asyncio.Queue[str]())
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    failures: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def made(self, _sandbox_id: str, _session_id: str) -> "Listener":
        return self

    def read(self, line: bytes) -> Take:
        items = json.loads(line)["items"]
        if items == "odd":
            raise ShipError("the sandbox's runtime sent an unexpected answer")

        async def take() -> None:
            await self.gate.wait()
            if self.failures:
                self.failures -= 1
                raise StorageFull("the disk is full")
            await self.lines.put(items)

        return take

    async def next(self) -> str:
        return await within(self.lines.get())


def line(kind: str, items: str) -> bytes:
    return json.dumps({"type": kind, "items": items}).encode() + b"\n"


@pytest.fixture
def ports() -> Listener:
    return Listener()


@pytest.fixture
def services() -> Listener:
    return Listener()


@pytest.fixture
async def feeds(link: ShipClient, ports: Listener, services: Listener) -> AsyncGenerator[SessionFeeds]:
    made = SessionFeeds(ship=link, listeners={"ports": ports.made, "services": services.made})
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait((running,))


async def test_a_busy_listener_gets_the_newest_line_and_delays_no_other(
    lie: Lie, feeds: SessionFeeds, ports: Listener, services: Listener
) -> None:
    ports.gate.clear()
    told = [line("ports", "first"), line("ports", "second"), line("ports", "third"), line("services", "up")]
    liar = await lie(saying(head("200 OK", None, "Transfer-Encoding: chunked"), *map(chunk, told)))
    feeds.follow("sandbox", liar.peer())
    assert await services.next() == "up"
    ports.gate.set()
    taken = await ports.next()
    assert (taken if taken == "third" else await ports.next()) == "third"
    await turns()
    assert ports.lines.empty()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def test_what_could_not_be_taken_in_is_tried_again(
    lie: Lie, feeds: SessionFeeds, services: Listener
) -> None:
    services.failures = 1
    liar = await lie(
        saying(head("200 OK", None, "Transfer-Encoding: chunked"), chunk(line("services", "up")))
    )
    feeds.follow("sandbox", liar.peer())
    assert await services.next() == "up"


async def test_a_line_that_is_none_ends_the_connection_and_bay_listens_again(
    lie: Lie, feeds: SessionFeeds, ports: Listener
) -> None:
    liar = await lie(saying(head("200 OK", None, "Transfer-Encoding: chunked"), chunk(line("ports", "odd"))))
    feeds.follow("sandbox", liar.peer())
    await within(liar.closed.wait())
    liar.script = saying(head("200 OK", None, "Transfer-Encoding: chunked"), chunk(line("ports", "good")))
    feeds.thawed("sess-1")
    assert await ports.next() == "good"


async def test_a_frozen_session_is_not_called_and_a_thawed_one_at_once(
    lie: Lie, feeds: SessionFeeds, ports: Listener
) -> None:
    liar = await lie(saying(head("200 OK", None, "Transfer-Encoding: chunked"), chunk(line("ports", "one"))))
    feeds.follow("sandbox", liar.peer(), frozen=True)
    await turns()
    assert liar.connections == 0
    feeds.thawed("sess-1")
    assert await ports.next() == "one"


async def test_nothing_is_taken_in_once_a_session_has_ended(
    lie: Lie, feeds: SessionFeeds, ports: Listener, services: Listener
) -> None:
    ports.gate.clear()
    told = [line("ports", "one"), line("services", "up")]
    liar = await lie(saying(head("200 OK", None, "Transfer-Encoding: chunked"), *map(chunk, told)))
    feeds.follow("sandbox", liar.peer())
    await services.next()
    await feeds.end("sess-1")
    ports.gate.set()
    await turns()
    assert ports.lines.empty()
    await within(liar.closed.wait())
