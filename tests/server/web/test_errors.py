"""One shape for every error, whatever goes wrong and wherever."""

import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from server_harness import World, assert_error, clear, create, world

from bay.errors import BY_CODE, BayError, NotFound
from bay.server.sandboxes.service import Sandboxes
from bay.server.web.console_cookie import SIGN_IN
from bay.server.web.edge import FOR_READERS
from bay.server.web.replies import error_response

pytestmark = pytest.mark.anyio


@pytest.fixture
async def small(root: Any) -> AsyncGenerator[World]:
    """A Bay with limits of 1 MiB."""
    async with world(root, max_body_mb=1, max_upload_mb=2) as running:
        yield running
    await clear(root)


async def test_routes_that_are_not_there(alice: httpx.AsyncClient) -> None:
    for path in ("/", "/v1", "/v1/nothing", "/v1/sandboxes/a/b/c", "/%00", "/..%2f", "/v2/sandboxes", "//"):
        assert_error(await alice.get(path), 404, "not_found")


async def test_methods_that_are_not_there_name_those_that_are(alice: httpx.AsyncClient) -> None:
    for method, path in (("PUT", "/v1/sandboxes"), ("DELETE", "/health"), ("GET", "/v1/sandboxes/x/stop")):
        answer = await alice.request(method, path)
        assert_error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/cargos", "GET, POST"), ("/v1/sandboxes/x", "DELETE, GET, PATCH"), ("/v1/keys/x", "DELETE"), ("/health", "GET")],
)  # fmt: skip
async def test_allow_lists_all_that_a_path_takes(bay: World, path: str, allowed: str) -> None:
    admin = await bay.client("admin", "admin")
    for method in ("OPTIONS", "TRACE"):
        answer = await admin.request(method, path)
        assert_error(answer, 405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff\xfe", b'{"a":', b"nul", b"[" * 100_000, b'{"ttl": ' + b"9" * 5000 + b"}", b"\0", b'"\\ud800"',
     b'{"ttl": NaN}', b'{"labels": {"\\ud800": 1}}', b"<xml/>"],
    ids=range(11),
)  # fmt: skip
@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/json; charset=utf-16", ""]
)
async def test_a_body_that_is_no_json_is_the_callers_mistake(
    alice: httpx.AsyncClient, body: bytes, content_type: str
) -> None:
    answer = await alice.post("/v1/sandboxes", content=body, headers={"Content-Type": content_type})
    assert answer.status_code in (400, 422), answer.text
    assert_error(answer, answer.status_code, "validation_error")


async def test_a_validation_error_keeps_the_framework_s_list_beside_the_error(
    alice: httpx.AsyncClient,
) -> None:
    answer = await alice.post("/v1/sandboxes", json={"ttl": "x", "labels": 7})
    error = assert_error(answer, 422, "validation_error")
    detail = answer.json()["detail"]
    assert [d["loc"] for d in detail] == [["body", "ttl"], ["body", "labels"]]
    assert all(set(d) == {"loc", "msg", "type"} for d in detail)
    assert error["details"] == {"errors": 2, "field": "body.ttl"}
    assert "ttl" in error["message"]


@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic YTpi", "bay_x", "Bearer \xff"]
)
async def test_no_key_or_a_wrong_one_is_401_before_anything_is_looked_at(
    bay: World, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization.encode("latin-1")}
    anybody = await bay.open_client()
    for method, path in (
        ("GET", "/v1/sandboxes"), ("POST", "/v1/sandboxes"), ("GET", "/v1/nothing"), ("GET", "/v1/sandboxes/x"),
        ("PUT", "/health"), ("GET", "/health/"), ("GET", "/v1/profiles/"),
    ):  # fmt: skip
        answer = await anybody.request(method, path, headers=headers, content=b"{")  # pyright: ignore[reportArgumentType]
        if path == "/health":
            assert_error(answer, 405, "method_not_allowed")
        else:
            assert_error(answer, 401, "unauthorized")


