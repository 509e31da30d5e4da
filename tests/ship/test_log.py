"""Ship's log: it may never hold Ship up, and has nothing of a caller's."""

import os
import re
import subprocess
import sys

import pytest
from ship_harness import PATIENCE_S, SOURCE

pytestmark = pytest.mark.pure

TRY = """
import sys
from ship import log
{fill}
log.note("\\ud800" + "x" * 10_000)
try:
    int("a caller's secret")
except ValueError as error:
    print(log.describe(error))
"""


def run(fill: str, stderr: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", TRY.format(fill=fill)]
    given = {**os.environ, "PYTHONPATH": str(SOURCE)}
    out = subprocess.PIPE
    return subprocess.run(command, env=given, stdout=out, stderr=stderr, timeout=PATIENCE_S, check=True)


def test_a_note_is_one_line_that_a_pipe_takes_whole() -> None:
    said = run("").stderr
    assert said.startswith(b"ship: ?xxx")
    assert len(said) == 4096


def test_a_log_that_nobody_reads_holds_nothing_up() -> None:
    reading, writing = os.pipe()
    fill = "import os\nos.set_blocking(2, False)\ntry:\n    while True: os.write(2, bytes(4096))\nexcept BlockingIOError: os.set_blocking(2, True)"
    try:
        assert run(fill, stderr=writing).stdout.startswith(b"ValueError at <module>:")
    finally:
        os.close(reading)
        os.close(writing)


def test_a_log_that_is_closed_is_no_error_and_an_error_is_told_without_its_text() -> None:
    said = run("import os\nos.close(2)").stdout
    assert re.fullmatch(rb"ValueError at <module>:\d+\n", said)
