"""`bay` in a real pseudo-terminal, against a real Bay with the fake driver: keys, sizes, signals, and the
terminal afterwards.
"""

import ctypes
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import pytest

import bay
from bay.cli.terminal.detach_keys import DetachKeys, parse_keys
from bay.cli.terminal.raw import OutputModes

BIN = Path(sys.executable).parent / "bay"
DETACH = b"\x10\x11"
SIZES = 'trap "stty size" WINCH; stty size; echo ready; while :; do sleep 0.05; done'


class Terminal:
    """A `bay` that has a terminal, which stays open so that one can look at it afterwards."""

    def __init__(self, environment: dict[str, str], *arguments: str) -> None:
        self._ours, self.theirs = pty.openpty()
        self.resize(21, 77)
        self.before = termios.tcgetattr(self.theirs)
        command = ["setsid", "-c", str(BIN), *arguments]
        given = dict.fromkeys(("stdin", "stdout", "stderr"), self.theirs)
        self.process = subprocess.Popen(command, **given, env=environment)
        self.text = b""

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def until(self, pattern: bytes) -> "re.Match[bytes]":
        """Read until that has come; what came before it is done with."""
        deadline = time.monotonic() + 20
        while (found := re.search(pattern, self.text)) is None:
            ready, _, _ = select.select([self._ours], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{pattern!r} did not come, but {self.text[-500:]!r}"
            self.text = self.text[-50_000:] + os.read(self._ours, 65536)
        self.text = self.text[found.end() :]
        return found

    def ended(self) -> int:
        """The exit code, once it has ended and left the terminal as it was."""
        deadline = time.monotonic() + 20
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end after {self.text[-500:]!r}"
            # It cannot end while what it prints is not read.
            if select.select([self._ours], [], [], 0.02)[0]:
                self.text = self.text[-50_000:] + os.read(self._ours, 65536)
        code = self.process.returncode
        assert termios.tcgetattr(self.theirs) == self.before
        return code

    @property
    def raw(self) -> bool:
        return not termios.tcgetattr(self.theirs)[3] & termios.ICANON

    def wait_raw(self) -> None:
        """Nothing announces it, so look again and again."""
        deadline = time.monotonic() + 20
        while not self.raw:
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            select.select([], [], [], 0.01)

    def wait_idle(self) -> None:
        """Until the main thread waits for keys and signals."""
        deadline = time.monotonic() + 20
        while "poll" not in Path(f"/proc/{self.process.pid}/wchan").read_text():
            assert time.monotonic() < deadline
            select.select([], [], [], 0.01)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._ours)
        os.close(self.theirs)


Open = Callable[..., Terminal]


@pytest.fixture(scope="module")
def box(served: tuple[str, str]) -> Iterator[bay.Box]:
    with bay.Client(*served, timeout_s=30) as client, client.sandbox(name="term") as made:
        yield made


@pytest.fixture
def environment(served: tuple[str, str]) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    return clean | {"BAY_URL": served[0], "BAY_API_KEY": served[1]}


@pytest.fixture
def terminal(environment: dict[str, str], box: bay.Box) -> Iterator[Open]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        opened.append(Terminal(environment, *arguments))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
    for proc in box.execs.list():
        if proc.info.state == "running":
            proc.kill()


class Run(Protocol):
    """`bay` without a terminal, in this process."""

    def __call__(
        self, *arguments: str, stdin: bytes = b"", **settings: str
    ) -> "subprocess.CompletedProcess[bytes]": ...


@pytest.fixture
def run(request: pytest.FixtureRequest, served: tuple[str, str], box: bay.Box) -> Run:
    call = cast("Run", request.getfixturevalue("bay"))
    return partial(call, BAY_URL=served[0], BAY_API_KEY=served[1])


# Terminals


