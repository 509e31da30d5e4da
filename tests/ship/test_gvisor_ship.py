"""Ship as the first process of a real sandbox of gVisor: what it does there, and what keeps programs out."""

import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import gvisor_ship
import pytest
from ship_harness import Ship, eventually
from test_archive_stream import get as get_archive
from test_archive_stream import put as put_archive
from test_file_routes import code, get, listed, post, put
from test_first import ESCAPE
from test_kernels import FOR_EVER, Kernel
from test_ports import ports, start
from test_pty import shell, type_in
from test_pty import test_a_new_size_is_told_to_the_program as _a_new_size_is_told
from test_search import search
from test_services import put as put_services
from test_services import wait_state
from test_trees import FOREST
from test_tunnel import tunnel
from test_watch_files import until, watched

from bay.drivers.oci.spec import ship_command

pytestmark = [
    pytest.mark.host,
    pytest.mark.long,
    pytest.mark.skipif(os.geteuid() != 0, reason="runsc takes root"),
    pytest.mark.skipif(shutil.which("runsc") is None, reason="needs runsc; apt-get install runsc"),
]

SECRET = "a-value-for-programs-alone"


@pytest.fixture(scope="module")
def ship() -> Iterator[Ship]:
    """One for all of these tests, each of which has a directory of its own."""
    with gvisor_ship.running(SHIP_ENV=json.dumps({"TOLD": SECRET})) as found:
        yield found


def processes(ship: Ship) -> list[str]:
    """The commands of all that live there, Ship's left out."""
    found = ship.http.get("/shell/processes").json()["processes"]
    return [process["command"] for process in found if process["pid"] != 1 and process["state"] != "Z"]


def state_of(ship: Ship, command: str) -> str:
    found = ship.http.get("/shell/processes").json()["processes"]
    return next(process["state"] for process in found if process["command"] == command)


# Users, and what they learn


def test_programs_have_the_ids_that_were_asked_for_and_no_capability(ship: Ship) -> None:
    asked = "id -u; id -g; id -G; grep CapEff /proc/self/status; echo $HOME $TOLD"
    uid, gid, groups, effective, told = ship.run(asked).out.splitlines()
    assert (uid, gid, groups.split()[0], effective.split()[1]) == ("1000", "1000", "1000", "0" * 16)
    assert told == f"/workspace {SECRET}"
    uid, gid, *_, told = ship.run(asked, user="root").out.splitlines()
    assert (uid, gid, told) == ("0", "0", f"/root {SECRET}")


def test_no_program_learns_ships_settings_or_reads_its_memory(ship: Ship) -> None:
    for user in ("ship", "root"):
        seen = ship.run("tr '\\0' '\\n' < /proc/1/environ", user=user).out
        assert seen.count("x" * 5) >= 3, seen  # gVisor shows it to everybody; Ship has erased the values
        assert SECRET not in seen
        assert "a-token" not in seen
        assert "Permission denied" in ship.run("cat /proc/1/mem", user=user).err
        trace = "import ctypes; print(ctypes.CDLL(None).ptrace(16, 1, 0, 0))"
        assert ship.run(["python3", "-c", trace], user=user).out == "-1\n"
        for name in ("root/", "cwd/", "exe", "fd/1", "fd/2"):
            refused = ship.run(f"ls /proc/1/{name} && echo > /proc/1/{name}", user="ship")
            assert "Permission denied" in refused.err, name
    assert ship.run("kill -TERM 1 || kill -KILL 1").code != 0


def test_a_program_without_the_token_is_refused_at_ships_socket(ship: Ship) -> None:
    program = """
import socket
s = socket.socket(socket.AF_UNIX)
s.connect('/.ship-run/ship.sock')
s.sendall(b'GET /execs HTTP/1.1\\r\\nHost: ship\\r\\n\\r\\n')
print(s.recv(65536).decode())
"""
    assert "PermissionError" in ship.run(["python3", "-c", program]).err
    assert ship.run(["python3", "-c", program], user="root").out.startswith("HTTP/1.1 403 ")
    assert ship.http.get("/healthz").status_code == 200


def test_ships_own_files_cannot_be_changed(ship: Ship) -> None:
    assert "Read-only file system" in ship.run("echo > /.ship/bin/python3", user="root").err


# Execs


def test_a_large_output_comes_whole(ship: Ship) -> None:
    ended = ship.run("head -c 3000000 /dev/zero | tr '\\0' x; exit 7")
    assert (ended.code, ended.json["output_bytes"]) == (7, 3_000_000)


