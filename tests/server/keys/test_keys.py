"""Keys: who may make them, what each scope opens, and when one opens nothing any more."""

import asyncio
import json
import stat
from pathlib import Path

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, settings_in, within, world

from bay.clock import to_rfc3339
from bay.errors import BayError, InvalidArgument
from bay.server.web.auth import hash_secret
from bay.server.web.edge import FOR_READERS

pytestmark = pytest.mark.anyio

KEY_FIELDS = {"id", "name", "owner", "scope", "quotas", "created_at", "expires_at", "revoked_at"}
OPEN = {"/health", "/health/ready", "/v1/profiles"}


@pytest.fixture
async def admin(bay: World) -> httpx.AsyncClient:
    """A client with an admin key."""
    return await bay.client("root", "admin")


async def make(admin: httpx.AsyncClient, **body: object) -> Json:
    answer = await admin.post("/v1/keys", json={"name": "k", **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def with_key(bay: World, key: Json) -> httpx.AsyncClient:
    return await bay.open_client({"Authorization": f"Bearer {key['secret']}"})


async def first_id(bay: World) -> str:
    """The id of the key that the first start made."""
    return (await bay.sql("SELECT id FROM keys WHERE name = 'first'"))[0][0]


async def test_a_new_key_shows_its_secret_once_and_works(bay: World, admin: httpx.AsyncClient) -> None:
    key = await make(admin, name="ci", owner="alice")
    assert set(key) == KEY_FIELDS | {"secret"}
    assert (key["name"], key["owner"], key["scope"], key["quotas"]) == ("ci", "alice", "write", None)
    client = await with_key(bay, key)
    made = await create(client)
    assert (await bay.record(made["id"])).owner == "alice"
    assert (await bay.record(made["id"])).key_id == key["id"]
    listed = (await admin.get("/v1/keys")).text
    assert key["id"] in listed
    assert key["secret"] not in listed
    assert hash_secret(key["secret"]) not in listed


async def test_a_secret_is_nowhere_in_the_database(bay: World, admin: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    key = (await admin.post("/v1/keys", json={"name": "k"}, headers=headers)).json()
    await bay.bay.deferred.flush()
    await bay.bay.store.aclose()
    for path in (bay.root / "data").iterdir():
        if path.is_file():
            assert key["secret"].encode() not in path.read_bytes()


async def test_the_owner_is_the_callers_own_unless_named(admin: httpx.AsyncClient) -> None:
    assert (await make(admin))["owner"] == "root"


@pytest.mark.parametrize(
    "body",
    [{}, {"name": ""}, {"name": "a\nb"}, {"name": "x" * 129}, {"owner": ""}, {"owner": "a b"}, {"owner": "alice\n"},
     {"owner": "-a"}, {"owner": "../x"}, {"owner": "x" * 64}, {"owner": "\u00e4"}, {"scope": "root"}, {"scope": None},
     {"expires_in": 0}, {"expires_in": "soon"}, {"expires_at": "2000-01-01T00:00:00Z"}, {"expires_at": "2099-01-01T00:00:00"},
     {"expires_at": "2099-01-01T00:00:00Z", "expires_in": 5}, {"quotas": {"sandboxs": 1}}, {"quotas": {"running": -1}},
     {"quotas": {"cpus": "Infinity"}}, {"quotas": {"cpus": 1e300}}, {"quotas": {"running": 10**30}}, {"quotas": []},
     {"name": "BAY_API_KEY"}],
    ids=str,
)  # fmt: skip
async def test_a_key_that_may_not_be_is_refused(admin: httpx.AsyncClient, body: Json) -> None:
    named = body if not body or "name" in body else {"name": "k", **body}
    assert_error(await admin.post("/v1/keys", json=named), 422, "validation_error")


async def test_a_repeated_create_makes_one_key_and_shows_no_secret_again(admin: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "the-same"}
    answers = await asyncio.gather(
        *(admin.post("/v1/keys", json={"name": "k", "expires_in": 60}, headers=headers) for _ in range(5))
    )
    assert {a.status_code for a in answers} == {201}
    assert len({a.json()["id"] for a in answers}) == 1
    assert len([a for a in answers if a.json()["secret"]]) == 1
    bare = [{**a.json(), "secret": None} for a in answers]
    assert all(b == bare[0] for b in bare)
    other = await admin.post("/v1/keys", json={"name": "other"}, headers=headers)
    assert_error(other, 409, "conflict")


async def test_the_list_pages_and_keeps_revoked_keys(admin: httpx.AsyncClient) -> None:
    made = [(await make(admin, name=f"k{i}", owner="alice"))["id"] for i in range(5)]
    await admin.delete(f"/v1/keys/{made[0]}")
    seen: list[Json] = []
    cursor = None
    for _ in range(3):
        params = {"limit": "2", "owner": "alice", **({"cursor": cursor} if cursor else {})}
        page = (await admin.get("/v1/keys", params=params)).json()
        seen += page["items"]
        cursor = page["next_cursor"]
        assert page["has_more"] == (cursor is not None)
    assert sorted(k["id"] for k in seen) == sorted(made)
    assert [k["id"] for k in seen if k["revoked_at"]] == [made[0]]
    assert all(set(k) == KEY_FIELDS for k in seen)
    assert_error(await admin.get("/v1/keys", params={"cursor": "zzzz"}), 422, "validation_error")


async def test_a_cursor_of_another_list_is_refused(admin: httpx.AsyncClient) -> None:
    for _ in range(2):
        await create(admin)
    cursor = (await admin.get("/v1/sandboxes", params={"limit": 1})).json()["next_cursor"]
    assert_error(await admin.get("/v1/keys", params={"cursor": cursor}), 422, "validation_error")


# Scopes


def operations(bay: World) -> list[tuple[str, str]]:
    """Every route that needs a key, as the document that is served tells them."""
    paths = bay.app.openapi()["paths"]
    return [(method, path) for path, item in paths.items() for method in item if path not in OPEN]


def a_path(path: str) -> str:
    ids = {"sandbox_id": "sandbox", "exec_id": "exec", "key_id": "key"}
    for name, prefix in ids.items():
        path = path.replace("{" + name + "}", f"{prefix}-{'0' * 24}")
    while "{" in path:
        before, _, rest = path.partition("{")
        path = f"{before}x{rest.partition('}')[2]}"
    return path


async def test_a_read_key_changes_nothing_on_any_route(bay: World) -> None:
    reader = await bay.client("alice", "read")
    changing = [(m, p) for m, p in operations(bay) if m not in ("get", "head") and p not in FOR_READERS]
    assert len(changing) > 15
    for method, path in changing:
        answer = await reader.request(method.upper(), a_path(path), content=b"{not json")
        assert_error(answer, 403, "forbidden")
    for method, path in (("PROPFIND", "/v1/sandboxes"), ("POST", "/v1/nothing"), ("TRACE", "/v1/audit")):
        assert_error(await reader.request(method, path), 403, "forbidden")


async def test_what_is_for_admins_is_closed_to_every_other_key(bay: World) -> None:
    for scope in ("read", "write"):
        client = await bay.client("alice", scope)
        for method, path in operations(bay):
            if path.startswith(("/v1/keys", "/v1/admin", "/v1/replicas")):
                answer = await client.request(method.upper(), a_path(path), content=b"{not json")
                assert_error(answer, 403, "forbidden")
        for path in ("/v1/admin", "/v1/admin/nothing", "/v1/keys/", "/v1/keys/x/y"):
            assert_error(await client.get(path), 403, "forbidden")


async def test_health_and_profiles_need_no_key(bay: World) -> None:
    client = await bay.open_client()
    for path in sorted(OPEN):
        assert (await client.get(path)).status_code == 200, path


async def test_every_route_is_closed_without_a_key(bay: World) -> None:
    nobody = await bay.open_client()
    for method, path in operations(bay):
        assert_error(await nobody.request(method.upper(), a_path(path)), 401, "unauthorized")


async def test_an_admin_key_sees_only_the_sandboxes_of_its_own_owner(
    admin: httpx.AsyncClient, alice: httpx.AsyncClient
) -> None:
    made = await create(alice)
    assert_error(await admin.get(f"/v1/sandboxes/{made['id']}"), 404, "not_found")
    assert (await admin.get("/v1/sandboxes")).json()["items"] == []


# The end of a key


async def test_a_revoked_key_opens_nothing_from_then_on(bay: World, admin: httpx.AsyncClient) -> None:
    key = await make(admin, owner="alice")
    client = await with_key(bay, key)
    made = await create(client)
    for _ in range(2):
        assert (await admin.delete(f"/v1/keys/{key['id']}")).status_code == 204
        assert_error(await client.get("/v1/sandboxes"), 401, "unauthorized")
    alice = await bay.client("alice")
    assert (await alice.get(f"/v1/sandboxes/{made['id']}")).status_code == 200


async def test_the_valid_keys_of_an_owner_are_known_by_their_ids(root: Path) -> None:
    async with world(root) as bay:
        admin = await bay.client("root", "admin")
        made = list[str]()
        for owner, lives in (("alice", None), ("alice", 60), ("bob", None)):
            body = {"name": "k", "owner": owner} | ({} if lives is None else {"expires_in": lives})
            made.append((await admin.post("/v1/keys", json=body)).json()["id"])
            bay.clock.advance(1)
        known = bay.bay.keys
        assert known.of_owner("alice") == [made[1], made[0]]
        await admin.delete(f"/v1/keys/{made[0]}")
        assert known.of_owner("alice") == [made[1]]
        assert [known.is_valid(one) for one in (*made, "key-none")] == [False, True, True, False]
        await known.open()
        assert (known.of_owner("alice"), known.of_owner("carol")) == ([made[1]], [])
        bay.clock.advance(60)
        assert (known.of_owner("alice"), known.is_valid(made[1])) == ([], False)
    await clear(root)


async def test_a_key_that_never_was_cannot_be_revoked(admin: httpx.AsyncClient) -> None:
    for key_id in (f"key-{'0' * 24}", "x", "%00"):
        assert_error(await admin.delete(f"/v1/keys/{key_id}"), 404, "not_found")


async def test_a_call_that_is_under_way_when_its_key_is_revoked_ends_and_is_the_last(
    bay: World, admin: httpx.AsyncClient
) -> None:
    key = await make(admin, owner="alice")
    client = await with_key(bay, key)
    bay.driver.hold_at = "ready"
    async with asyncio.TaskGroup() as group:
        making = group.create_task(create(client, profile="eager", wait=15))
        await within(bay.driver.held.wait())
        assert (await admin.delete(f"/v1/keys/{key['id']}")).status_code == 204
        assert_error(await client.get("/v1/sandboxes"), 401, "unauthorized")
        bay.driver.let_go.set()
    assert making.result()["status"] == "ready"
    assert_error(await client.delete(f"/v1/sandboxes/{making.result()['id']}"), 401, "unauthorized")


async def test_an_expired_key_opens_nothing_and_a_restart_does_not_revive_it(root: Path) -> None:
    async with world(root) as bay:
        admin = await bay.client("root", "admin")
        later = to_rfc3339(bay.clock().replace(year=2031))
        keys = [await make(admin, expires_in=60), await make(admin, expires_at=later)]
        clients = [await with_key(bay, key) for key in keys]
        assert [(await c.get("/v1/sandboxes")).status_code for c in clients] == [200, 200]
        bay.clock.advance(59.9)
        assert [(await c.get("/v1/sandboxes")).status_code for c in clients] == [200, 200]
        bay.clock.advance(0.1)
        assert_error(await clients[0].get("/v1/sandboxes"), 401, "unauthorized")
        assert (await clients[1].get("/v1/sandboxes")).status_code == 200
        await admin.delete(f"/v1/keys/{keys[1]['id']}")
    async with world(root) as bay:
        bay.clock.advance(60)
        for key in keys:
            assert_error(await (await with_key(bay, key)).get("/v1/sandboxes"), 401, "unauthorized")


async def test_the_last_admin_key_is_kept(bay: World) -> None:
    first = await first_id(bay)
    root = await bay.open_client({"Authorization": f"Bearer {bay.bay.new_key}"})
    error = assert_error(await root.delete(f"/v1/keys/{first}"), 409, "conflict")
    assert "last valid admin key" in error["message"]
    brief = await make(root, scope="admin", expires_in=10)
    assert (await root.delete(f"/v1/keys/{first}")).status_code == 204
    other = await with_key(bay, brief)
    assert_error(await other.delete(f"/v1/keys/{brief['id']}"), 409, "conflict")


async def test_of_two_admins_who_revoke_each_other_at_once_one_stays(bay: World) -> None:
    root = await bay.open_client({"Authorization": f"Bearer {bay.bay.new_key}"})
    pair = [await make(root, scope="admin") for _ in range(2)]
    clients = [await with_key(bay, key) for key in pair]
    await clients[0].delete(f"/v1/keys/{await first_id(bay)}")
    answers = await asyncio.gather(
        clients[0].delete(f"/v1/keys/{pair[1]['id']}"), clients[1].delete(f"/v1/keys/{pair[0]['id']}")
    )
    assert sorted(a.status_code for a in answers) in ([204, 401], [204, 409])
    assert len(await bay.sql("SELECT id FROM keys WHERE revoked_at IS NULL")) == 1


# The first key, and the one of the settings


async def test_the_first_key_is_kept_where_only_its_owner_reads_it(bay: World) -> None:
    path = bay.root / "data" / "admin.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() == bay.bay.new_key


async def test_a_restart_is_the_way_back_in_when_every_admin_key_has_expired(root: Path) -> None:
    async with world(root) as bay:
        first = bay.bay.new_key
        admin = await bay.open_client({"Authorization": f"Bearer {first}"})
        brief = await make(admin, scope="admin", expires_in=10)
        await admin.delete(f"/v1/keys/{await first_id(bay)}")
        assert_error(await admin.get("/v1/keys"), 401, "unauthorized")
    async with world(root) as bay:
        assert bay.bay.new_key is None, "the brief one is good until then"
        await (await with_key(bay, brief)).get("/v1/keys")
        async with bay.bay.store.write() as db:
            await db.exec_driver_sql("UPDATE keys SET expires_at = '2029-01-01 00:00:00.000000'")
    async with world(root) as bay:
        assert bay.bay.new_key not in (None, first)
        admin = await bay.open_client({"Authorization": f"Bearer {bay.bay.new_key}"})
        assert (await admin.get("/v1/keys")).status_code == 200


async def start_with(root: Path, given: str) -> None:
    async with world(root, api_key=given):
        pass


async def test_a_key_of_the_settings_that_was_revoked_stays_revoked(root: Path) -> None:
    given = "given-by-the-settings"
    async with world(root, api_key=given) as bay:
        admin = await bay.open_client({"Authorization": f"Bearer {given}"})
        other = await make(admin, scope="admin")
        (of_settings,) = [
            k for k in (await admin.get("/v1/keys")).json()["items"] if k["name"] == "BAY_API_KEY"
        ]
        client = await with_key(bay, other)
        assert (await client.delete(f"/v1/keys/{of_settings['id']}")).status_code == 204
        assert_error(await admin.get("/v1/keys"), 401, "unauthorized")
    with pytest.raises(InvalidArgument, match="revoked"):
        await start_with(root, given)


async def test_a_key_of_the_settings_must_be_an_admins(root: Path) -> None:
    async with world(root) as bay:
        weak = await bay.key("alice", "write")
    with pytest.raises(InvalidArgument, match="has scope write"):
        await start_with(root, weak)


@pytest.mark.parametrize("given", ["#", "fifteen-letters"])
async def test_a_key_of_the_settings_that_can_be_guessed_is_refused(root: Path, given: str) -> None:
    with pytest.raises(ValueError, match="fewer than 16 characters") as caught:
        settings_in(root, api_key=given)
    assert given not in json.dumps([e["msg"] for e in caught.value.errors()])  # type: ignore[attr-defined]


async def test_nobody_can_have_the_owner_of_the_pool(bay: World) -> None:
    with pytest.raises(BayError, match="owner"):
        await bay.bay.keys.add("", "n", "write")


async def test_a_key_is_not_lost_by_a_restart(root: Path) -> None:
    try:
        async with world(root) as bay:
            key = await make(await bay.client("root", "admin"), owner="alice", quotas={"sandboxes": 1})
        async with world(root) as bay:
            client = await with_key(bay, key)
            await create(client)
            assert_error(await client.post("/v1/sandboxes"), 429, "quota_exceeded")
    finally:
        await clear(root)
