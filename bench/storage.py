"""Checkpoints, restores and forks of small and large workspaces, beside a plain copy of the same files; and
what keeps its machine.
"""

import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from bay.client import Box
from bench.base import Bench, ms, running_box
from bench.figures import Absent, Figure, Ratio, Result
from bench.raw import Raw

RUNS, STOPS = 10, 10
SIZES = {
    "1 file of 10 MB": (1, 10),
    "20,000 files, 200 MB": (20_000, 200),
    "200,000 files, 2 GB": (200_000, 2000),
}
"""How many files, and how many MB in all."""
FILL_S = 600.0

FILL = """
import os, sys
count, size = int(sys.argv[1]), int(sys.argv[2]) * 1_000_000 // int(sys.argv[1])
data = os.urandom(min(size, 1 << 20))
for n in range(count):
    folder = f"tree/{n // 100}"
    if n % 100 == 0:
        os.makedirs(folder)
    with open(f"{folder}/{n}", "wb") as file:
        left = size
        while left:
            left -= file.write(data[: min(left, len(data))])
"""


def checkpoints(bench: Bench) -> list[Result]:
    """Each size in a sandbox that runs: a checkpoint, a restore until the next answer, a fork until its
    first, and `cp -a`.
    """
    found: list[Result] = []
    for what, (count, megabytes) in SIZES.items():
        if count > 1:
            count, megabytes = bench.count(count), bench.count(megabytes)
        with _filled(bench, count, megabytes) as box:
            found += _of_one(bench, box, what)
    return found


def machine(bench: Bench) -> list[Result]:
    """Stop to the next answer: what a profile with `persist` adds is the layers that are there already."""
    found: list[Result] = []
    for profile in ("python-default", "machine"):
        if profile not in {known["id"] for known in _profiles(bench)}:
            found.append(Absent(f"stop → exec, profile {profile}", "the server has no such profile"))
            continue
        with bench.client.sandbox(profile=profile) as box, Raw(bench.server) as raw:
            raw.run_true(box.id)
            box.run("mkdir -p /opt/x && touch /opt/x/{1..2000}", user="root", check=profile == "machine")
            taken: list[float] = []
            for _ in range(bench.count(STOPS)):
                box.stop()
                taken.append(ms(lambda: raw.run_true(box.id)))
        found.append(Figure(f"exec true on a stopped sandbox, profile {profile}", "ms", tuple(taken)))
    return found


def _of_one(bench: Bench, box: Box, what: str) -> list[Result]:
    made: list[float] = []
    forked: list[float] = []
    restored: list[float] = []
    calls: list[float] = []
    path = f"/v1/sandboxes/{box.id}"
    with Raw(bench.server) as raw:
        for _ in range(bench.count(RUNS)):
            began = time.perf_counter()
            taken = raw.call("POST", f"{path}/checkpoints")
            made.append((time.perf_counter() - began) * 1000)
            calls.append(
                ms(lambda taken=taken: raw.call("POST", f"{path}/checkpoints/{taken['id']}/restore"))
            )
            restored.append(calls[-1] + ms(lambda: raw.run_true(box.id)))
            began = time.perf_counter()
            (fork,) = raw.call("POST", f"{path}/fork", {})["items"]
            raw.run_true(fork["id"])
            forked.append((time.perf_counter() - began) * 1000)
            raw.call("DELETE", f"/v1/sandboxes/{fork['id']}")
            raw.call("DELETE", f"{path}/checkpoints/{taken['id']}")
    mine = Figure(f"checkpoint, {what}", "ms", tuple(made), "of a running sandbox")
    copy = Figure(f"cp -a, {what}", "ms", tuple(_copies(bench, box)), "on the same file system")
    return [
        mine,
        Figure(f"restore, {what}", "ms", tuple(calls), "the call"),
        Figure(f"restore → exec true, {what}", "ms", tuple(restored)),
        Figure(f"fork → exec true, {what}", "ms", tuple(forked)),
        copy,
        Ratio(mine, copy),
    ]


def _copies(bench: Bench, box: Box) -> Generator[float]:
    """How long a copy takes that shares nothing, on the file system of the cargos."""
    cargo = bench.server.folder / "data/cargo"
    for _ in range(max(1, bench.count(2))):
        with tempfile.TemporaryDirectory(dir=cargo, prefix=".bench-") as target:
            source = cargo / box.info.cargo_id / "workspace"
            command = ["cp", "-a", "--reflink=never", source, Path(target, "copy")]
            yield ms(lambda command=command: subprocess.run(command, check=True))


@contextmanager
def _filled(bench: Bench, count: int, megabytes: int) -> Generator[Box]:
    with running_box(bench.client) as box:
        box.run(["python3", "-c", FILL, str(count), str(megabytes)], timeout_s=FILL_S, check=True)
        subprocess.run(["sync"], check=True)  # what is measured is the copy, and not the writing before it
        yield box


def _profiles(bench: Bench) -> list[dict[str, str]]:
    with Raw(bench.server) as raw:
        return raw.call("GET", "/v1/profiles")["items"]
