"""Secrets through the API: who has them, who is given them, and that no answer, log or file has a value."""

import asyncio
import re
from pathlib import Path

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, world

from bay.server.data_dir import SECRETS_KEY_FILE
from bay.server.secrets.service import MAX_SECRETS
from bay.server.settings import QuotaSettings

pytestmark = pytest.mark.anyio

VALUE = "xyzzy-plugh-3.14159"


async def put(client: httpx.AsyncClient, name: str = "TOKEN", value: str = VALUE) -> Json:
    answer = await client.put(f"/v1/secrets/{name}", json={"value": value})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def names(client: httpx.AsyncClient) -> list[str]:
    answer = await client.get("/v1/secrets")
    assert answer.status_code == 200
    return [item["name"] for item in answer.json()["items"]]


async def echoed(client: httpx.AsyncClient, box: Json, variable: str) -> str:
    return (await shell(client, box["id"], f'printf %s "${variable}"'))["output"]


async def test_a_secret_is_kept_changed_listed_and_deleted(alice: httpx.AsyncClient) -> None:
    made = await put(alice)
    assert set(made) == {"name", "created_at", "updated_at"}
    await put(alice, "OTHER.x-1")
    again = await put(alice, value="new")
    assert again["created_at"] == made["created_at"]
    assert await names(alice) == ["OTHER.x-1", "TOKEN"]
    assert (await alice.delete("/v1/secrets/TOKEN")).status_code == 204
    assert_error(await alice.delete("/v1/secrets/TOKEN"), 404, "not_found")
    assert await names(alice) == ["OTHER.x-1"]


@pytest.mark.parametrize("name", ["1st", "a b", "-x", ".x", "a" * 65, "ä", "a%0A"])
async def test_a_name_that_could_not_be_typed_is_refused(alice: httpx.AsyncClient, name: str) -> None:
    answer = await alice.put(f"/v1/secrets/{name}", json={"value": VALUE})
    assert_error(answer, 422, "validation_error")
    assert VALUE not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        {"value": VALUE + "\0"}, {"value": VALUE * 2000}, {"value": [VALUE]}, {"value": {VALUE: VALUE}},
        {"value": VALUE, "owner": VALUE}, {"value": ""}, {}, {"values": VALUE}, VALUE, [VALUE],
    ],
)  # fmt: skip
async def test_a_bad_value_is_refused_and_not_repeated(alice: httpx.AsyncClient, body: object) -> None:
    answer = await alice.put("/v1/secrets/TOKEN", json=body)
    assert_error(answer, 422, "validation_error")
    assert VALUE not in answer.text
    assert await names(alice) == []


async def test_only_writers_change_secrets_and_readers_see_names(bay: World) -> None:
    writer, reader = await bay.client("alice"), await bay.client("alice", "read")
    await put(writer)
    assert_error(await reader.put("/v1/secrets/TOKEN", json={"value": "x"}), 403, "forbidden")
    assert_error(await reader.delete("/v1/secrets/TOKEN"), 403, "forbidden")
    assert await names(reader) == ["TOKEN"]


