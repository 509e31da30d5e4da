"""Gives a block of the documentation that is a file to the program that the file is for."""

import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import yaml
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from page_rows import Consumer

from bay.builds.dockerfile import Dockerfile
from bay.builds.steps import BuildConfig
from bay.cli import contexts
from bay.models import EVENT_TYPES
from bay.server import settings

_WAIT_S = 60
_SHELL = BuildConfig(env={"PATH": "/usr/bin:/bin"}, cmd=("sh",))


@dataclass(frozen=True, slots=True)
class Reading:
    """A block, a directory for it, and the environment of its page."""

    text: str
    directory: Path
    environment: Mapping[str, str]

    def file(self, name: str) -> Path:
        """The block as a file of its own user."""
        path = self.directory / name
        path.write_text(self.text, encoding="utf-8")
        path.chmod(0o600)
        return path

    def bay(self) -> httpx.Client:
        """A client of the Bay of the page, with its key."""
        headers = {"Authorization": f"Bearer {self.environment['BAY_API_KEY']}"}
        return httpx.Client(base_url=self.environment["BAY_URL"], headers=headers, timeout=_WAIT_S)


def _read_settings(block: Reading) -> None:
    loaded = settings.load(block.file("bay-server.toml"))
    assert set(tomllib.loads(block.text)) <= loaded.model_fields_set


def _read_contexts(block: Reading) -> None:
    assert contexts.parse(block.file("bay.toml"), block.text).contexts


def _read_dockerfile(block: Reading) -> None:
    assert Dockerfile.read(block.text).plan(_SHELL).steps


def _read_json(block: Reading) -> None:
    assert json.loads(block.text)


def _read_error(block: Reading) -> None:
    """It has the members of the error that Bay answers."""
    with block.bay() as client:
        answer = client.get("/v1/sandboxes/nope")
    shown, real = json.loads(block.text), answer.json()
    assert shown.keys() == real.keys()
    assert shown["error"].keys() == real["error"].keys() | {"details"}  # there when a program can use it
    assert shown["error"]["code"] == real["error"]["code"]


def _read_event(block: Reading) -> None:
    """It has the members of an event that happened, and a type that there is."""
    with block.bay() as client:
        client.post("/v1/sandboxes", json={}).raise_for_status()
        real: dict[str, Any] = client.get("/v1/events").json()["items"][0]
    shown = json.loads(block.text)
    assert shown.keys() == real.keys()
    assert shown["type"] in (*EVENT_TYPES, "events.gap")


def _read_policy(block: Reading) -> None:
    """A sandbox takes it as its network policy."""
    with block.bay() as client:
        client.put("/v1/secrets/API_KEY", json={"value": "a value"}).raise_for_status()
        sandbox = client.post("/v1/sandboxes", json={}).raise_for_status().json()["id"]
        taken = client.put(f"/v1/sandboxes/{sandbox}/network-policy", json=json.loads(block.text))
        assert taken.is_success, taken.text
        assert taken.json()["mode"] == json.loads(block.text)["mode"]


def _read_prometheus(block: Reading) -> None:
    """Its targets answer a scrape."""
    for job in yaml.safe_load(block.text)["scrape_configs"]:
        assert job["authorization"].keys() == {"credentials_file"}
        for target in (target for group in job["static_configs"] for target in group["targets"]):
            with block.bay() as client:
                scraped = client.get(f"http://{target}/metrics")
            assert scraped.is_success, scraped.text
            assert "\n# TYPE bay_" in scraped.text


def _read_mcp(block: Reading) -> None:
    """A client that it configures lists the tools of its server."""
    for server in json.loads(block.text)["mcpServers"].values():
        anyio.run(_list_tools, server, dict(block.environment))


async def _list_tools(server: dict[str, Any], environment: dict[str, str]) -> None:
    if "url" in server:
        async with (
            httpx2.AsyncClient(headers=server["headers"], timeout=_WAIT_S) as http,
            Client(streamable_http_client(server["url"], http_client=http)) as client,
        ):
            assert (await client.list_tools()).tools
        return
    kept = {name: environment[name] for name in ("PATH", "HOME")}
    parameters = StdioServerParameters(
        command=server["command"], args=server["args"], env=kept | server["env"]
    )
    async with Client(stdio_client(parameters)) as client:
        assert (await client.list_tools()).tools


CONSUMERS: Mapping[Consumer, Callable[[Reading], None]] = {
    "contexts": _read_contexts, "dockerfile": _read_dockerfile, "error": _read_error, "event": _read_event,
    "json": _read_json, "mcp": _read_mcp, "policy": _read_policy, "prometheus": _read_prometheus,
    "settings": _read_settings,
}  # fmt: skip


def read(consumer: Consumer, block: Reading) -> None:
    """Have that program read the block. Raises what the program raises, or AssertionError."""
    CONSUMERS[consumer](block)
