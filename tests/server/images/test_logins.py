"""Logins to registries: kept encrypted, shown to nobody, and given to pulls of their owner alone."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from server_harness import World, assert_error, clear, eventually, world

from bay.server.offline.secrets_key import rotate

pytestmark = pytest.mark.anyio

PASSWORD = "correct horse battery"
LOGIN = {"username": "ann", "password": PASSWORD}


async def log_in(client: httpx.AsyncClient, host: str = "registry.example.com") -> None:
    answer = await client.put(f"/v1/registries/{host}", json=LOGIN)
    assert answer.status_code == 200, answer.text
    assert PASSWORD not in answer.text


async def pull(bay: World, client: httpx.AsyncClient, ref: str) -> None:
    before = len(bay.library.sources)
    answer = await client.post("/v1/images", json={"ref": ref}, params={"wait": 10})
    assert answer.json()["state"] == "ready", answer.text
    assert len(bay.library.sources) == before + 1


async def test_a_pull_has_the_login_of_its_owner_and_registry(bay: World) -> None:
    ann, bob = await bay.client("ann", "admin"), await bay.client("bob", "admin")
    await log_in(ann)
    for client, ref, known in [
        (ann, "registry.example.com/app:1", True),
        (ann, "other.example.com/app:1", False),
        (bob, "registry.example.com/app:2", False),
    ]:
        await pull(bay, client, ref)
        given = bay.library.sources[-1].credentials
        assert (given is not None) == known
        assert given is None or (given.username, given.password) == ("ann", PASSWORD)


@pytest.mark.sqlite
async def test_no_answer_row_or_event_has_the_password(bay: World) -> None:
    ann = await bay.client("ann", "admin")
    await log_in(ann)
    shown = await ann.get("/v1/registries")
    assert [(one["host"], one["username"]) for one in shown.json()["items"]] == [
        ("registry.example.com", "ann")
    ]
    events, audit = await ann.get("/v1/events"), await ann.get("/v1/audit")
    assert PASSWORD not in shown.text + events.text + audit.text
    rows = await bay.sql("SELECT hex(sealed) FROM registry_logins")
    assert PASSWORD.encode().hex().upper() not in str(rows)


async def test_a_login_is_its_owners_to_change_and_forget(bay: World) -> None:
    ann, bob = await bay.client("ann", "admin"), await bay.client("bob", "admin")
    await log_in(ann)
    assert (await bob.get("/v1/registries")).json()["items"] == []
    assert_error(await bob.delete("/v1/registries/registry.example.com"), 404, "not_found")
    await ann.put("/v1/registries/registry.example.com", json={**LOGIN, "username": "eve"})
    assert [one["username"] for one in (await ann.get("/v1/registries")).json()["items"]] == ["eve"]
    assert (await ann.delete("/v1/registries/registry.example.com")).status_code == 204
    await pull(bay, ann, "registry.example.com/app:1")
    assert bay.library.sources[-1].credentials is None


@pytest.mark.parametrize("host", ["no host", "https:%2F%2Fx.example.com", "repository", "x.example.com%2Fy"])
async def test_what_names_no_registry_is_refused(bay: World, host: str) -> None:
    ann = await bay.client("ann", "admin")
    assert (await ann.put(f"/v1/registries/{host}", json=LOGIN)).status_code in (404, 405, 422)
    assert (await ann.get("/v1/registries")).json()["items"] == []


@pytest.mark.sqlite
async def test_a_new_key_for_secrets_seals_logins_again(root: Path) -> None:
    try:
        async with world(root) as bay:
            await log_in(await bay.client("ann", "admin"))
        assert (await asyncio.to_thread(rotate, root / "data")).sealed == 1
        async with world(root) as bay:
            ann = await bay.client("ann", "admin")
            await pull(bay, ann, "registry.example.com/app:1")
            given = bay.library.sources[-1].credentials
            assert given is not None
            assert given.password == PASSWORD
    finally:
        await clear(root)


async def test_a_login_that_no_key_opens_is_named_in_the_failure(root: Path) -> None:
    try:
        async with world(root) as bay:
            await log_in(await bay.client("ann", "admin"))
        (root / "data/secrets.key").unlink()
        async with world(root) as bay:
            ann = await bay.client("ann", "admin")
            body = {"ref": "registry.example.com/app:1"}
            image = (await ann.post("/v1/images", json=body)).json()

            async def is_failed() -> bool:
                return (await ann.get(f"/v1/images/{image['id']}")).json()["state"] == "failed"

            await eventually(is_failed)
            error = (await ann.get(f"/v1/images/{image['id']}")).json()["error"]
            assert error["code"] == "image_denied"
            assert "bay image login registry.example.com" in json.dumps(error)
    finally:
        await clear(root)
