"""`python -m bench.profiling cold|exec|upload|download [--seconds S]`: the functions of Bay's process that an
act takes its time in.

A server of its own does the act over and over while py-spy (https://github.com/benfred/py-spy, not among
Bay's dependencies) samples its stacks. Shares are of the samples in which a thread ran, and milliseconds are
those shares of the processor time that the kernel counted for one act. Two tables: each package by the
functions that ran, and Bay's own functions with all that they call.
"""

import argparse
import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from examples.own_server import OwnServer

from bay.client import Client
from bench import host
from bench.base import create_and_run
from bench.files import download, upload
from bench.pools import BARE, pooled_server
from bench.raw import Raw

RATE = 250
SHOWN = 40
SIZE = 64 << 20

Act = Callable[[], None]
_IDLE = ("select (selectors", "_travel (bay/store", "_worker (concurrent", "_wait (", "wait (threading")


def main() -> None:
    """Profile one act, and print."""
    options = _options()
    with (
        pooled_server(pool_size=0) as server,
        server.client() as client,
        Raw(server) as raw,
        _ACTS[options.act](server, client, raw) as act,
        tempfile.NamedTemporaryFile("r") as stacks,
    ):
        act()
        count, spent_s = _sampled(server.pid, options.seconds, Path(stacks.name), act)
        lines = stacks.read().splitlines()
    _print(options.act, lines, count, spent_s)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profiling", description="Profile an act of Bay.")
    parser.add_argument("act", choices=list(_ACTS))
    parser.add_argument("--seconds", type=int, default=10)
    if shutil.which("py-spy") is None:
        parser.error("py-spy is not on PATH; install it with `pip install py-spy`")
    return parser.parse_args()


@contextmanager
def _cold(_server: OwnServer, client: Client, _raw: Raw) -> Generator[Act]:
    yield lambda: create_and_run(client, BARE).delete()


@contextmanager
def _exec(_server: OwnServer, client: Client, raw: Raw) -> Generator[Act]:
    with client.sandboxes.create(profile=BARE) as box:
        yield lambda: raw.run_true(box.id)


@contextmanager
def _upload(server: OwnServer, client: Client, _raw: Raw) -> Generator[Act]:
    with client.sandboxes.create(profile=BARE) as box:
        yield lambda: upload(server, f"/v1/sandboxes/{box.id}/files/content?path=big", SIZE)


@contextmanager
def _download(server: OwnServer, client: Client, _raw: Raw) -> Generator[Act]:
    with client.sandboxes.create(profile=BARE) as box:
        path = f"/v1/sandboxes/{box.id}/files/content?path=big"
        upload(server, path, SIZE)
        yield lambda: download(server, path, SIZE)


_ACTS = {"cold": _cold, "exec": _exec, "upload": _upload, "download": _download}


def _sampled(pid: int, seconds: int, stacks: Path, act: Act) -> tuple[int, float]:
    """A number of acts, and the processor time of that process for them; then py-spy samples others."""
    command = ["py-spy", "record", "-p", str(pid), "-r", str(RATE), "-d", str(seconds), "-f", "raw"]
    quiet = subprocess.DEVNULL
    count, before, until = 0, host.exact_cpu_s(pid), time.monotonic() + seconds
    while time.monotonic() < until:  # alone: py-spy stops the process for each sample, which costs it time
        act()
        count += 1
    spent_s = host.exact_cpu_s(pid) - before
    with subprocess.Popen([*command, "-o", str(stacks)], stdout=quiet, stderr=quiet) as sampler:
        while sampler.poll() is None:
            act()
    if sampler.returncode:
        raise SystemExit(f"py-spy ended with {sampler.returncode}: `{' '.join(command)}` says why")
    return count, spent_s


def _print(act: str, lines: list[str], count: int, spent_s: float) -> None:
    each_ms = spent_s * 1000 / count
    packages, functions, total = Counter[str](), Counter[str](), 0
    for frames, samples in _running(lines):
        total += samples
        packages[_package(frames[-1])] += samples
        for name in {_function(frame) for frame in frames if "(bay/" in frame}:
            functions[name] += samples
    print(f"{act}: {count} times, {each_ms:.2f} ms of processor time each in Bay's process, {total} samples")
    for title, found in (
        ("package, by the function that ran", packages),
        ("function of Bay, with what it calls", functions),
    ):
        print(f"\n{'ms':>7} {'share':>6}  {title}")
        for name, samples in found.most_common(SHOWN):
            share = samples / total
            print(f"{share * each_ms:7.2f} {share:6.1%}  {name}")


def _running(lines: list[str]) -> Iterator[tuple[list[str], int]]:
    for line in lines:
        stack, _, samples = line.rpartition(" ")
        frames = stack.split(";")
        if not any(idle in frames[-1] for idle in _IDLE):
            yield frames, int(samples)


def _function(frame: str) -> str:
    """Without the number of its line."""
    return re.sub(r":\d+\)$", ")", frame)


def _package(frame: str) -> str:
    if frame.startswith("Runner.run ("):
        return "uvloop, and the kernel for it"
    place = frame.rpartition("(")[2]
    return place.split("/")[0] if "/" in place else "the standard library"


if __name__ == "__main__":
    main()
