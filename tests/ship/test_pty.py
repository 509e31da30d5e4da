"""Terminals: what a program finds, keys and jobs, sizes, floods, hanging up."""

import base64
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ship_harness import Ship, eventually, running

pytestmark = pytest.mark.host

SHELL = ["bash", "--norc", "--noprofile", "-i"]


@pytest.fixture(scope="module", params=["local", "first"])
def ship(request: pytest.FixtureRequest) -> Iterator[Ship]:
    """One Ship for all of these; as in a sandbox, its programs uid 1000, where that can be."""
    if request.param == "first" and os.geteuid() != 0:
        pytest.skip("makes namespaces, which takes root")
    with running(first=request.param == "first") as found:
        yield found


def shell(ship: Ship, **more: Any) -> str:
    exec_id = ship.start(
        SHELL, tty=True, env={"PS1": "ready> ", "BASH_SILENCE_DEPRECATION_WARNING": "1"}, **more
    )
    ship.wait_output(exec_id, "ready> ")
    return exec_id


def type_in(ship: Ship, exec_id: str, text: str | bytes, **query: str) -> httpx.Response:
    data = text.encode() if isinstance(text, str) else text
    answer = ship.http.post(f"/execs/{exec_id}/stdin", params=query, content=data)
    assert answer.status_code == 200, answer.text
    return answer


def end(ship: Ship, exec_id: str) -> None:
    assert ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0}).status_code == 200


def test_a_program_finds_a_terminal_of_its_own(ship: Ship) -> None:
    ended = ship.run(
        "tty | tr -d 0-9; echo $TERM; stty size; stty -a | grep -ow iutf8; test -O $(tty) && echo mine",
        tty=True,
    )
    assert ended.out.split("\r\n") == ["/dev/pts/", "xterm-256color", "24 80", "iutf8", "mine", ""]
    assert (ended.json["tty"], ended.json["rows"], ended.json["cols"]) == (True, 24, 80)
    assert ended.err == ""
    lines = ship.http.get(f"/execs/{ended.json['id']}/output").text.splitlines()
    assert '"stream":"tty"' in lines[0]


def test_the_size_and_term_are_the_callers(ship: Ship) -> None:
    ended = ship.run("stty size; echo $TERM", tty=True, rows=50, cols=132, env={"TERM": "dumb"})
    assert ended.out == "50 132\r\ndumb\r\n"


def test_without_tty_there_is_none(ship: Ship) -> None:
    ended = ship.run("tty; echo x > /dev/tty")
    assert ended.out == "not a tty\n"
    assert (ended.json["tty"], ended.json["rows"], ended.json["cols"]) == (False, None, None)


def test_a_program_on_a_terminal_finds_no_other_descriptor(ship: Ship) -> None:
    shell_id = shell(ship)
    held = ship.run(["ls", "/proc/self/fd"], tty=True).out.split()
    assert held == ["0", "1", "2", "3"]  # the last is that of the listing itself
    end(ship, shell_id)


def test_jobs_are_stopped_continued_in_front_and_behind_and_interrupted(ship: Ship) -> None:
    exec_id = shell(ship)
    type_in(ship, exec_id, "sleep 600\n")
    ship.wait_output(exec_id, "sleep 600\r\n")
    assert eventually(lambda: "sleep 600" in commands(ship))
    type_in(ship, exec_id, "\x1a")
    ship.wait_output(exec_id, "Stopped")
    type_in(ship, exec_id, "bg\n")
    ship.wait_output(exec_id, "sleep 600 &")
    type_in(ship, exec_id, "jobs; fg\n")
    ship.wait_output(exec_id, "Running")
    assert eventually(lambda: in_front(ship, exec_id) == "sleep 600")
    type_in(ship, exec_id, "\x03")
    assert eventually(lambda: "sleep 600" not in commands(ship))
    type_in(ship, exec_id, "echo still $((40 + 2))\nexit 5\n")
    ended = ship.wait(exec_id)
    assert ("still 42" in ended.out, ended.code) == (True, 5)
    assert "no job control" not in ended.out


def commands(ship: Ship) -> list[str]:
    return [process["command"] for process in ship.http.get("/shell/processes").json()["processes"]]


def in_front(ship: Ship, exec_id: str) -> str:
    """The command of the foreground group of an exec's terminal."""
    pid = ship.http.get(f"/execs/{exec_id}").json()["pid"]
    front = ship.run(["ps", "-o", "tpgid=", "-p", str(pid)]).out.strip()
    return ship.run(["ps", "-o", "args=", "-p", front]).out.strip()


def test_a_signal_goes_to_the_group_in_front_and_leaves_the_shell(ship: Ship) -> None:
    exec_id = shell(ship)
    type_in(ship, exec_id, "sleep 601\n")
    assert eventually(lambda: in_front(ship, exec_id) == "sleep 601")
    answer = ship.http.post(f"/execs/{exec_id}/signal", json={"signal": "INT"})
    assert (answer.status_code, answer.json()["state"]) == (200, "running")
    assert eventually(lambda: "sleep 601" not in commands(ship))
    type_in(ship, exec_id, "exit 3\n")
    assert ship.wait(exec_id).code == 3


@pytest.mark.parametrize("typed", [b"a line\n", b"half a line", b""])
def test_the_end_of_input_is_one_for_the_program_also_within_a_line(ship: Ship, typed: bytes) -> None:
    exec_id = ship.start("stty -echo; echo up; wc -c", tty=True)
    ship.wait_output(exec_id, "up")
    type_in(ship, exec_id, typed, eof="true")
    ended = ship.wait(exec_id)
    assert (ended.out, ended.code) == (f"up\r\n{len(typed)}\r\n", 0)


