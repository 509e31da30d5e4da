"""Ship as PID 1 of a pid namespace with the powers of a real sandbox: users, orphans, doors, the end."""

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from ship_harness import Ship, eventually, living, running, stop
from test_trees import FOREST, WALKERS

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, which takes root"),
]


@pytest.fixture
def first() -> Iterator[Ship]:
    """A Ship that is PID 1, with its programs uid 1000."""
    with running(first=True) as found:
        yield found


def test_a_program_is_the_sandboxs_user_in_every_respect(first: Ship) -> None:
    ended = first.run(
        "id -u; id -g; id -G; grep -E 'CapEff|CapPrm|CapInh|NoNewPrivs' /proc/self/status; ps -o pid= 1"
    )
    uid, gid, *groups, mark = ended.out.split()[:4]
    assert (uid, gid, groups) == ("1000", "1000", ["1000"])
    assert 60_000 <= int(mark) < 61_000  # by which the exec's tree is known; nothing of the host's is left
    assert ended.out.split()[4:] == [
        "CapInh:", "0" * 16, "CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1", "1",
    ]  # fmt: skip
    assert first.run(["touch", "mine"]).code == 0
    assert (first.workspace / "mine").stat().st_uid == 1000


def test_root_is_root(first: Ship) -> None:
    ended = first.run("id -u; id -G; echo $HOME; pwd", user="root")
    uid, groups, home, cwd = ended.out.splitlines()
    assert (uid, groups.split()[0], home, cwd) == ("0", "0", "/root", str(first.workspace))


def test_the_sandboxs_user_learns_nothing_of_ship(first: Ship) -> None:
    # Root first: a later switch of users hides Ship as a side effect, which would make this prove nothing.
    assert "Permission denied" in first.run("cat /proc/1/environ", user="root").err
    for name in ("environ", "maps", "mem", "fd", "root", "cwd", "exe"):
        assert "Permission denied" in first.run(f"cat /proc/1/{name}").err
    assert first.run("kill -TERM 1 || kill -KILL 1").code != 0


def test_ship_is_killed_after_its_programs_when_memory_runs_out(first: Ship) -> None:
    programs = int(first.run("cat /proc/self/oom_score_adj").out)
    ships = int(Path(f"/proc/{first.pid}/oom_score_adj").read_text())
    assert programs == 500 > ships


def test_orphans_are_reaped_and_no_exit_code_is_lost(first: Ship) -> None:
    for code in range(40):
        ended = first.run(["sh", "-c", f"(sh -c 'exit 9' &); setsid sh -c 'exit 8' & exit {code}"])
        assert ended.code == code
    assert eventually(lambda: states(first) <= {"S", "R"})


def states(ship: Ship) -> set[str]:
    return {item["state"] for item in ship.http.get("/shell/processes").json()["processes"]}


def test_processes_are_those_of_the_sandbox(first: Ship) -> None:
    first.start(["sleep", "600"])
    found = first.http.get("/shell/processes").json()["processes"]
    assert [(p["pid"] == 1, p["ppid"], p["uid"]) for p in found] == [(True, 0, 0), (False, 1, 1000)]


def test_a_timeout_ends_the_whole_tree(first: Ship) -> None:
    ended = first.run(FOREST, timeout_s=0.5)
    assert (ended.json["state"], ended.json["timed_out"]) == ("killed", True)
    assert first.left() == []


def test_a_timeout_ends_a_tree_of_root_too(first: Ship) -> None:
    other = first.start("setsid sleep 600 & exec sleep 600")
    assert first.run(FOREST, timeout_s=0.5, user="root").json["timed_out"] is True
    assert len(first.left()) == 2
    assert first.http.get(f"/execs/{other}").json()["state"] == "running"


def test_walkers_are_ended(first: Ship) -> None:
    assert first.run(["/usr/bin/python3", "-c", WALKERS], timeout_s=1.0).json["timed_out"] is True
    assert first.left() == []


def test_delete_finds_what_an_ended_exec_left_in_sessions_of_its_own(first: Ship) -> None:
    ended = first.run("setsid sh -c '(sleep 600 &)'; (setsid sleep 600 &)")
    # A program that is just being executed has no environment for a moment, by which it would be known.
    assert eventually(lambda: len(first.left()) == 2)
    first.http.delete(f"/execs/{ended.json['id']}", params={"grace_s": 0})
    assert first.left() == []


