"""Owners do not exist for each other, in foreign formats either.

Generated from the routes of the application: a route of a format without a rule here fails. A foreign caller
must get for another's sandbox, by its id and by its name, to the byte what it gets for one that never was.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from attaching import ask_in_process
from envd_calls import frame
from fastapi.routing import APIRoute, APIWebSocketRoute
from server_harness import World, clear, create, settings_in, world

from bay.server.app import FORMATS, build_app
from bay.server.web.wire_format import format_of

pytestmark = pytest.mark.anyio

Operation = tuple[str, str]
RANDOM = "0123456789abcdef01234567"

CODE = "/e2b/sandboxes/{sandbox_id}/interpreter"
ENVD = "/e2b/sandboxes/{sandbox_id}/envd"
STREAM = {"content-type": "application/connect+json"}
PID = {"process": {"pid": 7}}

RULES: dict[Operation, dict[str, Any]] = {
    ("POST", "/v1/sprites/{name}/checkpoint"): {"json": {}},
    ("GET", "/v1/sprites/{name}/checkpoints"): {},
    ("GET", "/v1/sprites/{name}/checkpoints/{checkpoint_id}"): {},
    ("DELETE", "/v1/sprites/{name}/checkpoints/{checkpoint_id}"): {},
    ("POST", "/v1/sprites/{name}/checkpoints/{checkpoint_id}/restore"): {},
    ("GET", "/v1/sprites/{name}/fs/read"): {"params": {"path": "f"}},
    ("PUT", "/v1/sprites/{name}/fs/write"): {"params": {"path": "f"}, "content": b"x"},
    ("GET", "/v1/sprites/{name}/fs/list"): {"params": {"path": "/"}},
    ("DELETE", "/v1/sprites/{name}/fs/delete"): {"params": {"path": "f"}},
    ("POST", "/v1/sprites/{name}/fs/rename"): {"json": {"source": "f", "dest": "g"}},
    ("POST", "/v1/sprites/{name}/fs/copy"): {"json": {"source": "f", "dest": "g"}},
    ("POST", "/v1/sprites/{name}/fs/chmod"): {"json": {"path": "f", "mode": "0644"}},
    ("POST", "/v1/sprites/{name}/fs/chown"): {"json": {"path": "f", "uid": 1000}},
    ("WEBSOCKET", "/v1/sprites/{name}/fs/watch"): {},
    ("GET", "/v1/sprites/{name}/services"): {},
    ("POST", "/v1/sprites/{name}/services/signal"): {"json": {"name": "web", "signal": "HUP"}},
    ("GET", "/v1/sprites/{name}/services/{service_name}"): {},
    ("PUT", "/v1/sprites/{name}/services/{service_name}"): {"json": {"cmd": "true"}},
    ("DELETE", "/v1/sprites/{name}/services/{service_name}"): {},
    ("POST", "/v1/sprites/{name}/services/{service_name}/start"): {},
    ("POST", "/v1/sprites/{name}/services/{service_name}/stop"): {},
    ("POST", "/v1/sprites/{name}/services/{service_name}/restart"): {},
    ("GET", "/v1/sprites/{name}/services/{service_name}/logs"): {},
    ("GET", "/v1/sprites/{name}/policy/network"): {},
    ("POST", "/v1/sprites/{name}/policy/network"): {"json": {"rules": []}},
    ("GET", "/v1/sprites/{name}/policy/resources"): {},
    ("POST", "/v1/sprites/{name}/policy/resources"): {"json": {}},
    ("DELETE", "/v1/sprites/{name}/policy/resources"): {},
    ("GET", "/v1/sprites/{name}/policy/privileges"): {},
    ("POST", "/v1/sprites/{name}/policy/privileges"): {"json": {}},
    ("DELETE", "/v1/sprites/{name}/policy/privileges"): {},
    ("WEBSOCKET", "/v1/sprites/{name}/proxy"): {},
    ("WEBSOCKET", "/v1/sprites/{name}/ports/watch"): {},
    ("POST", f"{ENVD}/process.Process/List"): {"json": {}},
    ("POST", f"{ENVD}/process.Process/Start"): {
        "headers": STREAM, "content": frame({"process": {"cmd": "true"}}),
    },
    ("POST", f"{ENVD}/process.Process/Connect"): {"headers": STREAM, "content": frame(PID)},
    ("POST", f"{ENVD}/process.Process/Update"): {"json": PID},
    ("POST", f"{ENVD}/process.Process/SendInput"): {"json": PID},
    ("POST", f"{ENVD}/process.Process/StreamInput"): {"headers": STREAM, "content": frame({"start": PID})},
    ("POST", f"{ENVD}/process.Process/SendSignal"): {"json": PID | {"signal": 9}},
    ("POST", f"{ENVD}/process.Process/CloseStdin"): {"json": PID},
    ("POST", f"{CODE}/execute"): {"json": {"code": "1"}},
    ("POST", f"{CODE}/contexts"): {"json": {}},
    ("GET", f"{CODE}/contexts"): {},
    ("POST", f"{CODE}/contexts/{{context_id}}/restart"): {},
    ("DELETE", f"{CODE}/contexts/{{context_id}}"): {},
    ("GET", "/e2b/sandboxes/{sandbox_id}"): {},
    ("DELETE", "/e2b/sandboxes/{sandbox_id}"): {},
    ("POST", "/e2b/sandboxes/{sandbox_id}/connect"): {"json": {"timeout": 9}},
    ("POST", "/e2b/v2/sandboxes/{sandbox_id}/connect"): {"json": {"timeout": 9}},
    ("POST", "/e2b/sandboxes/{sandbox_id}/resume"): {},
    ("POST", "/e2b/sandboxes/{sandbox_id}/timeout"): {"json": {"timeout": 9}},
    ("POST", "/e2b/sandboxes/{sandbox_id}/refreshes"): {},
    ("POST", "/e2b/sandboxes/{sandbox_id}/pause"): {},
    ("PUT", "/e2b/sandboxes/{sandbox_id}/network"): {"json": {}},
    ("GET", "/e2b/sandboxes/{sandbox_id}/metrics"): {},
    ("POST", "/e2b/sandboxes/{sandbox_id}/snapshots"): {},
    ("POST", "/e2b/sandboxes/{sandbox_id}/fork"): {},
    ("DELETE", "/e2b/templates/{snapshot_id:path}"): {},
    ("GET", "/v1/sprites/{name}"): {},
    ("PUT", "/v1/sprites/{name}"): {"json": {"labels": ["x"]}},
    ("DELETE", "/v1/sprites/{name}"): {},
    ("POST", "/v1/sprites/{name}/upgrade"): {},
    ("POST", "/v1/sprites/{name}/restart"): {},
    ("GET", "/v1/sprites/{name}/check"): {},
    ("WEBSOCKET", "/v1/sprites/{name}/exec"): {"query": "?cmd=true"},
    ("WEBSOCKET", "/v1/sprites/{name}/exec/{session_id}"): {},
    ("POST", "/v1/sprites/{name}/exec"): {"params": {"cmd": "true"}},
    ("HEAD", "/v1/sprites/{name}/exec"): {},
    ("GET", "/v1/sprites/{name}/exec"): {},
    ("GET", "/v1/sprites/{name}/exec/{session_id}"): {},
    ("POST", "/v1/sprites/{name}/exec/{session_id}/kill"): {},
    **{
        ("POST", f"{ENVD}/filesystem.Filesystem/{name}"): {"json": {"path": "a"}}
        for name in ("Stat", "MakeDir", "ListDir", "Remove", "CreateWatcher")
    },
    ("POST", f"{ENVD}/filesystem.Filesystem/Move"): {"json": {"source": "a", "destination": "b"}},
    ("POST", f"{ENVD}/filesystem.Filesystem/WatchDir"): {"headers": STREAM, "content": frame({"path": "."})},
    **{
        ("POST", f"{ENVD}/filesystem.Filesystem/{name}"): {"json": {"watcherId": "watcher-1"}}
        for name in ("GetWatcherEvents", "RemoveWatcher")
    },
    ("GET", f"{ENVD}/files"): {"params": {"path": "a"}},
    ("POST", f"{ENVD}/files"): {
        "params": {"path": "a"}, "content": b"x", "headers": {"content-type": "application/octet-stream"},
    },
    ("GET", f"{ENVD}/envs"): {},
    ("GET", f"{ENVD}/metrics"): {},
}  # fmt: skip
"""What makes a request of a route good, so that only its owner can be the reason for a refusal: keywords of
httpx. `query` stands in the place of a WebSocket's.
"""

E2B_REFUSED: set[Operation] = {
    *(("GET", f"/e2b{path}") for path in ("/volumes", "/secrets", "/templates", "/v2/templates")),
    *(("POST", f"/e2b{path}") for path in ("/volumes", "/secrets", "/templates", "/v2/templates")),
    *((method, "/e2b/volumes/{rest:path}") for method in ("GET", "DELETE")),
    *((method, "/e2b/secrets/{rest:path}") for method in ("GET", "POST", "DELETE")),
    *((method, "/e2b/templates/{rest:path}") for method in ("GET", "POST", "PATCH")),
    *((method, "/e2b/v2/templates/{rest:path}") for method in ("GET", "POST")),
    *(("GET", f"/e2b{version}/sandboxes/{{sandbox_id}}/logs") for version in ("", "/v2")),
    ("POST", "/e2b/v3/templates"),
}

LISTS: set[Operation] = {
    ("GET", "/v1/sprites"),
    ("POST", "/v1/sprites"),
    *((method, f"/e2b{version}/sandboxes") for method in ("GET", "POST") for version in ("", "/v2")),
    ("GET", "/e2b/snapshots"),
    ("GET", "/e2b/templates/aliases/{alias:path}"),
    *E2B_REFUSED,
}
"""Routes that name no sandbox. The tests of the formats say of each that it shows nothing of others."""

ELSEWHERE: dict[Operation, str] = {
    **{(method, "/mcp"): "test_another_owners_sandbox_is_not_there" for method in ("GET", "POST", "DELETE")},
    **{
        ("GET", f"/e2b/sandboxes/{{sandbox_id}}/{plane}/health"): "test_health_says_without_a_token_what_runs"
        for plane in ("envd", "interpreter")
    },
}
"""Routes that are no call of one sandbox by a key, with the test that shows who may make them."""


def operations_of(routes: Iterable[object]) -> list[Operation]:
    """Method and path of every route of a foreign format."""
    found: list[Operation] = []
    for route in routes:
        if isinstance(route, APIRoute | APIWebSocketRoute) and format_of(FORMATS, route.path) is not None:
            methods = (route.methods or ()) if isinstance(route, APIRoute) else ("WEBSOCKET",)
            found += [(method, route.path) for method in methods]
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Estate:
    """The sandbox of alice, by id and name, and bob, who has a key for every format."""

    bay: World
    bob: httpx.AsyncClient
    key: str
    names: tuple[str, ...]


@pytest.fixture
async def estate(tmp_path: Path) -> AsyncGenerator[Estate]:
    async with world(tmp_path) as bay:
        alice = await bay.client("alice")
        made = await create(alice, name="alices-box", ttl=1000, wait=15)
        key = await bay.key("bob")
        bob = await bay.open_client({"Authorization": f"Bearer {key}", "X-API-Key": key})
        yield Estate(bay, bob, key, (made["id"], "alices-box"))
    await clear(tmp_path)


def test_every_route_of_a_format_has_its_rule(tmp_path: Path) -> None:
    found = set(operations_of(build_app(settings_in(tmp_path)).routes))
    assert found == RULES.keys() | LISTS | ELSEWHERE.keys()


async def test_what_is_anothers_looks_in_every_format_as_what_never_was(estate: Estate) -> None:
    for operation in sorted(RULES):
        never = await _ask(estate, operation, f"sandbox-{RANDOM}")
        assert 400 <= never[0] < 500, (operation, never)
        for name in estate.names:
            assert await _ask(estate, operation, name) == never, operation


async def test_no_route_of_a_format_is_open_without_a_key(estate: Estate) -> None:
    stranger = await estate.bay.open_client()
    for method, path in sorted(RULES.keys() | LISTS):
        filled = _filled(path, estate.names[0])
        if method == "WEBSOCKET":
            status = (await ask_in_process(estate.bay.app, filled, {}))[0]
        else:
            rule = RULES.get((method, path), {})
            status = (await stranger.request(method, filled, **rule)).status_code
        assert status == 401, (method, path)


async def _ask(estate: Estate, operation: Operation, sandbox: str) -> tuple[int, str]:
    """Status and body, without the request's id and the name that the caller said himself."""
    method, path = operation
    rule = RULES[operation]
    if method == "WEBSOCKET":
        where = _filled(path, sandbox) + rule.get("query", "")
        headers = {"Authorization": f"Bearer {estate.key}"}
        status, text, answered = await ask_in_process(estate.bay.app, where, headers)
        request_id = answered["x-request-id"]
    else:
        async with asyncio.timeout(20):
            answer = await estate.bob.request(method, _filled(path, sandbox), **rule)
        status, text, request_id = answer.status_code, answer.text, answer.headers["x-request-id"]
    return status, text.replace(request_id, "REQUEST").replace(sandbox, "SANDBOX")


def _filled(path: str, sandbox: str) -> str:
    """The path with the sandbox as its first parameter, and `1` for all others."""
    return re.sub(r"\{\w+(:path)?\}", "1", re.sub(r"\{\w+(:path)?\}", sandbox, path, count=1))
