"""The interpreter of code of E2B: its answers line by line, its contexts, and what breaks."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest
from server_harness import Json, Served, create, within

from bay.models import CellEvent
from bay.server.compat.e2b.interpreter_lines import is_chart, lines_of

pytestmark = pytest.mark.anyio


class Box:
    """The interpreter of one sandbox."""

    def __init__(self, http: httpx.AsyncClient, sandbox: str) -> None:
        self.http = http
        self.at = f"/e2b/sandboxes/{sandbox}/interpreter"
        self.sandbox = sandbox

    async def run(self, code: str, **more: Any) -> list[Json]:
        answer = await self.http.post(f"{self.at}/execute", json={"code": code, **more})
        assert answer.status_code == 200, answer.text
        assert "content-encoding" not in answer.headers
        assert answer.text.endswith("\n")
        return [json.loads(line) for line in answer.text[:-1].split("\n")]

    async def result(self, code: str, **more: Any) -> Json:
        """The main result of code."""
        return only("result", await self.run(code, **more))

    async def contexts(self) -> list[Json]:
        answer = await self.http.get(f"{self.at}/contexts")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def create(self, **body: Any) -> Json:
        answer = await self.http.post(f"{self.at}/contexts", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def box(live: Served) -> AsyncGenerator[Box]:
    headers = {"X-API-Key": live.key, **live.headers}
    async with httpx.AsyncClient(base_url=live.url, headers=headers, timeout=60) as http:
        yield Box(http, (await create(http, wait=15))["id"])


def only(kind: str, lines: list[Json]) -> Json:
    (found,) = [line for line in lines if line["type"] == kind]
    return found


async def test_an_execution_tells_what_it_does_and_ends(box: Box) -> None:
    code = (
        "import sys; from IPython.display import HTML, display\nprint('out')\nprint('err', file=sys.stderr)\n"
    )
    lines = await box.run(f"{code}display(HTML('<b>'))\n'it'")
    assert [line["type"] for line in lines] == [
        "number_of_executions", "stdout", "stderr", "result", "result", "end_of_execution",
    ]  # fmt: skip
    assert lines[0]["execution_count"] == 1
    assert (lines[1]["text"], lines[2]["text"]) == ("out\n", "err\n")
    assert lines[1]["timestamp"] > 10**18
    assert (lines[3]["html"], lines[3]["is_main_result"]) == ("<b>", False)
    assert (lines[4]["text"], lines[4]["is_main_result"]) == ("it", True)


async def test_an_exception_is_data_with_its_whole_value(box: Box) -> None:
    error = only("error", await box.run("raise ValueError('x' * 1_000_000)"))
    assert (error["name"], error["value"]) == ("ValueError", "x" * 1_000_000)
    assert error["traceback"].endswith("x" * 1_000_000)
    assert "\x1b" not in error["traceback"]


async def test_code_keeps_its_state_and_may_be_what_ipython_takes(box: Box) -> None:
    await box.run("  x = 41\n  x += 1")
    assert (await box.result("import asyncio\nawait asyncio.sleep(0)\nx"))["text"] == "42"
    assert only("stdout", await box.run("!echo $((x + 1)) $MINE", env_vars={"MINE": "own"}))[
        "text"
    ].split() == ["1", "own"]
    assert (await box.result("import os; os.environ.get('MINE', 'gone')", env_vars=None))["text"] == "gone"
    assert (await box.result("import os; os.getcwd() == os.path.expanduser('~')"))["text"] == "True"
    assert (await box.result("os.environ['E2B_SANDBOX_ID']"))["text"] == box.sandbox


async def test_a_table_and_a_chart_come_as_data(box: Box) -> None:
    chart: Json = {"type": "line", "title": "T", "elements": []}
    code = (
        "class Shown:\n    def _repr_bay_table_(self): return {'columns': [{'name': 'a', 'values': [1, 2]}]}\n"
        f"    def _repr_bay_chart_(self): return {chart!r}\n    def _repr_json_(self): return {{'k': 1}}\nShown()"
    )
    found = await box.result(code)
    assert (found["data"], found["chart"], found["json"]) == ({"a": [1, 2]}, chart, {"k": 1})


async def test_a_bundle_of_another_shape_breaks_nothing(box: Box) -> None:
    bundle = {
        "text/plain": 7, "text/html": ["x"], "application/vnd.bay.chart+json": {"type": "line"},
        "application/vnd.bay.table+json": {"columns": [{"name": 7}]}, "application/x-own": {"k": "v"},
    }  # fmt: skip
    lines = await box.run(f"from IPython.display import display\ndisplay({bundle!r}, raw=True)")
    assert only("result", lines) == {
        "type": "result", "is_main_result": False, "extra": {"application/x-own": {"k": "v"}},
    }  # fmt: skip
    assert not is_chart({"type": "cake", "title": "", "elements": []})


async def test_contexts_have_variables_and_directories_of_their_own(box: Box) -> None:
    assert [context["language"] for context in await box.contexts()] == ["python", "javascript"]
    await box.run("!mkdir sub")
    made = await box.create(cwd="sub")
    assert (made["language"], made["cwd"].rpartition("/")[2]) == ("python", "sub")
    await box.run("x = 'own'", context_id=made["id"])
    assert (await box.result("x", context_id=made["id"]))["text"] == "own"
    assert only("error", await box.run("x"))["name"] == "NameError"
    assert [context["id"] for context in await box.contexts()][-1] == made["id"]
    assert (await box.http.post(f"{box.at}/contexts/{made['id']}/restart")).status_code == 200
    assert only("error", await box.run("x", context_id=made["id"]))["name"] == "NameError"
    assert (await box.http.delete(f"{box.at}/contexts/{made['id']}")).status_code == 200
    for method, path in (
        ("DELETE", f"/{made['id']}"),
        ("POST", "/nobody/restart"),
        ("POST", "/default/restart"),
    ):
        answer = await box.http.request(method, f"{box.at}/contexts{path}")
        assert answer.status_code == (200 if "default" in path else 404), answer.text
    gone = await box.http.post(f"{box.at}/execute", json={"code": "1", "context_id": made["id"]})
    assert (gone.status_code, gone.text) == (404, f"Context {made['id']} not found")
    assert (await box.result("1", context_id="default"))["text"] == "1"


async def test_javascript_has_a_default_context_of_its_own(box: Box) -> None:
    await box.run("const kept = 20", language="javascript")
    assert (await box.result("kept * 2 + 2", language="js"))["text"] == "42"
    assert (await box.result("process.env.MINE", language="js", env_vars={"MINE": "own"}))["text"] == "own"
    (listed,) = [each for each in await box.contexts() if each["language"] == "javascript"]
    assert (await box.result("kept", context_id=listed["id"]))["text"] == "20"


async def test_what_cannot_run_is_refused_in_words(box: Box) -> None:
    both = await box.http.post(
        f"{box.at}/execute", json={"code": "1", "context_id": "a", "language": "python"}
    )
    assert both.status_code == 400
    none = await box.http.post(f"{box.at}/execute", json={"code": "1", "language": "cobol"})
    assert none.status_code == 500
    assert "cobol" in none.text
    assert (await box.http.post(f"{box.at}/contexts", json={"cwd": "/nowhere"})).status_code == 500


async def test_a_client_that_leaves_interrupts_its_code(box: Box) -> None:
    body = {"code": "kept = 1\nprint('here')\nwhile True: pass"}
    async with box.http.stream("POST", f"{box.at}/execute", json=body) as answer:
        lines = answer.aiter_lines()
        while "here" not in await within(anext(lines)):
            pass
    assert (await box.result("kept"))["text"] == "1"


@pytest.mark.host
async def test_silence_is_broken_and_no_line_is_empty(box: Box) -> None:
    body = {"code": "import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)"}
    async with box.http.stream("POST", f"{box.at}/execute", json=body) as answer:
        lines = answer.aiter_lines()
        while json.loads(await within(anext(lines)))["type"] != "keepalive":
            pass
        made = await box.http.post(f"/v1/sandboxes/{box.sandbox}/shell/exec", json={"command": "touch ~/go"})
        assert made.status_code == 200, made.text
        async with asyncio.timeout(30):
            rest = [json.loads(line) async for line in lines]
    assert rest[-1] == {"type": "end_of_execution"}


async def test_code_whose_kernel_dies_ends_with_an_error_and_the_next_one_runs(box: Box) -> None:
    lines = await box.run("import os; os._exit(3)")
    assert only("error", lines)["name"] == "ContextRestarted"
    assert lines[-1]["type"] == "end_of_execution"
    assert (await box.result("1"))["text"] == "1"


async def test_code_whose_sandbox_ends_cuts_the_connection(box: Box) -> None:
    body = {"code": "print('here')\nwhile True: pass"}
    async with box.http.stream("POST", f"{box.at}/execute", json=body) as answer:
        lines = answer.aiter_lines()
        while "here" not in await within(anext(lines)):
            pass
        assert (await box.http.delete(f"/v1/sandboxes/{box.sandbox}")).status_code in (200, 204)
        with pytest.raises(httpx.RemoteProtocolError):
            async with asyncio.timeout(30):
                [_ async for _ in lines]


async def test_output_that_is_missing_is_said(box: Box) -> None:
    async def events() -> AsyncGenerator[CellEvent]:
        yield CellEvent(seq=0, type="end", status="ok", truncated=True)

    printed, end = [line async for line in lines_of(events())]
    assert (printed["type"], "16 MiB is missing" in printed["text"], end["type"]) == (
        "stderr",
        True,
        "end_of_execution",
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [("'a\nb'", "a\nb"), ('"\'"', "'"), ("''", ""), ("'", "'"), ("'a\"", "'a\""), ("'a", "'a"), ("", "")],
)
async def test_a_text_is_shown_without_the_quotes_around_it(text: str, shown: str) -> None:
    async def events() -> AsyncGenerator[CellEvent]:
        yield CellEvent(seq=0, type="result", data={"text/plain": text})

    assert only("result", [dict(line) async for line in lines_of(events())])["text"] == shown
