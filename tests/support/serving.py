"""`bay serve` as a process of its own, and raw bytes to talk to it with."""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from forked import Forked
from forked_bay import fork

KEY = "bay_" + "k" * 40
UNPOOLED = '{"python-default": {}}'
"""Without the pool that a server keeps by default, which would outlive one that a test kills."""
WAIT_S = 20.0
START_S = 90.0
"""An executable imports all anew, makes a file system, and tries the host."""

Process = subprocess.Popen[bytes] | Forked


@dataclass(slots=True)
class Server:
    """A `bay serve` that answers."""

    process: Process
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {KEY}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=WAIT_S)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait; gives the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


def environment(root: Path, **extra: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("BAY_")}
    return {
        **kept, "BAY_DRIVER": "fake", "BAY_RUN_DIR": str(root / "run"), "BAY_DATA_DIR": str(root / "data"),
        "BAY_API_KEY": KEY, "BAY_PORT": "0", "BAY_STOP_GRACE": "1", "BAY_PROFILES": UNPOOLED, **extra,
    }  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("bay")), "serve", *arguments]


def run_to_its_end(root: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """A `bay serve` that is expected to end by itself."""
    return subprocess.run(
        command(*arguments),
        env=environment(root, **extra),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


@contextmanager
def serving(root: Path, *arguments: str, through: Sequence[str] = (), **extra: str) -> Generator[Server]:
    """A `bay serve` below `root`, forked, or the executable started by `through` where that is given; killed
    at the end when it still runs.
    """
    log = (root / "log").open("a")
    settings = environment(root, **extra)
    process: Process = (
        subprocess.Popen(
            [*through, *command(*arguments)], env=settings, stdout=subprocess.PIPE, stderr=log, bufsize=0
        )
        if through
        else fork(["serve", *arguments], settings, log.fileno())
    )
    try:
        yield Server(process, url_of(process, root, START_S if through else WAIT_S))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(WAIT_S)
        assert process.stdout is not None
        process.stdout.close()
        log.close()


def read_line(process: Process, wait_s: float = WAIT_S) -> str:
    """The next line on stdout; empty at its end."""
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], wait_s)[0]:
            raise AssertionError(f"it says nothing more than {line!r}")
        if not (more := process.stdout.read(1)):
            break
        line += more
    return line.decode()


def url_of(process: Process, root: Path, wait_s: float) -> str:
    """Where it says that it serves. Raises AssertionError with its log."""
    line = read_line(process, wait_s)
    assert line.startswith("Bay serves at "), line + (root / "log").read_text()
    return line.split()[3]


def talk(port: int, *pieces: bytes, end: bool = False) -> bytes:
    """Send bytes, and give what comes until the server closes or is silent for a while after an answer."""
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as link:
        for piece in pieces:
            link.sendall(piece)
        if end:
            link.shutdown(socket.SHUT_WR)
        answer = b""
        while True:
            link.settimeout(0.3 if answer else WAIT_S)
            try:
                more = link.recv(65536)
            except TimeoutError:
                return answer
            except ConnectionResetError:
                return answer
            if not more:
                return answer
            answer += more
