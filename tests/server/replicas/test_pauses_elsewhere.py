"""A sandbox is paused while another replica says nothing about the calls that it may have to it."""

import asyncio

import pytest
from replica_worlds import owner_first
from server_harness import World, create, until, within

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


class Silent:
    """Answers whether a call is under way, once it may."""

    def __init__(self, world: World, answer: bool) -> None:
        self.asked = 0
        self.may_answer = asyncio.Event()
        self._answer = answer
        world.bay.bus.answer("called", self.answer)

    async def answer(self, _sandbox: str) -> bool:
        self.asked += 1
        await self.may_answer.wait()
        return self._answer


async def test_a_pause_waits_until_a_silent_replica_says_that_it_has_no_call(replicas: list[World]) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    client = await owner.open_client(dict(alice.headers))
    silent = Silent(other, answer=False)
    pausing = asyncio.create_task(client.post(f"/v1/sandboxes/{box['id']}/pause"))
    await until(lambda: silent.asked > 1)  # by the reconciler, which has not frozen it, and then by the call
    silent.may_answer.set()
    answer = await within(pausing)
    assert (answer.status_code, answer.json()["compute"]) == (200, "warm"), answer.text


async def test_a_pause_is_refused_once_a_silent_replica_says_that_it_has_a_call(
    replicas: list[World],
) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    client = await owner.open_client(dict(alice.headers))
    silent = Silent(other, answer=True)
    pausing = asyncio.create_task(client.post(f"/v1/sandboxes/{box['id']}/pause"))
    await until(lambda: silent.asked > 1)
    silent.may_answer.set()
    answer = await within(pausing)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict"), answer.text
    assert (await client.get(f"/v1/sandboxes/{box['id']}")).json()["compute"] == "running"
