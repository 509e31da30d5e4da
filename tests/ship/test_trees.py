"""Ending whole trees of processes: by timeout, by DELETE, by TERM to Ship."""

import asyncio
import os
import shlex
import signal
import time

import pytest
from ship_harness import Ship, eventually, living, running, stop

from ship.process import table, trees
from ship.process.identity import Identity

pytestmark = pytest.mark.host

ANYBODY = Identity("me", os.getuid(), os.getgid(), "/", switch=False)

# Processes of every kind that gets away from a naive killer.
FOREST = """
trap '' TERM
sleep 600 &
setsid sleep 600 &
(setsid sh -c 'trap "" TERM; sleep 600 & sleep 600' &)
(sh -c '(sleep 600 &)' &)
setsid sh -c '(setsid sleep 600 &) ; sleep 600' &
nohup sleep 600 &
echo ready
while :; do sleep 600; done
"""


def test_a_timeout_ends_the_whole_tree_and_says_so(ship: Ship) -> None:
    ended = ship.run(FOREST, timeout_s=0.5)
    assert (ended.json["state"], ended.json["signal"], ended.json["timed_out"]) == (
        "killed",
        signal.SIGKILL,
        True,
    )
    assert "ready" in ended.out
    assert ship.left() == []


def test_a_program_that_heeds_term_ends_with_its_own_code(ship: Ship) -> None:
    ended = ship.run("trap 'echo bye; exit 5' TERM; while :; do sleep 0.01; done", timeout_s=0.3)
    assert (ended.json["state"], ended.code, ended.json["timed_out"]) == ("exited", 5, True)
    assert ended.out.endswith("bye\n")


def test_a_timeout_comes_in_its_time(ship: Ship) -> None:
    began = time.monotonic()
    ship.run("trap '' TERM; while :; do sleep 600; done", timeout_s=0.2)
    assert 1.1 < time.monotonic() - began < 3


def test_an_exec_that_ends_in_time_is_not_timed_out(ship: Ship) -> None:
    assert ship.run("true", timeout_s=60).json["timed_out"] is False


def test_a_stopped_program_is_ended_too(ship: Ship) -> None:
    ended = ship.run("trap 'exit 6' TERM; kill -STOP $$; sleep 600", timeout_s=0.2)
    assert ended.code == 6 or ended.json["signal"] == signal.SIGTERM
    assert ship.left() == []


def test_delete_ends_the_whole_tree_and_answers_when_it_is_gone(ship: Ship) -> None:
    exec_id = ship.start(FOREST)
    ship.wait_output(exec_id, "ready")
    answer = ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0.2})
    assert answer.status_code == 200
    assert (answer.json()["state"], answer.json()["timed_out"]) == ("killed", False)
    assert ship.left() == []


def test_delete_is_quick_when_the_program_heeds_term(ship: Ship) -> None:
    exec_id = ship.start("sleep 600")
    began = time.monotonic()
    answer = ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 60})
    assert (answer.json()["state"], answer.json()["signal"]) == ("killed", signal.SIGTERM)
    assert time.monotonic() - began < 5


def test_a_second_delete_may_shorten_the_grace(ship: Ship) -> None:
    exec_id = ship.start("trap '' TERM; echo up; while :; do sleep 600; done")
    ship.wait_output(exec_id, "up")
    with ship.connect() as raw:
        raw.sendall(
            f"DELETE /execs/{exec_id}?grace_s=600 HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer a-token-of-the-tests\r\n\r\n".encode()
        )
        assert ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0}).json()["state"] == "killed"
        assert raw.recv(12) == b"HTTP/1.1 200"


def test_delete_of_an_ended_exec_ends_what_it_left_behind_and_nothing_else(ship: Ship) -> None:
    other = ship.start("sleep 600 & exec sleep 600")
    ended = ship.run("setsid sleep 600 & (sleep 600 &); echo x")
    assert ended.code == 0
    assert ship.http.delete(f"/execs/{ended.json['id']}").json()["exit_code"] == 0
    assert len(ship.left()) == 2
    assert ship.http.get(f"/execs/{other}").json()["state"] == "running"


def test_another_exec_survives_a_timeout(ship: Ship) -> None:
    other = ship.start("setsid sleep 600 & exec sleep 600")
    ship.run(FOREST, timeout_s=0.3)
    assert ship.http.get(f"/execs/{other}").json()["state"] == "running"
    assert len(ship.left()) == 2


def test_a_child_without_ships_mark_is_found_by_its_parents_and_session(ship: Ship) -> None:
    bare = "env -i sleep 600"
    exec_id = ship.start(
        f"{bare} & setsid {bare} & (setsid sh -c '({bare} &); exec sleep 600' &); exec {bare}"
    )
    assert eventually(lambda: commands(ship).count("sleep 600") == 5)
    ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0.1})
    assert eventually(lambda: not descendants(ship.pid))


