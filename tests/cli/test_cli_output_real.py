"""Every byte of what a command prints comes through `bay` in a pipe, whatever reads there."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import bay
from bay.server import embedded

pytestmark = pytest.mark.host

BIN = Path(sys.executable).parent / "bay"
COUNT = 1_000_000
DIGEST = hashlib.sha256(b"".join(b"%d\n" % i for i in range(1, COUNT + 1))).hexdigest()
WAIT_S = 60


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="bay-") as root,
        embedded.start(driver="fake", run_dir=Path(root)) as (url, key),
        bay.Client(url, key) as client,
        client.sandbox(name="box"),
    ):
        yield {**os.environ, "BAY_URL": url, "BAY_API_KEY": key, "BAY": str(BIN)}


def shell(environment: dict[str, str], script: str) -> "subprocess.CompletedProcess[str]":
    """What bash makes of `script`; it ends with the exit codes of its last pipe."""
    return subprocess.run(
        ["bash", "-c", f'{script}; echo "${{PIPESTATUS[@]}}"'],
        env=environment, capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip


@pytest.mark.parametrize("options", ["", "-i", "--json"])
def test_exec_in_a_pipe_is_whole(environment: dict[str, str], options: str) -> None:
    decode = '| python3 -c \'import base64, json, sys\nfor line in sys.stdin: sys.stdout.buffer.write(base64.b64decode(json.loads(line).get("data", "")))\''
    command = f"$BAY exec {options} box -- seq {COUNT} </dev/null {decode if options == '--json' else ''}"
    done = shell(environment, f"{command} | sha256sum")
    digest, _, codes = done.stdout.split(maxsplit=2)
    assert (digest, set(codes.split()), done.stderr) == (DIGEST, {"0"}, "")


def test_a_reader_that_takes_its_time_gets_all(environment: dict[str, str]) -> None:
    slow = "python3 -c 'import sys, time\nwhile data := sys.stdin.buffer.read(300_000): time.sleep(0.1); sys.stdout.buffer.write(data)'"
    done = shell(environment, f"$BAY exec box -- seq {COUNT} | {slow} | sha256sum")
    assert done.stdout.split()[0] == DIGEST


def test_a_reader_that_leaves_ends_the_command_without_a_word(environment: dict[str, str]) -> None:
    done = shell(environment, "$BAY exec box -- seq 100000000 | head -1")
    assert done.stdout.splitlines()[0] == "1"
    assert done.stderr == ""


def test_logs_that_follow_are_whole_from_where_they_begin(environment: dict[str, str]) -> None:
    command = f"echo begun; until [ -e go ]; do sleep 0.1; done; seq {COUNT}"
    script = (
        f"id=$($BAY exec --detach box -- sh -c '{command}');"
        " $BAY logs -f box $id | (read begun; $BAY exec box -- touch go; sha256sum)"
    )
    assert shell(environment, script).stdout.split()[0] == DIGEST


def test_output_that_is_not_all_there_is_no_success(environment: dict[str, str]) -> None:
    script = (
        f"id=$($BAY exec --detach box -- sh -c 'seq {COUNT}; touch full; exec sleep 60');"
        " $BAY exec box -- sh -c 'until [ -e full ]; do sleep 0.1; done';"
        " $BAY logs --since 5 box $id >/dev/null"
    )
    done = shell(environment, script)
    assert done.stdout.split()[-1] == "1"
    assert "bytes of output were lost" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_exec_takes_all_of_its_input(environment: dict[str, str]) -> None:
    numbers = f"seq {COUNT}"
    done = shell(environment, f"{numbers} | $BAY exec -i box -- sha256sum")
    assert done.stdout.split()[0] == DIGEST
    slow = "for i in 1 2 3; do echo $i; sleep 0.2; done"
    assert shell(environment, f"({slow}) | $BAY exec -i box -- cat").stdout.splitlines()[:3] == [
        "1",
        "2",
        "3",
    ]
