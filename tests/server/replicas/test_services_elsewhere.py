"""Services of a sandbox, asked for at a replica that does not act on it."""

from typing import Any

import pytest
from replica_worlds import owner_first
from server_harness import World, create, eventually

from bay.server.managed_services.ship_client import ServiceClient
from bay.server.ship.connection import Peer

pytestmark = [pytest.mark.anyio, pytest.mark.postgres]


class Recording(ServiceClient):
    """Notes the names of the services that Ships are told to keep."""

    def __init__(self, client: ServiceClient, told: list[list[str]]) -> None:
        super().__init__(client._ship)
        self.told = told

    async def put(self, peer: Peer, env: Any, specs: Any) -> Any:
        self.told.append([spec.name for spec in specs])
        return await super().put(peer, env, specs)


async def test_the_owner_tells_the_session_of_a_service_that_another_replica_was_given(
    replicas: list[World],
) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    told: dict[str, list[list[str]]] = {"owner": [], "other": []}
    for name, one in (("owner", owner), ("other", other)):
        syncer = one.bay.service_syncer
        syncer._ship = Recording(syncer._ship, told[name])
    client = await other.open_client(dict(alice.headers))
    answer = await client.put(f"/v1/sandboxes/{box['id']}/services/web", json={"argv": ["sleep", "1000"]})
    assert answer.json()["state"] in ("starting", "running"), answer.text
    assert told == {"owner": [["web"]], "other": []}


async def test_a_service_is_stopped_when_that_is_answered_though_the_first_word_of_it_was_lost(
    replicas: list[World],
) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    client = await other.open_client(dict(alice.headers))
    path = f"/v1/sandboxes/{box['id']}/services/web"
    assert (await client.put(path, json={"argv": ["sleep", "1000"]})).json()["state"] == "running"
    asked: list[str] = []

    async def once_lost(session_id: str) -> bool:
        asked.append(session_id)
        if len(asked) == 1:
            raise RuntimeError("killed meanwhile")
        return await owner.bay.service_syncer._tell_here(session_id)

    owner.bay.bus.answer("services.tell", once_lost)
    stopped = (await client.post(f"{path}/stop")).json()
    assert (stopped["enabled"], stopped["state"], len(asked)) == (False, "stopped", 2)


async def test_a_service_is_stopped_when_that_is_answered_though_its_session_was_just_taken_over(
    replicas: list[World],
) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    client = await other.open_client(dict(alice.headers))
    path = f"/v1/sandboxes/{box['id']}/services/web"
    assert (await client.put(path, json={"argv": ["sleep", "1000"]})).json()["state"] == "running"
    syncer, asked = owner.bay.service_syncer, list[bool]()
    session = (await owner.session(box["id"])).id
    kept = syncer._kept.pop(session)

    async def before_and_after(session_id: str) -> bool:
        asked.append(await syncer._tell_here(session_id))
        syncer._kept[session_id] = kept
        return asked[-1]

    owner.bay.bus.answer("services.tell", before_and_after)
    stopped = (await client.post(f"{path}/stop")).json()
    assert (stopped["enabled"], stopped["state"], asked) == (False, "stopped", [False, True])


async def test_services_of_a_frozen_sandbox_are_the_same_at_each_replica(replicas: list[World]) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    owner, other = owner_first(replicas, box["id"])
    path = f"/v1/sandboxes/{box['id']}/services"
    await alice.put(f"{path}/web", json={"argv": ["sleep", "1000"]})
    session = (await owner.session(box["id"])).id

    async def is_seen() -> bool:
        known = await owner.bay.service_syncer.report(box["id"], session)
        return "web" in known.seen and known.seen["web"].state == "running"

    await eventually(is_seen)
    assert (await alice.post(f"/v1/sandboxes/{box['id']}/pause")).status_code == 200
    known = [
        (await (await one.open_client(dict(alice.headers))).get(path)).json()["items"]
        for one in (owner, other)
    ]
    assert known[0] == known[1]
    assert known[0][0]["state"] == "running"


async def test_a_service_that_was_put_while_the_sandbox_was_frozen_runs_once_it_is_thawed(
    replicas: list[World],
) -> None:
    alice = await replicas[0].client()
    box = await create(alice, wait=20)
    _, other = owner_first(replicas, box["id"])
    client = await other.open_client(dict(alice.headers))
    path = f"/v1/sandboxes/{box['id']}"
    assert (await client.post(f"{path}/pause")).status_code == 200
    await client.put(f"{path}/services/web", json={"argv": ["sleep", "1000"]})
    assert (await client.post(f"{path}/execs", json={"argv": ["true"]}, params={"wait": 20})).is_success

    async def runs() -> bool:
        return (await client.get(f"{path}/services/web")).json()["state"] == "running"

    await eventually(runs)