def test_a_number_that_is_used_again_was_another_program_and_may_have_left_a_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = table.Process(
        pid=33, name="walker", state="S", ppid=1, session=0, cpu=0, started=1, memory=1, rss_pages=1
    )
    looks = iter([[32], [], [32], [33]])
    monkeypatch.setattr(table, "pids", lambda: next(looks))
    monkeypatch.setattr(table, "read", {child.pid: child}.get)
    tree = trees.Tree(lambda: {child.pid}, None, (ANYBODY,))
    assert not asyncio.run(tree._is_gone())
    assert tree.members == {child.pid: child}


def test_the_newest_program_is_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[int]()
    monkeypatch.setattr(table, "pids", lambda: [7, 300, 40])
    monkeypatch.setattr(table, "read", read.append)
    assert asyncio.run(trees.Tree(set, None, (ANYBODY,))._is_gone())
    assert read[:3] == [300, 40, 7]


def commands(ship: Ship) -> list[str]:
    return [process["command"] for process in ship.http.get("/shell/processes").json()["processes"]]


def descendants(pid: int) -> list[str]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


WALKERS = """
import os, time
end = time.monotonic() + 30
for _ in range(30):
    if os.fork() == 0:
        while time.monotonic() < end:
            if os.fork():
                os._exit(0)
            os.setsid()
            time.sleep(0.001)
        os._exit(0)
print('up', flush=True)
time.sleep(60)
"""


@pytest.mark.alone  # no control group bounds it here
@pytest.mark.timeout(600)  # with the wait for its turn
def test_programs_that_fork_and_exit_faster_than_they_can_be_counted_are_ended(ship: Ship) -> None:
    ended = ship.run(["/usr/bin/python3", "-c", WALKERS], timeout_s=1.0)
    assert (ended.out, ended.json["timed_out"]) == ("up\n", True)
    assert ship.left() == []
    assert ship.http.get("/healthz").status_code == 200


@pytest.mark.parametrize("grace", ["-1", "x", "nan"])
def test_a_grace_that_is_no_time_is_refused(ship: Ship, grace: str) -> None:
    exec_id = ship.start("sleep 600")
    answer = ship.http.delete(f"/execs/{exec_id}", params={"grace_s": grace})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "validation_error")


def test_term_ends_everything_and_then_ship() -> None:
    with running() as ship:
        ship.start("sleep 600")
        exec_id = ship.start(FOREST)
        ship.wait_output(exec_id, "ready")
        ship.run("setsid sleep 600 & true")
        began = time.monotonic()
        assert stop(ship) == 0
        assert time.monotonic() - began < 15  # 2 s, on a machine with nothing else to do
        assert living(ship.mark) == []
        assert not ship.socket_path.exists()


# A parent that has its child write something down before both end, as a browser does with its cookies.
PARENT = """\
sh -c 'trap "echo kept > kept; exit" USR1; echo ready; while :; do sleep 0.02; done' &
trap 'kill -USR1 $!; wait $!; exit' TERM
wait
"""


# A shell cannot trap a signal that it was started to ignore.
ASKS_FOR_TERM = """\
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)
os.execvp("sh", ["sh", "-c", sys.argv[1]])
"""


def test_a_program_that_ends_has_its_children_until_it_ended() -> None:
    with running() as ship:
        exec_id = ship.start(PARENT)
        ship.wait_output(exec_id, "ready")
        kept = ship.workspace / "kept"
        assert stop(ship) == 0
        assert kept.read_text() == "kept\n"
        assert living(ship.mark) == []


def test_term_reaches_the_children_of_a_program_that_ignores_it() -> None:
    child = "trap 'echo told > told; exit' TERM; echo ready; while :; do sleep 0.02; done"
    with running() as ship:
        exec_id = ship.start(
            f"trap '' TERM; python3 -c {shlex.quote(ASKS_FOR_TERM)} {shlex.quote(child)}; sleep 600"
        )
        ship.wait_output(exec_id, "ready")
        told = ship.workspace / "told"
        assert stop(ship) == 0
        assert told.read_text() == "told\n"


def test_term_gives_followers_their_last_line() -> None:
    with running() as ship:
        exec_id = ship.start("echo up; exec sleep 600")
        with ship.follow(exec_id) as lines:
            next(lines)
            os.kill(ship.pid, signal.SIGTERM)
            assert next(lines)["signal"] == signal.SIGTERM
            assert list(lines) == []
        assert ship.process.wait(20) == 0