ESCAPE = """
import ctypes, os, sys, time
if os.fork():
    time.sleep(600)
for _ in range(3):  # a session of its own, its parent gone, its environment cleared, and closed to whoever asks
    os.setsid()
    if os.fork():
        os._exit(0)
if len(sys.argv) == 1:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:], 'again'], {})
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
os.write(1, b'away')
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["timeout", "delete", "delete_after_end"])
def test_what_has_shaken_off_everything_but_its_group_is_ended_too(first: Ship, how: str) -> None:
    escape = ["/usr/bin/python3", "-c", ESCAPE]
    other = first.start(escape)
    first.wait_output(other, "away")
    exec_id = first.start(escape, timeout_s=3 if how == "timeout" else None)
    first.wait_output(exec_id, "away")
    if how == "delete_after_end":
        first.http.post(f"/execs/{exec_id}/signal", json={"signal": "KILL"})
        first.wait(exec_id)
    if how == "timeout":
        assert first.wait(exec_id).json["timed_out"] is True
    else:
        assert first.http.delete(f"/execs/{exec_id}", params={"grace_s": 0.2}).status_code == 200
    found = first.http.get("/shell/processes").json()["processes"]
    owners = sorted(str(process["exec_id"]) for process in found if process["state"] != "Z")
    assert owners == sorted(["None", *[other] * len(owners[1:])])
    assert len(owners) >= 4  # Ship, and the other exec with its escapee and what lies between


def test_each_exec_has_a_group_of_its_own_which_its_user_cannot_leave(first: Ship) -> None:
    leave = "import os; os.setgroups([])"
    ended = [first.run(f"id -G; python3 -c '{leave}' 2>&1 | tail -n 1") for _ in range(2)]
    assert all("Operation not permitted" in each.out for each in ended)
    assert ended[0].out.splitlines()[0] != ended[1].out.splitlines()[0]


def test_term_ends_everything() -> None:
    with running(first=True) as ship:
        exec_id = ship.start(FOREST)
        ship.wait_output(exec_id, "ready")
        assert stop(ship) == 0
        assert living(ship.mark) == []


def test_the_host_may_ask_and_a_program_inside_may_not(first: Ship) -> None:
    program = f"""
import socket
s = socket.socket(socket.AF_UNIX)
s.connect({str(first.socket_path)!r})
print(s.recv(65536).decode())
"""
    ended = first.run(["/usr/bin/python3", "-c", program])
    assert "PermissionError" in ended.err  # the socket's mode
    ended = first.run(["/usr/bin/python3", "-c", program], user="root")
    assert ended.out.startswith("HTTP/1.1 403 ")
    assert "x-ship-session" not in ended.out.lower()
    assert first.http.get("/healthz").status_code == 200


FETCH = """
import sys, urllib.request, urllib.error
for path in sys.argv[1:]:
    try:
        with urllib.request.urlopen('http://127.0.0.1:8123' + path) as answer:
            print(answer.status, answer.headers.get('x-ship-session'), answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.headers.get('x-ship-session'), error.read().decode())
"""


def test_programs_inside_learn_what_ship_is_and_nothing_else(first: Ship) -> None:
    paths = ["/health", "/meta", "/healthz", "/execs", "/fs/list", "/shell/processes"]
    health, meta, *rest = first.run(["/usr/bin/python3", "-c", FETCH, *paths]).out.splitlines()
    version = first.http.get("/meta").json()["version"]
    assert health == f'200 None {{"status":"ok","version":"{version}"}}'
    assert first.http.get("/meta").json()["runtime"] == {"name": "ship", "version": version}
    assert meta.startswith("200 None ")
    assert json.loads(meta.removeprefix("200 None ")) == first.http.get("/meta").json()
    assert [line[:8] for line in rest] == ["404 None"] * 4


def test_ships_own_door_inside_is_none_of_the_sandboxs_ports(first: Ship) -> None:
    assert first.http.get("/ports").json() == {"items": []}
    upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
    answer = first.http.get("/tunnel", params={"port": 8123}, headers=upgrade)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "port_closed")


def test_a_program_inside_cannot_use_up_the_hosts_connections(first: Ship) -> None:
    program = """
