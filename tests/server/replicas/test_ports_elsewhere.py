"""Open ports of a sandbox, watched at a replica that does not act on it."""

from contextlib import aclosing

import pytest
from port_apps import listen
from replica_worlds import owner_first
from server_harness import World, create, within

from bay.server.ports.watching import PortWatches
from bay.server.web.auth import Caller

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


def watches_of(replica: World) -> PortWatches:
    return replica.app.state.services[PortWatches]


async def caller_of(replica: World) -> Caller:
    return replica.bay.keys.authenticate(f"Bearer {await replica.key()}")


async def test_a_watch_hears_of_ports_at_each_replica(replicas: list[World]) -> None:
    alice = await replicas[0].client()
    box = (await create(alice, wait=20))["id"]
    _, other = owner_first(replicas, box)
    async with (
        watches_of(other).watch(await caller_of(replicas[0]), box) as watch,
        aclosing(watch.open_ports()) as told,
    ):
        assert await within(anext(told)) == ()
        path, port = await listen(alice, box)
        assert [one.port for one in await within(anext(told))] == [port]
        await alice.post(f"{path}/stdin", params={"eof": "true"})
        assert await within(anext(told)) == ()


async def test_a_watch_of_a_frozen_sandbox_begins_with_its_ports_at_each_replica(
    replicas: list[World],
) -> None:
    alice = await replicas[0].client()
    box = (await create(alice, wait=20))["id"]
    owner, other = owner_first(replicas, box)
    _, port = await listen(alice, box)
    caller = await caller_of(replicas[0])
    async with watches_of(owner).watch(caller, box) as watch, aclosing(watch.open_ports()) as told:
        while [one.port for one in await within(anext(told))] != [port]:
            continue
    assert (await alice.post(f"/v1/sandboxes/{box}/pause")).status_code == 200
    async with watches_of(other).watch(caller, box) as watch, aclosing(watch.open_ports()) as told:
        assert [one.port for one in await within(anext(told))] == [port]