def test_a_shell_has_the_size_of_the_terminal_and_ends_with_its_exit_code(terminal: Open) -> None:
    here = terminal("shell", "term")
    here.wait_raw()
    here.type(b"stty size; tty; echo $TERM\r")
    here.until(rb"21 77\r\n/dev/pts/\d+\r\nxterm-256color")
    assert here.raw
    here.type(b"exit 7\r")
    assert here.ended() == 7


def test_ctrl_c_goes_to_the_program_and_not_to_bay(terminal: Open) -> None:
    here = terminal(
        "exec", "-it", "term", "--", "sh", "-c", "trap 'echo caught' INT; echo ready; read x; read x; exit 5"
    )
    here.until(b"ready")
    here.type(b"\x03")
    here.until(b"caught")
    here.type(b"\rand\r")
    assert here.ended() == 5


def test_a_new_size_of_the_window_arrives(terminal: Open) -> None:
    here = terminal("exec", "-it", "term", "--", "bash", "-c", SIZES)
    here.until(rb"21 77\r\nready")
    for rows in range(30, 60):
        here.resize(rows, 100)
    here.until(rb"59 100")
    here.type(b"\x03")
    assert here.ended() == 128 + signal.SIGINT


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("no-such-thing", 127)],
)
def test_exit_codes_are_exact(terminal: Open, script: str, code: int) -> None:
    assert terminal("exec", "-it", "term", "--", "sh", "-c", script).ended() == code


def test_running_out_of_time_is_124(terminal: Open) -> None:
    assert terminal("exec", "-it", "--timeout", "0.3", "term", "--", "sleep", "60").ended() == 124


def test_a_signal_that_comes_to_another_thread_is_handled_at_once(terminal: Open) -> None:
    here = terminal("exec", "-it", "term", "--", "sh", "-c", "echo ready; sleep 60")
    here.until(rb"ready")
    pid = here.process.pid
    here.wait_idle()
    other = next(int(tid) for tid in os.listdir(f"/proc/{pid}/task") if int(tid) != pid)
    assert ctypes.CDLL(None, use_errno=True).tgkill(pid, other, signal.SIGTERM) == 0
    assert here.ended() == 128 + signal.SIGTERM


def test_detach_keys_leave_it_running_and_attach_comes_back(terminal: Open, box: bay.Box) -> None:
    here = terminal("shell", "term")
    here.wait_raw()
    here.type(b"MARK=so-it-was; echo set\r")
    here.until(rb"set\r\n[^\n]*[$#] ")  # with the next prompt, so that the cursor is in a line
    here.type(DETACH)
    exec_id = here.until(rb"\nbay: exec-\w+ still runs; reattach with: bay attach term (exec-[0-9a-f]{24})")[
        1
    ].decode()
    assert here.ended() == 0
    again = terminal("attach", "term", exec_id)
    again.wait_raw()
    again.until(b"MARK=so-it-was")  # the last screen
    again.type(b"echo $MARK.\r")
    again.until(rb"so-it-was\.")
    again.type(b"exit 4\r")
    assert again.ended() == 4


def test_other_detach_keys_and_none(terminal: Open, box: bay.Box) -> None:
    here = terminal("exec", "-it", "--detach-keys", "ctrl-a,d", "term", "--", "cat", "-v")
    here.wait_raw()
    here.type(b"\x10\x01x\r")  # the terminal of the sandbox keeps a ctrl-q for itself
    here.until(rb"\^P\^Ax")
    here.type(b"\x01d")
    exec_id = here.until(rb"bay attach term (exec-[0-9a-f]{24})")[1].decode()
    assert here.ended() == 0
    never = terminal("attach", "--detach-keys", "", "term", exec_id)
    never.wait_raw()
    never.type(DETACH + b"\x01d\r\x04")
    assert never.ended() == 0