def test_a_timeout_ends_the_whole_tree(ship: Ship) -> None:
    for command, user in ((FOREST, "ship"), (FOREST, "root")):
        ended = ship.run(command, timeout_s=1.0, user=user)
        assert (ended.json["state"], ended.json["timed_out"]) == ("killed", True)
        assert processes(ship) == []


def test_what_has_shaken_off_everything_but_its_group_is_ended_too(ship: Ship) -> None:
    exec_id = ship.start(["/usr/bin/python3", "-c", ESCAPE])
    ship.wait_output(exec_id, "away")
    assert ship.http.delete(f"/execs/{exec_id}", params={"grace_s": 0.2}).status_code == 200
    assert processes(ship) == []


def test_orphans_are_reaped_and_no_exit_code_is_lost(ship: Ship) -> None:
    for exit_code in range(10):
        ended = ship.run(["sh", "-c", f"(sh -c 'exit 9' &); setsid sh -c 'exit 8' & exit {exit_code}"])
        assert ended.code == exit_code
    assert eventually(lambda: processes(ship) == [])


# Terminals


def test_a_terminal_has_jobs_and_is_interrupted(ship: Ship) -> None:
    seen = ship.run("tty | tr -d 0-9; stty size; test -O $(tty) && echo mine", tty=True, rows=50, cols=132)
    assert seen.out.split("\r\n") == ["/dev/pts/", "50 132", "mine", ""]
    exec_id = shell(ship)
    type_in(ship, exec_id, "sleep 600\n")
    assert eventually(lambda: "sleep 600" in processes(ship))
    type_in(ship, exec_id, "\x1a")
    ship.wait_output(exec_id, "Stopped")
    type_in(ship, exec_id, "fg\n")
    assert eventually(lambda: state_of(ship, "sleep 600") != "T")
    type_in(ship, exec_id, "\x03")
    assert eventually(lambda: "sleep 600" not in processes(ship))
    type_in(ship, exec_id, "exit 4\n")
    assert ship.wait(exec_id).code == 4


def test_a_new_size_is_told(ship: Ship) -> None:
    _a_new_size_is_told(ship)


# Kernels


def test_a_kernel_keeps_its_variables_and_is_interrupted(ship: Ship) -> None:
    kernel = Kernel(ship)
    assert kernel.run("x = 20").end["status"] == "ok"
    cell = kernel.queue(f"print('begun', flush=True)\n{FOR_EVER}")
    kernel.wait_event(cell, "stdout")
    kernel.post("interrupt")
    assert kernel.events(cell).end["status"] == "interrupted"
    assert kernel.run("x + 1").result == {"text/plain": "21"}
    ship.http.delete(f"/kernels/{kernel.id}")
    assert eventually(lambda: processes(ship) == [])


# Files


def test_files_are_made_read_moved_copied_and_removed_as_the_user(ship: Ship) -> None:
    content = os.urandom(2_000_000)
    written = put(ship, "files/a/b", content, mode="0640").json()
    assert (written["uid"], written["gid"], written["mode"]) == (1000, 1000, "0640")
    assert get(ship, "files/a/b").content == content
    ship.run("ln -s b files/a/link; mkfifo files/a/pipe; ln files/a/b files/a/again")
    assert post(ship, "copy", source="files/a", destination="files/copy").status_code == 200
    assert post(ship, "move", source="files/copy", destination="files/moved").status_code == 200
    assert code(post(ship, "move", source="files/moved", destination="files/a")) == (409, "conflict")
    put(ship, "files/full/x", b"").raise_for_status()
    replaced = post(ship, "move", source="files/moved", destination="files/full", overwrite=True)
    assert replaced.status_code == 200
    assert listed(ship, "files", depth=2)[0] == [
        f"/workspace/files/{name}"
        for name in (
            "a",
            "a/again",
            "a/b",
            "a/link",
            "a/pipe",
            "full",
            "full/again",
            "full/b",
            "full/link",
            "full/pipe",
        )
    ]
    assert get(ship, "files/full/link").content == content
    assert post(ship, "edit", path="/etc/passwd", old="root", new="boot", all=True).status_code == 403
    assert code(get(ship, "/etc/shadow")) == (403, "forbidden")
    assert code(get(ship, "/proc/1/environ"))[0] == 400
    assert ship.http.delete("/fs", params={"path": "files"}).status_code == 200
    assert ship.run("ls files").code != 0


