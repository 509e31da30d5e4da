"""Execs: starting, ending, what a program finds and what it does not."""

import base64
import json
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
from ship_harness import PATIENCE_S, TOKEN, Ship, eventually, order, read_to_end, running

T = TypeVar("T")

pytestmark = [pytest.mark.long, pytest.mark.host]


def test_a_command_gives_its_output_and_exit_code(ship: Ship) -> None:
    ended = ship.run("echo out; echo err >&2; exit 3")
    assert (ended.out, ended.err, ended.code) == ("out\n", "err\n", 3)
    assert ended.json["state"] == "exited"
    assert ended.json["truncated"] is False
    assert ended.json["output_bytes"] == 8
    assert ended.json["ended_at"].endswith("Z")
    assert ended.json["ended_at"] >= ended.json["started_at"]


def test_argv_is_run_as_it_is(ship: Ship) -> None:
    ended = ship.run(["printf", "%s|", "a b", "$HOME", "é"])
    assert ended.out == "a b|$HOME|é|"
    assert ended.json["argv"] == ["printf", "%s|", "a b", "$HOME", "é"]


def test_without_wait_the_answer_is_the_running_exec(ship: Ship) -> None:
    answer = ship.http.post("/execs", json=order("cat", id="one"))
    assert answer.status_code == 201
    assert answer.json()["state"] == "running"
    assert answer.json()["pid"] in ship.left() or ship.wait("one").code == 0
    assert "stdout" not in answer.json()


def test_wait_gives_what_there_is_when_the_seconds_are_over(ship: Ship) -> None:
    exec_id = ship.start("echo early; exec sleep 600")
    ship.wait_output(exec_id, "early")
    waited = ship.wait(exec_id, 0.05)
    assert (waited.json["state"], waited.json["exit_code"], waited.out) == ("running", None, "early\n")


def test_an_exec_that_a_signal_ended_says_which(ship: Ship) -> None:
    ended = ship.run("kill -USR1 $$")
    assert (ended.json["state"], ended.json["exit_code"], ended.json["signal"]) == ("killed", None, 10)


def while_starting(
    ship: Ship, ask: Callable[[str], T], command: str | list[str], **more: Any
) -> dict[str, T]:
    """What `ask` gave of each exec that had no process when it was asked for, by id. None of them is left."""
    ids = [f"starting-{number}" for number in range(24)]

    def start(exec_id: str) -> int:
        with ship.client(TOKEN) as client:
            return client.post("/execs", json=order(command, id=exec_id, **more)).status_code

    seen: dict[str, T] = {}
    with ThreadPoolExecutor(len(ids)) as threads:
        starts = [threads.submit(start, exec_id) for exec_id in ids]
        while not all(one.done() for one in starts):
            # Processes start one after another, so that of the last takes longest.
            for item in reversed(ship.http.get("/execs").json()["items"]):
                if item["id"] in ids and item["pid"] is None and item["id"] not in seen:
                    seen[item["id"]] = ask(item["id"])
    for exec_id in ids:
        ship.http.delete(f"/execs/{exec_id}")
    assert {one.result() for one in starts} == {201}
    assert seen
    return seen


def test_a_signal_to_an_exec_that_is_starting_waits_for_its_process(ship: Ship) -> None:
    def ask(exec_id: str) -> tuple[int, str]:
        answer = ship.http.post(f"/execs/{exec_id}/signal", json={"signal": "USR1"})
        return answer.status_code, answer.text

    seen = while_starting(ship, ask, "sleep 600")
    assert {status for status, _ in seen.values()} == {200}, seen
    assert {ship.wait(exec_id).json["signal"] for exec_id in seen} == {10}


def test_input_for_an_exec_that_is_starting_waits_for_its_process(ship: Ship) -> None:
    def ask(exec_id: str) -> tuple[int, str]:
        answer = ship.http.post(f"/execs/{exec_id}/stdin?eof=true", content=exec_id)
        return answer.status_code, answer.text

    seen = while_starting(ship, ask, ["cat"], stdin_open=True)
    assert {status for status, _ in seen.values()} == {200}, seen
    assert {exec_id: ship.wait(exec_id).out for exec_id in seen} == {exec_id: exec_id for exec_id in seen}


