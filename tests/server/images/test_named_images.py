"""Images of a driver whose host fetches them itself: a create names one, and no row stands for it."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_harness import PROFILES, Json, World, assert_error, clear, create, eventually, shell, world

from bay.drivers.fake import FakeDriver
from bay.images.fake import FakeLibrary
from bay.server.settings import ProfileSettings
from bay.store import sandboxes

pytestmark = pytest.mark.anyio

DEBIAN = "docker.io/library/debian:13"
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
UNTAGGED = "registry.example.com/team/app:1"
"""An image that its host has from no registry, and so without a digest."""

OWN = {
    "of-debian": ProfileSettings.model_validate({"image": "debian:13", "start": "lazy"}),
    "of-secret": ProfileSettings.model_validate(
        {"image": "registry.example.com/team-secret/x:1", "start": "lazy"}
    ),
    "of-user": ProfileSettings.model_validate({"image": "debian:13", "user": "image", "start": "lazy"}),
}


REGISTRY = {DEBIAN: ONE, UNTAGGED: "", "registry.example.com/team-secret/x:1": TWO}
ADMITTED = ("docker.io/library/", "registry.example.com/team")


def driver_in(
    root: Path, registry: Mapping[str, str] = REGISTRY, admitted: tuple[str, ...] = ADMITTED
) -> FakeDriver:
    return FakeDriver(run_dir=root / "run", registry=registry, admitted=admitted)


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, driver_in(root), profiles={**PROFILES, **OWN}) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def client(bay: World) -> httpx.AsyncClient:
    return await bay.client()


async def image_of(client: httpx.AsyncClient, sandbox_id: str) -> str:
    return (await client.get(f"/v1/sandboxes/{sandbox_id}")).json()["image"]


async def ran(bay: World, sandbox_id: str) -> str:
    """The image that its present session was started with."""
    return bay.driver.images[(await bay.session(sandbox_id)).id]


async def test_a_create_names_an_image_and_its_sandbox_runs_it(bay: World, client: httpx.AsyncClient) -> None:
    box = await create(client, image="debian:13")
    assert (box["image"], box["image_id"]) == (DEBIAN, None)
    assert (await shell(client, box["id"], "echo here"))["output"] == "here\n"
    assert await ran(bay, box["id"]) == DEBIAN


async def test_later_sessions_run_the_image_that_the_first_one_ran(
    bay: World, client: httpx.AsyncClient
) -> None:
    box = await create(client, image="debian:13")
    await shell(client, box["id"], "true")
    pinned = f"{DEBIAN}@{ONE}"
    assert await image_of(client, box["id"]) == pinned
    bay.driver.registry[DEBIAN] = TWO  # the tag moves
    bay.driver.registry["docker.io/library/debian:old"] = ONE
    await client.post(f"/v1/sandboxes/{box['id']}/stop")
    await shell(client, box["id"], "true")
    assert await ran(bay, box["id"]) == pinned == await image_of(client, box["id"])
    other = await create(client, image="debian:13")
    await shell(client, other["id"], "true")
    assert await image_of(client, other["id"]) == f"{DEBIAN}@{TWO}"


async def test_a_tag_stays_where_the_host_names_no_digest(bay: World, client: httpx.AsyncClient) -> None:
    box = await create(client, image=UNTAGGED)
    for _ in range(2):
        await shell(client, box["id"], "true")
        assert await ran(bay, box["id"]) == UNTAGGED == await image_of(client, box["id"])
        await client.post(f"/v1/sandboxes/{box['id']}/stop")


async def test_a_restarted_bay_knows_the_digest(root: Path) -> None:
    try:
        async with world(root, driver_in(root)) as bay:
            client = await bay.client()
            box = await create(client, image="debian:13")
            await shell(client, box["id"], "true")
        async with world(root, driver_in(root, registry={"docker.io/library/debian:13.1": ONE})) as bay:
            client = await bay.client()
            await client.post(f"/v1/sandboxes/{box['id']}/stop")
            await shell(client, box["id"], "true")
            assert await ran(bay, box["id"]) == f"{DEBIAN}@{ONE}"
    finally:
        await clear(root)


@pytest.mark.parametrize(
    "image",
    [
        "registry.example.com/team-secret/x:1",
        "quay.io/debian",
        "grafana/grafana",
        f"registry.example.com/x@{ONE}",
    ],
)
@pytest.mark.parametrize("scope", ["write", "admin"])
async def test_an_image_that_the_operator_did_not_name_is_refused_before_anything_is_begun(
    bay: World, image: str, scope: Any
) -> None:
    client = await bay.client("alice", scope)
    answer = await client.post("/v1/sandboxes", json={"image": image})
    error = assert_error(answer, 403, "image_denied")
    assert "images of [kubernetes]" in error["message"]
    assert error["details"]["available"] == ["docker.io/library/", "registry.example.com/team"]
    assert (await client.get("/v1/sandboxes")).json()["items"] == []
    async with bay.bay.store.read() as db:
        assert await sandboxes.unsettled(db) == []


async def test_without_a_list_callers_have_the_hosts_image_alone(root: Path) -> None:
    try:
        async with world(root, driver_in(root, admitted=())) as bay:
            client = await bay.client("root", "admin")
            assert_error(await client.post("/v1/sandboxes", json={"image": "debian:13"}), 403, "image_denied")
            box = await create(client, image="host")
            await shell(client, box["id"], "true")
            assert await ran(bay, box["id"]) == "host" == await image_of(client, box["id"])
    finally:
        await clear(root)


async def test_a_profile_names_any_image_and_so_may_a_create_of_that_profile(
    bay: World, client: httpx.AsyncClient
) -> None:
    secret = "registry.example.com/team-secret/x:1"
    box = await create(client, profile="of-secret")
    assert box["image"] == secret
    same = await create(client, profile="of-secret", image=secret)
    await shell(client, same["id"], "true")
    assert await ran(bay, same["id"]) == secret
    plain = await create(client, profile="of-secret", image="host")
    assert plain["image"] == "host"


@pytest.mark.parametrize("image", ["", "UPPER case", "a" * 600, "https://docker.io/x", "debian@sha256:12"])
async def test_a_reference_that_names_nothing_is_refused(client: httpx.AsyncClient, image: str) -> None:
    answer = await client.post("/v1/sandboxes", json={"image": image})
    assert answer.status_code == 422


async def test_an_image_has_no_id(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/sandboxes", json={"image": "img-0123456789abcdef01234567"})
    assert_error(answer, 404, "image_not_found")


@pytest.mark.parametrize(
    ("given", "capability"),
    [
        ({"image": "debian:13", "pull": "never"}, "pull"),
        ({"image": "debian:13", "pull": "always"}, "pull"),
        ({"profile": "of-debian", "pull": "always"}, "pull"),
        ({"image": "debian:13", "entrypoint": "service"}, "entrypoint"),
        ({"profile": "of-user"}, "user"),
    ],
)
async def test_what_the_nodes_do_not_do_is_refused(
    client: httpx.AsyncClient, given: Json, capability: str
) -> None:
    error = assert_error(await client.post("/v1/sandboxes", json=given), 400, "capability_not_supported")
    assert error["details"]["capability"] == capability


async def test_calls_about_images_say_what_there_is_instead(bay: World) -> None:
    admin = await bay.client("root", "admin")
    for answer in (
        await admin.post("/v1/images", json={"ref": "debian:13"}),
        await admin.post("/v1/images/import", params={"ref": "mine:1"}, content=b"tar"),
    ):
        error = assert_error(answer, 400, "capability_not_supported")
        assert error["details"]["available"] == ["name"]
        assert "bay create --image" in error["message"]
    assert (await admin.get("/v1/images")).json()["items"] == []
    login = {"username": "me", "password": "mine"}
    error = assert_error(
        await admin.put("/v1/registries/quay.io", json=login), 400, "capability_not_supported"
    )
    assert "pull_secrets" in error["message"]
    assert (await admin.get("/v1/registries")).json()["items"] == []


async def test_an_image_that_is_not_there_is_the_error_of_the_sandbox(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/sandboxes", json={"image": "debian:nosuch"}, params={"wait": 20})
    box = answer.json()
    assert (box["status"], box["error"]["code"]) == ("failed", "image_not_found")
    assert "docker.io/library/debian:nosuch" in box["error"]["message"]


async def test_bay_itself_fetches_nothing_for_a_profile(root: Path) -> None:
    library = FakeLibrary()
    try:
        async with world(root, driver_in(root), library=library, profiles={**PROFILES, **OWN}) as bay:
            admin = await bay.client("root", "admin")
            box = await create(admin, profile="of-debian")
            await shell(admin, box["id"], "true")
            assert (await admin.get("/v1/images")).json()["items"] == []
    finally:
        await clear(root)


async def test_a_pool_holds_sandboxes_of_its_profiles_image(root: Path) -> None:
    profiles = {
        "pooled": ProfileSettings.model_validate({"image": "debian:13", "pool_size": 1, "start": "eager"})
    }
    try:
        async with world(root, driver_in(root), profiles=profiles) as bay:
            client = await bay.client()

            async def is_full() -> bool:
                async with bay.bay.store.read() as db:
                    found = await sandboxes.pooled(db)
                return [r.image for r in found if r.phase == "running"] == [f"{DEBIAN}@{ONE}"]

            for image in (None, "debian:13"):
                await eventually(is_full)
                async with bay.bay.store.read() as db:
                    [waiting] = await sandboxes.pooled(db)
                box = await create(client, profile="pooled", image=image)
                assert (box["id"], box["image"]) == (waiting.id, f"{DEBIAN}@{ONE}")
            other = await create(client, profile="pooled", image="host")
            assert other["image"] == "host"
    finally:
        await clear(root)


async def test_a_fork_has_its_sources_image_whatever_is_admitted_by_now(root: Path) -> None:
    try:
        async with world(root, driver_in(root)) as bay:
            client = await bay.client()
            box = await create(client, image="debian:13")
            await shell(client, box["id"], "true")
            here = bay.driver.capabilities
            bay.driver.capabilities = replace(
                here, other_images=driver_in(root, admitted=()).capabilities.other_images
            )
            forked = (await client.post(f"/v1/sandboxes/{box['id']}/fork", json={})).json()["items"][0]
            await shell(client, forked["id"], "true")
            assert await ran(bay, forked["id"]) == f"{DEBIAN}@{ONE}"
    finally:
        await clear(root)


async def test_an_image_of_another_driver_is_the_reason_of_a_start_that_cannot_be(root: Path) -> None:
    try:
        async with world(root, driver_in(root)) as bay:
            client = await bay.client()
            box = await create(client, image="debian:13")
        async with world(root) as bay:
            client = await bay.client()
            await client.post(f"/v1/sandboxes/{box['id']}/start", params={"wait": 20})
            shown = (await client.get(f"/v1/sandboxes/{box['id']}")).json()
            assert shown["error"]["code"] == "driver_unavailable"
            assert DEBIAN in shown["error"]["message"]
    finally:
        await clear(root)
