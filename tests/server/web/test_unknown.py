"""What a call does not know it refuses, whatever the call: made from the OpenAPI document and the routes, so
a new one is in it.
"""

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Any, cast

import httpx
import pytest
from attaching import refused
from fastapi.routing import APIRouter, APIWebSocketRoute
from server_harness import Json, Served, World, assert_error, create, eventually, within

from bay.server.app import FORMATS
from bay.server.web.wire_format import format_of

pytestmark = pytest.mark.anyio

METHODS = ("get", "put", "post", "delete", "patch")
ODD = "zzz_odd"
PLACES = {
    "{sandbox_id}": "none",
    "{port}": "80",
    "{pid}": "1",
}


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Method, path and operation of each call, with something in the place of each path parameter."""
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                yield method.upper(), filled(path), item[method]


def filled(path: str) -> str:
    for name, value in PLACES.items():
        path = path.replace(name, value)
    return path.replace("{", "").replace("}", "")


def schemas(document: Json, schema: Any, seen: set[str]) -> Iterator[Json]:
    """Every object schema that a body is made of."""
    if isinstance(schema, list):
        for item in cast("list[Any]", schema):
            yield from schemas(document, item, seen)
    if not isinstance(schema, dict):
        return
    given = cast("Json", schema)
    if name := given.get("$ref"):
        if name not in seen:
            seen.add(name)
            yield from schemas(document, document["components"]["schemas"][name.rpartition("/")[2]], seen)
        return
    if given.get("type") == "object":
        yield given
    for value in given.values():
        yield from schemas(document, value, seen)


def bodies(document: Json) -> Iterator[tuple[str, str, Json]]:
    for method, path, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        if schema := content.get("application/json", {}).get("schema"):
            yield method, path, schema


async def test_every_call_refuses_a_query_parameter_that_it_does_not_know(bay: World) -> None:
    admin = await bay.client("root", "admin")
    calls = list(operations(bay.app.openapi()))
    assert len(calls) > 80
    for method, path, operation in calls:
        body: Json | None = {} if operation.get("requestBody") else None
        answer = await admin.request(method, path, params={ODD: "1"}, json=body)
        error = assert_error(answer, 422, "validation_error")
        if (
            error["details"]["field"] != f"query.{ODD}"
        ):  # a body that lacks something is told of first, at the latest then
            raise AssertionError((method, path, error))
        known = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"]
        assert all(name in error["message"] for name in known), (method, path, error)


async def test_every_body_refuses_a_field_that_it_does_not_know(bay: World) -> None:
    admin = await bay.client("root", "admin")
    document = bay.app.openapi()
    found = list(bodies(document))
    assert len(found) > 25
    for method, path, _schema in found:
        answer = await admin.request(method, path, json={ODD: 1})
        error = assert_error(answer, 422, "validation_error")
        assert error["details"]["field"] == f"body.{ODD}", (method, path, error)
        assert f"there is no field {ODD}; there are: " in error["message"]


async def test_so_does_every_object_within_a_body(bay: World) -> None:
    document = bay.app.openapi()
    for method, path, schema in bodies(document):
        for part in schemas(document, schema, set()):
            is_map = "patternProperties" in part
            assert is_map or part.get("additionalProperties", True) is not True, (method, path, part)


async def test_a_call_that_takes_no_body_refuses_one(bay: World, alice: httpx.AsyncClient) -> None:
    admin = await bay.client("root", "admin")
    calls = [c for c in operations(bay.app.openapi()) if "requestBody" not in c[2]]
    assert len(calls) > 40
    for method, path, _operation in calls:
        answer = await admin.request(method, path, json={ODD: 1})
        error = assert_error(answer, 422, "validation_error")
        assert "takes no body" in error["message"], (method, path)
    box = (await create(alice))["id"]
    for empty in (b"", b"{}", b" {} ", b"null"):
        assert (await alice.post(f"/v1/sandboxes/{box}/keepalive", content=empty)).status_code == 200


async def test_such_a_body_is_not_read_to_its_end(bay: World) -> None:
    admin = await bay.client("root", "admin")
    taken = 0

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal taken
        for _ in range(999):
            taken += 1
            yield b" " * 1024

    calls = [
        (method, path) for method, path, what in operations(bay.app.openapi()) if "requestBody" not in what
    ]
    assert ("GET", "/v1/sandboxes/none/files/content") in calls  # where a body of another method may be large
    for method, path in calls:
        taken = 0
        assert_error(await admin.request(method, path, content=endless()), 422, "validation_error")
        assert taken <= 2, (method, path)


def sockets(routes: Iterable[object]) -> Iterator[str]:
    """Paths of Bay's own WebSockets: other people's clients send parameters that Bay does not know."""
    for route in routes:
        if isinstance(route, APIWebSocketRoute):
            if format_of(FORMATS, route.path) is None:
                yield route.path
        elif isinstance(router := getattr(route, "original_router", None), APIRouter):
            yield from sockets(router.routes)


async def test_every_websocket_refuses_a_parameter_that_it_does_not_know(live: Served, bay: World) -> None:
    paths = [filled(path).removeprefix("/v1/sandboxes/") for path in sockets(bay.app.routes)]
    assert len(paths) >= 4
    for path in paths:
        status, error = await refused(live, f"{path}?{ODD}=1")
        assert (status, error["code"]) == (422, "validation_error"), path
        assert error["details"]["field"] == f"query.{ODD}"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"nmae": "x"}, "did you mean name?"),
        ({"template_id": "base"}, "did you mean template?"),
        ({"timeout": 60}, "did you mean ttl?"),
        ({"memory": 99}, "did you mean memory_mb?"),
        ({"env": {"A": "1"}, "x" * 1000: 1}, "there is no field xxx"),
        ({"\x1b[31m": 1}, r"there is no field '\x1b[31m'"),
        ({"checkpoint_policy": {"evry": 60}}, "did you mean every?"),
        ({"network_policy": {"mode": "none", "rule": []}}, "did you mean rules?"),
        ({"url": {"port": 80, "acess": "public"}}, "did you mean access?"),
    ],
)
async def test_the_nearest_field_is_named(alice: httpx.AsyncClient, body: Json, said: str) -> None:
    error = assert_error(await alice.post("/v1/sandboxes", json=body), 422, "validation_error")
    assert said in error["message"]
    assert len(error["message"]) < 600


async def test_a_body_of_many_unknown_fields_is_refused_at_the_first(alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/v1/sandboxes", json={f"f{n}": 1 for n in range(50_000)})
    assert assert_error(answer, 422, "validation_error")["details"] == {"errors": 1, "field": "body.f0"}


async def test_network_is_short_for_a_policy_without_rules(alice: httpx.AsyncClient) -> None:
    made = await create(alice, network="none")
    policy = (await alice.get(f"/v1/sandboxes/{made['id']}/network-policy")).json()
    assert (policy["mode"], policy["rules"]) == ("none", [])
    both = {"network": "none", "network_policy": {"mode": "open"}}
    error = assert_error(await alice.post("/v1/sandboxes", json=both), 422, "validation_error")
    assert "not both" in error["message"]


def numbers(document: Json, schema: Json) -> Iterator[tuple[str, Json]]:
    """Fields of a body that are numbers, with their schemas."""
    named = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
    for name, field in named.get("properties", {}).items():
        if kinds(field) & {"integer", "number"}:
            yield name, field


def kinds(field: Json) -> set[str]:
    """The JSON types that a field may have."""
    return {field.get("type", "")}.union(*(kinds(kind) for kind in field.get("anyOf", ())))


@pytest.mark.parametrize("passing", [True, "1"])
async def test_nothing_passes_for_a_number(bay: World, passing: object) -> None:
    admin = await bay.client("root", "admin")
    document = bay.app.openapi()
    asked = 0
    for method, path, schema in bodies(document):
        inner = next((kind for kind in schema.get("anyOf", [schema]) if "$ref" in kind), schema)
        for name, field in numbers(document, inner):
            if name == "signal":  # has a name or a number
                continue
            asked += 1
            answer = await admin.request(method, path, json={name: passing})
            fields = [".".join(map(str, d["loc"][:2])) for d in answer.json()["detail"]]
            assert f"body.{name}" in fields, (method, path, field)
    assert asked > 20


@pytest.mark.parametrize("ports", [[True], ["80", True], [1.5]])
async def test_a_port_of_a_rule_is_a_number_or_a_range(alice: httpx.AsyncClient, ports: list[object]) -> None:
    policy = {"mode": "allowlist", "rules": [{"action": "allow", "domain": "example.com", "ports": ports}]}
    answer = await alice.post("/v1/sandboxes", json={"network_policy": policy})
    assert_error(answer, 422, "validation_error")


async def test_a_time_is_no_number(alice: httpx.AsyncClient) -> None:
    for text in ("0.5", "1", "", "2030", "tomorrow", "2030-01-31T12:00:00"):
        error = assert_error(await alice.get("/v1/audit", params={"until": text}), 422, "validation_error")
        assert error["message"] == "query.until: is not a time; give one such as 2030-01-31T12:00:00Z"
    assert (await alice.get("/v1/audit", params={"until": "2030-01-31T12:00:00Z"})).status_code == 200


async def test_a_part_of_an_upload_s_form_that_is_not_known_is_refused(alice: httpx.AsyncClient) -> None:
    box = (await create(alice))["id"]
    answer = await alice.post(
        f"/v1/sandboxes/{box}/filesystem/upload", data={"paht": "x"}, files={"file": b"content"}
    )
    error = assert_error(answer, 422, "validation_error")
    assert "there is no field of this form paht; did you mean path?" in error["message"]


@pytest.mark.parametrize("order", [("path", "file"), ("file", "path")])
@pytest.mark.parametrize(("last", "said"), [("mode", "no field of this form mode"), ("path", "comes twice")])
async def test_so_is_one_behind_the_others_and_nothing_is_written(
    alice: httpx.AsyncClient, order: tuple[str, str], last: str, said: str
) -> None:
    box = (await create(alice))["id"]
    parts = [(name, (None, "kept.txt")) for name in (*order, last)]
    answer = await alice.post(f"/v1/sandboxes/{box}/filesystem/upload", files=parts)
    assert said in assert_error(answer, 422, "validation_error")["message"]

    async def is_empty() -> bool:  # once Ship has seen that the upload broke off
        listed = await alice.get(f"/v1/sandboxes/{box}/filesystem/directories")
        return listed.json()["entries"] == []

    await within(eventually(is_empty))


async def test_the_document_says_what_bodies_are_read_as_they_come_and_what_an_exec_takes(bay: World) -> None:
    document = bay.app.openapi()
    raw = {
        (method, "/".join(path.split("/")[-2:])): list(operation["requestBody"]["content"])
        for method, path, operation in operations(document)
        if "requestBody" in operation and "application/json" not in operation["requestBody"]["content"]
    }
    assert raw == {
        ("POST", "exec_id/stdin"): ["application/octet-stream"],
        ("PUT", "files/content"): ["application/octet-stream"],
        ("PUT", "files/archive"): ["application/x-tar"],
        ("POST", "checkpoints/import"): ["application/zstd"],
        ("POST", "images/import"): ["application/x-tar"],
        ("PUT", "template_ref/context"): ["application/x-tar"],
        ("POST", "filesystem/upload"): ["multipart/form-data"],
    }
    exec_ = document["components"]["schemas"]["CreateExec"]
    assert [branch["required"] for branch in exec_["oneOf"]] == [["command"], ["argv"]]
