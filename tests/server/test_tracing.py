"""Traces: the spans of a request down to its start and its Ship, a caller's trace, and ids in log lines."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from server_harness import PROFILES, WAIT_S, Json, World, clear, create, shell, until, world
from trace_collector import SeenSpan, TraceCollector, collecting

from bay.server import backends, logs, open_telemetry
from bay.server.settings import Settings
from bay.server.web import edge

pytestmark = pytest.mark.anyio

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
SHOW = 'echo "$TRACEPARENT|$TRACESTATE"'
SERVER, CLIENT = 2, 3


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Generator[TraceCollector]:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")  # ms; the library's own is 5 s
    with collecting() as running:
        yield running


@pytest.fixture
async def traced(root: Path, collector: TraceCollector) -> AsyncGenerator[World]:
    try:
        async with world(root, profiles=PROFILES, otlp_endpoint=collector.url) as running:
            yield running
    finally:
        await clear(root)


async def seen(
    collector: TraceCollector, are_there: Callable[[list[SeenSpan]], bool], trace: str = TRACE
) -> list[SeenSpan]:
    """The spans of a trace, once they are as `are_there` wants them."""

    def ours(spans: list[SeenSpan]) -> list[SeenSpan]:
        return [one for one in spans if one.trace_id == trace]

    return ours(await asyncio.to_thread(collector.wait, lambda spans: are_there(ours(spans))))


async def cold(bay: World, alice: httpx.AsyncClient) -> Json:
    """A sandbox that never ran, of which nothing is left to do: the next call alone asks for its start."""
    box = await create(alice)
    await until(lambda: len(bay.bay.reconciler.queue) == 0)
    return box


def has(name: str) -> Callable[[list[SeenSpan]], bool]:
    return lambda spans: any(one.name == name for one in spans)


def line_of(spans: list[SeenSpan], name: str) -> list[str]:
    """The names from that span up to the first whose parent is not among `spans`."""
    by_id = {one.span_id: one for one in spans}
    one: SeenSpan | None = next(one for one in spans if one.name == name)
    found: list[str] = []
    while one is not None:
        found.append(one.name)
        one = by_id.get(one.parent_id)
    return found


async def test_an_exec_in_a_cold_sandbox_is_one_trace_down_to_the_steps_of_its_start_and_its_ship(
    traced: World, collector: TraceCollector
) -> None:
    alice = await traced.client()
    box = await cold(traced, alice)
    alice.headers["traceparent"] = TRACEPARENT
    alice.headers["x-request-id"] = "req-of-alice"
    path = f"/v1/sandboxes/{box['id']}/execs"
    answer = await alice.post(path, json={"command": "true"}, params={"wait": WAIT_S})
    assert answer.status_code == 201, answer.text
    route = "POST /v1/sandboxes/{sandbox_id}/execs"
    spans = await seen(collector, lambda spans: has(route)(spans) and has("reconcile")(spans))
    request = next(one for one in spans if one.name == route)
    assert (request.kind, request.parent_id, request.has_failed) == (SERVER, CALLER, False)
    assert request.attributes == {
        "bay.request.id": "req-of-alice",
        "bay.sandbox.id": box["id"],
        "http.request.method": "POST",
        "http.response.status_code": 201,
        "http.route": "/v1/sandboxes/{sandbox_id}/execs",
        "url.path": path,
    }
    assert (request.resource["service.name"], collector.paths[0]) == ("bay", "/v1/traces")
    start = ["step begin", "reconcile", "wake", route]
    for phase in ("files", "queue", "prepare", "launched", "ready", "record"):
        assert line_of(spans, f"start {phase}") == [f"start {phase}", *start]
    assert line_of(spans, "ship execs") == ["ship execs", route]
    assert {one.attributes["bay.sandbox.id"] for one in spans} == {box["id"]}
    assert next(one for one in spans if one.name == "ship execs").kind == CLIENT
    for one in spans:
        assert one.began <= one.ended
        parent = next((parent for parent in spans if parent.span_id == one.parent_id), None)
        assert parent is None or parent.began <= one.began + 1_000_000  # the clocks of two measurements


async def test_a_create_that_waits_has_its_start_in_its_trace(
    traced: World, collector: TraceCollector
) -> None:
    alice = await traced.client()
    alice.headers["traceparent"] = TRACEPARENT
    await create(alice, profile="eager", wait=WAIT_S)
    spans = await seen(collector, lambda spans: has("POST /v1/sandboxes")(spans) and has("reconcile")(spans))
    assert line_of(spans, "start launched")[-1] == "POST /v1/sandboxes"


async def test_a_command_finds_the_span_that_runs_it_in_its_environment(
    traced: World, collector: TraceCollector
) -> None:
    alice = await traced.client()
    box = await create(alice, wait=WAIT_S)
    alice.headers["traceparent"] = TRACEPARENT
    alice.headers["tracestate"] = "vendor=1"
    shown = (await shell(alice, box["id"], SHOW))["output"].strip()
    route = "POST /v1/sandboxes/{sandbox_id}/shell/exec"
    request = next(one for one in await seen(collector, has(route)) if one.name == route)
    assert shown == f"00-{TRACE}-{request.span_id}-01|vendor=1"


async def test_a_request_without_a_trace_begins_one(traced: World, collector: TraceCollector) -> None:
    alice = await traced.client()
    box = await create(alice, wait=WAIT_S)
    version, trace, span, flags = (await shell(alice, box["id"], SHOW))["output"].split("|")[0].split("-")
    assert (version, int(flags, 16) & 1) == ("00", 1)
    route = "POST /v1/sandboxes/{sandbox_id}/shell/exec"
    spans = await seen(collector, has(route), trace)
    assert [(one.span_id, one.parent_id) for one in spans if one.name == route] == [(span, "")]


async def test_a_caller_that_records_nothing_has_nothing_recorded_and_its_trace_goes_on(
    traced: World, collector: TraceCollector
) -> None:
    alice = await traced.client()
    box = await create(alice, wait=WAIT_S)
    given = {"traceparent": f"00-{TRACE}-{CALLER}-00"}
    answer = await alice.post(f"/v1/sandboxes/{box['id']}/shell/exec", json={"command": SHOW}, headers=given)
    _, trace, _, flags = answer.json()["output"].split("|")[0].split("-")
    assert (trace, flags) == (TRACE, "00")
    await alice.get("/v1/sandboxes")
    await asyncio.to_thread(collector.wait, has("GET /v1/sandboxes"))  # comes after all of before
    assert [one for one in collector.spans if one.trace_id == TRACE] == []


async def test_a_request_that_fails_says_so_with_the_code_of_its_error(
    traced: World, collector: TraceCollector
) -> None:
    alice = await traced.client()
    await alice.get("/v1/sandboxes/none", headers={"traceparent": TRACEPARENT})
    await alice.get("/v1/nowhere", headers={"traceparent": TRACEPARENT})
    spans = await seen(collector, lambda spans: len(spans) == 2)
    assert [one.name for one in spans] == ["GET /v1/sandboxes/{sandbox_id}", "GET none"]
    assert [(one.has_failed, one.attributes["error.type"]) for one in spans] == [(True, "not_found")] * 2


async def test_a_start_that_fails_shows_the_step_that_failed(
    traced: World, collector: TraceCollector
) -> None:
    alice = await traced.client()
    box = await cold(traced, alice)
    traced.driver.fail_at = "launch"
    given = {"traceparent": TRACEPARENT}
    answer = await alice.post(
        f"/v1/sandboxes/{box['id']}/shell/exec", json={"command": "true"}, headers=given
    )
    assert answer.status_code == 503, answer.text
    route = "POST /v1/sandboxes/{sandbox_id}/shell/exec"
    spans = await seen(collector, lambda spans: has(route)(spans) and has("reconcile")(spans))
    assert "start launched" not in {one.name for one in spans}
    failed = {one.name: one.attributes["error.type"] for one in spans if one.has_failed}
    assert failed == {
        route: "session_not_ready",
        "wake": "session_not_ready",
        "step begin": "driver_unavailable",
    }


async def test_the_end_of_an_idle_session_is_no_part_of_any_request(
    traced: World, collector: TraceCollector
) -> None:
    alice = await traced.client()
    alice.headers["traceparent"] = TRACEPARENT
    box = await create(alice)
    await shell(alice, box["id"], "true")
    traced.clock.advance(24 * 3600)
    spans = await asyncio.to_thread(collector.wait, has("step pause"))
    pause = next(one for one in spans if one.name == "step pause")
    assert pause.attributes == {"bay.sandbox.id": box["id"]}
    assert pause.trace_id != TRACE


async def test_an_answer_that_is_cut_has_the_code_of_why(traced: World, collector: TraceCollector) -> None:
    def cut_one() -> None:
        with traced.bay.tracing.request("GET x", "req-1", [TRACEPARENT], []) as span:
            span.fail("ship_error")
            raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        cut_one()
    (cut,) = await seen(collector, has("GET x"))
    assert cut.attributes["error.type"] == "ship_error"


async def test_a_path_without_end_is_cut_in_its_span(traced: World, collector: TraceCollector) -> None:
    stranger = await traced.open_client()
    await stranger.get(f"/v1/{'x' * 30_000}", headers={"traceparent": TRACEPARENT})
    (span,) = await seen(collector, has("GET none"))
    assert len(span.attributes["url.path"]) == 1024


async def test_a_library_that_its_own_variable_has_turned_off_names_no_trace(
    root: Path, collector: TraceCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    try:
        async with world(root, otlp_endpoint=collector.url) as bay:
            alice = await bay.client()
            box = await create(alice, wait=WAIT_S)
            assert (await shell(alice, box["id"], SHOW))["output"] == "|\n"
    finally:
        await clear(root)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        f"00-{TRACE}-{CALLER}",
        f"00-{TRACE.upper()}-{CALLER}-01",
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{CALLER}-01",
        f"00-{TRACE}-{CALLER}-01-more",
        f"00-{TRACE}-{CALLER}-01\x7f",
    ],
)
async def test_a_header_that_names_no_trace_is_no_reason_to_refuse(
    bay: World, alice: httpx.AsyncClient, given: str
) -> None:
    box = await create(alice, wait=WAIT_S)
    alice.headers["traceparent"] = given
    assert (await shell(alice, box["id"], SHOW))["output"] == "|\n"


async def test_without_a_collector_the_trace_of_the_caller_goes_on_as_it_came(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = await create(alice, wait=WAIT_S)
    assert (await shell(alice, box["id"], SHOW))["output"] == "|\n"
    alice.headers["traceparent"] = TRACEPARENT
    alice.headers["tracestate"] = "a=1"
    assert (await shell(alice, box["id"], SHOW))["output"] == f"{TRACEPARENT}|a=1\n"
    alice.headers["traceparent"] = f"01-{TRACE}-{CALLER}-09-of-a-later-version"
    alice.headers["tracestate"] = "x" * 600
    assert (await shell(alice, box["id"], SHOW))["output"] == f"{TRACEPARENT}|\n"


async def test_code_finds_its_trace_while_it_runs_and_not_after_it(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = await create(alice, wait=WAIT_S)
    shows = 'import os; print(os.environ.get("TRACEPARENT"))'

    async def said(**headers: str) -> str:
        path = f"/v1/sandboxes/{box['id']}/python/exec"
        answer = await alice.post(path, json={"code": shows}, headers=headers)
        assert answer.status_code == 200, answer.text
        return answer.json()["output"].strip()

    assert await said() == "None"
    assert await said(traceparent=TRACEPARENT) == TRACEPARENT
    assert await said() == "None"


async def test_two_headers_that_each_name_a_trace_name_none(bay: World, alice: httpx.AsyncClient) -> None:
    box = await create(alice, wait=WAIT_S)
    twice = [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)]
    answer = await alice.post(f"/v1/sandboxes/{box['id']}/shell/exec", json={"command": SHOW}, headers=twice)
    assert answer.json()["output"] == "|\n"


async def test_the_variables_of_the_call_count_more_than_those_of_its_trace(
    bay: World, alice: httpx.AsyncClient
) -> None:
    box = await create(alice, wait=WAIT_S)
    body = {"command": SHOW, "env": {"TRACEPARENT": "mine"}}
    answer = await alice.post(
        f"/v1/sandboxes/{box['id']}/execs",
        json=body,
        headers={"traceparent": TRACEPARENT},
        params={"wait": WAIT_S},
    )
    assert answer.json()["stdout"] == "mine|\n"


@pytest.mark.parametrize("kind", ["refuses", "is silent"])
async def test_a_collector_that_is_away_delays_no_call_and_no_end(
    root: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setattr(open_telemetry, "_EXPORT_S", 3600)  # so that an end which waits for it is seen
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        if kind == "refuses":
            silent.close()
        try:
            async with asyncio.timeout(WAIT_S):
                async with world(root, otlp_endpoint=f"http://127.0.0.1:{port}") as bay:
                    alice = await bay.client()
                    box = await create(alice, wait=WAIT_S)
                    assert (await shell(alice, box["id"], "echo hi"))["output"] == "hi\n"
        finally:
            await clear(root)


def test_traces_without_their_library_are_refused_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "bay.server.open_telemetry", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    given = Settings.model_validate({"data_dir": tmp_path, "otlp_endpoint": "http://127.0.0.1:4318"})
    with pytest.raises(Exception, match=r"pip install .* '\.\[opentelemetry\]'"):
        backends.make_tracing(given)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:4318", "no URL of a collector"),
        ("grpc://127.0.0.1:4317", "no URL of a collector"),
        ("http://", "no URL of a collector"),
        ("https://user:secret@collector.example.com", "OTEL_EXPORTER_OTLP_HEADERS"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(url: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=why):
        Settings.model_validate({"data_dir": tmp_path, "otlp_endpoint": url})


async def test_log_lines_have_the_ids_of_the_request_the_sandbox_and_the_trace(
    bay: World, alice: httpx.AsyncClient, own_logs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    for module in (edge, sys.modules["bay.server.reconciler.starter"]):
        monkeypatch.setattr(module, "log", structlog.get_logger(module.__name__))
    logs.configure("info", "json")
    box = await cold(bay, alice)
    given = {"traceparent": TRACEPARENT, "x-request-id": "req-of-alice"}
    answer = await alice.post(
        f"/v1/sandboxes/{box['id']}/shell/exec", json={"command": "true"}, headers=given
    )
    assert answer.status_code == 200
    lines: list[dict[str, Any]] = [json.loads(line) for line in stream.getvalue().splitlines()]
    wanted = {"request_id": "req-of-alice", "sandbox": box["id"], "trace_id": TRACE}
    for event in ("sandbox.started", "http.request"):
        line = [one for one in lines if one["event"] == event][-1]
        assert {name: line.get(name) for name in wanted} == wanted
    first = next(one for one in lines if one["event"] == "http.request")
    assert (first["sandbox"], "trace_id" in first) == (box["id"], False)