def test_a_size_for_a_terminal_that_is_starting_waits_for_its_process(ship: Ship) -> None:
    def ask(exec_id: str) -> tuple[int, str]:
        answer = ship.http.post(f"/execs/{exec_id}/resize", json={"rows": 41, "cols": 137})
        return answer.status_code, answer.text

    seen = while_starting(ship, ask, "sleep 600", tty=True)
    assert {status for status, _ in seen.values()} == {200}, seen
    assert {ship.wait(exec_id).json["rows"] for exec_id in seen} == {41}


def test_an_attachment_to_an_exec_that_is_starting_waits_for_its_process(ship: Ship) -> None:
    def ask(exec_id: str) -> int | None:
        with ship.websocket(f"/execs/{exec_id}/attach") as socket:
            return json.loads(socket.recv(PATIENCE_S))["exec"]["pid"]

    seen = while_starting(ship, ask, "sleep 600")
    assert None not in seen.values(), seen


def test_stdin_is_given_whole_and_then_ends(ship: Ship) -> None:
    given = os.urandom(300_000)
    ended = ship.run("sha256sum; cat", stdin=base64.b64encode(given).decode())
    assert ended.out == ship.run(["sha256sum"], stdin=base64.b64encode(given).decode()).out


def test_a_program_that_does_not_read_its_stdin_is_no_trouble(ship: Ship) -> None:
    assert ship.run("exit 4", stdin=base64.b64encode(bytes(1 << 20)).decode()).code == 4


def test_without_stdin_there_is_nothing_to_read(ship: Ship) -> None:
    assert ship.run("readlink /proc/self/fd/0; cat").out == "/dev/null\n"


def test_a_program_finds_no_descriptor_but_its_three(ship: Ship) -> None:
    ship.start("exec sleep 600")  # so that Ship holds pipes of another exec
    held = ship.run(["ls", "/proc/self/fd"]).out.split()
    assert held[:3] == ["0", "1", "2"]
    assert len(held) == 4  # the last is that of the listing itself


def test_a_program_finds_none_of_ships_settings(ship: Ship) -> None:
    found = ship.run("env").out
    names = {line.partition("=")[0] for line in found.splitlines()}
    assert {name for name in names if name.startswith("SHIP_")} == {"SHIP_EXEC_ID"}
    assert TOKEN not in found


def test_the_token_is_not_left_in_ships_own_environment(ship: Ship) -> None:
    with open(f"/proc/{ship.pid}/environ", "rb") as file:
        assert TOKEN.encode() not in file.read()


def test_a_program_finds_its_home_and_the_variables_asked_for(ship: Ship) -> None:
    ended = ship.run(["sh", "-c", 'echo "$HOME $USER $LOGNAME $COLOUR $PWD"'], env={"COLOUR": "red"})
    assert ended.out == f"{ship.workspace} ship ship red {ship.workspace}\n"


def test_the_caller_may_set_path_and_home_but_not_the_mark(ship: Ship) -> None:
    asked = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "SHIP_EXEC_ID": "x"}
    ended = ship.run(["sh", "-c", 'echo "$PATH $HOME $SHIP_EXEC_ID"'], id="mine", env=asked)
    assert ended.out == "/usr/bin:/bin /tmp mine\n"


def test_cwd_is_relative_to_the_workspace_or_absolute(ship: Ship) -> None:
    (ship.workspace / "a/b").mkdir(parents=True)
    (ship.workspace / "link").symlink_to("a")
    assert ship.run("pwd -P", cwd=f"{ship.workspace}/link/b/").out == f"{ship.workspace}/a/b\n"
    assert ship.run("pwd", cwd="a/b").out == f"{ship.workspace}/a/b\n"
    assert ship.run("pwd", cwd=".").out == f"{ship.workspace}\n"
    assert ship.run("pwd").out == f"{ship.workspace}\n"


