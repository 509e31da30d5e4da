"""The overview of the host, and the settings in force: the operator's, cheap, and without a secret."""

from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Histogram
from server_harness import Json, World, create

from bay import __version__
from bay.cargo.base import Roomy
from bay.server import settings as settings_module
from bay.server.maintenance.host import STARTS, start_times
from bay.server.maintenance.settings_view import SettingsView
from bay.server.settings import Settings

pytestmark = pytest.mark.anyio

HOST, SETTINGS = "/v1/admin/host", "/v1/admin/settings"
SECRET = "correct-horse-battery-staple"


@pytest.fixture
async def operator(bay: World) -> httpx.AsyncClient:
    """A client with an admin key."""
    return await bay.client("root", "admin")


async def test_the_overview_counts_the_sandboxes_of_all_owners_by_status_and_compute(
    bay: World, alice: httpx.AsyncClient, operator: httpx.AsyncClient
) -> None:
    bob = await bay.client("bob", "write")
    await create(alice, profile="eager", wait=15)
    await create(alice)
    await create(bob)
    gone = await create(bob)
    await bob.delete(f"/v1/sandboxes/{gone['id']}")
    found = (await operator.get(HOST)).json()["sandboxes"]
    assert found["total"] == 3
    assert sum(found["by_status"].values()) == 3
    assert found["by_compute"] == {"running": 1, "cold": 2}
    assert (found["sessions"], found["pooled"]) == (1, 0)


async def test_the_overview_has_the_host_that_the_kernel_tells(
    bay: World, operator: httpx.AsyncClient
) -> None:
    bay.clock.advance(90)
    found = (await operator.get(HOST)).json()
    assert (found["version"], found["driver"], found["replica"]) == (__version__, "fake", None)
    assert found["uptime_s"] == 90
    assert found["processors"] >= 1
    assert len(found["load"]) == 3
    memory = found["memory"]
    assert 0 < memory["available_bytes"] <= memory["total_bytes"]
    assert memory["reserve_bytes"] == bay.bay.settings.memory_reserve_mb << 20
    assert isinstance(bay.bay.cargo, Roomy)
    storage = found["storage"]
    assert storage["backend"] == bay.bay.cargo.name
    assert storage["used_bytes"] + storage["free_bytes"] == storage["total_bytes"]


def test_the_times_of_starts_are_a_histogram_of_which_each_start_is_in_one_bucket() -> None:
    registry = CollectorRegistry()
    assert start_times(registry).count == 0
    seconds = Histogram(STARTS, "Time of starts", buckets=(0.1, 1), registry=registry)
    for value in (0.05, 0.1, 0.5, 3, 4):
        seconds.observe(value)
    found = start_times(registry)
    assert [(bucket.le_s, bucket.count) for bucket in found.buckets] == [(0.1, 2), (1.0, 1), (None, 2)]
    assert (found.count, found.sum_s) == (5, pytest.approx(7.65))


async def test_a_secret_is_in_no_setting(operator: httpx.AsyncClient) -> None:
    answer = await operator.get(SETTINGS)
    by_name = named(answer.json()["items"])
    assert by_name["api_key"]["is_secret"]
    assert by_name["api_key"]["value"] is None
    assert not by_name["port"]["is_secret"]


def test_each_setting_says_its_value_and_its_origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "bay.toml"
    config.write_text(
        f"""
        start_timeout = 5
        port = 1
        database_url = "postgresql://bay:{SECRET}@db/bay"
        [profiles.small]
        cpus = 0.5
        env = {{ TOKEN = "{SECRET}", MODE = "test" }}
        [object_store]
        url = "s3://bucket/bay"
        access_key_id = "me"
        secret_access_key = "{SECRET}"
        """
    )
    monkeypatch.setenv("BAY_API_KEY", SECRET)
    monkeypatch.setenv("BAY_LOG_LEVEL", "debug")
    monkeypatch.setenv("BAY_QUOTAS__SANDBOXES", "7")
    loaded = settings_module.load(config, port=0)
    found = {one.name: one for one in SettingsView(settings=loaded).all()}
    assert SECRET not in repr(found)

    def told(name: str) -> tuple[object, object]:
        return found[name].value, found[name].origin

    assert told("port") == (0, "option")
    assert told("log_level") == ("debug", "variable")
    assert told("quotas.sandboxes") == (7, "variable")
    assert told("start_timeout") == (5, "file")
    assert told("profiles.small.cpus") == (0.5, "file")
    assert told("profiles.small.pids") == (512, "default")
    assert told("profiles.small.env") == (["MODE", "TOKEN"], "file")
    assert told("trusted_proxies") == (["127.0.0.1/32"], "default")
    for name, origin in (
        ("api_key", "variable"), ("database_url", "file"), ("object_store.secret_access_key", "file")
    ):  # fmt: skip
        assert (found[name].is_secret, found[name].is_set, *told(name)) == (True, True, None, origin)
    assert all(one.description for one in found.values())


def test_settings_that_a_program_made_have_no_known_origin() -> None:
    made = Settings.model_validate({"port": 0})
    found = {one.name: one.origin for one in SettingsView(settings=made).all()}
    assert found["port"] is None
    assert found["host"] == "default"


def named(items: list[Json]) -> dict[str, Json]:
    """Those items by their names."""
    return {item["name"]: item for item in items}