async def test_two_owners_have_secrets_of_one_name(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await put(alice, value="hers")
    await put(bob, value="his")
    boxes = await create(alice, secrets=[{"name": "TOKEN"}]), await create(bob, secrets=[{"name": "TOKEN"}])
    assert await echoed(alice, boxes[0], "TOKEN") == "hers"
    assert await echoed(bob, boxes[1], "TOKEN") == "his"
    assert (await bob.delete("/v1/secrets/TOKEN")).status_code == 204
    assert await names(alice) == ["TOKEN"]
    assert await echoed(alice, boxes[0], "TOKEN") == "hers"


async def test_a_create_names_secrets_of_its_own_owner_alone(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    await put(alice)
    answers = [
        await bob.post("/v1/sandboxes", json={"secrets": [{"name": name}]}) for name in ("TOKEN", "NEVER")
    ]
    messages = [assert_error(answer, 404, "not_found")["message"] for answer in answers]
    assert messages[0].replace("TOKEN", "NEVER") == messages[1]
    assert (await bob.get("/v1/sandboxes")).json()["items"] == []


@pytest.mark.parametrize(
    ("given", "extra", "told"),
    [
        ([{"name": "A.B"}], {}, "not the name of a variable"),
        ([{"name": "A", "env": "1"}], {}, "not the name of a variable"),
        ([{"name": "A", "env": "X", "file": "/run/secrets/x"}], {}, "not both"),
        ([{"name": "A", "env": "X"}, {"name": "B", "env": "X"}], {}, "is the place of A too"),
        ([{"name": "A", "env": "X"}], {"env": {"X": "1"}}, "is in env as well"),
        ([{"name": "A", "file": "/etc/passwd"}], {}, "below /run/secrets"),
        ([{"name": "A", "file": "/run/secrets/../x"}], {}, "below /run/secrets"),
        ([{"name": "A", "file": "/run/secrets/.."}], {}, "below /run/secrets"),
        ([{"name": "A", "file": "/run/secrets/a/b"}], {}, "below /run/secrets"),
        ([{"name": "A", "file": "/run/secrets/"}], {}, "below /run/secrets"),
        ([{"name": "A", "value": "x"}], {}, "value"),
        ([{"name": "A"}] * 33, {}, "32"),
    ],
)
async def test_a_place_that_is_none_or_is_taken_is_refused(
    alice: httpx.AsyncClient, given: list[Json], extra: Json, told: str
) -> None:
    await put(alice, "A")
    await put(alice, "B")
    await put(alice, "A.B")
    error = assert_error(
        await alice.post("/v1/sandboxes", json={"secrets": given, **extra}), 422, "validation_error"
    )
    assert told in error["message"]


async def test_a_file_is_refused_where_the_driver_has_no_memory_for_it(alice: httpx.AsyncClient) -> None:
    await put(alice)
    body = {"secrets": [{"name": "TOKEN", "file": "/run/secrets/x"}]}
    assert_error(await alice.post("/v1/sandboxes", json=body), 400, "capability_not_supported")


async def test_commands_cells_and_services_find_the_variable(alice: httpx.AsyncClient) -> None:
    await put(alice)
    box = await create(alice, secrets=[{"name": "TOKEN", "env": "API_KEY"}], wait=15)
    assert box["secrets"] == [{"name": "TOKEN", "env": "API_KEY", "file": None}]
    path = f"/v1/sandboxes/{box['id']}"
    assert await echoed(alice, box, "API_KEY") == VALUE
    code = "import os; print(os.environ['API_KEY'])"
    cell = await alice.post(f"{path}/python/exec", json={"code": code})
    assert VALUE in cell.json()["output"]
    argv = ["sh", "-c", 'printf %s "$API_KEY" > told; mv told seen; exec sleep 600']
    assert (await alice.put(f"{path}/services/tell", json={"argv": argv})).status_code in (200, 201)
    await shell(alice, box["id"], "until test -e seen; do sleep 0.02; done", timeout=15)
    assert (await shell(alice, box["id"], "cat seen"))["output"] == VALUE


async def test_a_changed_secret_reaches_the_next_command(alice: httpx.AsyncClient) -> None:
    await put(alice, value="one")
    box = await create(alice, secrets=[{"name": "TOKEN"}], wait=15)
    assert await echoed(alice, box, "TOKEN") == "one"
    await put(alice, value="two")
    assert await echoed(alice, box, "TOKEN") == "two"


async def test_a_deleted_secret_is_named_by_the_next_command_and_the_next_start(
    alice: httpx.AsyncClient,
) -> None:
    await put(alice)
    box = await create(alice, secrets=[{"name": "TOKEN"}], wait=15)
    await alice.delete("/v1/secrets/TOKEN")
    path = f"/v1/sandboxes/{box['id']}"
    error = assert_error(await alice.post(f"{path}/execs", json={"command": "true"}), 409, "secret_missing")
    assert f"the secret TOKEN of sandbox {box['id']} was deleted; set it again" in error["message"]
    await alice.post(f"{path}/stop")
    failed = (await alice.post(f"{path}/start", params={"wait": 15})).json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "secret_missing")
    assert "the secret TOKEN" in failed["error"]["message"]
    await put(alice, value="again")
    assert await echoed(alice, box, "TOKEN") == "again"


async def test_a_fork_is_given_the_same_secrets(alice: httpx.AsyncClient) -> None:
    await put(alice)
    box = await create(alice, secrets=[{"name": "TOKEN", "env": "X"}], wait=15)
    forks = (await alice.post(f"/v1/sandboxes/{box['id']}/fork")).json()["items"]
    assert await echoed(alice, forks[0], "X") == VALUE


@pytest.mark.sqlite
async def test_a_value_is_in_no_answer_row_log_or_file(
    bay: World, alice: httpx.AsyncClient, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await put(alice)
    box = await create(
        alice, secrets=[{"name": "TOKEN"}], wait=15, env={"A": "b"}, profile="eager", name="box"
    )
    path = f"/v1/sandboxes/{box['id']}"
    assert (await shell(alice, box["id"], 'test -n "$TOKEN"'))["exit_code"] == 0
    await alice.post(f"{path}/checkpoints")
    await alice.put("/v1/secrets/TOKEN", json={"value": VALUE, "wrong": 1})
    reads = (path, "/v1/sandboxes", f"{path}/execs", f"{path}/history", "/v1/events", "/v1/audit",
             "/v1/secrets", f"{path}/processes", f"{path}/checkpoints")  # fmt: skip
    for one in reads:
        answer = await alice.get(one)
        assert answer.status_code == 200, one
        assert VALUE not in answer.text, one
    await bay.bay.deferred.flush()
    await bay.sql("PRAGMA wal_checkpoint")
    held = [found for found in root.rglob("*") if found.is_file() and VALUE.encode() in found.read_bytes()]
    assert held == []
    captured = capsys.readouterr()
    assert VALUE not in captured.out + captured.err


async def test_an_idempotent_create_is_the_same_and_another_secret_makes_it_another(
    alice: httpx.AsyncClient,
) -> None:
    await put(alice)
    await put(alice, "OTHER")
    headers = {"Idempotency-Key": "k"}
    bodies = [{"secrets": [{"name": name}]} for name in ("TOKEN", "TOKEN", "OTHER")]
    answers = [await alice.post("/v1/sandboxes", json=body, headers=headers) for body in bodies]
    assert [answer.status_code for answer in answers] == [201, 201, 409]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_secrets_survive_a_restart_with_their_key_and_say_so_without_it(root: Path) -> None:
    async with world(root) as first:
        alice = await first.client("alice")
        await put(alice)
        box = await create(alice, secrets=[{"name": "TOKEN"}])
    async with world(root) as second:
        assert await echoed(await second.client("alice"), box, "TOKEN") == VALUE
    key = root / "data" / SECRETS_KEY_FILE
    kept = key.read_bytes()
    key.unlink()
    async with world(root) as third:
        alice = await third.client("alice")
        answer = await alice.post(f"/v1/sandboxes/{box['id']}/execs", json={"command": "true"})
        error = assert_error(answer, 503, "driver_unavailable")
        assert "put the key back" in error["message"]
        await put(alice, "NEW", "new")
    key.write_bytes(key.read_bytes() + kept)  # as the documentation says
    async with world(root) as fourth:
        alice = await fourth.client("alice")
        assert await echoed(alice, box, "TOKEN") == VALUE
        box = await create(alice, secrets=[{"name": "NEW"}])
        assert await echoed(alice, box, "NEW") == "new"
    await clear(root)


async def test_secrets_are_bounded_by_quota_also_when_they_come_at_once(root: Path) -> None:
    quotas = QuotaSettings.model_validate({"secrets": 3})
    async with world(root, quotas=quotas) as bay:
        alice = await bay.client("alice")
        calls = (alice.put(f"/v1/secrets/S{n}", json={"value": "x"}) for n in range(8))
        statuses = [answer.status_code for answer in await asyncio.gather(*calls)]
        assert sorted(statuses) == [200] * 3 + [429] * 5
        present = await names(alice)
        assert len(present) == 3
        await put(alice, present[0], "a change needs no room")
        error = assert_error(await alice.put("/v1/secrets/MORE", json={"value": "x"}), 429, "quota_exceeded")
        assert re.search("may have 3 secrets", error["message"])
    await clear(root)


async def test_an_owner_has_so_many_secrets_and_no_more(alice: httpx.AsyncClient) -> None:
    for number in range(MAX_SECRETS):
        await put(alice, f"S{number}")
    error = assert_error(await alice.put("/v1/secrets/MORE", json={"value": "x"}), 429, "quota_exceeded")
    assert str(MAX_SECRETS) in error["message"]
    assert len(await names(alice)) == MAX_SECRETS
