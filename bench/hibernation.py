"""Hibernation: how long a save and the next command take, by the memory in use, beside a cold start."""

import os

from examples.own_server import own_server

from bay.client import Box, Client
from bench.base import Bench, create_and_run, ms
from bench.figures import Absent, Figure, Ratio, Result

CONFIG = f"""
criu = "{os.environ.get("BAY_CRIU", "criu")}"
[profiles.python-default]
warm_timeout = 3600
[profiles.sleeps]
hibernate = true
memory_mb = 2048
"""
SIZES_MB, RUNS = (0, 50, 250, 500), 5


def hibernation(bench: Bench) -> list[Result]:
    """Of a sandbox with Ship alone, and with a kernel that holds so much; each is saved and woken in turn."""
    with own_server("bay-bench-", CONFIG) as server, server.client() as client:
        if not client.capabilities().memory:
            return [Absent("hibernation", "this host's CRIU cannot save sandboxes: `bay doctor`, BAY_CRIU")]
        runs = bench.count(RUNS)
        by_fork = [_cold(client, "python-default") for _ in range(runs)]
        cold = Figure("cold start to the first command, of a profile that hibernates", "ms",
                      tuple(_cold(client, "sleeps") for _ in range(runs)))  # fmt: skip
        found: list[Result] = [
            Figure("cold start to the first command, by the zygote", "ms", tuple(by_fork)),
            cold,
        ]
        for size in SIZES_MB:
            found += _cycles(client, size, runs, cold)
        return found


def _cold(client: Client, profile: str) -> float:
    boxes: list[Box] = []
    took = ms(lambda: boxes.append(create_and_run(client, profile)))
    boxes[0].delete()
    return took


def _cycles(client: Client, size: int, runs: int, cold: Figure) -> list[Result]:
    box = holding(client, "sleeps", size)
    saves, wakes = [0.0] * runs, [0.0] * runs
    for run in range(runs):
        saves[run] = ms(box.hibernate)
        wakes[run] = ms(lambda: answer(box))
    box.delete()
    woken = Figure(f"hibernated to its first command: {what(size)}", "ms", tuple(wakes))
    return [Figure(f"hibernate: {what(size)}", "ms", tuple(saves)), woken, Ratio(woken, cold)]


def holding(client: Client, profile: str, size: int) -> Box:
    """A sandbox that runs; with a `size` it has a kernel that holds so many MB."""
    box = create_and_run(client, profile)
    if size:
        box.python.run(f"import os; held = bytearray(os.urandom(1 << 20)) * {size}")
    return box


def what(size: int) -> str:
    """The words for a sandbox of `holding`."""
    return f"a kernel that holds {size} MB" if size else "Ship alone"


def answer(box: Box) -> None:
    """Have the sandbox run a command, woken if it must be."""
    box.run(["true"], timeout_s=60, check=True)
