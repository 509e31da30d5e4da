"""Cargos through the API: those of sandboxes, those apart from any, and a move between sandboxes."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import Json, World, assert_error, clear, create, shell, world

from bay.cargo.directory import DirectoryCargo
from bay.errors import Conflict, NotFound
from bay.store import sandboxes

pytestmark = pytest.mark.anyio

NEVER = "ws-0123456789abcdef01234567"


async def new_cargo(client: httpx.AsyncClient, **body: Any) -> Json:
    """An external cargo as the create answers it."""
    answer = await client.post("/v1/cargos", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def cold(client: httpx.AsyncClient, **body: Any) -> Json:
    """A sandbox with a file of its own, that has been stopped."""
    made = await create(client, **body)
    assert (await shell(client, made["id"], f"echo {made['id']} > whose"))["success"]
    await client.post(f"/v1/sandboxes/{made['id']}/stop")
    return made


async def whose(client: httpx.AsyncClient, sandbox: Json) -> str:
    return (await shell(client, sandbox["id"], "cat whose || echo empty"))["output"].strip()


async def test_an_external_cargo_is_made_shown_changed_and_removed(
    bay: World, alice: httpx.AsyncClient
) -> None:
    made = await new_cargo(alice, size_limit_mb=64)
    assert set(made) == {
        "id", "managed", "managed_by_sandbox_id", "backend", "size_limit_mb", "created_at", "last_accessed_at",
        "size_limit_enforced", "used_bytes", "used_inodes", "charged_bytes", "measured_at", "sandbox_ids",
    }  # fmt: skip
    assert (made["managed"], made["size_limit_mb"], made["sandbox_ids"]) == (False, 64, [])
    assert bay.directory(made["id"]).is_dir()
    call = f"/v1/cargos/{made['id']}"
    assert (await alice.get(call)).json() == made
    changed = await alice.patch(call, json={"size_limit_mb": None})
    assert (changed.status_code, changed.json()["size_limit_mb"]) == (200, 65_536)  # the most there is
    for _ in range(2):
        assert (await alice.delete(call)).status_code == 204
    assert_error(await alice.get(call), 404, "not_found")
    assert await bay.bay.cargo.list_ids() == set()


class Unyielding(DirectoryCargo):
    """A backend whose cargos keep the size that they were made with."""

    enforced = False

    async def check_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        raise Conflict(f"cargo {cargo_id} never becomes {limit_bytes} bytes")

    async def set_limit(self, cargo_id: str, limit_bytes: int | None) -> None:
        """It stays as it is."""

    async def charged(self, cargo_id: str) -> int | None:
        return None


async def test_a_size_that_the_backend_cannot_give_is_refused_before_it_is_written_down(root: Path) -> None:
    try:
        async with world(root, cargo=Unyielding(root / "data" / "cargo")) as bay:
            alice = await bay.client("alice")
            box = await create(alice, wait=20)
            for made in (await new_cargo(alice, size_limit_mb=64), box):
                call = f"/v1/cargos/{made.get('cargo_id', made['id'])}"
                before = (await alice.get(call)).json()
                error = assert_error(await alice.patch(call, json={"size_limit_mb": 65}), 409, "conflict")
                assert error["message"].endswith(f"never becomes {65 << 20} bytes")
                assert (await alice.get(call)).json() == before
                bob = await bay.client("bob")
                assert_error(await bob.patch(call, json={"size_limit_mb": 65}), 404, "not_found")
            assert (await bay.record(box["id"])).disk_mb is None
    finally:
        await clear(root)


async def test_an_empty_body_makes_one_and_a_key_makes_it_once(alice: httpx.AsyncClient) -> None:
    assert (await alice.post("/v1/cargos")).status_code == 201
    headers = {"Idempotency-Key": "cargo-once"}
    ids = {(await alice.post("/v1/cargos", json={}, headers=headers)).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    assert len((await alice.get("/v1/cargos")).json()["items"]) == 2


@pytest.mark.parametrize("size", [0, -1, 65_537, "x", 1.5])
async def test_a_limit_that_is_none_is_refused(alice: httpx.AsyncClient, size: object) -> None:
    assert_error(await alice.post("/v1/cargos", json={"size_limit_mb": size}), 422, "validation_error")


async def test_no_cargo_may_hold_more_than_its_profile_or_the_server_says(root: Path) -> None:
    profiles = {"python-default": {"start": "lazy", "disk_mb": 100}}
    async with world(root, profiles=profiles, max_cargo_mb=50) as bay:
        client = await bay.client()
        assert (await new_cargo(client))["size_limit_mb"] == 50
        assert_error(await client.post("/v1/cargos", json={"size_limit_mb": 51}), 422, "validation_error")
        managed = f"/v1/cargos/{(await create(client))['cargo_id']}"
        assert (await client.get(managed)).json()["size_limit_mb"] == 100
        assert_error(await client.patch(managed, json={"size_limit_mb": 101}), 422, "validation_error")
        for wanted, given in ((99, 99), (None, 100)):
            answer = await client.patch(managed, json={"size_limit_mb": wanted})
            assert answer.json()["size_limit_mb"] == given


async def test_a_quota_bounds_cargos_that_belong_to_no_sandbox(root: Path) -> None:
    async with world(root, quotas={"cargos": 1}) as bay:
        client = await bay.client()
        first = await new_cargo(client)
        await create(client)
        refused = assert_error(await client.post("/v1/cargos"), 429, "quota_exceeded")
        assert refused["details"]["quota"] == "cargos"
        await client.delete(f"/v1/cargos/{first['id']}")
        await new_cargo(client)


async def test_a_cargo_does_not_move_to_or_from_a_sandbox_that_is_being_deleted(
    bay: World, alice: httpx.AsyncClient
) -> None:
    """Else it would go with that sandbox, under the one that has it now."""
    one, two, external = await cold(alice), await cold(alice), await new_cargo(alice)
    async with bay.bay.store.write() as db:
        await sandboxes.change(db, one["id"], target="deleted")  # and nobody has seen to it yet
    taken = await alice.post(f"/v1/cargos/{one['cargo_id']}/move", json={"sandbox": two["id"]})
    assert_error(taken, 409, "conflict")
    given = await alice.post(f"/v1/cargos/{external['id']}/move", json={"sandbox": one["id"]})
    assert_error(given, 404, "not_found")


async def test_a_cargo_that_was_deleted_is_not_made_again(bay: World, alice: httpx.AsyncClient) -> None:
    made = (await new_cargo(alice))["id"]
    await alice.delete(f"/v1/cargos/{made}")
    with pytest.raises(NotFound):
        await bay.bay.storage_steps.make_cargo(made)
    assert await bay.bay.cargo.list_ids() == set()


async def test_of_two_sandboxes_with_one_cargo_one_is_restored_at_a_time(
    bay: World, alice: httpx.AsyncClient
) -> None:
    cargo = (await new_cargo(alice))["id"]
    boxes = [(await create(alice, cargo_id=cargo))["id"] for _ in range(2)]
    made = [(await alice.post(f"/v1/sandboxes/{box}/checkpoints")).json()["id"] for box in boxes]
    async with bay.bay.store.write() as db:
        await sandboxes.change(db, boxes[0], restore_id=made[0])  # and nobody has seen to it yet
    refused = await alice.post(f"/v1/sandboxes/{boxes[1]}/checkpoints/{made[1]}/restore")
    assert_error(refused, 409, "conflict")


async def test_lists_show_external_ones_unless_asked_for_the_others(alice: httpx.AsyncClient) -> None:
    external = [(await new_cargo(alice))["id"] for _ in range(3)]
    box = await create(alice)
    first = (await alice.get("/v1/cargos", params={"limit": 2})).json()
    rest = (await alice.get("/v1/cargos", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == external
    assert (first["has_more"], rest["has_more"], rest["next_cursor"]) == (True, False, None)
    (own,) = (await alice.get("/v1/cargos", params={"managed": True})).json()["items"]
    assert (own["id"], own["managed_by_sandbox_id"], own["sandbox_ids"]) == (
        box["cargo_id"],
        box["id"],
        [box["id"]],
    )


async def test_several_sandboxes_share_an_external_cargo_which_outlives_them(
    bay: World, alice: httpx.AsyncClient
) -> None:
    cargo = (await new_cargo(alice))["id"]
    one, two = await create(alice, cargo_id=cargo), await create(alice, cargo_id=cargo)
    await shell(alice, one["id"], "echo hello > n")
    assert (await shell(alice, two["id"], "cat n"))["output"] == "hello\n"
    used = await alice.delete(f"/v1/cargos/{cargo}")
    error = assert_error(used, 409, "conflict")
    assert error["details"] == {"active_sandbox_ids": [one["id"], two["id"]]}
    for box in (one, two):
        assert (await alice.delete(f"/v1/sandboxes/{box['id']}")).status_code == 204
    assert (bay.directory(cargo) / "n").read_text() == "hello\n"
    assert (await alice.delete(f"/v1/cargos/{cargo}")).status_code == 204


async def test_a_managed_cargo_goes_with_its_sandbox_and_not_before(alice: httpx.AsyncClient) -> None:
    box = await create(alice)
    error = assert_error(await alice.delete(f"/v1/cargos/{box['cargo_id']}"), 409, "conflict")
    assert error["details"] == {"managed_by_sandbox_id": box["id"]}
    assert_error(await alice.post("/v1/sandboxes", json={"cargo_id": box["cargo_id"]}), 409, "conflict")


async def test_a_checkpoint_is_not_put_back_under_another_sandbox_that_runs(alice: httpx.AsyncClient) -> None:
    cargo = (await new_cargo(alice))["id"]
    one, two = await create(alice, cargo_id=cargo), await create(alice, cargo_id=cargo)
    made = (await alice.post(f"/v1/sandboxes/{one['id']}/checkpoints")).json()["id"]
    await shell(alice, two["id"], "echo kept > n")
    refused = await alice.post(f"/v1/sandboxes/{one['id']}/checkpoints/{made}/restore")
    error = assert_error(refused, 409, "conflict")
    assert error["details"] == {"active_sandbox_ids": [two["id"]]}
    assert (await shell(alice, two["id"], "cat n"))["output"] == "kept\n"
    await alice.post(f"/v1/sandboxes/{two['id']}/stop")
    done = await alice.post(f"/v1/sandboxes/{one['id']}/checkpoints/{made}/restore")
    assert done.status_code == 200, done.text
    assert (await shell(alice, two["id"], "ls"))["output"] == ""


async def test_a_moved_cargo_is_its_new_sandboxs_and_no_file_is_lost(alice: httpx.AsyncClient) -> None:
    one, two = await cold(alice), await cold(alice, name="two")
    moved = await alice.post(f"/v1/cargos/{one['cargo_id']}/move", json={"sandbox": "two"})
    assert moved.status_code == 200, moved.text
    assert moved.json()["managed_by_sandbox_id"] == two["id"]
    assert await whose(alice, two) == one["id"]
    assert await whose(alice, one) == "empty"
    (left,) = (await alice.get("/v1/cargos")).json()["items"]  # what `two` had
    assert left["id"] == two["cargo_id"]
    third = await create(alice, cargo_id=left["id"])
    assert await whose(alice, third) == two["id"]


async def test_an_external_cargo_is_moved_into_a_sandbox_and_stays_external(alice: httpx.AsyncClient) -> None:
    cargo, box = await new_cargo(alice), await cold(alice)
    for _ in range(2):  # again changes nothing
        moved = await alice.post(f"/v1/cargos/{cargo['id']}/move", json={"sandbox": box["id"]})
        assert (moved.json()["managed"], moved.json()["sandbox_ids"]) == (False, [box["id"]])
    assert await whose(alice, box) == "empty"


async def test_nothing_moves_from_or_to_a_sandbox_that_has_compute(alice: httpx.AsyncClient) -> None:
    one, two = await cold(alice), await create(alice, wait=10)
    for cargo, target in ((one["cargo_id"], two), (two["cargo_id"], one)):
        refused = await alice.post(f"/v1/cargos/{cargo}/move", json={"sandbox": target["id"]})
        error = assert_error(refused, 409, "conflict")
        assert error["details"] == {"active_sandbox_ids": [two["id"]]}


async def test_what_is_anothers_is_moved_nowhere(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    mine, theirs = await cold(alice), await cold(bob)
    for cargo, target in ((mine["cargo_id"], theirs), (theirs["cargo_id"], mine), (NEVER, theirs)):
        refused = await bob.post(f"/v1/cargos/{cargo}/move", json={"sandbox": target["id"]})
        assert_error(refused, 404, "not_found")
