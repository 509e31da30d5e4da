"""Checkpoints with memory and live forks: how long until every fork has run a command, by number and size."""

from concurrent.futures import ThreadPoolExecutor

from examples.own_server import own_server

from bay.client import Box, Client
from bench.base import Bench, create_and_run, ms
from bench.figures import Absent, Figure, Result
from bench.hibernation import CONFIG, answer, holding, what

COUNTS = (1, 4, 16)
CASES = ((0, COUNTS), (50, COUNTS), (250, (1, 4)), (500, (1, 4)))
RUNS = 5


def live_fork(bench: Bench) -> list[Result]:
    """Of a sandbox with Ship alone, and with a kernel that holds so much, beside forks of its files."""
    with own_server("bay-bench-", CONFIG) as server, server.client() as client:
        if not client.capabilities().memory:
            return [Absent("live forks", "this host's CRIU cannot save sandboxes: `bay doctor`, BAY_CRIU")]
        runs = bench.count(RUNS)
        found = _forks(create_and_run(client, "sleeps"), "files alone", 4, runs, memory=False)
        for size, counts in CASES:
            found += _of(client, size, counts, runs)
        return found


def _of(client: Client, size: int, counts: tuple[int, ...], runs: int) -> list[Result]:
    box = holding(client, "sleeps", size)
    saves: list[float] = []
    for _ in range(runs):
        saves.append(ms(lambda: box.checkpoint("saved", memory=True)))
        box.delete_checkpoint("saved")
    found: list[Result] = [Figure(f"checkpoint with memory: {what(size)}", "ms", tuple(saves))]
    for count in counts:
        found += _forks(box, what(size), count, runs, memory=True)
    box.delete()
    return found


def _forks(box: Box, of: str, count: int, runs: int, *, memory: bool) -> list[Result]:
    took = tuple(forked_ms(box, count, memory=memory) for _ in range(runs))
    return [Figure(f"fork of {count} until each has run a command: {of}", "ms", took)]


def forked_ms(box: Box, count: int, *, memory: bool) -> float:
    """How long it takes until each of so many forks has run a command; they are deleted then."""
    made: list[Box] = []

    def fork() -> None:
        made.extend(box.fork(count, memory=memory))
        list(pool.map(answer, made))

    with ThreadPoolExecutor(count) as pool:
        took = ms(fork)
        list(pool.map(Box.delete, made))
    return took