@pytest.mark.parametrize(
    ("cwd", "status", "code"),
    [
        ("../", 403, "forbidden"),
        ("/tmp", 403, "forbidden"),
        ("", 400, "invalid_path"),
        ("out", 403, "forbidden"),
        ("missing", 404, "file_not_found"),
        ("file", 404, "file_not_found"),
        ("/proc/self/fd/7", 403, "forbidden"),
        ("fd", 403, "forbidden"),
    ],
)
def test_a_bad_cwd_starts_nothing_where_there_is_no_container(
    ship: Ship, cwd: str, status: int, code: str
) -> None:
    (ship.workspace / "out").symlink_to("/tmp")
    (ship.workspace / "fd").symlink_to("/proc/self/fd/7")
    (ship.workspace / "file").touch()
    answer = ship.http.post("/execs", json=order("true", cwd=cwd))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert ship.http.get("/execs").json() == {"items": []}


def test_a_program_that_does_not_exist_is_exit_127(ship: Ship) -> None:
    ended = ship.run(["no-such-program", "x"])
    assert (ended.code, ended.err) == (127, "ship: no-such-program: command not found\n")
    assert ended.json["pid"] is None
    assert ship.run("no-such-program").code == 127


def test_a_program_that_may_not_be_run_is_exit_126(ship: Ship) -> None:
    (ship.workspace / "plain").write_text("hello")
    ended = ship.run(["./plain"])
    assert (ended.code, ended.err) == (126, "ship: ./plain: Permission denied\n")
    assert ship.run("./plain").code == 126
    (ship.workspace / "plain").chmod(0o755)
    assert ship.run(["./plain"]).code == 126  # no program, and no shell to guess
    assert ship.run(["plain"], env={"PATH": "/none:"}).code == 126
    (ship.workspace / "plain").chmod(0o644)
    assert ship.run(["plain"], env={"PATH": "/none:"}).code == 126
    assert ship.run(["true"], env={"PATH": "/none::/usr/bin:/bin"}).code == 0


def test_a_program_is_looked_for_in_the_first_256_folders_of_its_path_each_once(ship: Ship) -> None:
    others = [f"/none/{number}" for number in range(256)]
    for path, code in (
        (":" * 60_000, 127),
        (":" * 60_000 + "/usr/bin:/bin", 0),
        (":".join([*others, "/usr/bin:/bin"]), 127),
        (":".join([*others[:-2], "/usr/bin:/bin"]), 0),
    ):
        assert ship.run(["true"], env={"PATH": path}).code == code