async def test_a_key_works_whatever_the_case_of_the_scheme(bay: World) -> None:
    client = await bay.open_client({"Authorization": f"bEARER {await bay.key()}"})
    assert (await client.get("/v1/sandboxes")).status_code == 200


async def test_two_authorization_headers_are_refused(bay: World) -> None:
    key = await bay.key()
    client = await bay.open_client()
    headers = [("Authorization", f"Bearer {key}"), ("Authorization", "Bearer other")]
    assert_error(await client.get("/v1/sandboxes", headers=headers), 400, "validation_error")


async def test_a_body_with_two_ends_is_refused_whatever_the_parser_lets_through(
    alice: httpx.AsyncClient,
) -> None:
    headers = {"Content-Length": "2", "Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    assert_error(await alice.post("/v1/sandboxes", content=b"{}", headers=headers), 400, "validation_error")
    for length in ("-1", "0x2", "2, 2", "9" * 19, "\u0662".encode().decode("latin-1")):
        answer = await alice.post(
            "/v1/sandboxes", content=b"{}", headers={b"Content-Length": length.encode("latin-1")}
        )
        assert_error(answer, 400, "validation_error")


async def test_a_read_key_reads_and_does_nothing_else(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    reader = await bay.client("alice", "read")
    assert (await reader.get(f"/v1/sandboxes/{made['id']}")).status_code == 200
    writes = [
        (method.upper(), path.replace("{sandbox_id}", made["id"]).replace("{exec_id}", "exec-" + "0" * 24))
        for path, item in bay.app.openapi()["paths"].items()
        for method in item
        if method != "get" and path not in FOR_READERS
    ]
    assert len(writes) >= 11
    for method, path in writes:
        answer = await reader.request(
            method, path, params={"path": "x"},
            json={"command": "true", "extend_by": 1, "path": "x", "content": "x"} if "upload" not in path else None,
        )  # fmt: skip
        if answer.status_code != 422 or "upload" not in path:
            assert_error(answer, 403, "forbidden")
    assert (await bay.record(made["id"])).session is None


async def test_an_upload_with_a_read_key_is_403(bay: World, alice: httpx.AsyncClient) -> None:
    made = await create(alice)
    reader = await bay.client("alice", "read")
    path = f"/v1/sandboxes/{made['id']}/filesystem/upload"
    assert_error(await reader.post(path, files={"file": b"x"}, data={"path": "x"}), 403, "forbidden")


async def test_a_body_above_the_limit_is_413_declared_or_not(small: World) -> None:
    alice = await small.client()
    made = await create(alice)
    base = f"/v1/sandboxes/{made['id']}/filesystem"

    async def chunks(count: int) -> AsyncGenerator[bytes]:
        yield b'{"path": "x", "content": "'
        for _ in range(count):
            yield b"x" * 65536
        yield b'"}'

    headers = {"Content-Type": "application/json"}
    declared = await alice.put(f"{base}/files", content=b"x" * ((1 << 20) + 1), headers=headers)
    assert_error(declared, 413, "payload_too_large")
    assert_error(
        await alice.put(f"{base}/files", content=chunks(16), headers=headers), 413, "payload_too_large"
    )
    assert (await alice.put(f"{base}/files", content=chunks(15), headers=headers)).status_code == 200
    upload = {"file": b"x" * (2 << 20)}
    assert_error(
        await alice.post(f"{base}/upload", files=upload, data={"path": "x"}), 413, "payload_too_large"
    )
    fits = await alice.post(f"{base}/upload", files={"file": b"x" * (1 << 20)}, data={"path": "x"})
    assert fits.status_code == 200


async def test_the_request_id_is_echoed_or_made_on_every_answer(bay: World, alice: httpx.AsyncClient) -> None:
    anybody = await bay.open_client()
    for client, path, status in (
        (anybody, "/health", 200), (anybody, "/v1/sandboxes", 401), (alice, "/v1/sandboxes", 200),
        (alice, "/v1/nothing", 404), (alice, "/v1/sandboxes?limit=0", 422),
    ):  # fmt: skip
        given = await client.get(path, headers={"X-Request-Id": "my.id_1-2"})
        assert (given.status_code, given.headers.get_list("x-request-id")) == (status, ["my.id_1-2"])
        made = [(await client.get(path)).headers["x-request-id"] for _ in range(2)]
        assert len(set(made)) == 2
        for bad in ("a b", "x" * 129, "é", "a\tb", ""):
            answer = await client.get(path, headers={"X-Request-Id": bad.encode()})  # pyright: ignore[reportArgumentType]
            assert answer.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(
    "fault", [ZeroDivisionError("a secret"), OSError(5, "a secret"), RecursionError(), TimeoutError()]
)
async def test_a_defect_is_500_without_a_word_of_it(
    bay: World, alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(bay.app.state.services[Sandboxes], "get", fail)
    answer = await alice.get("/v1/sandboxes/x", headers={"X-Request-Id": "mine"})
    error = assert_error(answer, 500, "internal_error")
    assert (error["request_id"], error["retryable"]) == ("mine", False)
    assert "secret" not in answer.text


@pytest.mark.parametrize("odd", ["\udcff", "\ud800\udfff"])
def test_an_error_with_half_a_character_can_be_told(odd: str) -> None:
    body = json.loads(bytes(error_response(NotFound(f"no file é{odd}"), "req").body))
    assert body["error"]["message"] == "no file é" + "?" * len(odd)


async def test_every_error_can_be_told(alice: httpx.AsyncClient) -> None:
    for code, cls in BY_CODE.items():
        if cls.status:
            answer = error_response(cls("what", details={"a": 1}), "req")
            body = json.loads(bytes(answer.body))["error"]
            assert (answer.status_code, body["code"], body["details"]) == (cls.status, code, {"a": 1})
            assert body["retryable"] is cls.retryable


async def test_retry_after_comes_with_503(bay: World, alice: httpx.AsyncClient) -> None:
    bay.driver.fail_at = "claim"
    made = await create(alice)
    answer = await alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
    error = assert_error(answer, 503, "session_not_ready")
    assert error["retryable"] is True
    assert error["details"] == {"sandbox_id": made["id"], "retry_after_ms": 1000}
    assert answer.headers["retry-after"] == "1"


async def test_a_start_that_takes_too_long_is_503_and_goes_on(root: Any) -> None:
    async with world(root, start_timeout=0.2) as bay:
        alice = await bay.client()
        bay.driver.hold_at = "ready"
        made = await create(alice)
        answer = await alice.post(f"/v1/sandboxes/{made['id']}/shell/exec", json={"command": "true"})
        assert "still starting" in assert_error(answer, 503, "session_not_ready")["message"]
        bay.driver.let_go.set()
        await bay.settled(made["id"], lambda r: r.session is not None and r.session.phase == "running")
    await clear(root)


async def test_a_websocket_where_no_route_takes_one_is_refused_in_the_one_shape(bay: World) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"bay")]
    scope: dict[str, Any] = {"type": "websocket", "path": "/health", "headers": headers, "query_string": b""}
    await bay.app(scope, receive, send)
    assert (sent[0]["type"], sent[0]["status"]) == ("websocket.http.response.start", 404)
    assert json.loads(sent[1]["body"])["error"]["code"] == "not_found"


NO_KEY = {("post", SIGN_IN), ("delete", SIGN_IN)}
"""What a browser calls that has not signed in: see `test_console_sign_in`."""


async def test_the_openapi_document_is_complete(bay: World) -> None:
    document = (await (await bay.open_client()).get("/openapi.json")).json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert operation["summary"], (method, path)
            assert operation["description"], (method, path)
            assert operation["tags"], (method, path)
            if path not in ("/health", "/health/ready", "/v1/profiles") and (method, path) not in NO_KEY:
                assert operation["security"], (method, path)
            assert "4XX" in operation["responses"], (method, path)


def test_no_error_is_raised_with_a_status_that_is_none() -> None:
    assert all(400 <= cls.status < 600 for cls in BY_CODE.values() if cls is not BY_CODE["connection_failed"])
    assert BayError.status == 500
