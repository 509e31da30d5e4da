"""The kernel of JavaScript in a real Ship, with the Node of this host."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from ship_harness import Ship, running

pytestmark = pytest.mark.host

Event = dict[str, Any]


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    with running(SHIP_USER="tester") as found:
        body = {"id": "js", "spec": "javascript", "env": {"PATH": "/usr/bin:/bin"}}
        answer = found.http.post("/kernels", json=body)
        assert answer.status_code == 201, answer.text
        yield found


def run(ship: Ship, code: str, **more: Any) -> list[Event]:
    """The events of a cell."""
    body = {"id": f"cell-{uuid.uuid4().hex[:12]}", "code": code, **more}
    answer = ship.http.post("/kernels/js/cells", params={"follow": "true"}, json=body)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def text(ship: Ship, code: str, **more: Any) -> str:
    """The result of a cell in plain text."""
    events = run(ship, code, **more)
    (result,) = [event for event in events if event["type"] == "result"]
    assert events[-1]["status"] == "ok"
    return result["data"]["text/plain"]


def test_a_cell_prints_gives_its_last_value_and_is_counted(ship: Ship) -> None:
    events = run(ship, "console.log('out'); console.error('err'); 6 * 7")
    assert [event["type"] for event in events if event["type"] not in ("stdout", "stderr")] == [
        "start",
        "result",
        "end",
    ]
    printed = {event["type"]: event["text"] for event in events if "text" in event}
    assert printed == {"stdout": "out\n", "stderr": "err\n"}
    assert events[-1]["execution_count"] == events[0]["execution_count"] > 0
    shown = ship.http.get("/kernels/js").json()
    assert (shown["language"], shown["state"]) == ("javascript", "idle")
    assert "javascript" in [spec["name"] for spec in ship.http.get("/kernelspecs").json()["items"]]


def test_names_stay_and_promises_are_waited_for(ship: Ship) -> None:
    run(ship, "const kept = 1; let more = 2; function add(a, b) { return a + b }")
    assert text(ship, "add(kept, more)") == "3"
    assert text(ship, "const late = await Promise.resolve(4); late") == "4"
    assert text(ship, "Promise.resolve('given')") == "'given'"
    assert (
        text(ship, "import { join as put } from 'path'\nimport os, * as all from 'os'\nput('a', 'b')")
        == "'a/b'"
    )
    assert run(ship, "undefined")[1]["type"] == "end"


def test_an_error_has_its_name_message_and_stack(ship: Ship) -> None:
    events = run(ship, "function broken() { throw new TypeError('no') }\nbroken()")
    (error,) = [event for event in events if event["type"] == "error"]
    assert (error["ename"], error["evalue"], events[-1]["status"]) == ("TypeError", "no", "error")
    assert any("broken" in line for line in error["traceback"])
    assert run(ship, "let = = 1")[1]["ename"] == "SyntaxError"
    assert run(ship, "throw 'words'")[1]["evalue"] == "'words'"
    assert run(ship, "if (true) {")[1]["ename"] == "SyntaxError"


def test_variables_of_a_cell_are_put_back(ship: Ship) -> None:
    assert text(ship, "process.env.ONCE", own_env={"ONCE": "1"}) == "'1'"
    assert text(ship, "String(process.env.ONCE)") == "'undefined'"


@pytest.mark.parametrize("code", ["while (true) {}", "await new Promise(() => {})", "new Promise(() => {})"])
def test_code_that_is_too_slow_is_interrupted_and_names_stay(ship: Ship, code: str) -> None:
    run(ship, "globalThis.here = 'yes'")
    end = run(ship, code, timeout_s=0.3)[-1]
    assert (end["status"], end["restarted"]) == ("timeout", False)
    assert text(ship, "here") == "'yes'"


def test_an_error_after_the_end_of_its_cell_ends_nothing(ship: Ship) -> None:
    pid = ship.http.get("/kernels/js").json()["pid"]
    run(
        ship,
        "setTimeout(() => { throw new Error('later') }, 0); await new Promise((go) => setTimeout(go, 50))",
    )
    assert text(ship, "process.pid") == str(pid)


def test_values_that_lie_are_shown_or_are_errors(ship: Ship) -> None:
    own = "({ [Symbol.for('Jupyter.display')]: () => ({ 'text/html': '<b>' }) })"
    (result,) = [event for event in run(ship, own) if event["type"] == "result"]
    assert result["data"]["text/html"] == "<b>"
    bad = run(ship, "({ [Symbol.for('nodejs.util.inspect.custom')]() { throw new Error('mine') } })")
    assert bad[-1]["status"] == "error"
    assert text(ship, "1") == "1"


def test_a_kernel_without_node_is_refused() -> None:
    with running(SHIP_USER="tester") as found:
        body = {"id": "js", "spec": "javascript", "env": {"PATH": "/nowhere"}}
        answer = found.http.post("/kernels", json=body)
        assert (answer.status_code, "javascript" in answer.text) == (400, True)
