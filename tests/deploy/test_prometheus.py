"""A real Prometheus reads a real Bay, and evaluates every expression of the dashboard and of the alerts."""

import asyncio
import json
import re
import socket
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from server_harness import WAIT_S, Served, clear, eventually, served, short_dir

from bay.meters import Meters

pytestmark = [pytest.mark.docs, pytest.mark.anyio]

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "grafana" / "alerts.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "bay.json"
PAGE = ROOT / "docs" / "metrics.md"
_METRIC = re.compile(r"\b(?:bay|process|python)_[a-z_]+\b")
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def dashboard() -> list[str]:
    """The expressions of its panels, with values for Grafana's variables."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    return [one.replace("$__rate_interval", "1m").replace("$instance", ".*") for one in found]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(kind: str, *files: str, text: str = "") -> subprocess.CompletedProcess[str]:
    """What `promtool check` says."""
    return subprocess.run(
        ["promtool", "check", kind, *files], input=text, capture_output=True, text=True, timeout=WAIT_S
    )


@contextmanager
def running(command: list[str], log: Path) -> Generator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.kill()


def series() -> set[str]:
    """The names that samples of Bay's metrics may have."""
    kinds = Meters().registry.collect()
    return {kind.name + suffix for kind in kinds for suffix in _SUFFIXES[kind.type]}


@pytest.mark.parametrize("expression", [*dashboard(), *(one["expr"] for one in alerts())])
def test_an_expression_names_metrics_that_exist(expression: str) -> None:
    named = set(_METRIC.findall(re.sub(r'"[^"]*"', "", expression)))
    assert named <= series()
    assert named or "up{" in expression


def test_the_dashboard_shows_every_metric_that_moves() -> None:
    shown = {name for one in dashboard() for name in _METRIC.findall(one)}
    shown |= {name for one in alerts() for name in _METRIC.findall(one["expr"])}
    seen = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    left = {name for name in Meters().labels if name not in seen}
    assert left == {
        "bay_info",  # by which the dashboard finds the Bays
        *("bay_images", "bay_templates", "bay_image_layers", "bay_template_files_bytes"),
        *("bay_images_unused", "bay_build_cache_steps"),  # their bytes are shown
        "bay_reconciler_step_duration_seconds",
        *("bay_sweep_duration_seconds", "bay_sweep_failures_total"),
        "bay_replica_jobs",
        *("bay_egress_proxy_bytes_total", "bay_port_connections_opened_total"),
    }


def test_every_alert_is_documented_with_a_way_out_and_no_other() -> None:
    assert re.findall(r"(?m)^\| `(Bay\w+)` \|", PAGE.read_text()) == [one["alert"] for one in alerts()]


def test_promtool_takes_the_rules() -> None:
    checked = promtool("rules", str(RULES))
    assert checked.returncode == 0, checked.stderr


@pytest.fixture
async def server() -> AsyncGenerator[Served]:
    with short_dir() as root:
        try:
            async with served(root) as running:
                yield running
        finally:
            await clear(root)


@asynccontextmanager
async def prometheus(server: Served, key: str) -> AsyncGenerator[httpx.AsyncClient]:
    """A Prometheus that scrapes the Bay once a second; a client of its API."""
    place = server.root / "prometheus"
    place.mkdir()
    (place / "key").write_text(key)
    scrape = {
        "job_name": "bay",
        "authorization": {"credentials_file": str(place / "key")},
        "static_configs": [{"targets": [server.url.removeprefix("http://")]}],
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [scrape],
    }
    (place / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [
        "prometheus",
        f"--config.file={place / 'prometheus.yml'}",
        f"--storage.tsdb.path={place / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with running(command, place / "log"):
        async with httpx.AsyncClient(base_url=f"http://{address}/api/v1", timeout=WAIT_S) as client:
            yield client


async def told(client: httpx.AsyncClient, path: str, **query: str) -> Any:
    answer = await client.get(path, params=query)
    assert answer.is_success, answer.text
    return answer.json()["data"]


async def test_a_prometheus_reads_a_bay_and_evaluates_all_expressions(server: Served) -> None:
    key = await server.bay.keys.add("root", "root", "admin")
    async with httpx.AsyncClient(base_url=server.url, headers=server.headers, timeout=WAIT_S) as alice:
        box = (await alice.post("/v1/sandboxes", json={"profile": "eager"}, params={"wait": 20})).json()
        await alice.post(f"/v1/sandboxes/{box['id']}/execs?wait=20", json={"argv": ["true"]})
        await alice.get("/v1/sandboxes/none")
        admin = {"Authorization": f"Bearer {key}"}
        text = (await alice.get("/metrics", headers=admin)).text
    linted = await asyncio.to_thread(promtool, "metrics", text=text)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")
    async with prometheus(server, key) as client:

        async def has_scraped() -> bool:
            try:
                [target] = (await told(client, "/targets"))["activeTargets"]
            except (httpx.TransportError, ValueError, AssertionError):
                return False  # it is starting
            return target["health"] == "up"

        await eventually(has_scraped)
        for expression in dashboard():
            found = await told(client, "/query", query=expression)
            assert found["resultType"] in ("vector", "scalar"), expression
        [starts] = (await told(client, "/query", query='bay_starts_total{outcome="ready"}'))["result"]
        assert float(starts["value"][1]) >= 1

        async def are_evaluated() -> bool:
            groups = (await told(client, "/rules"))["groups"]
            rules = [rule for group in groups for rule in group["rules"]]
            assert [rule for rule in rules if rule["health"] == "err"] == []
            return {rule["health"] for rule in rules} == {"ok"}

        await eventually(are_evaluated)
        assert (await told(client, "/alerts"))["alerts"] == []
