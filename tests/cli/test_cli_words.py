"""How a command line is read: where Bay's options end, names that other tools use, help, and what is said of
mistakes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runner import Cli, Done

from bay.cli.app import PANELS

COMMANDS = {name: entry for panel in PANELS.values() for name, entry in panel.items()}
BIN = Path(sys.executable).parent / "bay"


def message(done: Done) -> str:
    assert (done.stdout, done.stderr.count(b"\n")) == (b"", 1)
    return done.stderr.decode()


# The words of a command that runs in a sandbox are its own


@pytest.mark.parametrize(
    "words",
    [
        ["echo", "-n", "--json", "x"],
        ["echo", "-n", "--", "--json"],
        ["echo", "--help", "-h", "--cwd"],
        ["echo", "-e", "A=1", "-i"],
    ],
)
def test_options_after_the_first_word_belong_to_the_command(bay: Cli, name: str, words: list[str]) -> None:
    for before in ([], ["--"]):
        assert bay("exec", name, *before, *words).stdout == bay("run", *before, *words).stdout
    expected = subprocess.run(words, capture_output=True, timeout=10, check=True).stdout
    assert bay("exec", name, *words).stdout == expected


@pytest.mark.parametrize(
    "options",
    [
        ["-e", "A=1"],
        ["-eA=1"],
        ["--env=A=1"],
        ["--env", "A=1"],
        ["-ie", "A=1"],
        ["-i", "-e", "A=1", "--timeout", "30", "-w", "."],
    ],
)
def test_options_before_the_first_word_are_ours(bay: Cli, name: str, options: list[str]) -> None:
    for line in (
        ["exec", *options, name, "printenv", "A"],
        ["exec", name, *options, "printenv", "A"],
        ["exec", name, *options, "--", "printenv", "A"],
        ["run", *options, "printenv", "A"],
    ):
        done = bay(*line)
        assert (done.stdout, done.stderr) == (b"1\n", b""), line


def test_a_value_that_looks_like_a_command_is_none(bay: Cli, name: str) -> None:
    assert bay("exec", "--cwd", name, name, "true").returncode != 0
    assert bay("exec", "-w", ".", name, "pwd").returncode == 0


def test_nothing_to_run_is_said(bay: Cli, name: str) -> None:
    assert "'CMD'" in message(bay("exec", name))
    assert "'CMD'" in message(bay("run", "--"))


def test_run_takes_what_docker_run_takes(bay: Cli) -> None:
    given = f"box-{os.urandom(6).hex()}"
    done = bay("run", "--rm", "--name", given, "-w", ".", "-u", "ship", "true")
    assert (done.returncode, done.stderr) == (0, b"")
    assert bay("get", given).returncode == 2
    assert "not both" in message(bay("run", "--rm", "--keep", "true"))


def test_create_takes_the_name_first(bay: Cli) -> None:
    given = f"box-{os.urandom(6).hex()}"
    assert json.loads(bay("create", given, "--json").stdout)["name"] == given
    assert "one name" in message(bay("create", "a", "--name", "b"))


# JSON


def test_json_may_stand_before_the_command(bay: Cli, name: str) -> None:
    assert json.loads(bay("--json", "get", name).stdout)["name"] == name
    for line in (
        ["--json", "get", "nope"],
        ["get", "--json", "nope"],
        ["--json", "frob"],
        ["frob", "--json"],
    ):
        assert json.loads(bay(*line).stderr)["error"]["code"] in ("not_found", "validation_error")


def test_a_json_of_the_command_is_not_ours(bay: Cli) -> None:
    assert bay("exec", "nope", "true", "--json").stderr.startswith(b"error: ")
    assert bay("python", "nope", "-c", "--json").stderr.startswith(b"error: ")


# Other names


@pytest.mark.parametrize(
    ("line", "means"),
    [
        ("list --quiet", "ls --quiet"),
        ("inspect NAME", "get NAME"),
        ("delete --help", "rm --help"),
        ("ssh --help", "shell --help"),
        ("files list NAME", "files ls NAME"),
        ("-V", "version"),
        ("--version", "version"),
        ("help exec", "exec --help"),
        ("help files ls", "files ls --help"),
        ("help", "--help"),
        ("files", "files --help"),
    ],
)
def test_other_names_lead_to_ours(bay: Cli, name: str, line: str, means: str) -> None:
    given, meant = (bay(*text.replace("NAME", name).split()) for text in (line, means))
    assert (given.returncode, given.stderr) == (0, b"")
    assert given.stdout == meant.stdout


def test_python_dash_m_is_the_command(bay: Cli) -> None:
    command = [sys.executable, "-m", "bay", "version"]
    done = subprocess.run(command, capture_output=True, timeout=30, check=False, env=bay.environment)
    assert (done.returncode, done.stdout) == (0, bay("version").stdout)


# Mistakes


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lst", "did you mean `bay ls`"),
        ("files lsx box", "did you mean `bay files ls`"),
        ("login", "BAY_API_KEY"),
        ("stats box", "`bay usage NAME`"),
        ("help frob", "no topic 'frob'"),
        ("help files frob", "no command 'files frob'"),
        ("help netwrk", "`bay help network`"),
        ("services put -v x box db run", "`bay cp`"),
        ("run -p 80:80 true", "`bay proxy"),
        ("create --net none", "here it is --network"),
        ("create --url-port soon", "a whole number, not 'soon'"),
        ("url box 70000", "from 1 to 65535, not '70000'"),
        ("kill box", "'PID'"),
        ("ps", "'NAME'; `bay ls` lists sandboxes"),
        ("keys create", "Missing argument 'NAME' (see"),
    ],
)
def test_a_mistake_says_the_way_out(bay: Cli, line: str, said: str) -> None:
    done = bay(*line.split())
    assert done.returncode == 2
    assert said in message(done)


def test_an_option_that_this_command_lacks_is_no_hint(bay: Cli) -> None:
    assert "here it is" not in message(bay("rm", "-w", "x"))


# Help


def test_help_uses_the_terminal_and_the_usual_notation(bay: Cli) -> None:
    narrow, wide = bay("--help", COLUMNS="60").stdout.decode(), bay("--help", COLUMNS="200").stdout.decode()
    assert max(map(len, narrow.splitlines())) <= 60
    assert "..." not in wide.replace("[ARGS]...", "")
    for panel in ("Sandboxes:", "Run things:", "Files and checkpoints:", "Network:"):
        assert f"\n{panel}\n" in wide
    assert bay("exec", "--help").stdout.startswith(b"Usage: bay exec [OPTIONS] NAME CMD...\n")
    assert bay("events", "--help").stdout.startswith(b"Usage: bay events [OPTIONS] [NAME]\n")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_help_of_every_command_is_in_plain_notation(bay: Cli, command: str) -> None:
    shown = bay(command, "--help").stdout.decode()
    assert not any(odd in shown for odd in ("{", "[[", "<str>", "<int>", "list[", "x>=", "gvisor"))
    if examples := COMMANDS[command].examples:
        assert examples.splitlines()[0] in shown


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_summary_of_a_command_is_what_its_help_begins_with(bay: Cli, command: str) -> None:
    shown = " ".join(bay(command, "--help", COLUMNS="200").stdout.decode().split("\n\n")[1].split())
    first, _, _ = COMMANDS[command].summary.partition(":")
    assert shown.startswith(first.split(";")[0].split(",")[0])


# Completion


def complete(bay: Cli, *words: str, shell: str = "bash") -> list[str]:
    """What a shell would be offered for the last word, which bash splits at colons."""
    split = [part for word in words for part in (word.replace(":", "\n:\n").strip("\n").split("\n"))]
    environment: dict[str, Any] = {
        **bay.environment,
        "_BAY_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(split),
        "COMP_CWORD": str(len(split) - 1),
        "_TYPER_COMPLETE_ARGS": " ".join(words),  # what zsh and fish give
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run([str(BIN)], capture_output=True, timeout=30, check=False, env=environment)
    assert done.stderr == b""
    return done.stdout.decode().split()


def test_completion_knows_sandboxes_profiles_and_paths(bay: Cli, name: str) -> None:
    assert complete(bay, "bay", "exec", name[:-1]) == [name]
    assert complete(bay, "bay", "rm", name, name[:-1]) == [name]
    assert "python-default" in complete(bay, "bay", "create", "--profile", "py")
    bay("exec", name, "mkdir", "source")
    bay("exec", name, "touch", "source/file")
    assert complete(bay, "bay", "cp", f"{name}:sou") == ["source/"]
    assert complete(bay, "bay", "cp", f"{name}:source/") == ["source/file"]
    assert complete(bay, "bay", "cp", name[:-1]) == [f"{name}:"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_no_name_that_a_shell_would_evaluate(
    bay: Cli, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    names = [r"x\$(id)", "x`id`", 'x"', "x'", "x\nid", "x\x1b]0;t\x07", "x-日本"]
    bay("exec", name, "touch", *names)
    for one in names:
        (tmp_path / one).touch()
    monkeypatch.chdir(tmp_path)
    for words in (f"{name}:x", "x"):
        offered = "".join(complete(bay, "bay", "cp", words, shell=shell))
        assert "x-日本" in offered
        assert not any(odd in offered for odd in ("$(", "`", "id", "0;t"))


def test_completion_without_a_server_offers_nothing_and_is_quiet() -> None:
    class Nowhere:
        url = ""
        environment = {"BAY_URL": "http://127.0.0.1:1", "PATH": "/usr/bin:/bin"}  # noqa: RUF012

    assert complete(Nowhere(), "bay", "exec", "b") == []  # type: ignore[arg-type]


# On a terminal


def test_a_pipe_that_is_not_given_to_the_command_is_pointed_out_to_people(bay: Cli, name: str) -> None:
    for options, hint in ([], True), (["-i"], False):
        here, there = os.openpty()
        try:
            done = subprocess.run(
                [str(BIN), "exec", *options, name, "cat"], input=b"x\n", stdout=subprocess.PIPE, stderr=there,
                timeout=30, check=False, env=bay.environment,
            )  # fmt: skip
            os.close(there)
            os.set_blocking(here, False)
            try:
                said = os.read(here, 1024)
            except OSError:
                said = b""
        finally:
            os.close(here)
        assert (done.returncode, done.stdout) == (0, b"" if hint else b"x\n")
        assert (b"use -i" in said) == hint
    assert bay("exec", name, "cat", stdin=b"x").stderr == b""
