"""Rules with headers through the API: what is stored, and which secrets they may name."""

import httpx
import pytest
from server_harness import Json, World, assert_error, create, shell

pytestmark = pytest.mark.anyio

RULE: Json = {
    "action": "allow",
    "domain": "API.example.com",
    "inject": {"header": "Authorization", "secret": "KEY", "format": "Bearer {}"},
}


def policy(**changes: object) -> Json:
    return {"mode": "allowlist", "rules": [{**RULE, **changes}]}


async def put(client: httpx.AsyncClient, box: Json, body: Json) -> httpx.Response:
    return await client.put(f"/v1/sandboxes/{box['id']}/network-policy", json=body)


async def test_a_rule_is_kept_with_its_defaults_and_without_the_value(
    bay: World, alice: httpx.AsyncClient
) -> None:
    await alice.put("/v1/secrets/KEY", json={"value": "xyzzy"})
    box = await create(alice, network_policy=policy())
    answer = await alice.get(f"/v1/sandboxes/{box['id']}/network-policy")
    (rule,) = answer.json()["rules"]
    assert (rule["domain"], rule["ports"], rule["protocol"]) == ("api.example.com", [443], "tcp")
    assert rule["inject"] == RULE["inject"]
    assert "xyzzy" not in answer.text
    assert (await bay.record(box["id"])).network_brokers
    await alice.delete(f"/v1/sandboxes/{box['id']}/network-policy")
    assert not (await bay.record(box["id"])).network_brokers
    (changed,) = (await put(alice, box, policy(ports=[8443, 443]))).json()["rules"]
    assert changed["ports"] == [8443, 443]


async def test_a_rule_names_secrets_of_its_own_owner_alone(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    await alice.put("/v1/secrets/KEY", json={"value": "xyzzy"})
    assert_error(await bob.post("/v1/sandboxes", json={"network_policy": policy()}), 404, "not_found")
    box = await create(bob)
    error = assert_error(await put(bob, box, policy()), 404, "not_found")
    assert error["message"] == "there is no secret KEY; set it first"
    present = await bob.get(f"/v1/sandboxes/{box['id']}/network-policy")
    assert (present.json()["mode"], present.json()["version"]) == ("open", 0)


async def test_a_fork_has_the_rule_too(bay: World, alice: httpx.AsyncClient) -> None:
    await alice.put("/v1/secrets/KEY", json={"value": "xyzzy"})
    box = await create(alice, network_policy=policy(), wait=15)
    (made,) = (await alice.post(f"/v1/sandboxes/{box['id']}/fork")).json()["items"]
    assert (await bay.record(made["id"])).network_brokers
    assert (await shell(alice, made["id"], "env | grep -c BAY-CA"))["output"] == "0\n"


async def test_the_broker_is_given_secrets_of_the_sessions_owner_alone(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    await alice.put("/v1/secrets/KEY", json={"value": "hers"})
    await bob.put("/v1/secrets/KEY", json={"value": "his"})
    await alice.put("/v1/secrets/MORE", json={"value": "more"})
    hers, his = await create(alice, wait=15), await create(bob, wait=15)
    for box, value in ((hers, "hers"), (his, "his")):
        session = await bay.session(box["id"])
        assert await bay.bay.secrets.of_session(session.id, {"KEY"}) == {"KEY": value}
    gone = (await bay.session(hers["id"])).id
    await alice.delete(f"/v1/sandboxes/{hers['id']}")
    assert await bay.bay.secrets.of_session(gone, {"KEY"}) == {}
    assert await bay.bay.secrets.of_session("sess-never", {"KEY", "MORE"}) == {}
