"""Services: what the host wants kept running is started in order, started again, told of, and ended."""

import base64
import json
import socket
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pytest
from ship_harness import Ship, eventually, stop

from ship.services.health import HealthTracker
from ship.services.specs import Health, Restart, RunEnd, after_end

pytestmark = pytest.mark.host

Json = dict[str, Any]
SLEEPER = ["sh", "-c", "echo started; exec sleep 600"]
NEVER_READY = {"port": 1, "interval_s": 0.05}


def spec(name: str, argv: list[str] | None = None, **more: Any) -> Json:
    return {"name": name, "argv": argv or SLEEPER, **more}


def put(ship: Ship, *specs: Json) -> dict[str, Json]:
    """What Ship says of them, by name."""
    answer = ship.http.put("/services", json={"services": specs})
    assert answer.status_code == 200, answer.text
    return {item["name"]: item for item in answer.json()["items"]}


def state(ship: Ship, name: str) -> Json:
    return ship.http.get(f"/services/{name}").json()


@contextmanager
def feed(ship: Ship) -> Generator[Iterator[dict[str, Json]]]:
    """What the feed tells, by name."""
    with ship.http.stream("GET", "/feed") as answer:
        assert answer.status_code == 200
        lines = (json.loads(line) for line in answer.iter_lines())
        yield ({item["name"]: item for item in line["items"]} for line in lines if line["type"] == "services")


def wait_state(ship: Ship, name: str, done: Callable[[Json], bool]) -> Json:
    """The service once `done` holds."""
    with feed(ship) as lines:
        return next(items[name] for items in lines if done(items[name]))


