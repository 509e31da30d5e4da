"""`bay` without its start, forked from a process that has it loaded (`bay_forker`).

A fork takes some ten milliseconds, where a Python that imports a server takes a second of processor time.
The command line, the environment, the streams and the exit code are those of the executable.
"""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from bay_forker import MESSAGE_BYTES, NUMBER_BYTES

_PROGRAM = Path(__file__).with_name("bay_forker.py")


class ForkedBay:
    """A `bay` that was forked, used as a `subprocess.Popen` is."""

    def __init__(self, status: int, stdout: IO[bytes] | None) -> None:
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = status
        self.pid = self._told(None)

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The same once it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            self.returncode = self._told(timeout)
            os.close(self._status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing is sent when it has ended: its number may be another's."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _told(self, timeout: float | None) -> int:
        if not select.select([self._status], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("bay", timeout or 0)
        said = os.read(self._status, NUMBER_BYTES)
        assert said, "the process that waits for it was killed"
        return int(said)


Death = tuple[str, str, int]
"""A function as `module:Class.name`, `before` or `after`, and the number of its call."""


def fork(
    arguments: list[str], environment: Mapping[str, str], stderr: int, dies: Death | None = None
) -> ForkedBay:
    """`bay` with those arguments; its stdout is a pipe, its stdin empty. `dies`: where it is killed."""
    read, stdout = os.pipe()
    try:
        with open(os.devnull, "rb") as null:
            told = _forked(arguments, environment, [null.fileno(), stdout, stderr], dies)
    finally:
        os.close(stdout)
    return ForkedBay(told, os.fdopen(read, "rb", buffering=0))


def run(
    arguments: list[str], environment: Mapping[str, str], stdin: bytes = b"", timeout_s: float = 60
) -> "subprocess.CompletedProcess[bytes]":
    """What `bay` with those arguments said, and its exit code. Raises subprocess.TimeoutExpired."""
    with TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(stdin)
        given.seek(0)
        streams = [given.fileno(), out.fileno(), err.fileno()]
        process = ForkedBay(_forked(arguments, environment, streams), None)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout_s)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


def _forked(
    arguments: list[str], environment: Mapping[str, str], streams: list[int], dies: Death | None = None
) -> int:
    """Where the pid and then the exit code are told."""
    told, status = os.pipe()
    order: dict[str, Any] = {
        "arguments": arguments, "environment": dict(environment), "folder": os.getcwd(), "dies": dies,
    }  # fmt: skip
    try:
        socket.send_fds(_forker(), [json.dumps(order).encode()], [*streams, status])
    finally:
        os.close(status)
    return told


@functools.cache
def _forker() -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES * 2)
    with its:
        process = subprocess.Popen([sys.executable, _PROGRAM], stdin=its.fileno(), stdout=subprocess.DEVNULL)
    atexit.register(_end, process, ours)
    return ours


def _end(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    ours.close()
    process.wait(10)
