"""`/metrics`: what Prometheus reads, who may, and that each metric moves when its thing happens."""

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_harness import (
    PROFILES,
    Served,
    World,
    assert_error,
    clear,
    create,
    eventually,
    served,
    within,
    world,
)
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bay import __version__
from bay.store import checkpoints

pytestmark = pytest.mark.anyio

Samples = dict[str, float]


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    try:
        profiles = {**PROFILES, "machine": {"persist": "machine"}}
        async with world(root, profiles=profiles) as running:
            running.driver.capabilities = replace(
                running.driver.capabilities, persist=("workspace", "machine")
            )
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def server(root: Path) -> AsyncGenerator[Served]:
    try:
        async with served(root) as running:
            yield running
    finally:
        await clear(root)


async def read(client: httpx.AsyncClient) -> Samples:
    """The samples, by their names with labels."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return samples(answer.text)


def samples(text: str) -> Samples:
    families = text_string_to_metric_families(text)
    return {
        ",".join([one.name, *one.labels.values()]): one.value for family in families for one in family.samples
    }


async def test_an_admin_key_reads_metrics_and_no_other_does(bay: World) -> None:
    assert_error(await (await bay.open_client()).get("/metrics"), 401, "unauthorized")
    for scope in ("read", "write"):
        assert_error(await (await bay.client("alice", scope)).get("/metrics"), 403, "forbidden")
    found = await read(await bay.client("root", "admin"))
    assert found[f"bay_info,{__version__}"] == 1
    assert found["bay_images,ready"] == 0
    assert found["bay_audited_calls_total"] == 0


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


async def test_requests_count_by_template_method_and_status(bay: World) -> None:
    client, admin = await bay.client("alice"), await bay.client("root", "admin")
    box = await create(client, name="secret-name")
    for path in (box["id"], "secret-name", "sandbox-000000000000000000000000"):
        await client.get(f"/v1/sandboxes/{path}")
    await client.request("BREW", f"/v1/sandboxes/{box['id']}")
    for path in ("/nowhere/secret-path", "/v1/sandboxes/secret-path/nothing"):
        assert (await client.get(path)).status_code == 404
    await (await bay.open_client()).get(f"/v1/sandboxes/{box['id']}")
    await client.get("/v1/sprites/secret-name")
    await client.get(f"/v1/sandboxes/{box['id']}/ports/0/secret-path")
    text = (await admin.get("/metrics")).text
    found = samples(text)
    one = "/v1/sandboxes/{sandbox_id}"
    assert found["bay_http_requests_total,201,POST,/v1/sandboxes"] == 1
    assert found[f"bay_http_requests_total,200,GET,{one}"] == 2
    assert found[f"bay_http_requests_total,404,GET,{one}"] == 1
    assert found[f"bay_http_requests_total,405,other,{one}"] == 1
    assert found["bay_http_requests_total,404,GET,none"] == 2
    assert found["bay_http_requests_total,401,GET,none"] == 1
    assert found[f"bay_http_requests_total,400,GET,{one}/ports/{{port}}/{{path}}"] == 1
    assert any(",200,GET,/v1/sprites/{" in name for name in found)
    assert found[f"bay_http_request_duration_seconds_count,GET,{one}"] == 3
    assert found["bay_http_requests_in_flight"] == 1  # the scrape itself
    assert found["bay_errors_total,not_found"] == 3
    assert found["bay_errors_total,unauthorized"] == 1
    assert found["bay_events_appended_total,sandbox.created"] == 1
    assert found["bay_audited_calls_total"] >= 1
    for given in (box["id"], box["cargo_id"], "secret-", "alice", "root", "BREW", "sandbox-0"):
        assert given not in text, given


async def test_a_websocket_counts_by_the_code_of_its_close(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=20) as client:
        box = (await client.post("/v1/sandboxes", json={"profile": "eager"})).json()
    watched = f"{server.url.replace('http', 'ws')}/v1/sandboxes/{box['id']}/files/watch?path=."
    for code in (1000, 4999):
        async with connect(watched, additional_headers=server.headers) as socket:
            await within(socket.recv())
            await socket.close(code)
    with pytest.raises(InvalidStatus):
        await connect(watched.replace(box["id"], "none"), additional_headers=server.headers)
    admin = {"Authorization": f"Bearer {await server.bay.keys.add('root', 'root', 'admin')}"}
    async with httpx.AsyncClient(base_url=server.url, headers=admin, timeout=20) as client:
        found = await read(client)
    route = "WEBSOCKET,/v1/sandboxes/{sandbox_id}/files/watch"
    closes = {code: found.get(f"bay_http_requests_total,{code},{route}") for code in ("1000", "other", "404")}
    assert closes == {"1000": 1, "other": 1, "404": 1}


async def test_the_store_and_the_event_loop_are_timed(bay: World) -> None:
    admin = await bay.client("root", "admin")
    before = await read(admin)
    await create(await bay.client())
    after = await read(admin)
    for name in ("bay_store_transaction_duration_seconds_count", "bay_store_wait_seconds_count"):
        for kind in ("read", "write"):
            assert after[f"{name},{kind}"] > before[f"{name},{kind}"], (name, kind)
    assert after["bay_store_failures_total,write"] == 0
    assert after["process_open_fds"] > 0
    lag = bay.bay.meters.registry

    async def is_sampled() -> bool:
        return bool(lag.get_sample_value("bay_event_loop_lag_seconds_count"))

    await eventually(is_sampled)


async def test_refused_packets_are_as_the_driver_counts_them_and_never_fall(bay: World) -> None:
    client = await bay.client("root", "admin")
    name = "bay_network_packets_refused_total,"
    bay.driver.refusals = {"rule": 4, "flood": 0}
    found = await read(client)
    assert (found[f"{name}rule"], found[f"{name}flood"]) == (4, 0)
    bay.driver.refusals = {"rule": 9, "flood": 2}
    found = await read(client)
    assert (found[f"{name}rule"], found[f"{name}flood"]) == (9, 2)
    bay.driver.fail_at = "refused_packets"
    assert (await read(client))[f"{name}rule"] == 9
    bay.driver.fail_at = None
    bay.driver.refusals = {"rule": 10}
    assert (await read(client))[f"{name}rule"] == 10


async def test_two_bays_of_one_process_have_numbers_of_their_own(root: Path, tmp_path: Path) -> None:
    async with world(root, may_block=True) as one, world(tmp_path, may_block=True) as other:
        await create(await one.client())
        found = [await read(await bay.client("root", "admin")) for bay in (one, other)]
    created = "bay_http_requests_total,201,POST,/v1/sandboxes"
    assert [created in samples for samples in found] == [True, False]


async def test_the_token_for_metrics_opens_metrics_alone(root: Path) -> None:
    token = "a token of a scraper"
    async with world(root, metrics_token=token) as bay:
        scraper = await bay.open_client({"Authorization": f"Bearer {token}"})
        assert (await scraper.get("/metrics")).status_code == 200
        for path in ("/v1/sandboxes", "/v1/keys", "/v1/replicas", "/metrics/", "/v1/whoami"):
            assert (await scraper.get(path)).status_code == 401, path
        assert (await scraper.post("/metrics")).status_code in (401, 405)
        for given in ("Bearer ", "Bearer None", f"Bearer {token}x", f"Bearer {token[:-1]}", token):
            other = await bay.open_client({"Authorization": given})
            assert (await other.get("/metrics")).status_code == 401, given


async def test_without_a_token_no_word_is_one(bay: World) -> None:
    for given in ("Bearer", "Bearer ", "Bearer None"):
        client = await bay.open_client({"Authorization": given})
        assert (await client.get("/metrics")).status_code == 401, given
