"""Ship on a kernel without openat2, setfsuid, renameat2's flags, TIOCGPTPEER and holes, as gVisor's is.

The tests of other modules whose subject is one of them run here a second time.
"""

import errno
import fcntl
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import lacking
import pytest
import test_file_routes
import test_files
import test_first
import test_pty
from ship_harness import Ship, running
from test_file_routes import code, post, put

from ship.process import ptys
from tree_tar.beneath import closing

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces, which takes root"),
    pytest.mark.host,
]

for again in (
    test_files.test_a_path_that_leaves_the_workspace_is_refused,
    test_files.test_links_within_the_workspace_are_followed,
    test_files.test_a_file_is_no_directory_and_a_directory_no_file,
    test_files.test_a_link_put_in_place_of_a_directory_again_and_again_never_leads_out,
    test_files.test_delete_under_a_race_of_renames_removes_nothing_outside,
    test_file_routes.test_what_is_at_the_destination_is_only_replaced_when_asked,
    test_file_routes.test_directories_are_made_and_modes_are_set,
    test_file_routes.test_what_the_kernel_makes_up_is_refused_whoever_could_read_it,
    test_file_routes.test_the_user_decides_what_may_be_done,
    test_file_routes.test_ships_socket_and_token_are_not_to_be_had,
    test_file_routes.test_nothing_that_is_no_file_is_waited_for,
    test_file_routes.test_what_may_not_be_removed_of_an_old_destination_is_not_left_as_the_source,
    test_first.test_a_program_is_the_sandboxs_user_in_every_respect,
    test_first.test_a_timeout_ends_a_tree_of_root_too,
    test_first.test_files_are_used_as_the_sandboxs_user,
    test_first.test_a_directory_that_only_its_owner_may_enter_is_no_hindrance,
    test_pty.test_a_program_finds_a_terminal_of_its_own,
    test_pty.test_jobs_are_stopped_continued_in_front_and_behind_and_interrupted,
    test_pty.test_a_new_size_is_told_to_the_program,
    test_pty.test_ended_terminals_are_given_back,
):
    globals()[again.__name__] = again

outside = test_files.outside


@pytest.fixture(scope="module")
def one() -> Iterator[Ship]:
    """A Ship without a container, on such a kernel."""
    with running(before=lacking.COMMAND) as found:
        yield found


@pytest.fixture
def ship(one: Ship) -> Iterator[Ship]:
    """The same, without files of earlier tests."""
    yield one
    shutil.rmtree(one.workspace.parent / "outside", ignore_errors=True)
    for entry in os.scandir(one.workspace):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


@pytest.fixture(scope="module")
def boxed() -> Iterator[Ship]:
    """A Ship that is PID 1, with its programs uid 1000, on such a kernel."""
    with running(first=True, before=lacking.COMMAND) as found:
        yield found


@pytest.fixture
def first() -> Iterator[Ship]:
    """Another one, that no test has used."""
    with running(first=True, before=lacking.COMMAND) as found:
        yield found


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        ("l.syscall(437, -100, b'/', 0, 0)", errno.ENOSYS),
        ("l.setfsuid(-1)", errno.ENOSYS),
        ("l.renameat2(-100, b'/none', -100, b'/none', 1)", errno.EINVAL),
        ("l.ioctl(os.open('/dev/ptmx', 2), 0x5441, 2)", errno.ENOTTY),
        ("l.lseek(0, 0, 3)", errno.EINVAL),
        ("l.lseek(0, 0, 0)", errno.ESPIPE),
    ],
)
def test_such_a_kernel_lacks_them(call: str, answer: int) -> None:
    program = f"import ctypes, os; l = ctypes.CDLL(None, use_errno=True); {call}; print(ctypes.get_errno())"
    command = [*lacking.COMMAND, "/usr/bin/python3", "-c", program]
    done = subprocess.run(command, input=b"", capture_output=True, check=True)
    assert int(done.stdout) == answer


def test_threads_for_files_are_the_user_by_effective_ids_alone(first: Ship) -> None:
    put(first, "x", b"x").raise_for_status()
    assert first.run("id -u", tty=True).out == "1000\r\n"  # the loop was the user for a moment
    found = {test_first.ids_of(thread) for thread in Path(f"/proc/{first.pid}/task").iterdir()}
    assert found == {("0 0 0 0", "0 0 0 0", ""), ("0 1000 0 1000", "0 1000 0 1000", "")}


def test_a_program_can_neither_signal_nor_look_into_a_thread_that_is_its_user(first: Ship) -> None:
    put(first, "x", b"x").raise_for_status()
    tries = "kill -URG ${thread##*/} && echo sent; cat $thread/environ; ls $thread/fd; cat $thread/maps"
    ended = first.run(f"for thread in /proc/1/task/*; do echo; {tries}; done")
    assert ended.out.strip() == ""
    assert ended.out.count("\n") >= 3  # the loop's, that of starts, and one for files
    assert first.http.get("/healthz").status_code == 200


def test_a_file_that_its_mover_may_not_link_is_moved_and_replaces_nothing(boxed: Ship) -> None:
    roots = boxed.workspace / "roots-own"
    roots.write_text("root's")
    roots.chmod(0o600)  # fs.protected_hardlinks: proc_sys_fs(5)
    put(boxed, "taken", b"mine").raise_for_status()
    assert code(post(boxed, "move", source="roots-own", destination="taken")) == (409, "conflict")
    assert (boxed.workspace / "taken").read_text() == "mine"
    assert post(boxed, "move", source="roots-own", destination="moved").status_code == 200
    assert (boxed.workspace / "moved").read_text() == "root's"
    assert not roots.exists()


TIOCSPTLCK, TIOCGPTN = 0x40045431, 0x80045430
TERMINAL = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC


def new_terminal(multiplexer: Path) -> tuple[int, int]:
    """An unlocked master, and its number."""
    master = os.open(multiplexer, TERMINAL)
    fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
    return master, struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]


def test_a_slave_is_opened_by_its_name() -> None:
    master, number = new_terminal(Path("/dev/ptmx"))
    with closing(master), closing(ptys.open_slave_by_name(master, TERMINAL)) as slave:
        assert os.ttyname(slave) == f"/dev/pts/{number}"
        assert os.get_blocking(slave)
        assert not os.get_inheritable(slave)


@pytest.mark.parametrize("kind", ["device", "link", "file", "fifo"])
def test_no_slave_is_opened_where_anything_else_has_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    master, number = new_terminal(Path("/dev/ptmx"))
    monkeypatch.setattr(ptys, "_SLAVES", str(tmp_path))
    there = tmp_path / str(number)
    match kind:
        case "device":
            os.mknod(there, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        case "link":
            there.symlink_to(f"/dev/pts/{number}")
        case "file":
            there.write_text("")
        case _:
            os.mkfifo(there)
    with closing(master), pytest.raises(OSError, match=r"not the terminal's|symbolic links"):
        ptys.open_slave_by_name(master, TERMINAL)


def test_no_slave_of_another_file_system_of_terminals_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run(["mount", "-t", "devpts", "-o", "ptmxmode=666", "other", tmp_path], check=True)
    try:
        with ExitStack() as stack:
            master, number = new_terminal(Path("/dev/ptmx"))
            stack.callback(os.close, master)
            for _ in range(number + 1):
                stack.callback(os.close, new_terminal(tmp_path / "ptmx")[0])
            assert (tmp_path / str(number)).is_char_device()
            monkeypatch.setattr(ptys, "_SLAVES", str(tmp_path))
            with pytest.raises(OSError, match="not the terminal's"):
                ptys.open_slave_by_name(master, TERMINAL)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
