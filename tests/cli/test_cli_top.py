"""`bay top`: a table in a pipe, a live one on a terminal, and a terminal that is left as it was."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from cli_runner import Cli

BIN = Path(sys.executable).parent / "bay"
WAIT_S = 60
TAKEN, GIVEN_BACK, HOME = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[H"


def test_one_table_in_a_pipe(bay: Cli, name: str) -> None:
    done = bay("top")
    head, *rows = done.stdout.decode().splitlines()
    assert (done.returncode, head.split()) == (0, ["NAME", "COMPUTE", "CPUS", "MEMORY", "PIDS", "DISK"])
    assert any(row.startswith(f"{name} ") and " running " in row for row in rows)


def test_a_row_has_the_figures_of_usage(bay: Cli, name: str) -> None:
    [row] = [json.loads(line) for line in bay("top", name, "--json").stdout.splitlines()]
    usage = json.loads(bay("usage", name, "--json").stdout)
    assert (row["name"], row["compute"], set(row["usage"])) == (name, "running", set(usage))


def test_a_sandbox_without_compute_is_shown_when_asked_for(bay: Cli, name: str) -> None:
    bay("stop", name)
    assert name.encode() not in bay("top", "--once").stdout
    for line in (["top", "--all", "--sort", "name"], ["top", name]):
        assert name.encode() in bay(*line).stdout
    assert b"--sort takes cpus, memory" in bay("top", "--sort", "age").stderr
    assert b"did you mean" in bay("top", f"{name}x").stderr


class Terminal:
    """`bay top` on a terminal, and all that it drew."""

    def __init__(self, bay: Cli, columns: int = 80) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (24, columns))
        self.before = termios.tcgetattr(self.theirs)
        self.drawn = b""
        self.process = subprocess.Popen(
            [str(BIN), "top", "--interval", "0.1"], stdin=self.theirs, stdout=self.theirs,
            stderr=subprocess.PIPE, env=bay.environment | {"TERM": "xterm"}, start_new_session=True,
        )  # fmt: skip

    def draws(self, wanted: bytes) -> None:
        while wanted not in self.drawn:
            assert select.select([self.ours], [], [], WAIT_S)[0], self.drawn
            self.drawn += os.read(self.ours, 65536)

    def ends(self) -> int:
        self.draws(GIVEN_BACK)
        _, said = self.process.communicate(timeout=WAIT_S)
        assert (said, termios.tcgetattr(self.theirs)) == (b"", self.before)
        return self.process.returncode

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)
        os.close(self.ours)
        os.close(self.theirs)


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM])
def test_a_live_table_leaves_the_terminal_as_it_was(
    bay: Cli, name: str, number: signal.Signals | None
) -> None:
    shown = Terminal(bay)
    try:
        shown.draws(TAKEN)
        shown.draws(name.encode())
        shown.drawn = b""
        shown.draws(name.encode())  # drawn again by itself
        if number is None:
            os.write(shown.ours, b"q")
        else:
            shown.process.send_signal(number)
        assert shown.ends() == (0 if number is None else 128 + number)
    finally:
        shown.close()


@pytest.mark.parametrize(("columns", "has_charts"), [(80, False), (140, True)])
def test_a_wide_terminal_has_charts_of_the_last_minutes(
    bay: Cli, name: str, columns: int, has_charts: bool
) -> None:
    shown = Terminal(bay, columns)
    try:
        shown.draws(name.encode())
        shown.drawn = b""
        for _ in range(2):
            shown.drawn = shown.drawn.rpartition(HOME)[2]
            shown.draws(HOME)  # a whole table lies between two of them
        table = shown.drawn.rpartition(HOME)[0].decode()
        row = next(line for line in table.splitlines() if name in line)
        assert ("MEMORY 5M" in table, "\N{LOWER ONE EIGHTH BLOCK}" in row) == (has_charts, has_charts)
        os.write(shown.ours, b"q")
        assert shown.ends() == 0
    finally:
        shown.close()