def test_modes_that_a_program_left_on_are_turned_off(terminal: Open) -> None:
    here = terminal("exec", "-it", "term", "--", "sh", "-c", r"printf '\033[?1049h\033[?25l\033[?2004h'; cat")
    here.until(rb"\x1b\[\?2004h")
    here.type(DETACH)
    here.until(rb"\x1b\[\?1049l\x1b\[\?2004l\x1b\[\?25h\x1b\[0m")
    assert here.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_to_bay_puts_the_terminal_back_and_leaves_the_shell(
    terminal: Open, box: bay.Box, number: signal.Signals
) -> None:
    here = terminal("shell", "term")
    here.type(b"echo here $((40+2))\r")
    here.until(b"here 42")
    [shell] = [proc for proc in box.execs.list() if proc.info.tty and proc.info.state == "running"]
    here.process.send_signal(number)
    here.until(f"bay attach term {shell.id}".encode())
    assert here.ended() == 128 + number
    assert shell.refresh().state == "running"


def test_a_signal_to_bay_ends_what_exec_runs(terminal: Open, box: bay.Box) -> None:
    here = terminal("exec", "-it", "term", "--", "sh", "-c", "echo pid $$ ready; sleep 600")
    here.until(b"ready")
    [proc] = [proc for proc in box.execs.list() if proc.info.state == "running"]
    here.process.send_signal(signal.SIGHUP)
    assert here.ended() == 128 + signal.SIGHUP
    assert proc.refresh().state != "running"


def test_being_stopped_and_continued_keeps_the_terminal_right(terminal: Open) -> None:
    here = terminal("exec", "-it", "term", "--", "sh", "-c", "echo ready; read x; exit 6")
    here.until(b"ready")
    here.process.send_signal(signal.SIGTSTP)
    os.waitpid(here.process.pid, os.WUNTRACED)
    assert termios.tcgetattr(here.theirs) == here.before
    here.process.send_signal(signal.SIGCONT)
    here.wait_raw()
    here.type(b"\r")
    assert here.ended() == 6


def test_a_paste_and_a_flood_come_through_whole(terminal: Open) -> None:
    here = terminal(
        "exec", "-it", "term", "--", "sh", "-c", "stty raw -echo; echo ready; head -c 200000 | md5sum; exit 3"
    )
    here.until(b"ready")
    sent = 0
    while sent < 200_000:
        here.type(b"z" * 2000)
        sent += 2000
    here.until(b"[0-9a-f]{32}")
    assert here.ended() == 3


def test_output_faster_than_it_can_be_shown_ends_as_any_other(terminal: Open) -> None:
    script = "head -c 5000000 /dev/urandom | base64; echo; echo E''ND; exit 3"
    here = terminal("exec", "-it", "term", "--", "sh", "-c", script)
    here.until(rb"END\r\n")
    assert here.ended() == 3


def test_the_session_ending_is_told_and_not_waited_for(terminal: Open, served: tuple[str, str]) -> None:
    with bay.Client(*served) as client, client.sandbox(name="gone") as gone:
        here = terminal("shell", "gone")
        here.type(b"echo here $((40+2))\r")
        here.until(b"here 42")
        gone.stop()
        # Whether the shell was told to end, or its end was not seen any more, is the runtime's to say.
        assert here.ended() in (1, 128 + signal.SIGHUP, 128 + signal.SIGTERM, 128 + signal.SIGKILL)


def test_without_a_terminal_it_says_so(run: Run) -> None:
    for arguments in (("exec", "-it", "term", "--", "true"), ("shell", "term")):
        done = run(*arguments)
        assert (done.returncode, b"needs a terminal" in done.stderr) == (2, True)


def test_bad_detach_keys_are_refused_before_anything_starts(run: Run) -> None:
    done = run("shell", "--detach-keys", "ctrl-ö", "term")
    assert done.returncode == 2


# Without a terminal


def test_stdin_is_given_as_it_comes_and_whole(run: Run) -> None:
    data = os.urandom(3_000_000)
    done = run("exec", "-i", "term", "--", "cat", stdin=data)
    assert (done.returncode, done.stdout == data, done.stderr) == (0, True, b"")
    assert run("exec", "-i", "term", "--", "head", "-c", "3", stdin=data).stdout == data[:3]


