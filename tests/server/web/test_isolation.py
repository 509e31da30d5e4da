"""Owners do not exist for each other.

Generated from the OpenAPI document: a new route without a rule here fails.

What is another's must look exactly as what never was, by id and by name, on every route and in every place.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import object_server
import pytest
from attaching import ask_in_process
from fastapi.routing import APIRouter, APIWebSocketRoute
from server_harness import Json, World, assert_error, clear, create, settings_in, shell, world

from bay.drivers.base import Handle, SessionSpec
from bay.drivers.fake import FakeDriver
from bay.places import directory_of
from bay.server.app import FORMATS, build_app
from bay.server.web.sealing import Cursors
from bay.server.web.wire_format import format_of
from bay.store import templates
from bay.store.records import TemplateRecord

pytestmark = pytest.mark.anyio

RANDOM = "0123456789abcdef01234567"
NOBODY = {"sandbox_id": f"sandbox-{RANDOM}", "exec_id": f"exec-{RANDOM}", "webhook_id": f"hook-{RANDOM}"}
NOBODY["execution_id"] = NOBODY["exec_id"]
NOBODY.update(pid="1", port="80", kernel_id=f"kern-{RANDOM}", cell_id=f"cell-{RANDOM}")
NOBODY.update(
    checkpoint_id=f"ckpt-{RANDOM}", cargo_id=f"ws-{RANDOM}", service_name="none", secret_name="NEVER"
)
NOBODY["key"] = NOBODY["checkpoint_id"]
NOBODY["skill_key"] = "none"
NOBODY["trace_ref"] = f"blob:blob-{RANDOM[::-1]}"
NOBODY.update(image_ref=f"img-{RANDOM}", template_ref=f"tmpl-{RANDOM}", registry_host="never.example.com")
NOBODY.update(payload_ref=f"blob:blob-{RANDOM}", candidate_id=f"cand-{RANDOM}", release_id=f"rel-{RANDOM}")
NESTED = ("exec_id", "execution_id", "kernel_id", "cell_id", "checkpoint_id", "trace_ref")
"""What stands below a sandbox."""
OPEN = {"/health", "/health/ready", "/v1/profiles"}
ADMIN = ("/v1/keys", "/v1/admin", "/v1/replicas", "/metrics")
"""What stands below is of no owner, and closed to all but admin keys: `test_keys` tries every route."""
OWN_LISTS = {
    ("get", "/v1/sandboxes"),
    ("post", "/v1/sandboxes"),
    ("get", "/v1/audit"),
    ("get", "/v1/events"),
    ("get", "/v1/webhooks"),
    ("post", "/v1/webhooks"),
    ("get", "/v1/cargos"),
    ("post", "/v1/cargos"),
    ("get", "/v1/secrets"),
    ("get", "/v1/images"),
    ("post", "/v1/images"),
    ("post", "/v1/images/import"),
    ("post", "/v1/images/prune"),
    ("get", "/v1/registries"),
    ("get", "/v1/templates"),
    ("post", "/v1/templates"),
    ("post", "/v1/skills/payloads"),
    ("get", "/v1/skills/candidates"),
    ("post", "/v1/skills/candidates"),
    ("get", "/v1/skills/releases"),
    ("get", "/v1/remote-checkpoints"),
}
"""Routes without a path parameter; what they show of others has tests of its own below."""
SAME_FOR_ALL = {
    ("get", "/v1/capabilities"),
    ("post", "/v1/console/sign_in"),
    ("get", "/v1/console/sign_in"),
    ("delete", "/v1/console/sign_in"),
    ("post", "/v1/console/codes"),
}
"""Routes about the server and the caller alone: see `test_capabilities` and `test_console_sign_in`."""
OWN_NAMES = {("put", "/v1/secrets/{secret_name}"), ("put", "/v1/registries/{registry_host}")}
"""Routes whose path names something of the caller, whoever else has one of that name: see `test_secrets` and
`test_logins`.
"""

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("patch", "/v1/sandboxes/{sandbox_id}"): {"json": {"labels": {"changed": "yes"}}},
    ("post", "/v1/sandboxes/{sandbox_id}/extend_ttl"): {"json": {"extend_by": 10}},
    ("post", "/v1/sandboxes/{sandbox_id}/shell/exec"): {"json": {"command": "true"}},
    ("post", "/v1/sandboxes/{sandbox_id}/python/exec"): {"json": {"code": "1"}},
    ("post", "/v1/sandboxes/{sandbox_id}/browser/exec"): {"json": {"cmd": "x"}},
    ("post", "/v1/sandboxes/{sandbox_id}/browser/exec_batch"): {"json": {"commands": ["x"]}},
    ("post", "/v1/sandboxes/{sandbox_id}/kernels/{kernel_id}/run"): {"json": {"code": "1"}},
    ("post", "/v1/sandboxes/{sandbox_id}/execs"): {"json": {"command": "true"}},
    ("post", "/v1/sandboxes/{sandbox_id}/execs/{exec_id}/signal"): {"json": {"signal": "KILL"}},
    ("post", "/v1/sandboxes/{sandbox_id}/execs/{exec_id}/resize"): {"json": {"rows": 9, "cols": 9}},
    ("post", "/v1/sandboxes/{sandbox_id}/execs/{exec_id}/stdin"): {"content": b"x"},
    ("post", "/v1/sandboxes/{sandbox_id}/processes/{pid}/signal"): {"json": {"signal": "KILL"}},
    ("patch", "/v1/sandboxes/{sandbox_id}/history/{execution_id}"): {"json": {"notes": "x"}},
    ("put", "/v1/sandboxes/{sandbox_id}/filesystem/files"): {"json": {"path": "x", "content": "x"}},
    ("get", "/v1/sandboxes/{sandbox_id}/filesystem/files"): {"params": {"path": "x"}},
    ("delete", "/v1/sandboxes/{sandbox_id}/filesystem/files"): {"params": {"path": "x"}},
    ("get", "/v1/sandboxes/{sandbox_id}/filesystem/download"): {"params": {"path": "x"}},
    ("post", "/v1/sandboxes/{sandbox_id}/filesystem/upload"): {
        "files": {"file": b"x"},
        "data": {"path": "x"},
    },
    ("get", "/v1/sandboxes/{sandbox_id}/files/content"): {"params": {"path": "x"}},
    ("put", "/v1/sandboxes/{sandbox_id}/files/content"): {"params": {"path": "x"}, "content": b"x"},
    ("get", "/v1/sandboxes/{sandbox_id}/files/stat"): {"params": {"path": "x"}},
    ("post", "/v1/sandboxes/{sandbox_id}/files/move"): {"json": {"source": "x", "destination": "y"}},
    ("post", "/v1/sandboxes/{sandbox_id}/files/copy"): {"json": {"source": "x", "destination": "y"}},
    ("post", "/v1/sandboxes/{sandbox_id}/files/mkdir"): {"json": {"path": "made"}},
    ("post", "/v1/sandboxes/{sandbox_id}/files/chmod"): {"json": {"path": "x", "mode": "0600"}},
    ("post", "/v1/sandboxes/{sandbox_id}/files/chown"): {"json": {"path": "x", "uid": 0}},
    ("post", "/v1/sandboxes/{sandbox_id}/files/edit"): {"json": {"path": "x", "old": "x", "new": "y"}},
    ("put", "/v1/sandboxes/{sandbox_id}/files/archive"): {"params": {"path": "x"}, "content": b"x"},
    ("delete", "/v1/sandboxes/{sandbox_id}/files"): {"params": {"path": "x"}},
    ("get", "/v1/sandboxes/{sandbox_id}/checkpoints/{checkpoint_id}/files/content"): {
        "params": {"path": "x"}
    },
    ("post", "/v1/sandboxes/{sandbox_id}/checkpoints/import"): {"content": b"x"},
    ("post", "/v1/sandboxes/{sandbox_id}/checkpoints/pull"): {"json": {"key": f"ckpt-{RANDOM}"}},
    ("put", "/v1/sandboxes/{sandbox_id}/network-policy"): {"json": {"mode": "none"}},
    ("put", "/v1/sandboxes/{sandbox_id}/services/{service_name}"): {"json": {"argv": ["true"]}},
    ("post", "/v1/sandboxes/{sandbox_id}/services/{service_name}/signal"): {"json": {"signal": "HUP"}},
    ("put", "/v1/sandboxes/{sandbox_id}/ports/{port}"): {"json": {"access": "public"}},
    ("patch", "/v1/cargos/{cargo_id}"): {"json": {"size_limit_mb": 1}},
    ("post", "/v1/cargos/{cargo_id}/move"): {"json": {"sandbox": "bobs-box"}},
    ("patch", "/v1/templates/{template_ref}"): {"json": {"tag": "taken"}},
    ("post", "/v1/templates/{template_ref}/aliases"): {"json": {"name": "taken"}},
    ("put", "/v1/templates/{template_ref}/context"): {"content": b"x"},
    ("post", "/v1/skills/candidates/{candidate_id}/evaluate"): {"json": {"passed": False}},
}
"""What makes a request good, so that only its owner can be the reason for a refusal."""

BARE = {
    ("get", "/v1/sandboxes/{sandbox_id}"), ("delete", "/v1/sandboxes/{sandbox_id}"),
    ("post", "/v1/sandboxes/{sandbox_id}/keepalive"), ("post", "/v1/sandboxes/{sandbox_id}/start"),
    ("post", "/v1/sandboxes/{sandbox_id}/pause"), ("post", "/v1/sandboxes/{sandbox_id}/resume"),
    ("post", "/v1/sandboxes/{sandbox_id}/hibernate"),
    ("post", "/v1/sandboxes/{sandbox_id}/stop"), ("get", "/v1/sandboxes/{sandbox_id}/execs"),
    ("get", "/v1/sandboxes/{sandbox_id}/execs/{exec_id}"), ("delete", "/v1/sandboxes/{sandbox_id}/execs/{exec_id}"),
    ("get", "/v1/sandboxes/{sandbox_id}/execs/{exec_id}/output"),
    ("get", "/v1/sandboxes/{sandbox_id}/execs/{exec_id}/screen"),
    ("get", "/v1/sandboxes/{sandbox_id}/usage"), ("get", "/v1/sandboxes/{sandbox_id}/metrics"),
    ("get", "/v1/sandboxes/{sandbox_id}/processes"), ("get", "/v1/sandboxes/{sandbox_id}/kernelspecs"),
    ("get", "/v1/sandboxes/{sandbox_id}/kernels"), ("post", "/v1/sandboxes/{sandbox_id}/kernels"),
    ("get", "/v1/sandboxes/{sandbox_id}/kernels/{kernel_id}"),
    ("delete", "/v1/sandboxes/{sandbox_id}/kernels/{kernel_id}"),
    ("post", "/v1/sandboxes/{sandbox_id}/kernels/{kernel_id}/interrupt"),
    ("post", "/v1/sandboxes/{sandbox_id}/kernels/{kernel_id}/restart"),
    ("get", "/v1/sandboxes/{sandbox_id}/kernels/{kernel_id}/cells/{cell_id}/events"),
    ("get", "/v1/sandboxes/{sandbox_id}/browser/traces/{trace_ref}"),
    ("post", "/v1/sandboxes/{sandbox_id}/browser/skills/{skill_key}/run"),
    ("get", "/v1/sandboxes/{sandbox_id}/filesystem/directories"), ("get", "/v1/sandboxes/{sandbox_id}/files/list"),
    ("get", "/v1/sandboxes/{sandbox_id}/files/search"), ("get", "/v1/sandboxes/{sandbox_id}/files/archive"),
    ("get", "/v1/sandboxes/{sandbox_id}/network-policy"), ("delete", "/v1/sandboxes/{sandbox_id}/network-policy"),
    ("get", "/v1/sandboxes/{sandbox_id}/network"),
    ("get", "/v1/sandboxes/{sandbox_id}/services"), ("get", "/v1/sandboxes/{sandbox_id}/services/{service_name}"),
    ("delete", "/v1/sandboxes/{sandbox_id}/services/{service_name}"),
    ("post", "/v1/sandboxes/{sandbox_id}/services/{service_name}/start"),
    ("post", "/v1/sandboxes/{sandbox_id}/services/{service_name}/stop"),
    ("post", "/v1/sandboxes/{sandbox_id}/services/{service_name}/restart"),
    ("get", "/v1/sandboxes/{sandbox_id}/services/{service_name}/logs"),
    ("get", "/v1/sandboxes/{sandbox_id}/network"), ("get", "/v1/sandboxes/{sandbox_id}/ports"),
    ("delete", "/v1/sandboxes/{sandbox_id}/ports/{port}"), ("post", "/v1/sandboxes/{sandbox_id}/ports/{port}/links"),
    ("get", "/v1/sandboxes/{sandbox_id}/history"), ("get", "/v1/sandboxes/{sandbox_id}/history/last"),
    ("get", "/v1/sandboxes/{sandbox_id}/history/{execution_id}"),
    ("get", "/v1/sandboxes/{sandbox_id}/events"), ("get", "/v1/webhooks/{webhook_id}"),
    ("delete", "/v1/webhooks/{webhook_id}"), ("delete", "/v1/secrets/{secret_name}"),
    ("get", "/v1/images/{image_ref}"), ("get", "/v1/images/{image_ref}/export"), ("delete", "/v1/images/{image_ref}"), ("delete", "/v1/registries/{registry_host}"),
    ("get", "/v1/templates/{template_ref}"), ("delete", "/v1/templates/{template_ref}"), ("get", "/v1/templates/{template_ref}/log"), ("get", "/v1/cargos/{cargo_id}"), ("delete", "/v1/cargos/{cargo_id}"),
    ("get", "/v1/skills/payloads/{payload_ref}"), ("delete", "/v1/skills/payloads/{payload_ref}"),
    ("get", "/v1/skills/candidates/{candidate_id}"), ("delete", "/v1/skills/candidates/{candidate_id}"),
    ("post", "/v1/skills/candidates/{candidate_id}/promote"), ("get", "/v1/skills/releases/{release_id}/health"),
    ("post", "/v1/skills/releases/{release_id}/rollback"), ("delete", "/v1/skills/releases/{release_id}"),
    ("post", "/v1/sandboxes/{sandbox_id}/fork"), ("post", "/v1/sandboxes/{sandbox_id}/checkpoints"),
    ("get", "/v1/sandboxes/{sandbox_id}/checkpoints"), ("get", "/v1/sandboxes/{sandbox_id}/checkpoints/{checkpoint_id}"),
    ("delete", "/v1/sandboxes/{sandbox_id}/checkpoints/{checkpoint_id}"),
    ("post", "/v1/sandboxes/{sandbox_id}/checkpoints/{checkpoint_id}/restore"),
    ("get", "/v1/sandboxes/{sandbox_id}/checkpoints/{checkpoint_id}/export"),
    ("get", "/v1/sandboxes/{sandbox_id}/checkpoints/{checkpoint_id}/diff"),
    ("post", "/v1/sandboxes/{sandbox_id}/checkpoints/{checkpoint_id}/push"),
    ("get", "/v1/remote-checkpoints/{key}"), ("delete", "/v1/remote-checkpoints/{key}"),
}  # fmt: skip
"""Routes that need nothing but their path."""

SOCKETS = {
    "/v1/sandboxes/{sandbox_id}/execs/{exec_id}/attach": "",
    "/v1/sandboxes/{sandbox_id}/files/watch": "",
    "/v1/sandboxes/{sandbox_id}/terminal": "",
    "/v1/sandboxes/{sandbox_id}/tunnel": "?port=80",
}
"""WebSockets with the query they need, which no OpenAPI document tells of: they are read from the
application.
"""


@pytest.fixture(scope="module")
def all_operations(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every route of the API, as the document that is served tells them."""
    document = build_app(settings_in(tmp_path_factory.mktemp("docs"))).openapi()
    owned = {p: item for p, item in document["paths"].items() if p not in OPEN and not p.startswith(ADMIN)}
    return [(method, path) for path, item in owned.items() for method in item]