def test_the_end_of_input_is_what_the_program_has_set_for_it(ship: Ship) -> None:
    exec_id = ship.start("stty -echo eof ^E; echo up; wc -c", tty=True)
    ship.wait_output(exec_id, "up")
    type_in(ship, exec_id, b"", eof="true")
    assert ship.wait(exec_id).out == "up\r\n0\r\n"


def test_text_beyond_ascii_comes_and_goes_whole_and_is_erased_by_characters(ship: Ship) -> None:
    exec_id = ship.start('stty -echo; echo up; read -r line; echo "<$line>"', tty=True)
    ship.wait_output(exec_id, "up")
    type_in(ship, exec_id, "é雪☃☃\x7f\n")
    assert ship.wait(exec_id).out == "up\r\n<é雪☃>\r\n"


def test_bytes_that_are_no_text_pass_unharmed_where_the_program_wants_them(ship: Ship) -> None:
    every = bytes(range(256)) * 40
    exec_id = ship.start("stty raw -echo; echo up; head -c 10240", tty=True)
    ship.wait_output(exec_id, "up")
    type_in(ship, exec_id, every)
    assert base64.b64decode(ship.wait(exec_id).json["stdout"]) == b"up\n" + every


def test_a_new_size_is_told_to_the_program(ship: Ship) -> None:
    exec_id = ship.start("trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done", tty=True)
    ship.wait_output(exec_id, "up")
    answer = ship.http.post(f"/execs/{exec_id}/resize", json={"rows": 33, "cols": 120})
    assert (answer.status_code, answer.json()["rows"], answer.json()["cols"]) == (200, 33, 120)
    assert ship.wait(exec_id).out == "up\r\n33 120\r\n"


@pytest.mark.parametrize(
    "body",
    [
        {}, [], "x", {"rows": 24}, {"rows": 0, "cols": 80}, {"rows": 24, "cols": 1001}, {"rows": "24", "cols": 80},
        {"rows": True, "cols": 80}, {"rows": 24.0, "cols": 80}, {"rows": -1, "cols": 80}, {"rows": None, "cols": 80},
    ],
)  # fmt: skip
def test_a_size_that_is_none_is_refused(ship: Ship, body: Any) -> None:
    exec_id = ship.start("exec sleep 600", tty=True)
    answer = ship.http.post(f"/execs/{exec_id}/resize", json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")
    end(ship, exec_id)


def test_only_a_living_exec_with_a_terminal_has_a_size(ship: Ship) -> None:
    size = {"rows": 24, "cols": 80}
    plain = ship.start("exec sleep 600")
    assert ship.http.post(f"/execs/{plain}/resize", json=size).status_code == 409
    end(ship, plain)
    ended = ship.run("true", tty=True).json["id"]
    assert ship.http.post(f"/execs/{ended}/resize", json=size).status_code == 409
    assert ship.http.post("/execs/no-such/resize", json=size).status_code == 404


def test_a_flood_is_a_busy_neighbour_and_no_more_and_ends_at_ctrl_c(ship: Ship) -> None:
    before = ship.rss()
    exec_id = shell(ship)
    type_in(ship, exec_id, "cat /dev/urandom | base64\n")
    assert eventually(lambda: ship.http.get(f"/execs/{exec_id}").json()["output_bytes"] > 8 << 20)
    began = time.monotonic()
    assert [ship.run(["true"]).code for _ in range(5)] == [0] * 5
    assert time.monotonic() - began < 5
    assert ship.rss() - before < 16 << 20
    type_in(ship, exec_id, "\x03")
    assert eventually(lambda: "base64" not in commands(ship))
    type_in(ship, exec_id, "exit 4\n")
    assert ship.wait(exec_id).code == 4


def test_what_is_written_right_before_the_end_is_all_there(ship: Ship) -> None:
    for _ in range(10):
        assert ship.run("head -c 50000 /dev/zero", tty=True).json["output_bytes"] == 50_000


def test_a_child_that_still_has_the_terminal_is_not_waited_for(ship: Ship) -> None:
    ended = ship.run("trap '' HUP; setsid sleep 600 & sleep 600 & echo first", tty=True)
    assert (ended.code, ended.out) == (0, "first\r\n")
    assert eventually(lambda: len(ship.left()) == 2)  # one that just becomes `sleep` is not seen
    end(ship, ended.json["id"])
    assert ship.left() == []


def test_a_shell_that_does_not_heed_term_goes_when_the_terminal_does(ship: Ship) -> None:
    exec_id = shell(ship)
    began = time.monotonic()
    answer = ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 60})
    assert answer.json()["signal"] == signal.SIGHUP
    assert time.monotonic() - began < 10


def test_a_program_that_lets_go_of_its_terminal_for_a_while_has_not_lost_it(ship: Ship) -> None:
    ended = ship.run("exec 0<&- 1>&- 2>&-; sleep 0.05; echo back > /dev/tty", tty=True)
    assert ended.out == "back\r\n"


def test_ended_terminals_are_given_back(ship: Ship) -> None:
    held = descriptors(ship)
    for _ in range(5):
        assert ship.run(["true"], tty=True).code == 0
        assert ship.run(["./no-such-program"], tty=True).code == 127
    assert descriptors(ship) == held


def descriptors(ship: Ship) -> int:
    return len(list(Path(f"/proc/{ship.pid}/fd").iterdir()))


def test_a_command_that_is_not_found_says_so_on_the_terminal(ship: Ship) -> None:
    ended = ship.run(["./no-such-program"], tty=True)
    assert (ended.code, ended.out) == (127, "ship: ./no-such-program: command not found\r\n")
    assert "no-such-program" in ship.run("./no-such-program", tty=True).out