def test_a_path_that_leaves_the_workspace_is_refused(ship: Ship) -> None:
    ship.run("mkdir -p out/d; cd out; ln -s /etc abs; ln -s ../.. up; ln -s loop loop; ln -s d/../../.. rel")
    for path in (
        "out/abs/passwd",
        "out/up/etc/passwd",
        "out/loop",
        "out/rel/../etc/passwd",
        "out/d/../../../etc",
    ):
        for answer in (ship.get(path), ship.put(path, b"x"), ship.entries(path)):
            assert code(answer) == (400, "invalid_path"), path
    assert ship.put("out/d/../d/in", b"x").status_code == 200


OPENS = """
import os
from tree_tar import beneath
top = os.open('/workspace/plain', os.O_RDONLY)
print(os.path.samefile(beneath.open_directory(top, 'real'), 'plain/real'))
try:
    print(os.readlink('/proc/self/fd/%d' % beneath.open_directory(top, 'link')))
except NotADirectoryError:
    print('no directory')
"""


def test_a_link_is_no_directory(ship: Ship) -> None:
    ship.run(
        "mkdir -p /tmp/kept plain/real; touch /tmp/kept/file plain/real/file; ln -s /tmp/kept plain/link"
    )
    # gVisor's open follows a link in spite of O_NOFOLLOW when it is to be a directory.
    command = [*ship_command(platform.machine())[:-2], "-c", OPENS]
    assert ship.run(command).out == "True\nno directory\n"
    assert listed(ship, "plain", depth=9)[0] == [
        f"/workspace/plain/{name}" for name in ("link", "real", "real/file")
    ]
    assert ship.http.delete("/fs", params={"path": "plain", "recursive": "true"}).status_code == 200
    assert ship.run("ls /tmp/kept").out == "file\n"


def test_a_file_on_tmpfs_is_copied_whole(ship: Ship) -> None:
    ship.run("head -c 100000 /dev/urandom > /tmp/source")  # gVisor's tmpfs tells no holes
    assert post(ship, "copy", source="/tmp/source", destination="/tmp/copied").status_code == 200
    assert ship.run("cmp /tmp/source /tmp/copied").code == 0


def test_a_tree_is_searched_and_archived(ship: Ship) -> None:
    put(ship, "tree/d/text", b"one\ntwo needle\n").raise_for_status()
    ship.run("ln -s /etc/passwd tree/link; truncate -s 5M tree/sparse")
    found, counts = search(ship, query="needle", path="tree")
    assert [(match["path"], match["line"]) for match in found] == [("/workspace/tree/d/text", 2)]
    assert counts["truncated"] is False
    archive = get_archive(ship, Path("tree"))
    assert archive.status_code == 200
    assert put_archive(ship, Path("again"), archive.content).json()["files"] == 3
    assert ship.run("diff -r --no-dereference tree again").code == 0


def test_changes_of_files_are_told(ship: Ship) -> None:
    ship.run("mkdir -p seen/d")
    with watched(ship, "seen") as socket:
        ship.run("echo x > seen/d/a; mv seen/d/a seen/b; rm seen/b")
        told = until(socket, "deleted", Path("/workspace/seen/b"))
    kinds = [event["type"] for event in told]
    assert kinds[0] == "created"
    assert {"moved", "deleted"} <= set(kinds)


# Ports and services


def test_a_port_is_told_and_reached(ship: Ship) -> None:
    made, port = start(ship)
    assert [item["port"] for item in ports(ship)] == [port]
    with tunnel(ship, port) as connected:
        connected.end()
    ship.http.delete(f"/execs/{made}", params={"grace_s": 0})
    assert eventually(lambda: ports(ship) == [])


def test_a_service_is_started_again_and_ended(ship: Ship) -> None:
    put_services(ship, {"name": "web", "argv": ["sh", "-c", "sleep 600"], "restart": "always"})
    first = wait_state(ship, "web", lambda item: item["state"] == "running")
    ship.run(f"kill -9 {first['pid']}")
    again = wait_state(ship, "web", lambda item: item["state"] == "running" and item["pid"] != first["pid"])
    assert again["restarts"] == 1
    put_services(ship)
    assert eventually(lambda: processes(ship) == [])


# The end


def test_term_ends_all_of_it() -> None:
    with gvisor_ship.running() as ship:
        ship.wait_output(ship.start(FOREST), "ready")
        began = time.monotonic()
        assert gvisor_ship.stop(ship) == 0
        assert time.monotonic() - began < 15
