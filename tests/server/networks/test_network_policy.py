"""Network policies through the API: what is stored, when the driver is told, and what is refused.

The `fake` driver remembers what it was told and enforces nothing; tests/network shows what a policy does.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from server_harness import Json, World, clear, create, eventually, world

from bay.drivers.base import Handle, SessionSpec
from bay.drivers.fake import FakeDriver
from bay.models import NetworkPolicy, NetworkRule
from bay.server.settings import ProfileSettings

pytestmark = pytest.mark.anyio

ALLOWLIST: Json = {
    "mode": "allowlist",
    "rules": [{"action": "allow", "domain": "example.com", "ports": [443]}],
}
HELD = NetworkPolicy(
    mode="allowlist", rules=(NetworkRule(action="allow", domain="example.com", ports=(443,)),)
)
PROFILES = {
    "python-default": ProfileSettings.model_validate({"start": "lazy"}),
    "closed": ProfileSettings.model_validate({"start": "lazy", "network_policy": ALLOWLIST}),
    "pooled": ProfileSettings.model_validate({"pool_size": 1, "network_policy": ALLOWLIST}),
}


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=PROFILES) as running:
            yield running
    finally:
        await clear(root)


async def policy_of(client: httpx.AsyncClient, sandbox: Json) -> Json:
    return (await client.get(f"/v1/sandboxes/{sandbox['id']}/network-policy")).json()


async def told(bay: World, sandbox: Json) -> NetworkPolicy:
    return bay.driver.networks[(await bay.session(sandbox["id"])).id]


async def pool_is_full(bay: World) -> None:
    async def is_full() -> bool:
        return (await bay.bay.pool.state())[0].ready == 1

    await eventually(is_full)


async def test_a_sandbox_has_its_profiles_policy_until_it_is_given_its_own(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client, profile="closed")
    assert sandbox["network"] == "allowlist"
    found = await policy_of(client, sandbox)
    assert (found["mode"], found["source"], found["version"]) == ("allowlist", "profile", 0)
    answer = await client.put(f"/v1/sandboxes/{sandbox['id']}/network-policy", json={"mode": "none"})
    assert answer.status_code == 200
    assert (answer.json()["mode"], answer.json()["source"], answer.json()["version"]) == (
        "none",
        "sandbox",
        1,
    )
    reset = (await client.delete(f"/v1/sandboxes/{sandbox['id']}/network-policy")).json()
    assert (reset["mode"], reset["source"], reset["version"]) == ("allowlist", "profile", 2)


async def test_a_policy_is_there_before_the_first_start_and_after_every_other(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client, network_policy=ALLOWLIST)
    path = f"/v1/sandboxes/{sandbox['id']}"
    for _ in range(2):
        await client.post(f"{path}/start", params={"wait": 20})
        assert await told(bay, sandbox) == HELD
        await client.post(f"{path}/stop")
    assert (await client.get(path)).json()["network"] == "allowlist"


async def test_a_change_is_answered_when_the_running_session_is_held_to_it(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client, wait=20)
    assert (await told(bay, sandbox)).mode == "open"
    await client.put(f"/v1/sandboxes/{sandbox['id']}/network-policy", json=ALLOWLIST)
    assert await told(bay, sandbox) == HELD
    types = [event["type"] for event in (await client.get("/v1/events")).json()["items"]]
    assert types.count("network.changed") == 1


async def test_a_frozen_sandbox_is_held_to_a_change_without_being_thawed(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client, wait=20)
    await client.post(f"/v1/sandboxes/{sandbox['id']}/pause")
    await client.put(f"/v1/sandboxes/{sandbox['id']}/network-policy", json=ALLOWLIST)
    assert await told(bay, sandbox) == HELD
    assert (await client.get(f"/v1/sandboxes/{sandbox['id']}")).json()["compute"] == "warm"


async def test_a_host_that_cannot_hold_the_policy_is_said_and_tried_again(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client, wait=20)
    bay.driver.fail_at = "set_network"
    answer = await client.put(f"/v1/sandboxes/{sandbox['id']}/network-policy", json=ALLOWLIST)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "driver_unavailable")
    bay.driver.fail_at = None
    await bay.settled(sandbox["id"], lambda r: r.session is not None and r.session.network_version == 1)
    assert await told(bay, sandbox) == HELD


@pytest.mark.parametrize(("step", "call"), [("ready", "start"), ("stop", "stop")])
async def test_a_change_is_not_answered_while_something_begins_or_ends_by_the_policy_before(
    bay: World, step: str, call: str
) -> None:
    await pool_is_full(bay)  # or its own start may be the one that is held
    client = await bay.client()
    sandbox = await create(client, **({"wait": 20} if call == "stop" else {}))
    path = f"/v1/sandboxes/{sandbox['id']}"
    bay.driver.hold_at = step
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.post(f"{path}/{call}", params={"wait": 20} if call == "start" else {}))
        await bay.driver.held.wait()
        before = await told(bay, sandbox)
        put = tasks.create_task(client.put(f"{path}/network-policy", json=ALLOWLIST))
        done, _ = await asyncio.wait([put], timeout=0.5)
        assert before.mode == "open"
        assert not done
        bay.driver.let_go.set()
    assert put.result().status_code == 200
    if call == "start":
        assert await told(bay, sandbox) == HELD


async def test_forks_have_the_policy_of_their_source(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client, network_policy=ALLOWLIST)
    fork = (await client.post(f"/v1/sandboxes/{sandbox['id']}/fork")).json()["items"][0]
    found = await policy_of(client, fork)
    assert (found["mode"], found["source"], found["rules"]) == (
        "allowlist",
        "sandbox",
        (await policy_of(client, sandbox))["rules"],
    )


async def test_a_pooled_sandbox_is_given_only_to_who_wants_its_policy(bay: World) -> None:
    client = await bay.client()
    await pool_is_full(bay)
    other = await create(client, profile="pooled", network_policy={"mode": "none"}, wait=20)
    assert (await told(bay, other)).mode == "none"
    same = await create(client, profile="pooled", wait=20)
    assert await told(bay, same) == HELD
    assert (await policy_of(client, same))["source"] == "profile"


async def test_a_restarted_bay_holds_what_it_takes_over_again(root: Path) -> None:
    async with world(root, profiles=PROFILES) as bay:
        sandbox = await create(await bay.client(), network_policy=ALLOWLIST, wait=20)
    try:
        async with world(root, profiles=PROFILES) as bay:
            await bay.settled(
                sandbox["id"], lambda r: r.session is not None and r.session.network_version == 1
            )
            assert await told(bay, sandbox) == HELD
    finally:
        await clear(root)


async def test_a_deleted_sandbox_leaves_no_policy_behind(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client, network_policy=ALLOWLIST)
    await client.delete(f"/v1/sandboxes/{sandbox['id']}")
    assert await bay.sql("SELECT * FROM network_policies") == []


async def test_a_mode_that_the_host_cannot_enforce_is_refused_and_by_default_becomes_none(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run", network=("none",))
    unpooled = {name: profile for name, profile in PROFILES.items() if not profile.pool_size}
    async with world(root, driver, profiles=unpooled) as bay:
        client = await bay.client()
        answer = await client.post("/v1/sandboxes", json={"network_policy": {"mode": "open"}})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "capability_not_supported")
        sandbox = await create(client, wait=20)
        assert sandbox["network"] == "none"
        assert (await told(bay, sandbox)).mode == "none"
        assert (await policy_of(client, sandbox))["enforced"] is False
        await client.delete(f"/v1/sandboxes/{sandbox['id']}")


class Unenforced(FakeDriver):
    """A driver whose host holds sessions to nothing, and which sets no policy of a session that runs."""

    set_network = None  # type: ignore[assignment]

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir=run_dir, network=("open",))
        self.capabilities = replace(self.capabilities, egress="unenforced", network_rules=False)


async def test_a_driver_that_enforces_nothing_says_so_and_is_asked_for_nothing_more(root: Path) -> None:
    unpooled = {name: profile for name, profile in PROFILES.items() if not profile.pool_size}
    async with world(root, Unenforced(root / "run"), profiles=unpooled) as bay:
        client = await bay.client()
        rules = [{"action": "deny", "cidr": "9.9.9.9/32"}]
        for asked in (
            {"network_policy": {"mode": "none"}},
            {"network_policy": {"mode": "open", "rules": rules}},
            {"profile": "closed"},
        ):
            answer = await client.post("/v1/sandboxes", json=asked)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "capability_not_supported")
        sandbox = await create(client, wait=20)
        assert sandbox["network"] == "open"
        assert (await policy_of(client, sandbox))["enforced"] is False
        assert (await client.get(f"/v1/sandboxes/{sandbox['id']}/network")).json()["enforced"] is False
        await client.delete(f"/v1/sandboxes/{sandbox['id']}")


async def test_a_policy_that_holds_from_a_start_on_changes_while_there_is_no_compute(root: Path) -> None:
    unpooled = {name: profile for name, profile in PROFILES.items() if not profile.pool_size}
    async with world(root, Unenforced(root / "run"), profiles=unpooled) as bay:
        client = await bay.client()
        sandbox = await create(client, wait=20)
        path = f"/v1/sandboxes/{sandbox['id']}"
        await client.post(f"{path}/exec", json={"command": "true"})
        answer = await client.put(f"{path}/network-policy", json={"mode": "open"})
        assert answer.status_code == 409
        assert "stop it" in answer.json()["error"]["message"]
        assert (await client.post(f"{path}/stop")).is_success
        answer = await client.put(f"{path}/network-policy", json={"mode": "open"})
        assert (answer.status_code, answer.json()["source"]) == (200, "sandbox")
        await client.delete(path)


class Fixed(FakeDriver):
    """A driver whose sessions keep the mode that they begin with."""

    set_network = None  # type: ignore[assignment]

    async def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        async for made in super().start(spec, handle):
            yield replace(made, network=spec.network.mode)


async def test_a_session_that_keeps_its_mode_shows_that_one_when_the_profile_has_another(root: Path) -> None:
    def profiles(mode: str) -> dict[str, ProfileSettings]:
        settings = {"start": "lazy", "network_policy": {"mode": mode}}
        return {"python-default": ProfileSettings.model_validate(settings)}

    async def modes(client: httpx.AsyncClient, path: str) -> tuple[str, str]:
        shown, state = (await client.get(path)).json(), (await client.get(f"{path}/network")).json()
        return shown["network"], state["mode"]

    try:
        async with world(root, Fixed(run_dir=root / "run"), profiles=profiles("none")) as bay:
            client = await bay.client()
            sandbox = await create(client)
            path = f"/v1/sandboxes/{sandbox['id']}"
            assert (await client.post(f"{path}/start", params={"wait": 20})).is_success
            assert await modes(client, path) == ("none", "none")
        async with world(root, Fixed(run_dir=root / "run"), profiles=profiles("open")) as bay:
            client = await bay.client()
            await bay.settled(
                sandbox["id"], lambda r: r.session is not None and r.session.network_version is not None
            )
            assert await modes(client, path) == ("none", "none")
            assert (await policy_of(client, sandbox))["mode"] == "open"
            assert (await client.post(f"{path}/stop")).is_success
            assert (await client.post(f"{path}/start", params={"wait": 20})).is_success
            assert await modes(client, path) == ("open", "open")
    finally:
        await clear(root)


MALFORMED: list[Json] = [
    {"mode": "closed"},
    {"rules": []},
    {"mode": "open", "rules": [{"action": "maybe", "domain": "a.example"}]},
    {"mode": "open", "rules": [{"action": "allow", "host": "a.example"}]},
    {"mode": "open", "rules": [{"action": "allow", "domain": "a.example", "ports": []}]},
    {"mode": "none", "rules": [{"action": "allow", "domain": "a.example"}]},
    {"mode": "open", "privileged": True},
]


@pytest.mark.parametrize("body", MALFORMED, ids=str)
async def test_a_malformed_policy_changes_nothing(bay: World, body: Json) -> None:
    client = await bay.client()
    sandbox = await create(client)
    answer = await client.put(f"/v1/sandboxes/{sandbox['id']}/network-policy", json=body)
    assert answer.status_code in (400, 422)
    assert answer.json()["error"]["code"] == "validation_error"
    assert (await policy_of(client, sandbox))["version"] == 0


async def test_the_state_of_a_sandbox_without_compute_wakes_nothing(bay: World) -> None:
    client = await bay.client()
    sandbox = await create(client)
    state = (await client.get(f"/v1/sandboxes/{sandbox['id']}/network")).json()
    assert (state["mode"], state["counters"], state["refused"]) == ("open", [], [])
    assert (await client.get(f"/v1/sandboxes/{sandbox['id']}")).json()["compute"] == "cold"
