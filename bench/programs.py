"""How long the programs themselves take to start: what a newcomer waits for, and Ship outside a container."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench.base import Bench, ms
from bench.figures import Figure, Result
from bench.processor import program_ms

START_RUNS = 15
_NO_SERVER = ("env", "-u", "BAY_URL", "BAY_DATA_DIR=/nonexistent", "XDG_CONFIG_HOME=/nonexistent")


def clients(bench: Bench) -> list[Result]:
    """How long a newcomer waits for `import bay`, `bay --help`, `bay ls`, and `bay run` without a server.

    The start of the interpreter is included.
    """
    bay = Path(sys.executable).with_name("bay")
    commands: dict[str, tuple[str | Path, ...]] = {
        "python -c pass": (sys.executable, "-c", "pass"),
        "python -c 'import bay'": (sys.executable, "-c", "import bay"),
        "python -c 'bay.Client'": (sys.executable, "-c", "import bay; bay.Client"),
        "bay --help": (bay, "--help"),
        "bay ls": (*_in_environment(bench), bay, "ls"),
        "bay run true, without a server": (*_NO_SERVER, bay, "run", "true"),
    }
    used: dict[str, list[float]] = {name: [] for name in commands}
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(bench.count(START_RUNS)):
        for name, command in commands.items():
            taken[name].append(ms(partial(_run, command, used[name])))
    return [Figure(name, "ms", tuple(taken[name]), "", tuple(used[name])) for name in commands]


def _in_environment(bench: Bench) -> tuple[str, ...]:
    return ("env", f"BAY_URL={bench.server.url}", f"BAY_API_KEY={bench.server.api_key}")


def _run(command: Sequence[str | Path], used: list[float]) -> None:
    used.append(program_ms(*command))


def ship(bench: Bench) -> list[Result]:
    """From starting Ship, outside a container, until it listens, and until it has answered."""
    listening: list[float] = []
    answered: list[float] = []
    for _ in range(bench.count(START_RUNS)):
        to_listen, to_answer = _start_ship()
        listening.append(to_listen)
        answered.append(to_answer)
    note = "with this Python, not in a container"
    return [
        Figure("Ship, start to listening", "ms", tuple(listening), note),
        Figure("Ship, start to first answer", "ms", tuple(answered), note),
    ]


def _start_ship() -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="bay-bench-") as folder:
        path = f"{folder}/ship.sock"
        settings = {"SHIP_SOCKET": path, "SHIP_TOKEN": "bench", "SHIP_WORKSPACE": folder, "SHIP_LOCAL": "1"}
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "ship"],
            env={**os.environ, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        with process:
            try:
                assert process.stdout is not None
                process.stdout.readline()
                listening = time.perf_counter()
                _ask_health(path)
                return (listening - began) * 1000, (time.perf_counter() - began) * 1000
            finally:
                process.terminate()


def _ask_health(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(path)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: ship\r\nAuthorization: Bearer bench\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200"), json.dumps(answer.decode(errors="replace"))
