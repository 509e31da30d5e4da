"""Processes of the sandbox: whose they are, and signals to them and to execs."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from ship_harness import Ship, eventually, running

pytestmark = pytest.mark.host


@pytest.fixture(scope="module", params=["local", "first"])
def ship(request: pytest.FixtureRequest) -> Iterator[Ship]:
    """One Ship for all of these; as in a sandbox, its programs uid 1000, where that can be."""
    if request.param == "first" and os.geteuid() != 0:
        pytest.skip("makes namespaces, which takes root")
    with running(first=request.param == "first") as found:
        yield found


def processes(ship: Ship) -> list[dict[str, Any]]:
    return ship.http.get("/shell/processes").json()["processes"]


def signal_process(ship: Ship, pid: object, number: object) -> tuple[int, Any]:
    answer = ship.http.post(f"/shell/processes/{pid}/signal", json={"signal": number})
    return answer.status_code, answer.json().get("error", answer.json())


def signal_exec(ship: Ship, exec_id: str, number: object) -> int:
    return ship.http.post(f"/execs/{exec_id}/signal", json={"signal": number}).status_code


def test_each_process_is_named_by_its_exec_also_when_it_has_left_its_parent(ship: Ship) -> None:
    one = ship.start("(setsid sleep 611 &); exec sleep 612")
    two = ship.start(["sleep", "613"])
    wanted = {"sleep 611": one, "sleep 612": one, "sleep 613": two}
    assert eventually(lambda: wanted.keys() <= {process["command"] for process in processes(ship)})
    found = {process["command"]: process["exec_id"] for process in processes(ship)}
    assert {command: found[command] for command in wanted} == wanted
    assert [process["exec_id"] for process in processes(ship) if "-m ship" in process["command"]] == [None]
    for exec_id in (one, two):
        ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})


def test_a_command_has_its_name_in_the_list_as_soon_as_it_has_started(ship: Ship) -> None:
    """The kernel knows its arguments some time after it has begun to be its program."""
    listed: list[str] = []
    for number in range(40):
        exec_id = ship.start(["sleep", f"64{number}"])
        listed += [process["command"] for process in processes(ship) if process["exec_id"] == exec_id]
        ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})
    assert listed == [f"sleep 64{number}" for number in range(40)]


def test_a_process_is_ended_by_its_number(ship: Ship) -> None:
    exec_id = ship.start("sleep 620 & wait $!; echo $?")
    assert eventually(lambda: any(process["command"] == "sleep 620" for process in processes(ship)))
    pid = next(process["pid"] for process in processes(ship) if process["command"] == "sleep 620")
    assert signal_process(ship, pid, "TERM") == (200, {"status": "ok"})
    assert ship.wait(exec_id).out == "143\n"
    assert signal_process(ship, pid, "TERM")[0] == 404


def test_ship_itself_is_not_signalled(ship: Ship) -> None:
    own = next(process["pid"] for process in processes(ship) if "-m ship" in process["command"])
    status, error = signal_process(ship, own, "KILL")
    assert (status, error["code"]) == (403, "forbidden")
    assert ship.http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "pid", ["0", "-1", "x", "1x", "4194305", "9" * 40, "%31%30%30%30%30%30%30%30", "\u0661"]
)
def test_a_process_that_is_none_of_the_sandboxs_is_not_found(ship: Ship, pid: str) -> None:
    status, error = signal_process(ship, pid, "TERM")
    assert (status, error["code"]) == (404, "not_found")


def test_a_process_outside_is_out_of_reach(ship: Ship) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: received.append(number))
    try:
        assert signal_process(ship, os.getpid(), "USR1")[0] == 404
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == []


@pytest.mark.parametrize("word", ["USR1", "SIGUSR1", "usr1", int(signal.SIGUSR1)])
def test_a_signal_is_known_by_name_and_by_number(ship: Ship, word: object) -> None:
    exec_id = ship.start("trap 'exit 9' USR1; echo up; while :; do sleep 0.01; done")
    ship.wait_output(exec_id, "up")
    assert signal_exec(ship, exec_id, word) == 200
    assert ship.wait(exec_id).code == 9


@pytest.mark.parametrize(
    "word", [0, -1, 65, 32, 1.5, True, None, "", "SIG", "SIGSIGINT", "NOPE", "2", [2], {}, 1 << 70]
)
def test_what_is_no_signal_is_refused(ship: Ship, word: object) -> None:
    exec_id = ship.start(["sleep", "600"])
    assert signal_exec(ship, exec_id, word) == 400
    assert ship.http.get(f"/execs/{exec_id}").json()["state"] == "running"
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})


def test_a_signal_reaches_the_whole_group_and_what_left_it_does_not_hear(ship: Ship) -> None:
    exec_id = ship.start("setsid sleep 630 & sleep 631 & echo up; wait")
    ship.wait_output(exec_id, "up")
    assert eventually(
        lambda: {"sleep 630", "sleep 631"} <= {process["command"] for process in processes(ship)}
    )
    assert signal_exec(ship, exec_id, "TERM") == 200
    assert ship.wait(exec_id).json["signal"] == signal.SIGTERM
    assert eventually(lambda: "sleep 631" not in [process["command"] for process in processes(ship)])
    assert "sleep 630" in [process["command"] for process in processes(ship)]
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})


def test_an_ended_exec_is_not_signalled(ship: Ship) -> None:
    ended = ship.run("true").json["id"]
    assert signal_exec(ship, ended, "TERM") == 409
    assert signal_exec(ship, "no-such", "TERM") == 404


@pytest.mark.parametrize("body", [b"", b"[]", b'"TERM"', b"{", b'{"signal": "TERM"'])
def test_a_body_that_is_no_object_is_refused(ship: Ship, body: bytes) -> None:
    exec_id = ship.start(["sleep", "600"])
    for path in (f"/execs/{exec_id}/signal", f"/execs/{exec_id}/resize", "/shell/processes/1/signal"):
        assert ship.http.post(path, content=body).status_code == 400
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})
