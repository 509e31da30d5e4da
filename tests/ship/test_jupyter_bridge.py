"""Kernels of other languages: a real bash kernel, by its kernel spec, through Ship."""

import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ship_harness import Ship, eventually, running

pytestmark = pytest.mark.host

BASH = [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"]


def add_spec(ship: Ship, name: str, **spec: Any) -> None:
    """A kernel spec in the home directory of the programs."""
    folder = ship.workspace / ".local/share/jupyter/kernels" / name
    folder.mkdir(parents=True)
    text = json.dumps({"argv": BASH, "display_name": name.title(), "language": name, **spec})
    (folder / "kernel.json").write_text(text)


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """A Ship with the kernel specs `bash`, `broken` and `missing`."""
    with running() as found:
        add_spec(found, "bash")
        add_spec(found, "broken", argv=["sh", "-c", "echo no luck >&2; exit 3"])
        add_spec(found, "missing", argv=["/nowhere/kernel", "{connection_file}"])
        yield found


@contextmanager
def kernel(ship: Ship, spec: str) -> Generator[str]:
    """The id of a new kernel, deleted afterwards."""
    kernel_id = f"kern-{uuid.uuid4().hex[:12]}"
    answer = ship.http.post("/kernels", json={"id": kernel_id, "spec": spec})
    assert answer.status_code == 201, answer.text
    yield kernel_id
    ship.http.delete(f"/kernels/{kernel_id}")


@pytest.fixture(scope="module")
def bash(ship: Ship) -> Iterator[str]:
    """The id of a bash kernel that all tests of this file use."""
    with kernel(ship, "bash") as found:
        yield found


def run(ship: Ship, kernel_id: str, code: str, **more: Any) -> list[dict[str, Any]]:
    """The events of a cell."""
    cell = {"id": f"cell-{uuid.uuid4().hex[:12]}", "code": code, **more}
    answer = ship.http.post(f"/kernels/{kernel_id}/cells", params={"follow": "true"}, json=cell)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def printed(events: list[dict[str, Any]]) -> str:
    """What a cell wrote on stdout."""
    return "".join(event["text"] for event in events if event["type"] == "stdout")


def test_bash_remembers_between_cells(ship: Ship, bash: str) -> None:
    first = run(ship, bash, "name=Ada; cd /")
    second = run(ship, bash, 'echo "hello $name in $PWD"')

    assert [event["type"] for event in first] == ["start", "end"]
    assert printed(second) == "hello Ada in /\n"
    assert second[-1]["status"] == "ok"
    assert second[-1]["execution_count"] == first[-1]["execution_count"] + 1


def test_a_cell_takes_no_variables_that_would_not_be_set(ship: Ship, bash: str) -> None:
    body = {"id": "cell-env", "code": "true", "own_env": {"A": "b"}}
    answer = ship.http.post(f"/kernels/{bash}/cells", json=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")


def test_a_kernel_says_which_language_it_has(ship: Ship, bash: str) -> None:
    run(ship, bash, "true")

    found = ship.http.get(f"/kernels/{bash}").json()
    specs = ship.http.get("/kernelspecs").json()["items"]

    assert (found["spec"], found["language"], found["state"]) == ("bash", "bash", "idle")
    assert {"name": "bash", "display_name": "Bash", "language": "bash"} in specs


def test_output_comes_as_it_is_printed_and_all_of_it(ship: Ship, bash: str) -> None:
    events = run(ship, bash, "for i in $(seq 900); do echo line $i; done")

    # bash_kernel takes a line end that its terminal cuts in two for a carriage return and a line end.
    assert printed(events).replace("\r", "") == "".join(f"line {i}\n" for i in range(1, 901))


def test_a_failing_command_ends_its_cell_with_an_error(ship: Ship, bash: str) -> None:
    events = run(ship, bash, "echo before; false")

    assert printed(events) == "before\n"
    assert events[-1]["status"] == "error"
    assert printed(run(ship, bash, "echo after")) == "after\n"


def test_a_cell_that_is_too_slow_is_interrupted_and_the_kernel_goes_on(ship: Ship, bash: str) -> None:
    run(ship, bash, "kept=yes")

    events = run(ship, bash, "sleep 600", timeout_s=0.5)

    assert events[-1]["status"] == "timeout", events[-1]
    assert not events[-1]["restarted"], events[-1]
    assert printed(run(ship, bash, "echo $kept")) == "yes\n"


def test_an_interrupt_ends_the_cell_that_runs(ship: Ship, bash: str) -> None:
    found: list[dict[str, Any]] = []
    thread = threading.Thread(
        target=lambda: found.extend(run(ship, bash, "sh -c 'touch began; exec sleep 600'"))
    )
    run(ship, bash, f"cd {ship.workspace}")
    thread.start()
    assert eventually((ship.workspace / "began").exists)

    assert ship.http.post(f"/kernels/{bash}/interrupt").status_code == 200
    thread.join(20)

    assert found[-1]["status"] == "interrupted", found
    assert not found[-1]["restarted"], found


def test_pictures_come_as_mime_bundles(ship: Ship, bash: str) -> None:
    (ship.workspace / "dot.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')

    events = run(ship, bash, f"displayHTML < {ship.workspace}/dot.svg")

    shown = [event for event in events if event["type"] == "display"]
    assert "<svg" in shown[0]["data"]["text/html"], events


def test_a_kernel_that_dies_is_lost_and_says_how(ship: Ship) -> None:
    with kernel(ship, "bash") as mortal:
        run(ship, mortal, "true")
        pids = _children(ship.http.get(f"/kernels/{mortal}").json()["pid"])

        os.kill(pids[0], signal.SIGKILL)
        assert eventually(lambda: ship.http.get(f"/kernels/{mortal}").json()["state"] == "dead")
        events = run(ship, mortal, "echo again")

        assert printed(events) == "again\n"
        assert events[-1]["restarted"]
        assert "signal 9" in events[-1]["message"]


def test_a_kernel_that_does_not_start_says_why(ship: Ship) -> None:
    for spec, said in (("broken", "no luck"), ("missing", "/nowhere/kernel")):
        with kernel(ship, spec) as hopeless:
            events = run(ship, hopeless, "echo")

            assert events[-1]["status"] == "lost"
            assert said in events[-1]["message"], events[-1]


def test_a_deleted_kernel_leaves_nothing(ship: Ship) -> None:
    with kernel(ship, "bash") as found:
        run(ship, found, "sleep 600 & disown")
        bridge = ship.http.get(f"/kernels/{found}").json()["pid"]
        family = [bridge, *_children(bridge)]

        assert ship.http.delete(f"/kernels/{found}").is_success

    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]
