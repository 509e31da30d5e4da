"""Sessions behind Bay's egress proxy: what their programs are given, what rows say, and what is refused."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, clear, create, eventually, world

from bay.drivers.base import Endpoint, Handle, SessionSpec
from bay.drivers.fake import FakeDriver
from bay.errors import DatabaseUnavailable
from bay.models import NetworkCounter, NetworkPolicy, NetworkState, RefusedName, from_wire
from bay.network import policy
from bay.network.proxy.credentials import secret_of
from bay.server.networks.egress import ProxiedEgress, told_of
from bay.server.networks.service import write_policy
from bay.server.settings import KubernetesSettings, ProfileSettings
from bay.store import sessions

pytestmark = pytest.mark.anyio

RULED: Json = {"mode": "allowlist", "rules": [{"action": "allow", "domain": "allowed.example.com"}]}
PLACE = "10.9.8.7:8701"
PROFILES = {
    "python-default": ProfileSettings.model_validate({"start": "lazy"}),
    "udp": ProfileSettings.model_validate(
        {"network_policy": {"mode": "open", "rules": [{"action": "deny", "domain": "*", "protocol": "udp"}]}}
    ),
}


class ProxiedDriver(FakeDriver):
    """A driver as that of a cluster: a session with rules has a proxy, and no session changes."""

    set_network = None  # type: ignore[assignment] - it is no NetworkControl
    network_state = None  # type: ignore[assignment]

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.capabilities = replace(self.capabilities, egress="proxy", broker=False)

    async def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        told: Json = {"proxy": PLACE} if spec.network.rules else {"network": spec.network.mode}
        async for made in super().start(spec, handle):
            yield replace(made, **told)


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    given = {"install": "home", "image": "box:1", "ship_image": "ship:1", "egress_proxy": PLACE,
             "egress_proxy_listen": "127.0.0.1:0"}  # fmt: skip
    kubernetes = KubernetesSettings.model_validate(given)
    try:
        async with world(
            root,
            ProxiedDriver(run_dir=root / "run"),
            profiles=PROFILES,
            kubernetes=kubernetes,
            dns_servers=["127.0.0.1"],
        ) as running:
            yield running
    finally:
        await clear(root)


def egress(bay: World) -> ProxiedEgress:
    assert bay.bay.egress is not None
    return bay.bay.egress


async def started(client: httpx.AsyncClient, **given: Any) -> Json:
    return await create(client, wait=20, **given)


async def as_pod_here(bay: World, sandbox: Json) -> str:
    """The credentials of a session, once its row says that its pod has the address of this machine."""
    session = await bay.session(sandbox["id"])
    assert session.handle is not None
    endpoint = Endpoint(address="127.0.0.1:8124", certificate="00" * 32)
    handle = replace(Handle.from_json(session.handle), endpoint=endpoint)
    async with bay.bay.store.write() as db:
        await sessions.change(db, session.id, handle=handle.to_json())
    return base64.b64encode(f"{session.id}:{secret_of(session.token)}".encode()).decode()


async def status(bay: World, to: str, credentials: str) -> int:
    """Of the answer to a CONNECT."""
    reader, writer = await asyncio.open_connection("127.0.0.1", egress(bay).port)
    try:
        writer.write(
            f"CONNECT {to} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic {credentials}\r\n\r\n".encode()
        )
        async with asyncio.timeout(20):
            return int((await reader.readline()).split()[1])
    finally:
        writer.close()


async def ran(client: httpx.AsyncClient, sandbox: Json, command: str) -> str:
    answer = await client.post(f"/v1/sandboxes/{sandbox['id']}/shell/exec", json={"command": command})
    return str(answer.json()["output"])


async def test_programs_of_a_session_with_rules_are_given_the_proxy_and_no_others(bay: World) -> None:
    client = await bay.client()
    ruled = await started(client, network_policy=RULED, env={"HTTP_PROXY": "http://mine"})
    session = await bay.session(ruled["id"])
    said = (await ran(client, ruled, "echo $HTTP_PROXY $https_proxy $NO_PROXY")).split()
    assert said == [
        "http://mine",
        f"http://{session.id}:{secret_of(session.token)}@{PLACE}",
        "localhost,127.0.0.1,::1",
    ]
    plain = await started(client)
    assert await ran(client, plain, "echo $https_proxy") == "\n"
    state = (await client.get(f"/v1/sandboxes/{plain['id']}/network")).json()
    assert (state["enforced"], state["proxied"]) == (True, False)


async def test_a_session_is_known_by_its_row_and_its_traffic_is_told(bay: World) -> None:
    client = await bay.client()
    sandbox = await started(client, network_policy=RULED)
    session = await bay.session(sandbox["id"])
    secret = base64.b64encode(f"{session.id}:{secret_of(session.token)}".encode()).decode()
    assert await status(bay, "denied.example.com:443", secret) == 407  # its pod has no address
    assert await as_pod_here(bay, sandbox) == secret
    assert await status(bay, "denied.example.com:443", secret) == 403
    assert await status(bay, "denied.example.com:443", base64.b64encode(b"sess-x:y").decode()) == 407
    state = (await client.get(f"/v1/sandboxes/{sandbox['id']}/network")).json()
    assert (state["mode"], state["proxied"]) == ("allowlist", True)
    assert [(one["name"], one["reason"]) for one in state["refused"]] == [("denied.example.com", "policy")]


async def test_what_a_policy_decides_is_worked_out_beside_the_event_loop(
    bay: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await started(await bay.client(), network_policy=RULED)
    secret = await as_pod_here(bay, sandbox)
    flatten, threads = policy._flatten, set[int]()  # pyright: ignore[reportPrivateUsage]

    def noted(cidrs: Any) -> Any:
        threads.add(threading.get_ident())
        return flatten(cidrs)

    monkeypatch.setattr(policy, "_flatten", noted)
    assert await status(bay, "1.1.1.1:443", secret) == 403
    assert threads
    assert threading.get_ident() not in threads


async def test_a_session_whose_row_cannot_be_read_keeps_no_other_from_its_look(
    bay: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    async def renew(session_id: str) -> None:
        looked.append(session_id)
        raise DatabaseUnavailable("it is away")

    def known(*, connected: bool) -> dict[str, int]:
        return {"sess-a": 1, "sess-b": 1} if connected else {}

    proxy = egress(bay)._proxy  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(proxy, "known", known)
    monkeypatch.setattr(proxy, "renew", renew)
    await egress(bay).look(connected=True)
    assert looked == ["sess-a", "sess-b"]


async def test_however_much_a_program_does_a_replica_tells_of_it_what_a_message_holds() -> None:
    now = datetime.now(UTC)
    refused = tuple(
        RefusedName(
            name=f"{number}.{'a' * 240}",
            type="A",
            reason="private_answer",
            rule=None,
            count=1,
            first_at=now,
            last_at=now,
        )
        for number in range(200)
    )
    counted = tuple(
        NetworkCounter(
            rule=rule,
            reason=None,
            allowed_connections=rule,
            refused_connections=0,
            allowed_names=0,
            refused_names=0,
        )
        for rule in range(10_000)
    )
    given = {"mode": "open", "enforced": True, "received_bytes": 5, "sent_bytes": 1 << 60}
    for counters in ((), counted[-1:], counted):
        told: Any = told_of(from_wire(NetworkState, given | {"counters": (), "refused": ()}))
        state = replace(from_wire(NetworkState, told), counters=counters, refused=refused)
        told = told_of(state)
        assert len(json.dumps(told)) < 7000
        assert told["sent_bytes"] == 1 << 60
        assert not counters or max(one["rule"] for one in told["counters"]) == 9999
        assert counters is counted or told["refused"][-1]["name"] == refused[-1].name


async def test_another_policy_holds_while_the_session_runs(bay: World) -> None:
    client = await bay.client()
    sandbox = await started(client, network_policy=RULED)
    secret = await as_pod_here(bay, sandbox)
    assert await status(bay, "10.0.0.1:443", secret) == 403
    path = f"/v1/sandboxes/{sandbox['id']}/network-policy"
    answer = await client.put(
        path, json={"mode": "allowlist", "rules": [{"action": "deny", "cidr": "1.1.1.1"}]}
    )
    assert (answer.status_code, answer.json()["version"]) == (200, 2)
    assert await status(bay, "1.1.1.1:443", secret) == 403
    state = (await client.get(f"/v1/sandboxes/{sandbox['id']}/network")).json()
    assert [one["refused_connections"] for one in state["counters"] if one["rule"] == 0] == [1]
    assert (await client.put(path, json={"mode": "none"})).status_code == 200
    assert await status(bay, "allowed.example.com:443", secret) == 403


async def test_a_change_of_which_no_word_came_is_found_in_the_row(bay: World) -> None:
    client = await bay.client()
    sandbox = await started(client, network_policy=RULED)
    secret = await as_pod_here(bay, sandbox)
    assert await status(bay, "denied.example.com:443", secret) == 403
    path = f"/v1/sandboxes/{sandbox['id']}/network"
    async with bay.bay.store.write() as db:
        await write_policy(db, sandbox["id"], NetworkPolicy(mode="none"), 2)
    for connected, mode in ((True, "allowlist"), (False, "none")):  # it has no connection
        await egress(bay).look(connected=connected)
        found = egress(bay).proxied((await bay.session(sandbox["id"])).id)
        assert found is not None
        assert found.mode == mode
    await client.post(f"/v1/sandboxes/{sandbox['id']}/stop")
    await egress(bay).look(connected=False)
    assert (await client.get(path)).json()["proxied"] is False


async def test_a_session_that_began_without_a_proxy_has_to_be_stopped_for_rules(bay: World) -> None:
    client = await bay.client()
    sandbox = await started(client)
    path = f"/v1/sandboxes/{sandbox['id']}"
    answer = await client.put(f"{path}/network-policy", json=RULED)
    assert answer.status_code == 409
    assert "began without a proxy" in answer.json()["error"]["message"]
    await client.post(f"{path}/stop")
    assert (await client.put(f"{path}/network-policy", json=RULED)).status_code == 200


async def test_the_end_of_a_session_is_the_end_of_its_credentials(bay: World) -> None:
    client = await bay.client()
    sandbox = await started(client, network_policy=RULED)
    secret = await as_pod_here(bay, sandbox)
    assert await status(bay, "denied.example.com:443", secret) == 403
    await client.post(f"/v1/sandboxes/{sandbox['id']}/stop")

    async def is_over() -> bool:
        return await status(bay, "denied.example.com:443", secret) == 407

    await eventually(is_over)


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
async def test_rules_about_what_no_proxy_carries_are_refused(bay: World, protocol: str) -> None:
    client = await bay.client()
    rules = [
        {"action": "allow", "domain": "a.example.com"},
        {"action": "deny", "cidr": "1.1.1.1", "protocol": protocol},
    ]
    answer = await client.post("/v1/sandboxes", json={"network_policy": {"mode": "open", "rules": rules}})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "capability_not_supported"
    assert answer.json()["error"]["details"]["rule"] == 1


async def test_such_rules_of_a_profile_and_headers_are_refused(bay: World) -> None:
    client = await bay.client()
    inject = {"header": "Authorization", "secret": "key"}
    headers = {"mode": "open", "rules": [{"action": "allow", "domain": "a.example.com", "inject": inject}]}
    for body in ({"profile": "udp"}, {"network_policy": headers}):
        answer = await client.post("/v1/sandboxes", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "capability_not_supported"
