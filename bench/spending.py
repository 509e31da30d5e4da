"""The wall time, the processor time and the most memory of an act, by a program or by a server of long life.

Processor time is of the processes, their ended children included, by hundredths of a second. Not in it is
what the kernel does by itself, such as writing to the disk of a loop device. Memory is the proportional set
size of all processes together, looked at five times a second.
"""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from examples.own_server import OwnServer

from bench import host
from bench.figures import Figure, Ratio, Result
from bench.processor import children_s

LOOK_S, LONGEST_S = 0.2, 3600


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds that one act took, and its memory: of a server what it had more than before."""

    wall_s: float
    processor_s: float
    mib: float


def by_program(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Spent:
    """Run a program to its end. Raises CalledProcessError."""
    started: list[subprocess.Popen[bytes]] = []
    null = subprocess.DEVNULL

    def run() -> None:
        with subprocess.Popen(
            command, env={**os.environ, **(environment or {})}, stdin=null, stdout=null
        ) as process:
            started.append(process)
            if code := process.wait(LONGEST_S):
                raise subprocess.CalledProcessError(code, command)

    return _spent(children_s, lambda: [pid for one in started for pid in _below(one.pid)], run)


def by_server(server: OwnServer, act: Callable[[], object]) -> Spent:
    """What Bay, its children, its sandboxes, also those that are gone at the end, and this program took."""

    def processor_s() -> float:
        return of_bay_s(server) + of_sandboxes_s(server) + time.process_time()

    return _spent(processor_s, lambda: _below(server.pid), act, with_own=True)


def of_bay_s(server: OwnServer) -> float:
    """The processor time of Bay so far, and of its children that ended."""
    return host.exact_cpu_s(server.pid) + host.children_cpu_s(server.pid)


def of_sandboxes_s(server: OwnServer) -> float:
    """The processor time of its sandboxes so far, also of those that are gone."""
    return sum(map(host.group_cpu_s, host.View(server.folder).parent_groups()))


def by_daemon(pid: int, act: Callable[[], object]) -> Spent:
    """What a process and all below it took, while another program asked for it."""
    return _spent(
        lambda: sum(host.cpu_s(one) + host.children_cpu_s(one) for one in _below(pid)),
        lambda: _below(pid),
        act,
    )


def figures(name: str, taken: Sequence[Spent], note: str = "") -> list[Result]:
    """The seconds and the memory of acts of one kind."""
    processor = tuple(one.processor_s * 1000 for one in taken)
    return [
        Figure(name, "s", tuple(one.wall_s for one in taken), note, processor),
        Figure(f"{name}: memory", "MiB", tuple(one.mib for one in taken), "the most, PSS"),
    ]


def ratios(name: str, mine: Sequence[Spent], other: str, theirs: Sequence[Spent]) -> list[Result]:
    """Wall and processor time of `mine` beside those of another, which were measured by turns."""
    kinds: dict[str, Callable[[Spent], float]] = {
        "": lambda one: one.wall_s, "processor time: ": lambda one: one.processor_s,
    }  # fmt: skip
    return [
        Ratio(
            Figure(f"{kind}{name}", "s", tuple(map(value, mine))),
            Figure(f"{kind}{other}", "s", tuple(map(value, theirs))),
        )
        for kind, value in kinds.items()
    ]


def _spent(
    processor_s: Callable[[], float],
    pids: Callable[[], list[int]],
    act: Callable[[], object],
    *,
    with_own: bool = False,
) -> Spent:
    before = host.pss_mib(pids())
    used = processor_s()
    with _Peak(pids) as peak:
        began = time.perf_counter()
        act()
        wall = time.perf_counter() - began
    used = processor_s() - used - (peak.looking_s if with_own else 0)
    return Spent(wall, used, max(0.0, peak.mib - before))


class _Peak:
    """Looks at the memory of some processes while the block runs."""

    def __init__(self, pids: Callable[[], list[int]]) -> None:
        self._pids = pids
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.mib = 0.0
        self.looking_s = 0.0
        """What the looking took of this program's processor time."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            self.mib = max(self.mib, host.pss_mib(self._pids()))
        self.looking_s = time.thread_time()


def _below(pid: int) -> list[int]:
    """A process and all that descend from it, itself first."""
    parents = host.parents()
    found = [pid]
    for one in found:  # grows while it is walked
        found += [child for child, parent in parents.items() if parent == one]
    return found