import socket
held = []
for _ in range(100):
    held.append(socket.create_connection(('127.0.0.1', 8123), timeout=2))
print('held', flush=True)
import time; time.sleep(600)
"""
    exec_id = first.start(["/usr/bin/python3", "-c", program])
    first.wait_output(exec_id, "held")
    assert first.http.get("/healthz").status_code == 200


def test_files_are_used_as_the_sandboxs_user(first: Ship) -> None:
    first.put("a/b", b"x")
    for name in ("a", "a/b"):
        found = (first.workspace / name).stat()
        assert (found.st_uid, found.st_gid) == (1000, 1000)
    secret = first.workspace / "roots"
    secret.mkdir()
    (secret / "file").write_text("secret")
    (secret / "file").chmod(0o600)
    answers = [first.get("roots/file"), first.put("roots/new", b""), first.delete("roots/file")]
    secret.chmod(0o700)
    answers += [
        first.entries("roots"),
        first.get("roots/file"),
        first.http.post("/execs", json=below("roots")),
    ]
    assert [(a.status_code, a.json()["error"]["code"]) for a in answers] == [(403, "forbidden")] * 6
    assert first.run("pwd", cwd="roots", user="root").code == 0


def below(cwd: str) -> dict[str, str]:
    return {"id": "x", "command": "true", "cwd": cwd}


def test_a_directory_that_only_its_owner_may_enter_is_no_hindrance(first: Ship) -> None:
    first.run("mkdir -m 700 mine; echo x > mine/file; chmod 600 mine/file")
    assert first.get("mine/file").text == "x\n"
    assert first.run("cat file", cwd="mine").out == "x\n"
    assert first.delete("mine").status_code == 200


def test_ships_threads_and_loop_keep_their_own_identity(first: Ship) -> None:
    first.put("x", b"x")
    first.run(FOREST, timeout_s=0.2)
    first.run(["no-such-program"])
    first.run(["id"], user="root")
    own, for_files = ("0 0 0 0", "0 0 0 0", ""), ("0 0 0 1000", "0 0 0 1000", "")

    def are_settled() -> bool:
        # The loop's and the one that starts programs; those for files are the user for files alone, once
        # they have begun.
        found = Counter(ids_of(thread) for thread in Path(f"/proc/{first.pid}/task").iterdir())
        return found[own] == 2 and found.keys() == {own, for_files}

    assert eventually(are_settled)


def ids_of(thread: Path) -> tuple[str, ...]:
    """Its user ids, group ids (real, effective, saved, for files) and supplementary groups."""
    lines = dict(line.split(":", 1) for line in (thread / "status").read_text().splitlines())
    return tuple(" ".join(lines[name].split()) for name in ("Uid", "Gid", "Groups"))


def test_a_program_that_its_neighbour_stops_does_not_hold_up_the_next(first: Ship) -> None:
    stopper = """
import os, signal
print('up', flush=True)
me = os.getpid()
while True:
    for name in os.listdir('/proc'):
        if name.isdigit() and int(name) not in (1, me):
            try:
                os.kill(int(name), signal.SIGSTOP)
            except OSError:
                pass
"""
    exec_id = first.start(["/usr/bin/python3", "-c", stopper])
    first.wait_output(exec_id, "up")
    for _ in range(5):
        answer = first.http.post("/execs", json={"id": f"v{os.urandom(4).hex()}", "command": "true"})
        assert answer.status_code in (201, 409)
        assert first.http.get("/healthz").status_code == 200
    first.http.delete(f"/execs/{exec_id}", params={"grace_s": 0})
    assert first.run("echo fine").out == "fine\n"


def test_where_there_is_no_loopback_device_ship_works_without() -> None:
    with running(first=True, loopback=False) as ship:
        assert ship.run(["/usr/bin/python3", "-c", FETCH, "/health"]).code != 0
        assert ship.run("true").code == 0


def test_an_idle_ship_is_small(first: Ship) -> None:
    first.run("true")
    first.put("x", b"x")
    lines = Path(f"/proc/{first.pid}/smaps_rollup").read_text().splitlines()
    pss = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert pss < 20 * 1024


def test_int_ends_ship_as_term_does() -> None:
    with running(first=True) as ship:
        os.kill(ship.pid, signal.SIGINT)
        assert ship.process.wait(20) == 0