def logs(ship: Ship, name: str, since: int = 0, *, follow: bool = False) -> list[Json]:
    params = {"since": since, "follow": "true" if follow else "false"}
    answer = ship.http.get(f"/services/{name}/logs", params=params)
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def printed(lines: list[Json]) -> bytes:
    return b"".join(base64.b64decode(line["data"]) for line in lines if "data" in line)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def server(port: int) -> list[str]:
    return ["python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]


def test_a_service_runs_until_it_is_wanted_no_more(ship: Ship) -> None:
    web = put(ship, spec("web"))["web"]
    assert (web["state"], web["restarts"], web["healthy"]) == ("running", 0, None)
    assert eventually(lambda: web["pid"] in ship.left())
    assert put(ship) == {}
    assert ship.left() == []


def test_a_service_that_cannot_be_started_is_never_said_to_run(ship: Ship) -> None:
    with feed(ship) as lines:
        told = put(ship, spec("web", ["/no/such/program"], restart="never"))["web"]
        assert (told["state"], told["exit_code"], told["pid"]) == ("exited", 127, None)
        states: list[str] = []
        for items in lines:
            states += [items["web"]["state"]] if "web" in items else []
            if states[-1:] == ["exited"]:
                break
        assert "running" not in states


def test_a_signal_reaches_a_service_that_runs(ship: Ship) -> None:
    put(ship, spec("web", ["sh", "-c", "trap 'echo heard' HUP; echo ready; while :; do sleep 0.05; done"]))
    assert eventually(lambda: b"ready" in printed(logs(ship, "web")))
    answer = ship.http.post("/services/web/signal", json={"signal": "HUP"})
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert eventually(lambda: b"heard" in printed(logs(ship, "web")))
    put(ship, spec("web", enabled=False))
    for name, signal, status in [("web", "HUP", 409), ("none", "HUP", 404), ("web", "NONE", 400)]:
        assert ship.http.post(f"/services/{name}/signal", json={"signal": signal}).status_code == status


def test_what_is_as_it_was_runs_on(ship: Ship) -> None:
    pid = put(ship, spec("web"))["web"]["pid"]
    both = put(ship, spec("other"), spec("web"))
    assert both["web"]["pid"] == pid
    changed = put(ship, spec("other"), spec("web", env={"A": "1"}))
    assert changed["web"]["pid"] != pid
    assert changed["other"]["pid"] == both["other"]["pid"]
    assert eventually(lambda: len(ship.left()) == 2)


def test_one_that_is_not_enabled_is_stopped_and_starts_when_it_is(ship: Ship) -> None:
    put(ship, spec("web"))
    stopped = put(ship, spec("web", enabled=False))["web"]
    assert (stopped["state"], stopped["pid"], stopped["signal"]) == ("stopped", None, 15)
    assert put(ship, spec("web"))["web"]["state"] == "running"
    assert ship.http.post("/services/none/restart").status_code == 404
    put(ship, spec("web", enabled=False))
    assert ship.http.post("/services/web/restart").status_code == 409


def test_what_a_service_has_started_ends_with_it(ship: Ship) -> None:
    command = "setsid sleep 600 & (trap '' TERM; sleep 600) & echo ready; wait"
    put(ship, spec("web", ["sh", "-c", command]))
    assert eventually(lambda: len(ship.left()) >= 3)
    put(ship)
    assert ship.left() == []


def test_a_service_that_ends_is_started_again_and_its_offsets_go_on(ship: Ship) -> None:
    put(ship, spec("web", ["sh", "-c", "echo again; exit 3"]))
    second = wait_state(ship, "web", lambda s: s["restarts"] == 1 and s["state"] == "backoff")
    assert (second["exit_code"], second["signal"], second["message"]) == (3, None, "ended with exit code 3")
    assert second["next_start_at"] > second["started_at"]
    lines = logs(ship, "web")
    assert printed(lines) == b"again\nagain\n"
    assert [line["offset"] for line in lines] == [0, 6]
    assert printed(logs(ship, "web", since=8)) == b"ain\n"


def test_what_a_run_leaves_behind_is_gone_before_the_next(ship: Ship) -> None:
    put(ship, spec("web", ["sh", "-c", "sleep 600 & exit 1"]))
    wait_state(ship, "web", lambda s: s["state"] == "backoff")
    assert ship.left() == []


def test_a_restart_gives_another_process(ship: Ship) -> None:
    first = put(ship, spec("web"))["web"]
    second = ship.http.post("/services/web/restart").json()
    assert (second["state"], second["restarts"]) == ("running", 1)
    assert second["pid"] != first["pid"]
    assert eventually(lambda: printed(logs(ship, "web")) == b"started\nstarted\n")


def test_one_that_failed_for_good_is_not_started_by_being_put_again_but_by_a_restart(ship: Ship) -> None:
    once = spec("once", ["sh", "-c", "exit 7"], restart="never")
    put(ship, once)
    ended = wait_state(ship, "once", lambda s: s["state"] == "exited")
    assert (ended["exit_code"], ended["message"]) == (7, "ended with exit code 7")
    assert put(ship, once)["once"]["started_at"] == ended["started_at"]
    assert ship.http.post("/services/once/restart").json()["restarts"] == 1


def test_a_program_that_is_not_there_says_so(ship: Ship) -> None:
    put(ship, spec("web", ["no-such-program"], restart="never"))
    assert wait_state(ship, "web", lambda s: s["state"] == "exited")["exit_code"] == 127
    assert b"command not found" in printed(logs(ship, "web"))
    put(ship, spec("web", cwd="missing", restart="on-failure"))
    failed = wait_state(ship, "web", lambda s: s["state"] == "backoff")
    assert failed["message"].startswith("could not be started: ")
    (ship.workspace / "missing").mkdir()
    pid = wait_state(ship, "web", lambda s: s["state"] == "running")["pid"]
    assert eventually(lambda: pid in ship.left())


def test_a_service_finds_its_variables_and_its_directory(ship: Ship) -> None:
    (ship.workspace / "app").mkdir()
    show = ["sh", "-c", 'echo "$A $PWD $SHIP_EXEC_ID"']
    put(ship, spec("web", show, env={"A": "1"}, cwd="app", restart="never"))
    assert printed(logs(ship, "web", follow=True)) == f"1 {ship.workspace}/app service:web\n".encode()


def test_variables_of_all_services_give_way_to_those_of_one(ship: Ship) -> None:
    body = {
        "env": {"A": "all", "B": "all"},
        "services": [spec("web", ["sh", "-c", "echo $A $B"], env={"A": "own"}, restart="never")],
    }
    assert ship.http.put("/services", json=body).status_code == 200
    assert printed(logs(ship, "web", follow=True)) == b"own all\n"


def test_needs_start_first_and_are_ended_last(ship: Ship) -> None:
    (ship.workspace / "order").touch()
    note = "trap 'echo -{0} >> order; exit' TERM; echo +{0} >> order; sleep 600 & wait"
    names = {"a": [], "b": ["a"], "c": ["b", "a"]}
    specs = [spec(name, ["sh", "-c", note.format(name)], needs=needs) for name, needs in names.items()]
    put(ship, *reversed(specs))
    order = ship.workspace / "order"
    assert eventually(lambda: len(order.read_text().split()) == 3)
    starts = [state(ship, name)["started_at"] for name in names]  # of two, either may print first
    assert starts == sorted(starts)
    stop(ship)
    assert order.read_text().split()[3:] == ["-c", "-b", "-a"]


def test_what_needs_a_service_with_health_waits_until_it_is_healthy(ship: Ship) -> None:
    port = free_port()
    db = spec("db", ["sh", "-c", f"read go < go; exec python3 -m http.server --bind 127.0.0.1 {port}"])
    db["health"] = {"port": port, "path": "/", "interval_s": 0.2}
    ship.run(["mkfifo", "go"])
    found = put(ship, db, spec("web", needs=["db"]))
    assert (found["db"]["state"], found["db"]["healthy"]) == ("running", None)
    assert (found["web"]["state"], found["web"]["message"]) == ("waiting", "waits for db")
    ship.run("echo > go")
    assert wait_state(ship, "web", lambda s: s["state"] == "running")
    assert state(ship, "db")["healthy"] is True


def test_what_needs_a_task_waits_until_it_has_ended_well(ship: Ship) -> None:
    task = spec("task", ["sh", "-c", "exit 1"], restart="never")
    put(ship, task, spec("web", needs=["task"]))
    wait_state(ship, "task", lambda s: s["state"] == "exited")
    task["argv"] = ["true"]
    put(ship, task, spec("web", needs=["task"]))
    assert wait_state(ship, "web", lambda s: s["state"] == "running")


def test_one_that_does_not_answer_is_not_healthy(ship: Ship) -> None:
    health = {"port": free_port(), "interval_s": 0.05, "retries": 2}
    put(ship, spec("web", health=health))
    sick = wait_state(ship, "web", lambda s: s["healthy"] is False)
    assert sick["state"] == "running"
    assert "refused" in sick["message"]


def test_health_by_a_command_wants_an_exit_code_of_0(ship: Ship) -> None:
    flag = ship.workspace / "healthy"
    health = {"argv": ["/bin/sh", "-c", "test -e healthy || exit 3"], "interval_s": 0.05, "retries": 2}
    put(ship, spec("web", health=health))
    sick = wait_state(ship, "web", lambda s: s["healthy"] is False)
    assert sick["message"] == "is not healthy: /bin/sh ended with exit code 3"
    flag.touch()
    assert wait_state(ship, "web", lambda s: s["healthy"] is True)["message"] is None


def test_a_health_command_that_does_not_end_is_ended_and_is_no_exec(ship: Ship) -> None:
    health = {"argv": ["/bin/sh", "-c", "sleep 1000"], "interval_s": 0.05, "timeout_s": 0.1, "retries": 2}
    put(ship, spec("web", health=health))
    sick = wait_state(ship, "web", lambda s: s["healthy"] is False)
    assert sick["message"] == "is not healthy: /bin/sh did not end within 0.1 s"
    assert ship.http.get("/execs").json()["items"] == []
    missing = {"argv": ["/no/such/program"], "interval_s": 0.05, "retries": 2}
    put(ship, spec("web", health=missing))
    lost = wait_state(ship, "web", lambda s: s["healthy"] is False and "no/such" in str(s["message"]))
    assert lost["message"] == "is not healthy: /no/such/program ended with exit code 127"


def test_a_health_command_that_cannot_begin_any_more_makes_it_sick_until_it_can(ship: Ship) -> None:
    home = ship.workspace / "home"
    home.mkdir()
    health = {"argv": ["/bin/true"], "interval_s": 0.05, "retries": 2}
    put(ship, spec("web", ["sleep", "600"], cwd="home", health=health))
    wait_state(ship, "web", lambda s: s["healthy"] is True)
    home.rmdir()
    sick = wait_state(ship, "web", lambda s: s["healthy"] is False)
    assert "home" in sick["message"]
    home.mkdir()
    assert wait_state(ship, "web", lambda s: s["healthy"] is True)["message"] is None


def test_health_by_http_wants_a_good_status(ship: Ship) -> None:
    port = free_port()
    health = {"port": port, "path": "/missing", "interval_s": 0.05, "retries": 2}
    put(ship, spec("web", server(port), health=health))
    sick = wait_state(ship, "web", lambda s: s["healthy"] is False and "GET" in s["message"])
    assert sick["message"] == "is not healthy: GET /missing answered 404"
    (ship.workspace / "missing").touch()
    assert wait_state(ship, "web", lambda s: s["healthy"] is True)["message"] is None


def test_logs_are_followed_over_restarts_until_it_has_ended_for_good(ship: Ship) -> None:
    command = "echo run; test -e second && exit 0; touch second; echo oops >&2; exit 1"
    put(ship, spec("web", ["sh", "-c", command], restart="on-failure"))
    lines = logs(ship, "web", follow=True)
    assert printed(lines) == b"run\noops\nrun\n"
    assert lines[-1] == {"exit_code": 0, "signal": None, "state": "exited", "timed_out": False}


def test_logs_that_are_not_there_are_refused(ship: Ship) -> None:
    put(ship, spec("web", ["echo", "hello"], restart="never"))
    logs(ship, "web", follow=True)
    for name, since, code in (("none", 0, 404), ("web", 7, 400), ("web", "x", 400)):
        answer = ship.http.get(f"/services/{name}/logs", params={"since": since})
        assert answer.status_code == code


def test_logs_go_on_when_what_is_run_is_another(ship: Ship) -> None:
    put(ship, spec("web", ["echo", "one"], restart="never"))
    logs(ship, "web", follow=True)
    put(ship, spec("web", ["echo", "two"], restart="never"))
    assert printed(logs(ship, "web", follow=True)) == b"one\ntwo\n"
    put(ship)
    put(ship, spec("web", ["echo", "three"], restart="never"))
    assert printed(logs(ship, "web", follow=True)) == b"three\n"


def test_services_are_no_execs(ship: Ship) -> None:
    put(ship, spec("web"))
    assert ship.http.get("/execs").json() == {"items": []}


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        ([spec("a"), spec("a")], "same name"),
        ([spec("A")], "name"),
        ([spec("a", needs=["b"])], "needs b"),
        ([spec("a", needs=["b"]), spec("b", needs=["a"])], "need each other"),
        ([spec("a", needs=["a"])], "need each other"),
        ([{"name": "a"}], "argv"),
        ([spec("a", restart="sometimes")], "restart"),
        ([spec("a", health={"port": 0})], "port"),
        ([spec("a", health={"port": 1, "path": "x y"})], "path"),
        ([spec("a", health={"interval_s": 1})], "port or argv"),
        ([spec("a", health={"port": 1, "argv": ["true"]})], "port or argv"),
        ([spec("a", health={"port": 1, "interval_s": 0})], "interval"),
        ([spec("a", user=1)], "user"),
        ([spec("a", env={"=": "x"})], "env"),
        ([spec(f"s{n}") for n in range(33)], "32"),
        ("x", "list"),
    ],
)
def test_what_cannot_be_changes_nothing(ship: Ship, specs: Any, says: str) -> None:
    pid = put(ship, spec("web"))["web"]["pid"]
    answer = ship.http.put("/services", json={"services": specs})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")
    assert says in answer.json()["error"]["message"]
    assert state(ship, "web")["pid"] == pid


