"""Every byte through the command line, into pipes and files: exec, run, logs and cp."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from counting import LARGEST, MIB, PERFECT, SIZES, judged, lines, pieces_of, printing, sha256_of_lines
from examples.own_server import OwnServer

import bay

BIN = Path(sys.executable).with_name("bay")
LIMIT_S = 600
pytestmark = [pytest.mark.host, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environment(server: OwnServer) -> dict[str, str]:
    return {**os.environ, "BAY_URL": server.url, "BAY_API_KEY": server.api_key}


def through_pipe(environment: dict[str, str], size: int, *arguments: str) -> tuple[str, int]:
    """The verdict on what the command printed into a pipe, and its exit code."""
    with subprocess.Popen([BIN, *arguments], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        verdict = judged(size, pieces_of(process.stdout))
        return verdict, process.wait(LIMIT_S)


@pytest.mark.parametrize("size", SIZES)
def test_exec_into_a_pipe(environment: dict[str, str], box: bay.Box, size: int) -> None:
    command = ("exec", box.id, "--", "sh", "-c", printing(size))
    assert through_pipe(environment, size, *command) == (PERFECT, 0)


def test_exec_into_a_pipe_again_and_again(environment: dict[str, str], box: bay.Box) -> None:
    size = min(LARGEST, 20 * MIB)
    command = ("exec", box.id, "--", "sh", "-c", printing(size))
    assert [through_pipe(environment, size, *command) for _ in range(5)] == [(PERFECT, 0)] * 5


@pytest.mark.parametrize("size", SIZES)
def test_exec_into_a_file(environment: dict[str, str], box: bay.Box, place: Path, size: int) -> None:
    with (place / "out").open("wb") as out:
        command = [BIN, "exec", box.id, "--", "sh", "-c", printing(size)]
        code = subprocess.run(command, stdout=out, env=environment, timeout=LIMIT_S, check=False).returncode
    with (place / "out").open("rb") as back:
        assert (judged(size, pieces_of(back)), code) == (PERFECT, 0)


@pytest.mark.parametrize("size", SIZES)
def test_run_into_a_pipe(environment: dict[str, str], size: int) -> None:
    assert through_pipe(environment, size, "run", "--", "sh", "-c", printing(size)) == (PERFECT, 0)


def test_exec_to_a_slow_pipeline(environment: dict[str, str], box: bay.Box) -> None:
    size = min(LARGEST, 20 * MIB)
    pipeline = f'"{BIN}" exec {box.id} -- sh -c "{printing(size)}" | (sleep 2; sha256sum)'
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipeline], env=environment, capture_output=True, timeout=LIMIT_S, check=False
    )  # fmt: skip
    assert (done.stdout.split()[0].decode(), done.returncode) == (sha256_of_lines(size), 0)


@pytest.mark.parametrize("size", SIZES)
def test_exec_of_what_comes_on_stdin(environment: dict[str, str], box: bay.Box, size: int) -> None:
    command = [BIN, "exec", "-i", box.id, "--", "sha256sum"]
    with lines(size) as stdin:
        done = subprocess.run(
            command, stdin=stdin, capture_output=True, env=environment, timeout=LIMIT_S, check=False
        )
    assert (done.stdout.split()[0].decode(), done.returncode) == (sha256_of_lines(size), 0)


def test_logs_of_what_was_left_running(environment: dict[str, str], box: bay.Box) -> None:
    size = MIB // 2  # less than is kept of a command that nobody declared to read
    started = subprocess.run(
        [BIN, "exec", "--detach", box.id, "--", "sh", "-c", printing(size)],
        env=environment, capture_output=True, timeout=LIMIT_S, check=True, text=True,
    )  # fmt: skip
    command = ("logs", "--follow", box.id, started.stdout.strip())
    assert through_pipe(environment, size, *command) == (PERFECT, 0)


@pytest.mark.parametrize("size", SIZES)
def test_copies_both_ways(environment: dict[str, str], box: bay.Box, place: Path, size: int) -> None:
    with (place / "there").open("wb") as out, lines(size) as stream:
        for piece in pieces_of(stream):
            out.write(piece)
    subprocess.run(
        [BIN, "cp", place / "there", f"{box.id}:copied"], env=environment, timeout=LIMIT_S, check=True
    )
    assert box.run("sha256sum copied").stdout.split()[0] == sha256_of_lines(size)
    assert through_pipe(environment, size, "cp", f"{box.id}:copied", "-") == (PERFECT, 0)
    box.files.delete("copied")


def test_bytes_of_every_value_pass_unchanged(environment: dict[str, str], box: bay.Box) -> None:
    sent = os.urandom(3 * MIB) + bytes(range(256)) * 1000
    box.files.write("random", sent)
    done = subprocess.run(
        [BIN, "exec", box.id, "--", "cat", "random"],
        env=environment, capture_output=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert (hashlib.sha256(done.stdout).hexdigest(), done.returncode) == (hashlib.sha256(sent).hexdigest(), 0)
