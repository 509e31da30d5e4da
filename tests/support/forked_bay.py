"""`bay` without its start, forked from a process that has it loaded (`bay_forker`).

A fork takes some ten milliseconds, where a Python that imports a server takes a second of processor time.
The command line, the environment, the streams and the exit code are those of the executable.
"""

import os
import subprocess
from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import Any

from forked import Forked
from forked import fork as fork_process

MIGRATIONS = "FORKED_MIGRATIONS"
"""The variable with the directory of migrations of another version of Bay."""

_PROGRAM = "bay_forker.py"


Death = tuple[str, str, int]
"""A function as `module:Class.name`, `before` or `after`, and the number of its call."""


def fork(
    arguments: list[str], environment: Mapping[str, str], stderr: int, dies: Death | None = None
) -> Forked:
    """`bay` with those arguments; its stdout is a pipe, its stdin empty. `dies`: where it is killed."""
    read, stdout = os.pipe()
    try:
        with open(os.devnull, "rb") as null:
            streams = [null.fileno(), stdout, stderr]
            return fork_process(
                _PROGRAM, _order(arguments, environment, dies), streams, os.fdopen(read, "rb", buffering=0)
            )
    finally:
        os.close(stdout)


def run(
    arguments: list[str], environment: Mapping[str, str], stdin: bytes = b"", timeout_s: float = 60
) -> "subprocess.CompletedProcess[bytes]":
    """What `bay` with those arguments said, and its exit code. Raises subprocess.TimeoutExpired."""
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        streams = [given.fileno(), out.fileno(), err.fileno()]
        process = fork_process(_PROGRAM, _order(arguments, environment), streams)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout_s)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _order(arguments: list[str], environment: Mapping[str, str], dies: Death | None = None) -> dict[str, Any]:
    return {"arguments": arguments, "environment": dict(environment), "folder": os.getcwd(), "dies": dies}
