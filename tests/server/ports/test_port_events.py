"""Events of ports: what begins and ends to listen in a sandbox is told once, also over a restart of Bay and a
flood.
"""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from port_apps import listen
from server_harness import World, clear, create, eventually, world

from bay.models import Port
from bay.server.events import rate
from bay.server.events.rate import event_bucket
from bay.server.ports.events import PortListener
from bay.server.sessions.notifier import Notifier
from bay.token_bucket import TokenBucket

pytestmark = pytest.mark.anyio


async def told(client: httpx.AsyncClient, box: str) -> list[tuple[str, int, str | None]]:
    answer = await client.get(f"/v1/sandboxes/{box}/events", params={"limit": 200})
    found = [event for event in answer.json()["items"] if event["type"].startswith("port.")]
    return [(event["type"], event["data"]["port"], event["data"]["process"]) for event in found]


async def test_a_port_that_opens_and_one_that_closes_are_events(bay: World, alice: httpx.AsyncClient) -> None:
    box = (await create(alice, wait=15))["id"]
    path, port = await listen(alice, box)
    expected = [("port.opened", port, "python3")]

    async def is_told() -> bool:
        return await told(alice, box) == expected

    await eventually(is_told)
    await alice.post(f"{path}/stdin", params={"eof": "true"})
    expected.append(("port.closed", port, "python3"))
    await eventually(is_told)
    session = await bay.session(box)
    answer = await alice.get(f"/v1/sandboxes/{box}/events", params={"limit": 200})
    assert answer.json()["items"][-1]["data"]["session_id"] == session.id


async def test_after_a_restart_nothing_is_told_twice_and_what_closed_meanwhile_is(root: Path) -> None:
    try:
        async with world(root) as first:
            alice = await first.client("alice")
            box = (await create(alice, wait=15))["id"]
            stays, goes = (await listen(alice, box), await listen(alice, box))

            async def are_told() -> bool:
                return len(await told(alice, box)) == 2

            await eventually(are_told)
            ends = (await alice.get(goes[0])).json()["pid"]
        os.kill(ends, signal.SIGKILL)
        async with world(root) as second:
            bob = await second.client("alice")

            async def is_closed() -> bool:
                return ("port.closed", goes[1], "python3") in await told(bob, box)

            await eventually(is_closed)
            found = await told(bob, box)
            assert [kind for kind, port, _ in found if port == stays[1]] == ["port.opened"]
            assert len(found) == 3
    finally:
        await clear(root)


async def test_a_session_that_stops_says_nothing_of_its_ports_and_is_followed_no_more(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = (await create(alice, wait=15))["id"]
    await listen(alice, box)

    async def is_told() -> bool:
        return len(await told(alice, box)) == 1

    await eventually(is_told)
    await alice.post(f"/v1/sandboxes/{box}/stop")
    await bay.settled(box, lambda found: found.session is None)
    assert len(await told(alice, box)) == 1
    assert bay.bay.feeds._followed == {}


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_sandbox_that_was_frozen_is_heard_again_at_once(root: Path, restarted: bool) -> None:
    async with AsyncExitStack() as stack:
        stack.push_async_callback(clear, root)
        async with world(root) as first:
            alice = await first.client("alice")
            box = (await create(alice, wait=15))["id"]
            session = (await first.session(box)).id
            assert (await alice.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
            if not restarted:
                await _resume_and_listen(first, box, session)
        if restarted:
            async with world(root) as second:
                await _resume_and_listen(second, box, session)


async def _resume_and_listen(bay: World, box: str, session: str) -> None:
    alice = await bay.client("alice")
    assert (await alice.post(f"/v1/sandboxes/{box}/resume")).json()["compute"] == "running"
    assert (await bay.session(box)).id == session
    _, port = await listen(alice, box)

    async def is_told() -> bool:
        return await told(alice, box) == [("port.opened", port, "python3")]

    await eventually(is_told)


async def test_a_flood_of_ports_is_told_in_parts(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "EVENT_S", 0.001)
    box = (await create(alice, wait=15))["id"]
    session = await bay.session(box)
    listener = PortListener(bay.bay.core, bay.bay.changes, box, session.id)
    told_open: dict[int, str | None] = {}
    many = tuple(Port(port=number, addresses=("::",)) for number in range(1000, 1120))
    assert [await listener._write(told_open, many) for _ in range(4)] == [False, False, True, True]
    assert len(told_open) == 120
    await bay.bay.deferred.flush()
    assert len(await told(alice, box)) == 120


class Counting(Notifier):
    """Knows how often it was told of a change."""

    announced = 0

    def announce(self, key: str) -> None:
        self.announced += 1


async def test_a_flood_of_reports_wakes_their_followers_only_so_often(bay: World) -> None:
    changes = Counting()
    listener = PortListener(bay.bay.core, changes, "sandbox-1", "session-1")
    listener._reports = TokenBucket(0.001, 5)
    reports = [(Port(port=1000, addresses=("::",), pid=pid),) for pid in range(100)]
    await listener.hear(reports[0])
    await listener.hear(reports[0])
    assert changes.announced == 1
    listener._open = {1000: None}
    async with asyncio.TaskGroup() as group:
        flood = group.create_task(_hear_all(listener, reports))
        for _ in range(200):
            await asyncio.sleep(0)
        flood.cancel()
    assert 5 <= changes.announced <= 6


async def _hear_all(listener: PortListener, reports: list[tuple[Port, ...]]) -> None:
    for report in reports:
        await listener.hear(report)


def test_so_many_events_come_at_once_and_then_one_a_second() -> None:
    clock = [1000.0]
    bucket = event_bucket(lambda: clock[0])
    assert [bucket.pay(count) for count in (1, 49, 1, 50)] == [0, 0, 1, 51]
    clock[0] = 1040.0
    assert bucket.pay(1) == 12
    clock[0] = 5000.0
    assert [bucket.pay(50), bucket.pay(1)] == [0, 1]