def test_the_same_id_again_is_a_conflict(ship: Ship) -> None:
    ship.run("true", id="once")
    answer = ship.http.post("/execs", json=order("true", id="once"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")


def test_an_id_whose_start_failed_is_free_again(ship: Ship) -> None:
    assert ship.http.post("/execs", json=order("true", id="x", cwd="missing")).status_code == 404
    assert ship.run("true", id="x").code == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        "text",
        None,
        {"command": "true"},
        {"id": "", "command": "true"},
        {"id": "a/b", "command": "true"},
        {"id": "a" * 129, "command": "true"},
        {"id": 1, "command": "true"},
        {"id": "x"},
        {"id": "x", "command": "true", "argv": ["true"]},
        {"id": "x", "argv": []},
        {"id": "x", "argv": [1]},
        {"id": "x", "argv": [""]},
        {"id": "x", "argv": "true"},
        {"id": "x", "command": "a\0b"},
        {"id": "x", "command": "true", "env": []},
        {"id": "x", "command": "true", "env": {"A": 1}},
        {"id": "x", "command": "true", "env": {"A=B": "c"}},
        {"id": "x", "command": "true", "env": {"": "c"}},
        {"id": "x", "command": "true", "env": {"A": "\0"}},
        {"id": "x", "command": "true", "stdin": "not base64!"},
        {"id": "x", "command": "true", "stdin": 5},
        {"id": "x", "command": "true", "timeout_s": 0},
        {"id": "x", "command": "true", "timeout_s": -1},
        {"id": "x", "command": "true", "timeout_s": "1"},
        {"id": "x", "command": "true", "timeout_s": True},
        {"id": "x", "command": "true", "ring_bytes": 0},
        {"id": "x", "command": "true", "ring_bytes": (16 << 20) + 1},
        {"id": "x", "command": "true", "ring_bytes": 1.5},
        {"id": "x", "command": "true", "user": "nobody"},
        {"id": "x", "command": "true", "user": 0},
        {"id": "x", "command": "true", "cwd": 1},
        {"id": "x", "command": "true", "tty": "yes"},
        {"id": "x", "command": "true", "tty": 1},
        {"id": "x", "command": "true", "stdin_open": "yes"},
        {"id": "x", "command": "true", "tty": True, "rows": 0},
        {"id": "x", "command": "true", "tty": True, "rows": 1001},
        {"id": "x", "command": "true", "tty": True, "cols": 80.5},
        {"id": "x", "command": "true", "tty": True, "cols": None},
        {"id": "x", "command": "true", "max_run_after_disconnect_s": 0},
        {"id": "x", "command": "true", "max_run_after_disconnect_s": True},
    ],
)
def test_a_body_that_makes_no_sense_is_refused(ship: Ship, body: Any) -> None:
    answer = ship.http.post("/execs", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"id": "x", "command": "\\ud800"}',
        b'{"id": "x", "command": "true", "timeout_s": 1e400}',
    ],
)
def test_a_body_that_is_no_json_or_holds_no_text_or_number_is_refused(ship: Ship, body: bytes) -> None:
    answer = ship.http.post("/execs", content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")


@pytest.mark.parametrize("wait", ["x", "-1", "nan", "inf", ""])
def test_a_wait_that_is_no_time_is_refused(ship: Ship, wait: str) -> None:
    answer = ship.http.post("/execs", params={"wait": wait}, json=order("true"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")


def test_an_unknown_exec_is_not_found(ship: Ship) -> None:
    for method, path in [("GET", "/execs/no"), ("DELETE", "/execs/no"), ("GET", "/execs/no/output")]:
        answer = ship.http.request(method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_execs_are_listed_in_the_order_in_which_they_were_made(ship: Ship) -> None:
    for name in ("c", "a", "b"):
        ship.run("true", id=name)
    assert [item["id"] for item in ship.http.get("/execs").json()["items"]] == ["c", "a", "b"]


def test_two_hundred_ended_execs_are_kept(ship: Ship) -> None:
    for number in range(205):
        ship.run(["no-such-program"], id=f"e{number}")
    kept = [item["id"] for item in ship.http.get("/execs").json()["items"]]
    assert kept == [f"e{number}" for number in range(5, 205)]


def test_the_oldest_ended_execs_lose_their_output_first(ship: Ship) -> None:
    for number in range(4):
        ship.run("head -c 12M /dev/zero", id=f"e{number}", ring_bytes=16 << 20)
    kept = [item["first_offset"] for item in ship.http.get("/execs").json()["items"]]
    assert kept == [12 << 20, 12 << 20, 0, 0]


def test_a_257th_running_exec_is_a_conflict(ship: Ship) -> None:
    for number in range(256):
        ship.start(["sleep", "600"], id=f"s{number}")
    answer = ship.http.post("/execs", json=order("true"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    ship.http.delete("/execs/s0", params={"grace_s": 0})
    assert ship.run("true").code == 0


def test_an_exec_outlives_the_connection_that_started_it(ship: Ship) -> None:
    with ship.client(TOKEN) as other:
        other.post(
            "/execs", json=order("read line; echo $line", id="long", stdin=base64.b64encode(b"x\n").decode())
        )
    assert ship.wait("long").out == "x\n"


def test_a_caller_that_goes_away_while_waiting_ends_nothing(ship: Ship) -> None:
    os.mkfifo(ship.workspace / "fifo")
    exec_id = ship.start("read line < fifo; echo $line")
    with ship.connect() as raw:
        head = f"GET /execs/{exec_id}?wait=60 HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        raw.sendall(head.encode())
        raw.shutdown(socket.SHUT_WR)
        assert b'"state":"running"' in read_to_end(raw)  # it does not wait for a peer that is gone
    (ship.workspace / "fifo").write_text("on\n")
    assert ship.wait(exec_id).out == "on\n"


def test_root_is_refused_where_the_profile_does_not_allow_it() -> None:
    with running(SHIP_ALLOW_ROOT="0") as ship:
        answer = ship.http.post("/execs", json=order("true", user="root"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


def test_a_background_child_that_holds_the_pipe_is_not_waited_for(ship: Ship) -> None:
    ended = ship.run("sleep 600 & echo first")
    assert (ended.code, ended.out) == (0, "first\n")
    assert len(ship.left()) == 1


def test_what_a_background_child_prints_later_is_dropped_and_does_it_no_harm(ship: Ship) -> None:
    os.mkfifo(ship.workspace / "go")
    child = "(read line < go; head -c 1000000 /dev/zero; echo $? > survived) &"
    ended = ship.run(f"{child} echo first")
    assert (ended.out, ended.json["output_bytes"]) == ("first\n", 6)
    (ship.workspace / "go").write_text("go\n")
    assert eventually(lambda: (ship.workspace / "survived").exists())
    assert eventually(lambda: (ship.workspace / "survived").read_text() == "0\n")
    assert ship.wait(ended.json["id"]).json["output_bytes"] == 6


def test_what_lies_in_the_pipe_when_the_first_process_ends_is_still_read(ship: Ship) -> None:
    for _ in range(20):
        ended = ship.run(["sh", "-c", "sleep 600 & head -c 60000 /dev/zero"])
        assert ended.json["output_bytes"] == 60000


def test_no_zombie_is_left(ship: Ship) -> None:
    ship.run("for i in 1 2 3 4 5; do (sleep 0 &) ; done; setsid sh -c 'exit 3' &")
    assert eventually(lambda: "Z" not in states(ship))


def states(ship: Ship) -> set[str]:
    return {item["state"] for item in ship.http.get("/shell/processes").json()["processes"]}


def test_an_exec_that_nobody_waits_for_is_ended_when_its_time_is_over(ship: Ship) -> None:
    exec_id = ship.start("setsid sleep 600 & exec sleep 600", max_run_after_disconnect_s=0.1)
    assert eventually(lambda: ship.http.get(f"/execs/{exec_id}").json()["state"] == "killed")
    ended = ship.http.get(f"/execs/{exec_id}").json()
    assert (ended["signal"], ended["timed_out"]) == (15, False)
    assert ship.left() == []


def test_an_exec_lives_on_while_someone_waits_for_it_or_follows_it(ship: Ship) -> None:
    waited = ship.run("sleep 0.4; echo done", max_run_after_disconnect_s=0.05)
    assert (waited.code, waited.out) == (0, "done\n")
    os.mkfifo(ship.workspace / "go")
    exec_id = ship.start("echo up; read x < go; echo on; sleep 0.4; exit 3", max_run_after_disconnect_s=5)
    with ship.follow(exec_id) as lines:
        next(lines)
        (ship.workspace / "go").write_text("go\n")
        assert [line.get("exit_code") for line in lines][-1] == 3


def test_processes_are_listed(ship: Ship) -> None:
    exec_id = ship.start(["sleep", "600"])
    pid = ship.http.get(f"/execs/{exec_id}").json()["pid"]
    listed = {p["pid"]: p for p in ship.http.get("/shell/processes").json()["processes"]}
    assert listed[pid]["command"] == "sleep 600"
    assert listed[pid]["ppid"] == ship.pid
    assert listed[pid]["uid"] == os.geteuid()
    assert listed[pid]["rss_bytes"] > 0
    assert listed[pid]["started_at"].endswith("Z")
    assert ship.pid in listed
