"""Processes that a forker forked, which has loaded what they need: see `forker`."""

import atexit
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from forker import MESSAGE_BYTES, NUMBER_BYTES


class Forked:
    """A process that was forked, used as a `subprocess.Popen` is, by several threads too."""

    def __init__(self, status: int, stdout: IO[bytes] | None) -> None:
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = status
        self._telling = threading.Lock()
        self.pid = self._told(None)

    def poll(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The same once it has ended. Raises subprocess.TimeoutExpired."""
        with self._telling:
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
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        said = os.read(self._status, NUMBER_BYTES)
        assert said, "the process that waits for it was killed"
        return int(said)


def fork(
    program: str, order: dict[str, Any], streams: Sequence[int], stdout: IO[bytes] | None = None
) -> Forked:
    """A process of the program of that name beside this file, which forks for each order. `streams` are its
    stdin, stdout and stderr.
    """
    told, status = os.pipe()
    try:
        pass_on(program, json.dumps(order).encode(), [*streams, status])
    finally:
        os.close(status)
    return Forked(told, stdout)


def pass_on(program: str, order: bytes, descriptors: Sequence[int]) -> None:
    """Fork a process for the order of somebody else, whose streams and status those are."""
    socket.send_fds(_forker(program), [order], descriptors)


@functools.cache
def _forker(program: str) -> socket.socket:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES * 2)
    with its:
        process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name(program)], stdin=its.fileno(), stdout=subprocess.DEVNULL
        )
    atexit.register(_end, process, ours)
    return ours


def _end(process: "subprocess.Popen[bytes]", ours: socket.socket) -> None:
    ours.close()
    process.wait(10)