def test_every_route_has_its_rule(all_operations: list[tuple[str, str]]) -> None:
    ruled = set(BODIES) | BARE | OWN_LISTS | OWN_NAMES | SAME_FOR_ALL
    assert set(all_operations) == ruled
    for _, path in all_operations:
        assert set(re.findall(r"\{(\w+)\}", path)) <= set(NOBODY), f"{path} takes an id that has no rule"


def sockets_of(routes: Iterable[object]) -> set[str]:
    """Paths of Bay's own WebSockets among the routes, also of those in routers that were included. Those of
    foreign formats have rules of their own.
    """
    found = {route.path for route in routes if isinstance(route, APIWebSocketRoute)}
    inner = [getattr(route, "original_router", None) for route in routes]
    every = found.union(*(sockets_of(router.routes) for router in inner if isinstance(router, APIRouter)))
    return {path for path in every if format_of(FORMATS, path) is None}


def test_every_websocket_has_its_rule(tmp_path: Path) -> None:
    assert sockets_of(build_app(settings_in(tmp_path)).routes) == SOCKETS.keys()


@dataclass(frozen=True, slots=True)
class Estate:
    """What alice has, and bob who wants it."""

    bay: World
    alice: httpx.AsyncClient
    bob: httpx.AsyncClient
    ids: Mapping[str, str]
    own: Mapping[str, str]
    """What bob has himself, for the nested ids."""


