"""A Ship like a pod's stops its programs, and they go on as if nothing had been."""

import base64
import json
import os
import signal
import textwrap
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from ship_harness import PATIENCE_S, Ship, eventually, order, running

pytestmark = pytest.mark.host

SWITCHES = """
    import os, signal, sys, time
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        while True: time.sleep(0.001)
    print("on", flush=True)
    while True:
        pid, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            print("it was stopped", flush=True)
        else:
            print("it ended", flush=True)
            break
"""
"""A parent that hears of each stop of its child."""

FORKS = """
    import os, signal
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("on", flush=True)
    for _ in range(3): os.fork()
    while True:
        if os.fork(): os._exit(0)
"""
"""Processes that fork and end without a pause: none lives for a millisecond."""

GONE_LEADER = """
    import ctypes, threading, time
    def go():
        while True:
            with open("ticks", "a") as file: file.write("x")
            time.sleep(0.001)
    threading.Thread(target=go).start()
    print("on", flush=True)
    ctypes.CDLL(None).pthread_exit(None)
"""
"""A process whose first thread has ended, and looks like a zombie."""

TRACED = """
    import ctypes, os, signal, time
    libc = ctypes.CDLL(None)
    child = os.fork()
    if child == 0:
        libc.ptrace(0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGUSR1)
        print("went on", flush=True)
        time.sleep(0.2)
        os._exit(7)
    os.waitpid(child, 0)
    print("on", flush=True)
    while not os.path.exists("go"): time.sleep(0.01)
    libc.ptrace(7, child, 0, 0)
    while True:
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status): break
        libc.ptrace(7, child, 0, os.WSTOPSIG(status))
    print(os.WEXITSTATUS(status), flush=True)
"""
"""A debugger and its process, which stands still until there is a file."""


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One Ship for the tests that do not harm it."""
    with running(pod=True) as found:
        yield found


@pytest.fixture(autouse=True)
def resumed(ship: Ship) -> Generator[None]:
    """No test leaves it paused, nor anything running."""
    yield
    end_programs(ship)


def end_programs(ship: Ship) -> None:
    """End all programs. In a pause: a list of programs that fork and end can miss all of them."""
    pause(ship)
    for pid in programs(ship):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    resume(ship)
    assert eventually(lambda: not programs(ship))


def pause(ship: Ship) -> None:
    assert said(ship, "POST", "/pause") == {"paused": True}


def resume(ship: Ship) -> None:
    assert said(ship, "POST", "/resume") == {"paused": False}


def said(ship: Ship, method: str, path: str) -> dict[str, Any]:
    answer = ship.http.request(method, path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def program(text: str) -> list[str]:
    return ["python3", "-c", textwrap.dedent(text)]


def programs(ship: Ship) -> dict[int, str]:
    """The states of the threads of each program, by a pid of this machine; without what has ended."""
    space = namespace_of(ship.pid)
    there = (int(name) for name in os.listdir("/proc") if name.isdigit())
    found = {pid: states_of(pid) for pid in there if namespace_of(pid) == space and pid != ship.pid}
    return {pid: states for pid, states in found.items() if set(states) - {"Z", "X"}}


def namespace_of(pid: int) -> str:
    """The pid namespace of a process; empty after its end."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def states_of(pid: int) -> str:
    found = ""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += Path(f"/proc/{pid}/task/{thread}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return ""
    return found


def all_stand_still(ship: Ship) -> bool:
    return bool(programs(ship)) and not set("".join(programs(ship).values())) - set("tTZ")


@contextmanager
def in_a_terminal(ship: Ship) -> Generator[Any]:
    """A shell with job control, and a socket to it."""
    exec_id = ship.start(["bash", "--norc", "--noprofile", "-i"], tty=True, env={"PS1": "ready> "})
    ship.wait_output(exec_id, "ready> ")
    with ship.websocket(f"/execs/{exec_id}/attach") as socket:
        socket.recv(timeout=PATIENCE_S)
        yield Terminal(socket)


class Terminal:
    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self.seen = ""

    def type(self, text: str) -> None:
        self._socket.send(b"\0" + text.encode())

    def wait(self, text: str, times: int = 1) -> None:
        """Return once it has shown `text` so often."""
        while self.seen.count(text) < times:
            message = self._socket.recv(timeout=PATIENCE_S)
            if isinstance(message, bytes):
                self.seen += message[1:].decode()


# What a pause is


def test_all_stand_still_and_go_on(ship: Ship) -> None:
    exec_id = ship.start(
        "(while :; do :; done) & sleep 1000 & echo on; until [ -e goon ]; do :; done; echo after"
    )
    ship.wait_output(exec_id, "on")
    pause(ship)
    assert all_stand_still(ship)
    assert said(ship, "GET", "/pause") == {"paused": True}
    assert said(ship, "GET", "/healthz") == {"status": "ok"}
    assert said(ship, "GET", "/meta")["name"] == "ship"
    (ship.workspace / "goon").touch()
    resume(ship)
    assert said(ship, "GET", "/pause") == {"paused": False}
    ship.wait_output(exec_id, "after")


def test_twice_is_as_good_as_once(ship: Ship) -> None:
    exec_id = ship.start("echo on; until [ -e twice ]; do :; done")
    ship.wait_output(exec_id, "on")
    for _ in range(2):
        pause(ship)
    assert all_stand_still(ship)
    for _ in range(2):
        resume(ship)
    (ship.workspace / "twice").touch()
    assert ship.wait(exec_id).code == 0


def test_an_empty_sandbox_is_paused_too(ship: Ship) -> None:
    pause(ship)
    resume(ship)
    assert ship.run("echo there").out == "there\n"


def test_a_request_waits_for_the_end_of_the_pause(ship: Ship) -> None:
    pause(ship)
    answers: list[httpx.Response] = []

    def ask() -> None:
        with ship.client("a-token-of-the-tests") as client:
            answers.append(client.post("/execs", params={"wait": PATIENCE_S}, json=order("echo late")))

    asking = threading.Thread(target=ask)
    asking.start()
    with ship.client("a-token-of-the-tests") as other, pytest.raises(httpx.TimeoutException):
        other.post("/execs", json=order("touch never"), timeout=0.2)
    assert not answers
    assert said(ship, "GET", "/pause") == {"paused": True}
    resume(ship)
    asking.join(PATIENCE_S)
    assert base64.b64decode(answers[0].json()["stdout"]) == b"late\n"
    assert not (ship.workspace / "never").exists()  # its caller had left


def test_a_ship_that_a_freezer_reaches_has_no_such_routes() -> None:
    for first in (True, False):
        with running(first=first) as other:
            for method, path in (("GET", "/pause"), ("POST", "/pause"), ("POST", "/resume")):
                assert other.http.request(method, path).status_code == 404


# What programs notice


def test_what_was_stopped_before_stays_so(ship: Ship) -> None:
    exec_id = ship.start("sleep 1000 & echo $!; sleep 1001 & echo $! on; wait")
    stopped, going = (int(word) for word in ship.wait_output(exec_id, "on").split()[:2])
    ship.http.post(f"/shell/processes/{stopped}/signal", json={"signal": "STOP"})
    assert eventually(lambda: state_inside(ship, stopped) == "T")
    pause(ship)
    resume(ship)
    assert eventually(lambda: state_inside(ship, going) == "S")
    assert state_inside(ship, stopped) == "T"
    ship.http.post(f"/shell/processes/{stopped}/signal", json={"signal": "CONT"})
    assert eventually(lambda: state_inside(ship, stopped) == "S")


def state_inside(ship: Ship, pid: int) -> str:
    found = ship.http.get("/shell/processes").json()["processes"]
    return next((one["state"] for one in found if one["pid"] == pid), "")


def test_a_parent_does_not_hear_that_its_child_was_stopped(ship: Ship) -> None:
    exec_id = ship.start(program(SWITCHES))
    ship.wait_output(exec_id, "on")
    for _ in range(20):
        pause(ship)
        resume(ship)
    ship.http.post(f"/execs/{exec_id}/signal", json={"signal": "KILL"})
    assert "stopped" not in ship.wait(exec_id).out


def test_a_shell_with_job_control_says_nothing_of_it(ship: Ship) -> None:
    with in_a_terminal(ship) as terminal:
        terminal.type("sleep 1000 &\n")
        terminal.wait("ready> ", 1)
        terminal.type("sh -c 'echo front; sleep 1001; echo not-yet'\n")
        terminal.wait("front\r\n")
        for _ in range(10):
            pause(ship)
            resume(ship)
        terminal.type("\x03")
        terminal.type("jobs; echo end-$((41 + 1))\n")
        terminal.wait("end-42")
        assert "Stopped" not in terminal.seen
        assert "Running" in terminal.seen
        assert "not-yet\r\n" not in terminal.seen


def test_a_job_that_the_shell_has_stopped_can_be_brought_back_after_a_pause(ship: Ship) -> None:
    with in_a_terminal(ship) as terminal:
        terminal.type("sh -c 'echo front; sleep 0.1; read x; echo got $x'\n")
        terminal.wait("front\r\n")
        terminal.type("\x1a")
        terminal.wait("Stopped")
        pause(ship)
        resume(ship)
        terminal.type("jobs; echo end-$((41 + 1))\n")
        terminal.wait("end-42")
        assert terminal.seen.count("Stopped") == 2
        terminal.type("fg\n")
        terminal.type("it\n")
        terminal.wait("got it\r\n")


def test_no_output_of_a_terminal_is_lost(ship: Ship) -> None:
    exec_id = ship.start("for i in $(seq 20000); do echo line $i; done", tty=True)
    for _ in range(10):
        pause(ship)
        resume(ship)
    printed = ship.wait(exec_id).out.split("\r\n")
    assert printed == [*(f"line {number}" for number in range(1, 20001)), ""]


def test_a_cell_goes_on_with_the_right_answer(ship: Ship) -> None:
    kernel = f"kern-{uuid.uuid4().hex[:8]}"
    assert ship.http.post("/kernels", json={"id": kernel}).status_code == 201
    code = (
        "import subprocess\ntotal = 0\nprint('on', flush=True)\n"
        "for n in range(300_000): total += n\n"
        "said = subprocess.run('sleep 0.2; echo child', shell=True, capture_output=True, text=True).stdout\n"
        "(total, said)"
    )
    cell = {"id": "cell-1", "code": code, "timeout_s": PATIENCE_S}
    with ship.http.stream("POST", f"/kernels/{kernel}/cells", params={"follow": "true"}, json=cell) as answer:
        lines = (json.loads(line) for line in answer.iter_lines() if line)
        next(line for line in lines if line["type"] == "stdout")
        with ship.client("a-token-of-the-tests") as other:
            for _ in range(5):
                assert other.post("/pause").json() == {"paused": True}
                assert other.post("/resume").json() == {"paused": False}
        rest = list(lines)
    result = next(line for line in rest if line["type"] == "result")
    assert result["data"]["text/plain"] == f"({sum(range(300_000))}, 'child\\n')"
    assert rest[-1]["status"] == "ok"
    assert ship.http.delete(f"/kernels/{kernel}").status_code == 200


def test_a_time_limit_that_is_over_meanwhile_ends_a_program_afterwards(ship: Ship) -> None:
    exec_id = ship.start("trap 'echo asked; exit 3' TERM; echo on; while :; do sleep 0.01; done", timeout_s=1)
    ship.wait_output(exec_id, "on")
    pause(ship)
    began = time.monotonic()
    assert eventually(lambda: time.monotonic() > began + 1.2)
    assert all_stand_still(ship)
    resume(ship)
    ended = ship.wait(exec_id)
    assert (ended.json["timed_out"], ended.out) == (True, "on\nasked\n")


# What is not easy to stop


def test_programs_that_fork_without_a_pause_are_stopped(ship: Ship) -> None:
    exec_id = ship.start(program(FORKS))
    ship.wait_output(exec_id, "on")
    for _ in range(5):
        pause(ship)
        before = set(programs(ship))
        assert all_stand_still(ship)
        assert set(programs(ship)) <= before  # no other began; one whose end was under way may be gone
        resume(ship)
        assert eventually(lambda seen=before: set(programs(ship)) != seen)


def test_a_process_whose_first_thread_has_ended_is_stopped(ship: Ship) -> None:
    exec_id = ship.start(program(GONE_LEADER))
    ship.wait_output(exec_id, "on")
    ticks = ship.workspace / "ticks"
    assert eventually(lambda: ticks.exists() and ticks.stat().st_size > 5)
    pause(ship)
    assert all_stand_still(ship)
    seen = ticks.stat().st_size
    resume(ship)
    assert eventually(lambda: ticks.stat().st_size > seen)


def test_a_process_under_a_debugger_goes_on_with_it(ship: Ship) -> None:
    exec_id = ship.start(program(TRACED))
    ship.wait_output(exec_id, "on")
    for _ in range(3):
        pause(ship)
        assert all_stand_still(ship)
        resume(ship)
    (ship.workspace / "go").touch()
    ended = ship.wait(exec_id)
    assert ended.out == "on\nwent on\n7\n"


def test_what_is_killed_during_a_pause_is_gone_after_it(ship: Ship) -> None:
    exec_id = ship.start(["sleep", "1000"])
    assert eventually(lambda: len(programs(ship)) == 1)
    pause(ship)
    [pid] = programs(ship)
    os.kill(pid, signal.SIGKILL)
    resume(ship)
    assert ship.wait(exec_id).json["signal"] == signal.SIGKILL


def test_a_zombie_is_no_obstacle(ship: Ship) -> None:
    exec_id = ship.start(
        program("import os, time\nif not os.fork(): os._exit(0)\nprint('on', flush=True)\ntime.sleep(9)")
    )
    ship.wait_output(exec_id, "on")
    assert eventually(lambda: "Z" in zombies(ship))
    pause(ship)
    assert all_stand_still(ship)


def zombies(ship: Ship) -> str:
    return "".join(one["state"] for one in ship.http.get("/shell/processes").json()["processes"])


# The end


def test_ship_ends_in_good_order_when_it_is_told_to_during_a_pause() -> None:
    with running(pod=True) as found:
        exec_id = found.start("trap 'echo said > last; exit 3' TERM; echo on; while :; do sleep 0.01; done")
        found.wait_output(exec_id, "on")
        pause(found)
        os.kill(found.pid, signal.SIGTERM)
        assert found.process.wait(PATIENCE_S) == 0
        assert (found.workspace / "last").read_text() == "said\n"