def test_a_service_of_an_unknown_user_says_so_and_harms_no_other(ship: Ship) -> None:
    found = put(ship, spec("web"), spec("other", user="somebody", restart="never"))
    assert found["web"]["state"] == "running"
    assert eventually(
        lambda: (
            "somebody" in (state(ship, "other")["message"] or "")
            or "has one user" in (state(ship, "other")["message"] or "")
        )
    )
    assert state(ship, "other")["state"] == "exited"


def test_a_service_that_heeds_no_term_is_killed_when_ship_ends(ship: Ship) -> None:
    put(ship, spec("web", ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 600; done"]))
    assert eventually(lambda: printed(logs(ship, "web")) == b"ready\n")
    stop(ship)
    assert ship.left() == []


ENDS: list[tuple[Restart, RunEnd, int, float | Literal["exited", "failed"]]] = [
    ("never", RunEnd(1, None, 0), 1, "exited"),
    ("on-failure", RunEnd(0, None, 0), 1, "exited"),
    ("on-failure", RunEnd(None, 9, 0), 1, 1.0),
    ("on-failure", RunEnd(None, None, 0, "no room"), 2, 2.0),
    ("always", RunEnd(0, None, 0), 1, 1.0),
    ("always", RunEnd(0, None, 0), 6, 32.0),
    ("always", RunEnd(0, None, 0), 7, 60.0),
    ("always", RunEnd(0, None, 0), 9, 60.0),
    ("always", RunEnd(0, None, 0), 10, "failed"),
    ("always", RunEnd(1, None, 61), 1, 1.0),
]


@pytest.mark.parametrize(("restart", "ended", "quick", "expected"), ENDS)
def test_what_follows_an_end(restart: Restart, ended: RunEnd, quick: int, expected: object) -> None:
    assert after_end(restart, ended, quick) == expected


def test_health_is_lost_after_so_many_failures_over_so_long() -> None:
    verdict = HealthTracker(Health(port=1, path=None, interval_s=5, timeout_s=1, retries=3))
    known: list[bool | None] = []
    for works, now in [
        (False, 0),
        (False, 1),
        (False, 2),
        (False, 10),
        (True, 11),
        (False, 12),
        (False, 17),
        (False, 22),
    ]:
        verdict.hear(works, now)
        known.append(verdict.healthy)
    assert known == [None, None, None, False, True, True, True, False]


def test_one_whose_need_runs_at_once_runs_when_the_put_answers(ship: Ship) -> None:
    chain = [spec(f"s{n}", needs=[f"s{n - 1}"] if n else []) for n in range(8)]
    found = put(ship, *chain)
    assert {one["state"] for one in found.values()} == {"running"}
