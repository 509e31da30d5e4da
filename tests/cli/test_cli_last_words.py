"""The last word of a command: an error in the words of the command line, and after Ctrl-C the work that goes
on.
"""

import signal
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from cli_runner import BIN, Cli, Done

from bay.cli.app import app
from bay.cli.error_words import GOES_ON

WAIT_S = 60


def said(done: Done) -> str:
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    return done.stderr.decode()


def commands(command: Any, path: str = "") -> Iterator[str]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from commands(below, f"{path} {name}")
    else:
        yield path.strip()


def test_a_field_of_the_api_is_named_by_its_option(bay: Cli, name: str) -> None:
    assert "error: --ttl: must be 0 or more" in said(bay("create", "--ttl", "-5"))
    assert "error: --over: must be 0.01 or more" in said(bay("usage", name, "--over", "0"))
    assert "error: --label städt: must match" in said(bay("create", "--label", "städt=x"))


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        ("secret rm nope", "`bay secret ls`"),
        ("cargo rm cargo-000000000000000000000000", "`bay cargo ls`"),
        ("logs NAME exec-000000000000000000000000", "`bay execs NAME`"),
        ("services start NAME nope", "`bay services ls NAME`"),
        ("keys revoke key-000000000000000000000000", "`bay keys ls`"),
    ],
)
def test_a_thing_that_is_not_there_is_looked_up_by_its_list(
    bay: Cli, name: str, line: str, way_out: str
) -> None:
    assert said(bay(*line.replace("NAME", name).split())).endswith(f"; see {way_out}\n")


def test_every_command_that_leaves_work_behind_exists() -> None:
    assert set(GOES_ON) <= set(commands(typer.main.get_command(app)))


def test_ctrl_c_says_what_may_be_made_all_the_same(bay: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(WAIT_S)
        process = Cli(f"http://127.0.0.1:{silent.getsockname()[1]}").start("create", "web")
        with process, silent.accept()[0] as there:
            there.settimeout(WAIT_S)
            assert there.recv(4096).startswith(b"POST /v1/sandboxes")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (130, b"")
    assert err == b"bay: interrupted: the sandbox may be made all the same; see `bay ls`\n"


def test_ctrl_c_on_logs_leaves_the_command_and_says_so(bay: Cli, name: str) -> None:
    started = bay("exec", "--detach", name, "sh", "-c", "echo begun; exec sleep 600").stdout.decode().strip()
    process = bay.start("logs", "-f", name, started)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, err) == (130, b"bay: interrupted: the command runs on\n")
    assert b"running" in bay("execs", name).stdout


@pytest.mark.parametrize("line", ["context ls", "top --once"])
def test_a_full_disk_is_an_error_of_one_line(bay: Cli, line: str) -> None:
    with open("/dev/full", "wb") as full:
        command = [str(BIN), *line.split()]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, timeout=WAIT_S, check=False, env=bay.environment
        )
    assert (done.returncode, done.stderr) == (1, b"error: No space left on device\n")
