"""Tasks: programs inside keep their sandbox awake for a time, and not for ever."""

import json
import os

import pytest
from ship_harness import running

from ship.errors import Conflict, NotFound
from ship.tasks import MAX_TASKS, MAX_TOTAL_S, MAX_TTL_S, Tasks

pytestmark = pytest.mark.host

ASK = """
import json, sys, urllib.request, urllib.error
method, path, body, *origin = sys.argv[1:] if len(sys.argv) > 3 else [*sys.argv[1:], '']
data = body.encode() or None
headers = {'Origin': origin[0]} if origin else {}
ask = urllib.request.Request('http://127.0.0.1:8123' + path, data=data, method=method, headers=headers)
try:
    with urllib.request.urlopen(ask, timeout=20) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_task_ends_with_its_time_and_begins_anew_under_its_name() -> None:
    clock = Clock()
    tasks = Tasks(clock)
    first = tasks.hold("build", 10)
    clock.now += 9
    assert tasks.hold("build", 10).id == first.id
    clock.now += 9
    assert [task.name for task in tasks.list()] == ["build"]
    clock.now += 1
    assert tasks.list() == []
    with pytest.raises(NotFound):
        tasks.release("build")


def test_there_are_only_so_many_tasks() -> None:
    tasks = Tasks(Clock())
    for number in range(MAX_TASKS):
        tasks.hold(f"task {number}", 10)
    with pytest.raises(Conflict):
        tasks.hold("more", 10)
    tasks.hold("task 0", 20)
    tasks.release("task 1")
    tasks.hold(None, 10)


def test_a_task_is_renewed_for_a_day_at_most() -> None:
    clock = Clock()
    tasks, end = Tasks(clock), clock.now + MAX_TOTAL_S
    while clock.now < end:
        tasks.hold("again", MAX_TTL_S)
        clock.now += MAX_TTL_S / 2
    assert tasks.list() == []
    with pytest.raises(Conflict):
        tasks.hold("again", 1)
    tasks.hold("another", 1)
    tasks.release("again")
    tasks.hold("again", 1)
    assert [task.name for task in tasks.list()] == ["another", "again"]


def test_a_task_has_its_day_in_a_session_of_any_age() -> None:
    clock = Clock()
    tasks = Tasks(clock)
    tasks.hold("build", 10)
    clock.now += 3 * MAX_TOTAL_S
    assert tasks.hold("build", 10).until == clock.now + 10


def test_a_task_that_had_its_day_may_begin_anew_after_a_while() -> None:
    clock = Clock()
    tasks, end = Tasks(clock), clock.now + MAX_TOTAL_S
    while clock.now < end:
        tasks.hold("again", MAX_TTL_S)
        clock.now += MAX_TTL_S / 2
    clock.now = end + MAX_TTL_S - 1
    with pytest.raises(Conflict):
        tasks.hold("again", 1)
    clock.now += 1
    tasks.hold("again", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, which takes root")
def test_a_program_inside_holds_and_releases_tasks() -> None:
    with running(first=True) as ship:

        def ask(*words: str) -> tuple[int, dict[str, object]]:
            status, _, body = ship.run(["/usr/bin/python3", "-c", ASK, *words]).out.partition(" ")
            return int(status), json.loads(body)

        assert ask("GET", "/v1/tasks") == (200, {"tasks": []})
        status, task = ask("POST", "/v1/tasks", '{"name": "build", "ttl": 600}')
        assert (status, set(task), task["name"]) == (201, {"id", "name", "expires_at"}, "build")
        assert [one["id"] for one in ship.http.get("/tasks").json()["tasks"]] == [task["id"]]
        assert ask("DELETE", f"/v1/tasks/{task['id']}") == (200, {"status": "ok"})
        assert ship.http.get("/tasks").json() == {"tasks": []}
        for body in (
            "[]",
            '{"ttl": 0}',
            '{"ttl": 1e9}',
            '{"ttl": NaN}',
            '{"ttl": true}',
            f'{{"ttl": 1{"0" * 400}}}',
            '{"name": ""}',
            "{",
        ):
            assert ask("POST", "/v1/tasks", body)[0] == 400, body
        assert ask("DELETE", "/v1/tasks/none")[0] == 404
        assert ask("PUT", "/v1/tasks")[0] == 404
        for origin in ("https://example.com", "null"):
            assert ask("POST", "/v1/tasks", "{}", origin)[0] == 403, origin
