"""Images through the API, on a library that fetches nothing: rows, pulls, waits, owners and garbage."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from lost_answers import lose_answer
from server_harness import Json, World, assert_error, clear, create, eventually, shell, within, world

from bay.drivers.fake import FakeDriver
from bay.errors import DatabaseUnavailable, ImageInvalid, ImageNotFound, RegistryUnavailable, StorageFull
from bay.images.base import BroughtImage
from bay.images.fake import FakeLibrary
from bay.server.images import puller, requests
from bay.store import images

pytestmark = pytest.mark.anyio

DEBIAN = "docker.io/library/debian:13"


@pytest.fixture
async def admin(bay: World) -> httpx.AsyncClient:
    return await bay.client("root", "admin")


async def pull(client: httpx.AsyncClient, ref: str = "debian:13", wait: float = 10, **body: Any) -> Json:
    answer = await client.post("/v1/images", json={"ref": ref, **body}, params={"wait": wait})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def shown(client: httpx.AsyncClient, ref: str) -> Json:
    answer = await client.get(f"/v1/images/{ref}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def listed(client: httpx.AsyncClient) -> list[str]:
    return [image["id"] for image in (await client.get("/v1/images")).json()["items"]]


async def events_of(client: httpx.AsyncClient) -> list[Json]:
    items = (await client.get("/v1/events", params={"limit": 200})).json()["items"]
    return [item for item in items if item["type"].startswith("image.")]


async def in_state(client: httpx.AsyncClient, ref: str, state: str) -> Json:
    async def is_there() -> bool:
        return (await shown(client, ref))["state"] == state

    await eventually(is_there)
    return await shown(client, ref)


async def test_a_pull_gives_an_image_that_sandboxes_start_from(bay: World, admin: httpx.AsyncClient) -> None:
    image = await pull(admin)
    assert (image["ref"], image["state"], image["source"], image["platform"]) == (
        DEBIAN, "ready", "registry", "linux/amd64",
    )  # fmt: skip
    assert image["digest"].startswith("sha256:")
    assert image["layers"] == 1
    assert image["error"] is None
    box = await create(admin, image="debian:13", wait=10)
    assert (box["image"], box["image_id"], box["status"]) == (DEBIAN, image["id"], "ready")
    assert (await shell(admin, box["id"], "echo hi"))["output"] == "hi\n"
    assert len(bay.library.sources) == 1
    assert [(e["type"], e["sandbox_id"], e["data"]["image_id"]) for e in await events_of(admin)] == [
        ("image.pulling", None, image["id"]), ("image.progress", None, image["id"]), ("image.ready", None, image["id"]),
    ]  # fmt: skip


async def test_a_create_pulls_what_is_missing_and_waits_for_it(bay: World, admin: httpx.AsyncClient) -> None:
    bay.library.let_go.clear()
    box = await create(admin, image="debian:13", profile="eager")
    assert (box["status"], box["compute"]) == ("starting", "warming")
    image = await shown(admin, box["image_id"])
    assert image["state"] == "pulling"

    async def progresses() -> bool:
        progress = (await shown(admin, box["image_id"]))["progress"]
        return progress is not None and progress["step"] == "fetching"

    await eventually(progresses)
    other = await create(admin, image=DEBIAN)
    assert other["image_id"] == box["image_id"]
    found = await admin.get("/v1/sandboxes", params={"status": "starting"})
    assert box["id"] in [item["id"] for item in found.json()["items"]]
    bay.library.let_go.set()
    await bay.settled(box["id"], lambda r: r.phase == "running")
    assert (await admin.get(f"/v1/sandboxes/{box['id']}")).json()["status"] == "ready"
    assert len(bay.library.sources) == 1


async def test_a_sandbox_whose_image_cannot_be_had_says_why_and_works_after_another_pull(
    bay: World, admin: httpx.AsyncClient
) -> None:
    bay.library.fail = ImageNotFound("docker.io has no image library/nothing:1")
    box = await create(admin, image="nothing:1", profile="eager", wait=10)
    assert box["status"] == "failed"
    assert box["error"]["code"] == "image_not_found"
    assert "library/nothing:1" in box["error"]["message"]
    image = await in_state(admin, box["image_id"], "failed")
    assert image["error"]["message"] == "docker.io has no image library/nothing:1"
    bay.library.fail = None
    again = await pull(admin, "nothing:1")
    assert (again["id"], again["state"], again["error"]) == (image["id"], "ready", None)
    answer = await admin.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 10})
    assert answer.json()["status"] == "ready"


async def test_a_registry_that_fails_for_a_while_is_asked_again(bay: World, admin: httpx.AsyncClient) -> None:
    bay.library.fail = RegistryUnavailable("docker.io answered 503")
    image = await pull(admin, wait=0)

    async def failed_once() -> bool:
        return (await shown(admin, image["id"]))["attempts"] == 1

    await eventually(failed_once)
    found = await shown(admin, image["id"])
    assert (found["state"], found["error"]["code"]) == ("pulling", "registry_unavailable")
    bay.library.fail = None
    bay.clock.advance(2)
    bay.bay.puller.poke()
    assert (await in_state(admin, image["id"], "ready"))["error"] is None


async def test_a_registry_that_always_fails_is_given_up(bay: World, admin: httpx.AsyncClient) -> None:
    bay.library.fail = RegistryUnavailable("docker.io answered 503")
    image = await pull(admin, wait=0)

    async def is_failed() -> bool:
        bay.clock.advance(100)
        bay.bay.puller.poke()
        return (await shown(admin, image["id"]))["state"] == "failed"

    await eventually(is_failed)
    assert (await shown(admin, image["id"]))["attempts"] == 8
    assert [e["type"] for e in await events_of(admin)] == ["image.pulling", "image.failed"]


async def test_a_tag_that_moves_changes_no_sandbox(bay: World, admin: httpx.AsyncClient) -> None:
    bay.library.digests[DEBIAN] = "sha256:" + "1" * 64
    box = await create(admin, image="debian:13", wait=10)
    first = await shown(admin, box["image_id"])
    bay.library.digests[DEBIAN] = "sha256:" + "2" * 64
    second = await pull(admin)
    assert second["id"] != first["id"]
    assert second["digest"] != first["digest"]
    assert (await admin.post(f"/v1/sandboxes/{box['id']}/stop")).status_code == 200
    await admin.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 10})
    assert (await admin.get(f"/v1/sandboxes/{box['id']}")).json()["image_id"] == first["id"]
    assert (await create(admin, image="debian:13"))["image_id"] == second["id"]
    fork = await admin.post(f"/v1/sandboxes/{box['id']}/fork", json={})
    assert fork.json()["items"][0]["image_id"] == first["id"]


async def test_pull_always_asks_the_registry_and_never_does_not(bay: World, admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/v1/sandboxes", json={"image": "debian:13", "pull": "never"})
    assert_error(answer, 404, "image_not_found")
    assert "bay image pull" in answer.json()["error"]["message"]
    first = await pull(admin)
    assert (await create(admin, image="debian:13", pull="never"))["image_id"] == first["id"]
    box = await create(admin, image="debian:13", pull="always", wait=10)
    assert box["image_id"] != first["id"]
    assert len(bay.library.sources) == 2


async def test_the_same_digest_pulled_again_replaces_an_image_that_nothing_uses(
    bay: World, admin: httpx.AsyncClient
) -> None:
    first = await pull(admin)
    second = await pull(admin)
    assert await listed(admin) == [second["id"]] != [first["id"]]
    box = await create(admin, image=second["id"])
    third = await pull(admin)
    assert await listed(admin) == [second["id"], third["id"]]
    assert box["image_id"] == second["id"]


async def test_an_image_in_use_stays_and_an_unused_one_goes_with_its_layers(
    bay: World, admin: httpx.AsyncClient
) -> None:
    bay.library.contents = {
        DEBIAN: ("sha256:base",),
        "docker.io/library/app:1": ("sha256:base", "sha256:app"),
    }
    debian, app = await pull(admin), await pull(admin, "app:1")
    box = await create(admin, image=debian["id"])
    refused = await admin.delete(f"/v1/images/{debian['id']}")
    assert box["id"] in assert_error(refused, 409, "conflict")["message"]
    for _ in range(2):
        assert (await admin.delete(f"/v1/images/{app['id']}")).status_code == 204
    assert bay.library.layers == {"sha256:base"}
    assert_error(await admin.get(f"/v1/images/{app['id']}"), 404, "image_not_found")
    await admin.delete(f"/v1/sandboxes/{box['id']}")
    pruned = (await admin.post("/v1/images/prune", json={})).json()["items"]
    assert [image["id"] for image in pruned] == [debian["id"]]
    assert bay.library.layers == set()
    assert await listed(admin) == []


async def test_an_image_that_nobody_used_for_long_goes_by_itself(
    bay: World, admin: httpx.AsyncClient
) -> None:
    old, used = await pull(admin), await pull(admin, "app:1")
    await create(admin, image=used["id"])
    bay.clock.advance(31 * 86400)
    await bay.bay.puller.collect()
    assert await listed(admin) == [used["id"]] != [old["id"]]


async def test_a_delete_cancels_a_pull(bay: World, admin: httpx.AsyncClient) -> None:
    bay.library.let_go.clear()
    image = await pull(admin, wait=0)

    async def is_begun() -> bool:
        return bool(bay.library.sources)

    await eventually(is_begun)
    assert (await admin.delete(f"/v1/images/{image['id']}")).status_code == 204

    async def is_over() -> bool:
        return image["id"] not in bay.bay.puller._progress

    await eventually(is_over)
    assert bay.library.layers == set()
    assert await listed(admin) == []


async def test_who_waits_for_a_pull_that_is_deleted_hears_of_it(
    bay: World, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, wait_for = asyncio.Event(), bay.bay.changes.wait_for

    async def waited_for(*of: Any) -> Any:
        begun.set()
        return await wait_for(*of)

    monkeypatch.setattr(bay.bay.changes, "wait_for", waited_for)
    bay.library.let_go.clear()
    image = await pull(admin, wait=0)
    waiting = asyncio.create_task(admin.get(f"/v1/images/{image['id']}", params={"wait": 60}))
    await asyncio.wait_for(begun.wait(), 10)
    await admin.delete(f"/v1/images/{image['id']}")
    assert (await asyncio.wait_for(waiting, 20)).json()["state"] == "pulling"


async def test_a_pull_that_is_just_over_wakes_who_waits_whatever_else_happens(
    bay: World, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought, leave, bring = asyncio.Event(), asyncio.Event(), bay.library.bring

    @asynccontextmanager
    async def slow_to_end(*of: Any) -> AsyncGenerator[BroughtImage]:
        async with bring(*of) as image:
            yield image
        brought.set()
        await leave.wait()

    monkeypatch.setattr(bay.library, "bring", slow_to_end)
    waiting = asyncio.create_task(create(admin, image="debian:13", wait=10))
    await asyncio.wait_for(brought.wait(), 10)
    await pull(admin, "app:1", wait=0)  # the puller looks again
    await in_state(admin, "debian:13", "ready")
    leave.set()
    assert (await waiting)["status"] == "ready"


async def test_a_failure_that_cannot_be_written_ends_neither_the_server_nor_the_pull(
    bay: World, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, full = images.change, [StorageFull("Bay's data directory is full")]

    async def changed(*of: Any, **values: Any) -> None:
        if full:
            raise full.pop()
        await change(*of, **values)

    monkeypatch.setattr(puller, "_AGAIN_S", 0.1)
    monkeypatch.setattr(images, "change", changed)
    bay.library.fail = ImageNotFound("the registry has no debian")
    assert (await pull(admin))["error"]["code"] == "image_not_found"
    assert full == []


@pytest.mark.parametrize("name", ["change", "waiting"])
async def test_an_outage_of_the_database_is_no_attempt_of_a_pull_and_is_waited_out(
    bay: World, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    as_it_is = getattr(images, name)
    away = [DatabaseUnavailable("Bay's database cannot be used just now") for _ in range(2)]

    async def called(*of: Any, **values: Any) -> Any:
        if away:
            raise away.pop()
        return await as_it_is(*of, **values)

    monkeypatch.setattr(puller, "_RETRY_S", 0.01)
    monkeypatch.setattr(images, name, called)
    box = await create(admin, image=DEBIAN, profile="eager", wait=20)
    assert (away, box["status"]) == ([], "ready")
    told = [e["type"] for e in await events_of(admin)]
    assert [kind for kind in told if kind != "image.progress"] == ["image.pulling", "image.ready"]


async def test_other_owners_images_are_invisible_and_their_layers_are_fetched_again(
    bay: World, admin: httpx.AsyncClient, alice: httpx.AsyncClient
) -> None:
    private = await pull(admin)
    assert await listed(alice) == []
    assert_error(await alice.get(f"/v1/images/{private['id']}"), 404, "image_not_found")
    assert_error(await alice.delete(f"/v1/images/{private['id']}"), 404, "image_not_found")
    assert_error(await alice.post("/v1/sandboxes", json={"image": private["id"]}), 404, "image_not_found")
    other = await bay.client("other", "admin")
    await pull(other)
    assert [ref for ref, _ in bay.library.fetched] == [DEBIAN, DEBIAN]
    await pull(other)
    assert len(bay.library.fetched) == 2


async def test_keys_without_the_scope_admin_pull_what_the_settings_allow_and_use_what_is_shared(
    root: Path,
) -> None:
    try:
        async with world(root, images_allow=("docker.io/library/deb*",)) as bay:
            alice, admin = await bay.client("alice"), await bay.client("root", "admin")
            refused = await alice.post("/v1/images", json={"ref": "ghcr.io/x/y:1"})
            assert "images_allow" in assert_error(refused, 403, "forbidden")["message"]
            assert_error(await alice.post("/v1/sandboxes", json={"image": "ghcr.io/x/y:1"}), 403, "forbidden")
            assert (await pull(alice))["state"] == "ready"
            assert_error(
                await alice.post("/v1/images", json={"ref": "debian:12", "shared": True}), 403, "forbidden"
            )
            shared = await pull(admin, "ghcr.io/x/y:1", shared=True)
            box = await create(alice, image="ghcr.io/x/y:1", wait=10)
            assert box["image_id"] == shared["id"] in await listed(alice)
            assert_error(await alice.delete(f"/v1/images/{shared['id']}"), 403, "forbidden")
    finally:
        await clear(root)


async def test_an_archive_becomes_an_image(bay: World, alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/v1/images/import", params={"ref": "mine:1", "wait": 10}, content=b"tar")
    assert answer.status_code == 201, answer.text
    image = answer.json()
    assert (image["source"], image["state"], image["ref"]) == ("upload", "ready", "docker.io/library/mine:1")
    assert (await create(alice, image="mine:1", wait=10))["image_id"] == image["id"]


async def test_a_pull_goes_on_after_a_restart_and_lost_files_are_fetched_again(root: Path) -> None:
    try:
        library = FakeLibrary()
        library.let_go.clear()
        async with world(root, library=library) as bay:
            box = await create(await bay.client("root", "admin"), image="debian:13", profile="eager")
        library = FakeLibrary()
        async with world(root, library=library) as bay:
            await bay.settled(box["id"], lambda r: r.phase == "running")
            digest = (await shown(await bay.client("root", "admin"), box["image_id"]))["digest"]
        library = FakeLibrary()
        library.digests[DEBIAN] = "sha256:" + "2" * 64
        async with world(root, library=library) as bay:
            admin = await bay.client("root", "admin")
            image = await in_state(admin, box["image_id"], "ready")
            assert image["digest"] == digest == library.sources[0].digest
    finally:
        await clear(root)


async def test_a_profile_names_an_image_for_every_owner_and_its_pool(root: Path) -> None:
    profile = {"image": "debian:13", "start": "eager", "pool_size": 1}
    try:
        async with world(root, profiles={"python-default": profile}) as bay:
            alice = await bay.client("alice")

            async def is_full() -> bool:
                await bay.bay.pool.tend()
                return [state.ready for state in await bay.bay.pool.state()] == [1]

            bay.bay.pool.set_spare(1 << 40)
            await eventually(is_full)
            box = await create(alice, wait=10)
            assert box["image"] == DEBIAN
            assert box["status"] == "ready"
            assert [state.hits for state in await bay.bay.pool.state()] == [1]
            assert await listed(alice) == [box["image_id"]]
            host = await create(alice, image="host", wait=10)
            assert (host["image"], host["image_id"]) == ("host", None)
    finally:
        await clear(root)


async def test_the_image_of_a_profile_that_cannot_be_had_is_one_row_however_often_it_is_asked_for(
    root: Path,
) -> None:
    try:
        async with world(root, profiles={"debian": {"image": "debian:13"}}) as bay:
            bay.library.fail = ImageNotFound("the registry has no debian")
            alice = await bay.client("alice")
            for _ in range(3):
                box = await create(alice, profile="debian", wait=10)
                assert box["error"]["code"] == "image_not_found"
            assert len(await listed(alice)) == 1
            assert len(bay.library.sources) >= 3
            bay.library.fail = None
            assert (await create(alice, profile="debian", wait=10))["status"] == "ready"
    finally:
        await clear(root)


async def test_a_pull_with_an_idempotency_key_happens_once(bay: World, admin: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "once"}
    answers = [await admin.post("/v1/images", json={"ref": "debian:13"}, headers=headers) for _ in range(2)]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    changed = await admin.post("/v1/images", json={"ref": "debian:12"}, headers=headers)
    assert_error(changed, 409, "conflict")


@pytest.mark.parametrize("ref", ["", "UPPER case", "a" * 600, "x\0y"])
async def test_a_reference_that_names_nothing_is_refused(admin: httpx.AsyncClient, ref: str) -> None:
    assert (await admin.post("/v1/images", json={"ref": ref})).status_code == 422


@asynccontextmanager
async def machines(root: Path) -> AsyncGenerator[World]:
    """A Bay whose profile `machine` keeps the root."""
    profiles = {"machine": {"persist": "machine", "start": "eager"}}
    try:
        async with world(root, profiles=profiles) as bay:
            bay.driver.capabilities = bay.driver.capabilities.__class__(
                isolation=("container",),
                pause="freezer",
                images=("host",),
                other_images="layers",
                persist=("workspace", "machine"),
            )
            yield bay
    finally:
        await clear(root)


async def test_a_checkpoint_of_a_root_stays_with_its_image(root: Path) -> None:
    async with machines(root) as bay:
        admin = await bay.client("root", "admin")
        one = await create(admin, image="debian:13", profile="machine", wait=10)
        answer = await admin.post(f"/v1/sandboxes/{one['id']}/checkpoints", json={"name": "a"})
        kept = answer.json()["id"]
        await admin.delete(f"/v1/sandboxes/{one['id']}/checkpoints/none")
        two = await create(admin, profile="machine", from_checkpoint=kept)
        assert two["image_id"] == one["image_id"]
        wrong = {"profile": "machine", "from_checkpoint": kept, "image": "host"}
        assert_error(await admin.post("/v1/sandboxes", json=wrong), 409, "conflict")
        host = await create(admin, profile="machine")
        restored = await admin.post(f"/v1/sandboxes/{host['id']}/checkpoints/{kept}/restore")
        assert_error(restored, 409, "conflict")
        await within(admin.delete(f"/v1/sandboxes/{two['id']}"))
        assert_error(await admin.delete(f"/v1/images/{one['image_id']}"), 409, "conflict")


@pytest.mark.parametrize("named", [{}, {"image": "host"}])
async def test_an_imported_root_of_an_image_is_not_put_upon_the_host(root: Path, named: Json) -> None:
    async with machines(root) as bay:
        admin = await bay.client("root", "admin")
        one = await create(admin, image="debian:13", profile="machine", wait=10)
        await admin.post(f"/v1/sandboxes/{one['id']}/checkpoints", json={"name": "a"})
        export = await admin.get(f"/v1/sandboxes/{one['id']}/checkpoints/a/export")
        host = await create(admin, profile="machine")
        call = f"/v1/sandboxes/{host['id']}/checkpoints"
        came = (await admin.post(f"{call}/import", content=export.content)).json()
        assert_error(await admin.post(f"{call}/{came['id']}/restore"), 409, "conflict")
        made = {"profile": "machine", "from_checkpoint": came["id"], **named}
        assert_error(await admin.post("/v1/sandboxes", json=made), 409, "conflict")
        call = f"/v1/sandboxes/{one['id']}/checkpoints/import"
        back = (await admin.post(call, content=export.content)).json()
        again = await create(admin, profile="machine", from_checkpoint=back["id"])
        assert again["image_id"] == one["image_id"]


async def test_images_count_against_the_disk_quota_of_their_owner(root: Path) -> None:
    try:
        async with world(root, owners={"root": {"disk_mb": 1}}) as bay:
            admin = await bay.client("root", "admin")
            names = tuple(f"sha256:{n}" for n in range(1100))  # of 1 KiB each
            bay.library.contents = {DEBIAN: names}
            image = await pull(admin)
            assert image["size_bytes"] == 1100 * 1024
            refused = await admin.post("/v1/images", json={"ref": "app:1"})
            assert assert_error(refused, 429, "quota_exceeded")["details"]["quota"] == "disk_mb"
            await admin.delete(f"/v1/images/{image['id']}")
            await pull(admin, "app:1")
    finally:
        await clear(root)


async def test_what_waits_to_be_pulled_or_unpacked_is_held_to_the_disk_quota_too(root: Path) -> None:
    try:
        async with world(root, owners={"root": {"disk_mb": 1}}) as bay:
            admin = await bay.client("root", "admin")
            bay.library.contents = {DEBIAN: tuple(f"sha256:{n}" for n in range(1100))}  # of 1 KiB each
            bay.library.let_go.clear()
            for ref in ("debian:13", "app:1", "late:1"):
                await pull(admin, ref, wait=0)  # each fits; two of them are under way

            async def are_begun() -> bool:
                return len(bay.library.sources) == 2

            await eventually(are_begun)
            bay.library.let_go.set()

            async def is_refused() -> bool:
                error = (await shown(admin, "late:1"))["error"]
                return error is not None and error["code"] == "quota_exceeded"

            await eventually(is_refused)
            await in_state(admin, "app:1", "ready")
            assert len(bay.library.sources) == 2
    finally:
        await clear(root)


async def test_an_archive_counts_until_it_is_an_image_and_goes_when_it_is_none(root: Path) -> None:
    try:
        async with world(root, owners={"alice": {"disk_mb": 2}}) as bay:
            alice = await bay.client("alice")
            bay.library.let_go.clear()

            async def upload(name: str) -> httpx.Response:
                body = b"x" * (3 << 19)
                return await alice.post("/v1/images/import", params={"ref": f"{name}:1"}, content=body)

            first = (await upload("one")).json()
            assert first["size_bytes"] == 3 << 19
            refused = await upload("two")
            assert assert_error(refused, 429, "quota_exceeded")["details"]["quota"] == "disk_mb"
            assert list(bay.library.uploads) == [first["id"]]
            bay.library.fail = ImageInvalid("it is no archive of an image")
            bay.library.let_go.set()
            assert (await in_state(alice, first["id"], "failed"))["size_bytes"] is None

            async def is_gone() -> bool:
                return not bay.library.uploads

            await eventually(is_gone)
    finally:
        await clear(root)


@pytest.mark.parametrize(
    ("committed", "then_away", "kept"),
    [(True, 0, True), (True, 1, True), (False, 0, False), (False, 1, True)],
)
async def test_an_archive_of_whose_row_nobody_knows_stays(
    bay: World, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch,
    committed: bool, then_away: int, kept: bool,
) -> None:  # fmt: skip
    bay.library.let_go.clear()
    left = lose_answer(monkeypatch, bay.bay.store, images, "add", committed=committed, then_away=then_away)
    sent = await admin.post("/v1/images/import", params={"ref": "mine:1"}, content=b"archive")
    assert_error(sent, 503, "database_unavailable")
    assert (left, bool(bay.library.uploads)) == ([], kept)
    bay.library.let_go.set()
    if committed:
        assert (await in_state(admin, "mine:1", "ready"))["source"] == "upload"
    else:
        assert await listed(admin) == []


async def test_an_upload_that_failed_does_not_stand_in_the_way_of_a_pull_of_its_name(
    bay: World, admin: httpx.AsyncClient
) -> None:
    bay.library.fail = ImageInvalid("the archive has no manifest")
    sent = await admin.post("/v1/images/import", params={"ref": "debian:13", "wait": 10}, content=b"archive")
    assert (sent.json()["source"], sent.json()["state"]) == ("upload", "failed")
    bay.library.fail = None
    image = await pull(admin)
    assert (image["source"], image["state"]) == ("registry", "ready")
    assert image["id"] != sent.json()["id"]


async def test_one_owner_has_few_uploads_at_once(bay: World, alice: httpx.AsyncClient) -> None:
    go_on, coming = asyncio.Event(), 0

    async def body() -> AsyncGenerator[bytes]:
        nonlocal coming
        coming += 1
        yield b"x"
        await go_on.wait()

    async def upload() -> httpx.Response:
        return await alice.post("/v1/images/import", params={"ref": "mine:1"}, content=body())

    async def are_coming() -> bool:
        return coming == 2

    uploads = [asyncio.create_task(upload()) for _ in range(2)]
    await eventually(are_coming)
    assert_error(
        await alice.post("/v1/images/import", params={"ref": "a:1"}, content=b""), 429, "quota_exceeded"
    )
    go_on.set()
    assert {(await one).status_code for one in uploads} == {201}


async def test_an_owner_has_a_bounded_number_of_images(
    bay: World, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MAX_IMAGES", 2)
    first, _ = await pull(admin), await pull(admin, "app:1")
    for refused in (
        await admin.post("/v1/images", json={"ref": "late:1"}),
        await admin.post("/v1/images/import", params={"ref": "late:1"}, content=b"tar"),
    ):
        assert "bay image prune" in assert_error(refused, 409, "conflict")["message"]
    await pull(await bay.client("other", "admin"), "late:1")
    await admin.delete(f"/v1/images/{first['id']}")
    await pull(admin, "late:1")


async def service_main(client: httpx.AsyncClient, sandbox: str) -> Json | None:
    answer = await client.get(f"/v1/sandboxes/{sandbox}/services")
    return next((one for one in answer.json()["items"] if one["name"] == "main"), None)


async def test_the_command_of_an_image_is_a_service_on_request(bay: World, admin: httpx.AsyncClient) -> None:
    test = {"test": ["CMD-SHELL", "exit 0"], "interval_s": 0.5, "timeout_s": None, "retries": 5}
    bay.library.config = {
        "entrypoint": ["/bin/sh", "-c"], "cmd": ["echo started; exec sleep 1000"], "healthcheck": test,
    }  # fmt: skip
    bay.library.let_go.clear()
    before = await create(admin, image="debian:13", entrypoint="service")
    assert await service_main(admin, before["id"]) is None
    bay.library.let_go.set()
    await in_state(admin, before["image_id"], "ready")
    after = await create(admin, image="debian:13", entrypoint="service", profile="eager", wait=10)
    for box in (before, after):
        main = await service_main(admin, box["id"])
        assert main is not None
        assert main["argv"] == ["/bin/sh", "-c", "echo started; exec sleep 1000"]
        assert main["health"]["argv"] == ["/bin/sh", "-c", "exit 0"]
        assert (main["health"]["interval_s"], main["health"]["timeout_s"]) == (0.5, 30.0)

    async def is_healthy() -> bool:
        main = await service_main(admin, after["id"])
        return main is not None and main["healthy"] is True

    await eventually(is_healthy)
    fork = (await admin.post(f"/v1/sandboxes/{after['id']}/fork", json={})).json()["items"][0]
    assert await service_main(admin, fork["id"]) is not None


async def test_an_image_without_a_command_and_the_host_have_no_service(
    bay: World, admin: httpx.AsyncClient
) -> None:
    bay.library.config = {"entrypoint": [], "cmd": []}
    body = {"image": "host", "entrypoint": "service"}
    assert_error(await admin.post("/v1/sandboxes", json=body), 400, "validation_error")
    early = await create(admin, image="debian:13", entrypoint="service")
    await in_state(admin, early["image_id"], "ready")
    found = (await admin.get(f"/v1/sandboxes/{early['id']}/events")).json()["items"]
    assert "neither ENTRYPOINT nor CMD" in found[-1]["data"]["message"]
    late = await admin.post("/v1/sandboxes", json={"image": "debian:13", "entrypoint": "service"})
    assert_error(late, 422, "image_invalid")
    named = {"image": "debian:13", "entrypoint": "service", "services": [{"name": "main", "argv": ["x"]}]}
    assert_error(await admin.post("/v1/sandboxes", json=named), 400, "validation_error")


@pytest.mark.parametrize("argv", [["", "x"], ["/bin/app", "x" * 70_000]])
async def test_a_command_that_no_service_can_have_spoils_none_of_the_sandboxs_services(
    bay: World, admin: httpx.AsyncClient, argv: list[str]
) -> None:
    bay.library.config = {"entrypoint": argv, "cmd": []}
    await pull(admin)
    late = await admin.post("/v1/sandboxes", json={"image": "debian:13", "entrypoint": "service"})
    assert_error(late, 422, "image_invalid")


async def test_the_service_of_an_image_is_one_of_the_most_that_a_sandbox_may_have(
    admin: httpx.AsyncClient,
) -> None:
    own = [{"name": f"s{n}", "argv": ["true"]} for n in range(32)]
    body = {"image": "debian:13", "entrypoint": "service", "services": own}
    assert_error(await admin.post("/v1/sandboxes", json=body), 400, "validation_error")


async def test_an_image_that_is_not_ready_or_not_yours_does_not_leave(
    bay: World, admin: httpx.AsyncClient
) -> None:
    image = await pull(admin)
    left = await admin.get("/v1/images/debian:13/export")
    assert (left.status_code, left.headers["content-type"]) == (200, "application/x-tar")
    assert f"{image['id']}.tar" in left.headers["content-disposition"]
    assert left.content.endswith(bytes(1024))
    other = await bay.client("eve")
    assert_error(await other.get(f"/v1/images/{image['id']}/export"), 404, "image_not_found")
    bay.library.let_go.clear()
    waiting = await pull(admin, "debian:12", wait=0)
    assert_error(await admin.get(f"/v1/images/{waiting['id']}/export"), 409, "conflict")
    bay.library.let_go.set()


async def test_a_repository_whose_name_begins_like_an_id_is_pulled(
    bay: World, admin: httpx.AsyncClient
) -> None:
    image = await pull(admin, "img-tools:1")
    assert (image["ref"], image["state"]) == ("docker.io/library/img-tools:1", "ready")
    assert (await shown(admin, "img-tools:1"))["id"] == image["id"]
    assert (await create(admin, image="img-tools:1", wait=10))["image_id"] == image["id"]


async def test_a_page_of_images_with_large_configs_is_shorter_and_the_list_is_whole(
    bay: World, admin: httpx.AsyncClient
) -> None:
    labels = {"about": "x" * (900 * 1024)}
    bay.library.config = {"labels": labels}
    made = [(await pull(admin, f"large:{n}"))["id"] for n in range(5)]
    seen: list[Json] = []
    cursor, pages = None, 0
    while pages == 0 or cursor:
        answer = await admin.get(
            "/v1/images", params={"limit": 200, **({"cursor": cursor} if cursor else {})}
        )
        assert len(answer.content) < 3 * 1024 * 1024
        seen += answer.json()["items"]
        cursor, pages = answer.json()["next_cursor"], pages + 1
    assert [(image["id"], image["labels"]) for image in seen] == [(image, labels) for image in made]
    assert pages == 3


async def test_a_driver_that_runs_no_images_of_bays_takes_none(root: Path) -> None:
    driver = FakeDriver(run_dir=root / "run")
    driver.capabilities = replace(driver.capabilities, other_images=None)
    async with world(root, driver) as bay:
        admin = await bay.client("root", "admin")
        for answer in (
            await admin.post("/v1/images", json={"ref": "debian:13"}),
            await admin.post("/v1/images/import", params={"ref": "mine:1"}, content=b"tar"),
        ):
            assert_error(answer, 400, "capability_not_supported")
        assert await listed(admin) == []
