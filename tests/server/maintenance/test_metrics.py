"""`/metrics`: what Prometheus reads, and who may."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_harness import World, assert_error, clear, create, world

from bay import __version__
from bay.store import checkpoints

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles={"machine": {"persist": "machine"}}) as running:
            running.driver.capabilities = replace(
                running.driver.capabilities, persist=("workspace", "machine")
            )
            yield running
    finally:
        await clear(root)


async def read(client: httpx.AsyncClient) -> dict[str, float]:
    """The samples, by their names with labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    return {
        ",".join([one.name, *one.labels.values()]): one.value for family in families for one in family.samples
    }


async def test_an_admin_key_reads_metrics_and_no_other_does(bay: World) -> None:
    assert_error(await (await bay.open_client()).get("/metrics"), 401, "unauthorized")
    for scope in ("read", "write"):
        assert_error(await (await bay.client("alice", scope)).get("/metrics"), 403, "forbidden")
    found = await read(await bay.client("root", "admin"))
    assert found.pop(f"bay_info,{__version__}") == 1
    assert set(found.values()) == {0}


async def test_metrics_have_images_templates_and_the_build_cache(bay: World) -> None:
    admin = await bay.client("root", "admin")
    bay.library.contents = {"docker.io/library/a:1": ("one", "two"), "docker.io/library/b:1": ("three",)}
    for ref in ("a:1", "b:1"):
        await admin.post("/v1/images", json={"ref": ref}, params={"wait": 10})
    box = await create(admin, image="a:1", profile="machine", wait=10)
    await admin.post("/v1/templates", json={"name": "t", "sandbox": box["id"]}, params={"wait": 10})
    made = (await admin.post(f"/v1/sandboxes/{box['id']}/checkpoints", json={})).json()
    async with bay.bay.store.write() as db:
        await checkpoints.change(db, made["id"], hidden=True, build_key="k", size_bytes=1000)
    found = await read(admin)
    assert (found["bay_images,ready"], found["bay_images,pulling"], found["bay_images_unused"]) == (2, 0, 1)
    assert (found["bay_templates"], found["bay_image_layers"]) == (1, 4)
    assert found["bay_image_layers_bytes"] > found["bay_images_unused_bytes"] > 0
    assert (found["bay_build_cache_steps"], found["bay_build_cache_bytes"]) == (1, 1000)