@pytest.fixture
async def bay(root: Path) -> AsyncGenerator[World]:
    """A Bay with an object store."""
    server = object_server.shared()
    try:
        async with world(root, object_store=server.settings(server.bucket())) as running:
            yield running
    finally:
        await clear(root)


@pytest.fixture
async def estate(bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> Estate:
    made = await create(alice, name="alices-box", ttl=1000, wait=15)
    ran = (
        await alice.post(f"/v1/sandboxes/{made['id']}/execs", json={"command": "echo x > x; sleep 1000"})
    ).json()
    url = "https://[2606:4700::1111]/"  # where nothing is sent: there is no event of this type
    await alice.put("/v1/secrets/HERS", json={"value": "hers"})
    login = {"username": "alice", "password": "hers"}
    await alice.put("/v1/registries/hers.example.com", json=login)
    operator = await bay.client("alice", "admin")
    image = (await operator.post("/v1/images", json={"ref": "debian:13"}, params={"wait": 15})).json()
    template = TemplateRecord(
        id=f"tmpl-{RANDOM[::-1]}", owner="alice", name="hers", tag="latest", state="ready", image_id=image["id"],
        profile="python-default", created_at=bay.clock(),
    )  # fmt: skip
    async with bay.bay.store.write() as db:
        await templates.add(db, template)
    hook = (await alice.post("/v1/webhooks", json={"url": url, "types": ["sandbox.failed"]})).json()
    own = await create(bob, name="bobs-box", wait=15)
    own_exec = (await bob.post(f"/v1/sandboxes/{own['id']}/execs", json={"command": "true"})).json()
    ids = [(await shell(c, box["id"], "true"))["execution_id"] for c, box in ((alice, made), (bob, own))]
    hers, his = await asyncio.gather(run_cell(alice, made["id"]), run_cell(bob, own["id"]))
    for client, box, found in ((alice, made, hers), (bob, own, his)):
        found["checkpoint_id"] = (await client.post(f"/v1/sandboxes/{box['id']}/checkpoints")).json()["id"]
        found["cargo_id"] = box["cargo_id"]
        found["skill_key"] = "sign-in"
        owner = "alice" if client is alice else "bob"
        found["trace_ref"] = await bay.bay.skill_payloads.put(owner, "browser_exec_trace", {"steps": []})
        found["service_name"] = f"of-{box['name']}"
        await client.put(
            f"/v1/sandboxes/{box['id']}/services/of-{box['name']}", json={"argv": ["sleep", "1000"]}
        )
    skill = await released_skill(alice, ids[0])
    pushed = f"/v1/sandboxes/{made['id']}/checkpoints/{hers['checkpoint_id']}/push"
    hers["key"] = (await alice.post(pushed, params={"wait": 60})).json()["key"]
    return Estate(
        bay, alice, bob,
        {"sandbox_id": made["id"], "exec_id": ran["id"], "webhook_id": hook["id"], "secret_name": "HERS", "image_ref": image["id"], "template_ref": template.id, "registry_host": "hers.example.com", "execution_id": ids[0], "pid": "1", "port": "80", **hers, **skill},
        {"sandbox_id": own["id"], "exec_id": own_exec["id"], "execution_id": ids[1], **his},
    )  # fmt: skip


async def run_cell(client: httpx.AsyncClient, box: str) -> dict[str, str]:
    """The ids of a new kernel and of a cell that has ended in it."""
    kernels = f"/v1/sandboxes/{box}/kernels"
    kernel = (await client.post(kernels)).json()["id"]
    answer = await client.post(f"{kernels}/{kernel}/run", json={"code": "1"})
    return {"kernel_id": kernel, "cell_id": answer.headers["bay-cell-id"]}


async def released_skill(client: httpx.AsyncClient, execution_id: str) -> dict[str, str]:
    """The ids of a skill that was released."""
    ref = (await client.post("/v1/skills/payloads", json={"payload": [1]})).json()["payload_ref"]
    body = {"skill_key": "hers", "source_execution_ids": [execution_id], "payload_ref": ref}
    candidate = (await client.post("/v1/skills/candidates", json=body)).json()["id"]
    await client.post(f"/v1/skills/candidates/{candidate}/evaluate", json={"passed": True})
    release = (await client.post(f"/v1/skills/candidates/{candidate}/promote")).json()["id"]
    return {"payload_ref": ref, "candidate_id": candidate, "release_id": release}


async def ask(
    client: httpx.AsyncClient, operation: tuple[str, str], ids: Mapping[str, str]
) -> httpx.Response:
    method, path = operation
    return await client.request(method.upper(), path.format(**ids), **BODIES.get(operation, {}))


def nameless(answer: httpx.Response, ids: Mapping[str, str]) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers without the request's id and what the caller said himself."""
    text = answer.text.replace(answer.headers["x-request-id"], "REQUEST")
    for name, value in sorted(
        ids.items(), key=lambda pair: -len(pair[1])
    ):  # a short one may be part of a long one
        text = text.replace(value, name)
    headers = {k: v for k, v in answer.headers.items() if k not in ("x-request-id", "content-length", "date")}
    return answer.status_code, text, headers


async def facts(estate: Estate) -> list[Any]:
    """All of alice's rows and files: nothing bob does may change them."""
    await estate.bay.bay.deferred.flush()
    hers = "(SELECT id FROM sandboxes WHERE owner = 'alice')"
    tables = (
        "SELECT * FROM sandboxes WHERE owner = 'alice'", f"SELECT * FROM sessions WHERE sandbox_id IN {hers}",  # noqa: S608
        f"SELECT * FROM execs WHERE sandbox_id IN {hers}", "SELECT * FROM cargos WHERE owner = 'alice'",  # noqa: S608
        "SELECT * FROM events WHERE owner = 'alice'", "SELECT * FROM webhooks WHERE owner = 'alice'",
        "SELECT * FROM secrets WHERE owner = 'alice'", "SELECT * FROM images WHERE owner = 'alice'",
        "SELECT * FROM skill_payloads WHERE owner = 'alice'", "SELECT * FROM skill_candidates WHERE owner = 'alice'",
        "SELECT * FROM skill_evaluations WHERE owner = 'alice'", "SELECT * FROM skill_releases WHERE owner = 'alice'",
        "SELECT * FROM registry_logins WHERE owner = 'alice'", "SELECT * FROM templates WHERE owner = 'alice'",
        "SELECT * FROM checkpoints WHERE owner = 'alice'", f"SELECT * FROM services WHERE sandbox_id IN {hers}",  # noqa: S608
    )  # fmt: skip
    record = await estate.bay.record(estate.ids["sandbox_id"])
    where = estate.bay.directory(record.cargo_id)
    files = {str(p): p.read_bytes() for p in sorted(where.rglob("*")) if p.is_file()}
    return [[await estate.bay.sql(query) for query in tables], files]


async def test_what_is_anothers_looks_on_every_route_as_what_never_was(
    estate: Estate, all_operations: list[tuple[str, str]]
) -> None:
    before = await facts(estate)
    checked = 0
    for operation in sorted(set(all_operations) - OWN_NAMES):
        parameters = re.findall(r"\{(\w+)\}", operation[1])
        never = nameless(await ask(estate.bob, operation, NOBODY), NOBODY) if parameters else None
        for foreign in attempts(estate, parameters):
            answer = await ask(estate.bob, operation, foreign)
            assert answer.status_code == 404, (operation, foreign, answer.text)
            if foreign["sandbox_id"] != estate.own["sandbox_id"]:
                assert nameless(answer, foreign) == never, operation
            checked += 1
    assert checked >= 2 * len(BARE | set(BODIES))
    assert await facts(estate) == before
    for operation in all_operations:
        if operation[0] == "get" and "exec_id" not in operation[1]:  # and alice is not locked out
            assert (await ask(estate.alice, operation, estate.ids)).status_code == 200, operation


async def test_a_websocket_to_what_is_anothers_is_refused_as_one_to_what_never_was(estate: Estate) -> None:
    before = await facts(estate)
    key = {"Authorization": f"Bearer {await estate.bay.key('bob')}"}
    for path in sorted(sockets_of(estate.bay.app.routes)):
        path += SOCKETS[path]
        never = plain(await ask_in_process(estate.bay.app, path.format(**NOBODY), key), NOBODY)
        assert never[0] == 404
        for foreign in attempts(estate, re.findall(r"\{(\w+)\}", path)):
            answer = await ask_in_process(estate.bay.app, path.format(**foreign), key)
            assert answer[0] == 404, (path, foreign)
            if foreign["sandbox_id"] != estate.own["sandbox_id"]:
                assert plain(answer, foreign) == never
        assert (await ask_in_process(estate.bay.app, path.format(**estate.ids), {}))[0] == 401
    assert await facts(estate) == before


def plain(answer: tuple[int, str, dict[str, str]], ids: Mapping[str, str]) -> tuple[int, str]:
    """Status and body without the request's id and what the caller said himself."""
    status, text, headers = answer
    text = text.replace(headers["x-request-id"], "REQUEST")
    for name, value in ids.items():
        text = text.replace(value, name)
    return status, text


def attempts(estate: Estate, parameters: list[str]) -> list[dict[str, str]]:
    """By id, by name, and another's nested id below one's own."""
    if not parameters:
        return []
    found = [dict(estate.ids), {**estate.ids, "sandbox_id": "alices-box"}]
    for name in set(NESTED) & set(parameters):
        found += [{**estate.ids, "sandbox_id": estate.own["sandbox_id"]}]
        found += [{**estate.ids, name: estate.own[name]}]
    return found


async def test_anothers_exec_below_ones_own_sandbox_looks_as_one_that_never_was(estate: Estate) -> None:
    for operation in sorted(BARE):
        for name in (n for n in NESTED if f"{{{n}}}" in operation[1]):
            own = dict(estate.own)
            foreign = {**own, name: estate.ids[name]}
            never = {**own, name: NOBODY[name]}
            answers = [nameless(await ask(estate.bob, operation, ids), ids) for ids in (foreign, never)]
            assert answers[0] == answers[1]


async def test_a_list_never_shows_what_is_anothers(estate: Estate) -> None:
    for params in (
        {}, {"status": "ready"}, {"compute": "running"}, {"name_prefix": "alices"}, {"profile": "python-default"},
        {"limit": "200"}, {"name_prefix": "alices-box' OR '1'='1"},
    ):  # fmt: skip
        items = (await estate.bob.get("/v1/sandboxes", params=params)).json()["items"]
        assert {i["id"] for i in items} <= {estate.own["sandbox_id"]}, params


async def test_a_cursor_is_of_use_only_to_whom_it_was_given(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    for _ in range(2):
        await create(alice)
        await create(bob)
    cursor = (await alice.get("/v1/sandboxes", params={"limit": 1})).json()["next_cursor"]
    assert (await alice.get("/v1/sandboxes", params={"cursor": cursor})).status_code == 200
    assert (await bob.get("/v1/sandboxes", params={"cursor": cursor})).status_code == 422


async def test_an_idempotency_key_is_of_use_only_to_whom_it_belongs(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    headers = {"Idempotency-Key": "the-same"}
    first = (await alice.post("/v1/sandboxes", headers=headers)).json()
    answer = await bob.post("/v1/sandboxes", headers=headers)
    assert answer.status_code == 201
    assert answer.json()["id"] != first["id"]
    different = await bob.post("/v1/sandboxes", json={"ttl": 5}, headers={"Idempotency-Key": "the-same-2"})
    assert different.status_code == 201


async def test_two_keys_of_one_owner_see_the_same(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    secret = await bay.bay.keys.add("alice", "second", "read")
    second = await bay.open_client({"Authorization": f"Bearer {secret}"})
    assert (await second.get(f"/v1/sandboxes/{made['id']}")).status_code == 200


async def test_anothers_cargo_is_as_one_that_never_was(estate: Estate) -> None:
    cargo_id = (await estate.bay.record(estate.ids["sandbox_id"])).cargo_id
    answers = [
        nameless(await estate.bob.post("/v1/sandboxes", json={"cargo_id": i}), {"cargo": i})
        for i in (cargo_id, f"ws-{RANDOM}")
    ]
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_deleted_and_foreign_look_the_same(estate: Estate) -> None:
    await estate.alice.delete("/v1/sandboxes/alices-box")
    for method in ("GET", "DELETE"):
        answer = await estate.bob.request(method, f"/v1/sandboxes/{estate.ids['sandbox_id']}")
        assert answer.status_code == 404


class Recorder(FakeDriver):
    """Remembers what it was asked to start."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir=run_dir)
        self.specs: list[SessionSpec] = []

    def start(self, spec: SessionSpec, handle: Handle | None) -> AsyncGenerator[Handle, None]:
        self.specs.append(spec)
        return super().start(spec, handle)


POWER: Json = {
    "owner": "bob", "privileged": True, "mounts": [{"source": "/", "target": "/host"}], "volumes": ["/:/host"],
    "user": "root", "uid": 0, "network": "host", "capabilities": ["CAP_SYS_ADMIN"], "workspace": "/etc", "hostname": "x",
    "token": "mine", "session_id": "sess-mine", "sandbox_id": "sandbox-mine", "id": "sandbox-mine", "allow_root": True,
    "resources": {"memory": 1 << 50}, "cpus": 64, "target": "running", "generation": 7, "devices": ["/dev/kvm"],
    "__class__": "x",
}  # fmt: skip


@pytest.mark.parametrize("field", POWER)
async def test_a_field_that_sounds_like_power_is_refused(alice: httpx.AsyncClient, field: str) -> None:
    power = {field: POWER[field]}
    made = await create(alice, profile="rootless")
    bodies = [
        ("/v1/sandboxes", power),
        (f"/v1/sandboxes/{made['id']}/shell/exec", {"command": "true", **power}),
    ]
    for path, body in bodies:
        error = assert_error(await alice.post(path, json=body), 422, "validation_error")
        listed = (
            field == "volumes" and path == "/v1/sandboxes"
        )  # there are such, of cargos and not of the host
        assert error["details"]["field"] == (f"body.{field}.0" if listed else f"body.{field}")
    assert len((await alice.get("/v1/sandboxes")).json()["items"]) == 1


async def test_a_session_has_what_its_profile_says_and_secrets_of_its_own(root: Path) -> None:
    driver = Recorder(root / "run")
    async with world(root, driver) as bay:
        alice = await bay.client()
        for made in (await create(alice, profile="rootless"), await create(alice, profile="rootless")):
            await shell(alice, made["id"], "true")
    await clear(root)
    first, second = driver.specs
    own = {"session_id", "sandbox_id", "token", "workspace"}
    assert {f: getattr(first, f) for f in SessionSpec.__slots__ if f not in own} == {
        f: getattr(second, f) for f in SessionSpec.__slots__ if f not in own
    }
    assert second.allow_root is False
    assert directory_of(second.workspace).parent.parent == root / "data" / "cargo"
    assert second.token not in (first.token, "mine")
    assert len(second.token) >= 32


async def test_the_secret_between_bay_and_ship_is_shown_to_nobody(estate: Estate) -> None:
    session = await estate.bay.session(estate.ids["sandbox_id"])
    for operation in (o for o in BARE if o[0] == "get"):
        assert session.token not in (await estate.alice.get(operation[1].format(**estate.ids))).text
    assert session.token not in repr(SessionSpec(
        session_id="", sandbox_id="", image="", isolation="", resources=None, workspace=Path(), token=session.token,  # pyright: ignore[reportArgumentType]
    ))  # fmt: skip


async def test_a_cursor_tells_nothing_of_what_others_make(
    bay: World, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    async def cursor(client: httpx.AsyncClient) -> str:
        return (await client.get("/v1/sandboxes", params={"limit": 1})).json()["next_cursor"]

    await create(alice)
    await create(alice)
    first = await cursor(alice)
    for _ in range(3):
        await create(bob)
    assert await cursor(alice) == first
    places = [bay.app.state.services[Cursors].of_row("alice", row) for row in (1, 2, 10, 100, 10**12)]
    assert {len(place) for place in places} == {32}  # its length says nothing either
    assert len({place[:16] for place in places} | {place[16:] for place in places}) == 10
    other = bay.app.state.services[Cursors].of_id("alice", "key-" + "0" * 24)
    assert (await alice.get("/v1/sandboxes", params={"cursor": other})).status_code == 422