def test_detach_prints_the_id_and_logs_follow_it(run: Run, environment: dict[str, str], box: bay.Box) -> None:
    script = "echo out; echo err >&2; read go < fifo; echo late; exit 3"
    box.run(["mkfifo", "fifo"])
    exec_id = run("exec", "--detach", "term", "--", "sh", "-c", script).stdout.decode().strip()
    following = subprocess.Popen(
        [str(BIN), "logs", "-f", "term", exec_id],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert following.stdout
    assert following.stdout.readline() == b"out\n"
    assert run("logs", "term", exec_id).stderr == b"err\n"
    assert run("logs", "--since", "4", "term", exec_id).stdout == b""
    attached = subprocess.Popen(
        [str(BIN), "attach", "term", exec_id], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    assert attached.stdout
    assert attached.stdout.readline() == b"out\n"
    box.run("echo go > fifo")
    assert (attached.communicate(timeout=20)[0], attached.returncode) == (b"late\n", 3)
    assert (following.communicate(timeout=20), following.returncode) == ((b"late\n", b"err\n"), 0)


def test_execs_ps_and_kill(run: Run, box: bay.Box) -> None:
    proc = box.spawn(["sleep", "600"])
    listed = run("execs", "term").stdout.decode()
    assert re.search(rf"{proc.id}  running +- .*sleep 600\n", listed)
    assert proc.id in [json.loads(line)["id"] for line in run("execs", "--json", "term").stdout.splitlines()]
    [line] = [line for line in run("ps", "term").stdout.decode().splitlines() if "sleep 600" in line]
    assert proc.id in line
    assert run("kill", "term", line.split()[0]).returncode == 0
    assert proc.wait(20).signal == signal.SIGTERM
    other = box.spawn(["sleep", "600"])
    assert run("kill", "-s", "KILL", "term", other.id).returncode == 0
    assert other.wait(20).signal == signal.SIGKILL
    assert run("kill", "term", "999999").returncode == 2
    assert run("kill", "term", "-s", "NOPE", str(other.info.pid)).returncode == 2
    assert run("kill", "term", "all").returncode == 2


# Decisions without I/O


@pytest.mark.parametrize(
    ("typed", "sent", "detached"),
    [
        ([b"abc"], b"abc", False),
        ([b"a\x10\x11b"], b"a", True),
        ([b"\x10", b"\x11"], b"", True),
        ([b"\x10", b"x"], b"\x10x", False),
        ([b"\x10\x10\x11"], b"\x10", True),
        ([b"\x10", b"\x10", b"\x11"], b"\x10", True),
        ([b"\x11\x10"], b"\x11", False),
    ],
)
def test_detach_keys_are_found_wherever_they_are_cut(typed: list[bytes], sent: bytes, detached: bool) -> None:
    keys = DetachKeys(parse_keys("ctrl-p,ctrl-q"))
    results = [keys.feed(piece) for piece in typed]
    assert (b"".join(data for data, _ in results), results[-1][1]) == (sent, detached)


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pp", "ab", ",", "ctrl-p,,ctrl-q", "ä", "f1"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(bay.InvalidArgument, match="--detach-keys"):
        parse_keys(text)


def test_modes_are_seen_wherever_they_are_cut() -> None:
    output = b"text\x1b[?1049;1006h\x1b[?25l more \x1b[?1006l\x1b=" + b"x" * 300
    for cut in range(len(output)):
        modes = OutputModes()
        modes.feed(output[:cut])
        modes.feed(output[cut:])
        assert modes.undo() == b"\x1b[?1049l\x1b>\x1b[?25h\x1b[0m"
    quiet = OutputModes()
    quiet.feed(b"\x1b[?25l\x1b[?25h\x1b[?7l")
    assert quiet.undo() == b""
