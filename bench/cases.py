"""The benchmarks. Each returns what it found; what is compared is measured alternately, within one run."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from examples import host_view
from examples.own_server import OwnServer

from bay.client import Box, Client
from bench.docker import Docker
from bench.figures import Absent, Figure, Ratio, Result

COLD_RUNS, EXEC_RUNS, DOCKER_EXEC_RUNS, START_RUNS, BURST = 15, 300, 20, 15, 20
KIB_PER_MIB = 1024


@dataclass(frozen=True, slots=True)
class Bench:
    """What a benchmark may use. `docker` is None where no daemon answers."""

    server: OwnServer
    client: Client
    docker: Docker | None


Case = Callable[[Bench], list[Result]]


def ms(act: Callable[[], object]) -> float:
    """How long `act` takes, in milliseconds."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def beside_docker(mine: Figure, name: str, samples: list[float]) -> list[Result]:
    """`mine`, Docker's figure and the ratio; without samples a word that Docker is not there."""
    if not samples:
        return [mine, Absent(name, "docker not available")]
    theirs = Figure(name, mine.unit, tuple(samples))
    return [mine, theirs, Ratio(mine, theirs)]


@contextmanager
def running_box(bench: Bench) -> Generator[Box, None, None]:
    """A sandbox that has answered a command, deleted afterwards."""
    with bench.client.sandbox() as box:
        box.run(["true"], check=True)
        yield box


def create_and_run(client: Client) -> Box:
    """A new sandbox that has answered `true`."""
    box = client.sandboxes.create()
    box.run(["true"], timeout_s=60, check=True)
    return box


def cold(bench: Bench) -> list[Result]:
    """From the create to the answer of the first command, nothing prepared, beside `docker run --rm IMAGE true`."""
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(COLD_RUNS):
        made: list[Box] = []
        mine.append(ms(lambda made=made: made.append(create_and_run(bench.client))))
        made[0].delete()
        if bench.docker:
            theirs.append(ms(bench.docker.run))
    return beside_docker(
        Figure("create to first exec answer, cold", "ms", tuple(mine)), "docker run --rm true", theirs
    )


def exec_true(bench: Bench) -> list[Result]:
    """`true` on a running sandbox over HTTP, beside `docker exec`."""
    theirs: list[float] = []
    with running_box(bench) as box:
        mine = [ms(lambda: box.run(["true"])) for _ in range(EXEC_RUNS)]
        shell = [ms(lambda: box.run("true")) for _ in range(EXEC_RUNS // 3)]
    if bench.docker:
        docker = bench.docker
        with docker.container() as name:
            theirs = [ms(lambda: docker.exec(name)) for _ in range(DOCKER_EXEC_RUNS)]
    through_shell = Figure("exec true through bash -lc", "ms", tuple(shell))
    return [*beside_docker(Figure("exec true", "ms", tuple(mine)), "docker exec true", theirs), through_shell]


def at_once(act: Callable[[], object]) -> tuple[float, int]:
    """`act` in BURST threads at once: the milliseconds until all are done, and how many did not fail."""
    with ThreadPoolExecutor(BURST) as pool:
        began = time.perf_counter()
        futures = [pool.submit(act) for _ in range(BURST)]
        failed = sum(future.exception() is not None for future in futures)
        return (time.perf_counter() - began) * 1000, BURST - failed


def burst(bench: Bench) -> list[Result]:
    """Twenty sandboxes at once, each to the answer of its first command, beside twenty `docker run` at once."""
    wall, good = at_once(lambda: create_and_run(bench.client))
    for box in list(bench.client.sandboxes.list()):
        box.delete()
    theirs = [at_once(bench.docker.run)[0]] if bench.docker else []
    mine = Figure(f"{BURST} creates at once, all answered", "ms", (wall,), f"{good} of {BURST} succeeded")
    return beside_docker(mine, f"{BURST} docker run at once", theirs)


def pss_mib(pids: list[int]) -> float:
    """Proportional set size of these processes together, in MiB (proc(5), smaps_rollup)."""
    return sum(field_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") for pid in pids) / KIB_PER_MIB


def field_kib(path: Path, name: str) -> int:
    """The number behind `name` in a file of /proc."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))


def idle_pids(box: Box, server: OwnServer) -> list[int]:
    """The processes of `box` that are there when it does nothing: what its cgroup holds but the probe."""
    argv = ["/usr/bin/sleep", f"{os.getpid()}{time.monotonic_ns() % 10**6}"]
    probe = box.spawn(argv)
    deadline = time.monotonic() + 10
    while not (found := host_view.pids_of(argv)) and time.monotonic() < deadline:
        time.sleep(0.01)
    cgroups = host_view.traces_of(found[0], server.pid, set()).cgroups
    pids = {int(line) for path in cgroups for line in (path / "cgroup.procs").read_text().split()}
    probe.kill()
    return sorted(pids - set(found))


def memory(bench: Bench) -> list[Result]:
    """Of one idle sandbox and of Bay with it."""
    with running_box(bench) as box:
        pids = idle_pids(box, bench.server)
        sandbox = Figure("idle sandbox, PSS", "MiB", (pss_mib(pids),), f"{len(pids)} process(es)")
    bay = bench.server.pid
    rss = field_kib(Path(f"/proc/{bay}/status"), "VmRSS:") / KIB_PER_MIB
    return [sandbox, Figure("Bay, PSS", "MiB", (pss_mib([bay]),)), Figure("Bay, RSS", "MiB", (rss,))]


def _command_ms(*command: str | Path) -> float:
    return ms(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, timeout=60, check=True))


def clients(_bench: Bench) -> list[Result]:
    """How long a newcomer waits for `import bay` and `bay --help`, the interpreter's own start included."""
    bay = Path(sys.executable).with_name("bay")
    commands: dict[str, tuple[str | Path, ...]] = {
        "python -c pass": (sys.executable, "-c", "pass"),
        "python -c 'import bay'": (sys.executable, "-c", "import bay"),
        "python -c 'bay.Client'": (sys.executable, "-c", "import bay; bay.Client"),
        "bay --help": (bay, "--help"),
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(START_RUNS):
        for name, command in commands.items():
            taken[name].append(_command_ms(*command))
    return [Figure(name, "ms", tuple(samples)) for name, samples in taken.items()]


def ship(_bench: Bench) -> list[Result]:
    """From starting Ship, outside a container, until it listens, and until it has answered."""
    listening: list[float] = []
    answered: list[float] = []
    for _ in range(START_RUNS):
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


CASES: dict[str, Case] = {
    "clients": clients,
    "ship": ship,
    "cold": cold,
    "exec": exec_true,
    "burst": burst,
    "memory": memory,
}
