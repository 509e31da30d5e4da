"""Processor time beside wall time, and how fast this machine is, so that figures of different days compare.

Wall time is what a user waits for, and a busy machine stretches it. Processor time changes little with load,
but machines differ in it, and one machine does from day to day: `speed` says how much.
"""

import resource
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from examples.own_server import OwnServer

from bench import host
from bench.figures import Figure

LOOP = 1_000_000
TRIES = 7


def speed() -> tuple[Figure, Figure]:
    """A fixed loop of Python and the start of an interpreter, in processor milliseconds."""
    loop = Figure(f"a Python loop of {LOOP:,} additions", "ms", tuple(_loop_ms() for _ in range(TRIES)))
    start = Figure(
        "python -c pass", "ms", tuple(program_ms(sys.executable, "-c", "pass") for _ in range(TRIES))
    )
    return loop, start


def program_ms(*command: str | Path, timeout_s: float = 60) -> float:
    """The processor time of a program, and of what it started and waited for."""
    before = children_s()
    subprocess.run(command, stdout=subprocess.DEVNULL, timeout=timeout_s, check=True)
    return (children_s() - before) * 1000


@dataclass(frozen=True, slots=True)
class Timed:
    """The wall and the processor time of calls to a Bay.

    Processor time is that of Bay, its ended children, its sandboxes and this program, in all threads of each.
    """

    server: OwnServer
    wall_ms: list[float] = field(default_factory=list[float])
    processor_ms: list[float] = field(default_factory=list[float])

    def take(self, act: Callable[[], object]) -> None:
        """One more call."""
        with self.taking():
            act()

    @contextmanager
    def taking(self) -> Generator[None]:
        """The block is one more call."""
        others, own, began = self._others_s(), time.process_time(), time.perf_counter()
        yield
        ended, own = time.perf_counter(), time.process_time() - own
        self.wall_ms.append((ended - began) * 1000)
        self.processor_ms.append((own + self._others_s() - others) * 1000)

    def figure(self, name: str, note: str = "") -> Figure:
        """What was taken."""
        return Figure(name, "ms", tuple(self.wall_ms), note, tuple(self.processor_ms))

    def _others_s(self) -> float:
        sandboxes = sum(map(host.group_cpu_s, host.View(self.server.folder).cgroups()))
        return host.exact_cpu_s(self.server.pid) + host.children_cpu_s(self.server.pid) + sandboxes


def _loop_ms() -> float:
    began, total = time.process_time(), 0
    for number in range(LOOP):
        total += number
    return (time.process_time() - began) * 1000


def children_s() -> float:
    """The processor time of all children of this program that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
