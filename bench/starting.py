"""From the create to the answer of the first command: with a pool and without, one by one, spread out and all
at once.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from bay.client import Box, Client
from bay.errors import BayError
from bench.base import Bench, beside_docker, create_and_run, delete_all, ms
from bench.figures import Absent, Figure, Ratio, Result, Score
from bench.pools import BARE, POOLED, pooled_server, wait_full
from bench.processor import Timed
from bench.raw import Raw

COLD_RUNS, POOL_RUNS, BURST = 15, 50, 20
PATTERN_RUNS, PATTERN_POOL, STAGGER_S = 100, 10, 0.2


def cold(bench: Bench) -> list[Result]:
    """Nothing prepared, beside `docker run --rm IMAGE true`."""
    mine = Timed(bench.server)
    theirs: list[float] = []
    for _ in range(bench.count(COLD_RUNS)):
        _create(mine, bench.client)
        if bench.docker:
            theirs.append(ms(bench.docker.run))
    return beside_docker(mine.figure("create to first exec answer, cold"), _docker_name(bench), theirs)


def pool(bench: Bench) -> list[Result]:
    """On a full pool (by the SDK, and by one raw connection) and with none, beside `docker run --rm IMAGE
    true`.
    """
    theirs: list[float] = []
    with pooled_server(pool_size=2) as server, server.client() as client, Raw(server) as raw:
        hit, hit_raw, miss = Timed(server), Timed(server), Timed(server)
        for _ in range(bench.count(POOL_RUNS)):
            wait_full(raw)
            _create(hit, client, POOLED)
            wait_full(raw)
            _create_raw(hit_raw, raw, POOLED)
            wait_full(raw)
            _create(miss, client, BARE)
            if bench.docker:
                theirs.append(ms(bench.docker.run))
    figure = hit.figure("create to first exec answer, pool hit")
    empty = miss.figure("the same, pool empty")
    return [
        *beside_docker(figure, _docker_name(bench), theirs),
        hit_raw.figure("the same, pool hit, without the SDK", "one kept connection"),
        empty,
        *([Ratio(empty, Figure(_docker_name(bench), "ms", tuple(theirs)))] if theirs else []),
    ]


def burst(bench: Bench) -> list[Result]:
    """Twenty sandboxes at once, each to the answer of its first command, beside twenty `docker
    run` at once.
    """
    count = bench.count(BURST)
    wall, good = _at_once(lambda: create_and_run(bench.client), count)
    delete_all(bench.client)
    theirs = [_at_once(bench.docker.run, count)[0]] if bench.docker else []
    mine = Figure(f"{count} creates at once, all answered", "ms", (wall,), f"{good} of {count} succeeded")
    return beside_docker(mine, f"{count} docker run at once", theirs)


def patterns(bench: Bench) -> list[Result]:
    """A hundred starts: one after the other, one every 200 ms, and all at once; with a pool of ten and with
    none.
    """
    count = bench.count(PATTERN_RUNS)
    results: list[Result] = []
    with pooled_server(PATTERN_POOL) as server, server.client() as client, Raw(server) as raw:
        for profile, name in ((POOLED, f"pool of {PATTERN_POOL}"), (BARE, "no pool")):
            wait_full(raw)
            results += scored(f"{count} one by one, {name}", _sequential(client, profile, count), count)
            wait_full(raw)
            start = partial(create_and_run, client, profile)
            results += scored(
                f"{count} every 200 ms, {name}", spread(client, start, count, STAGGER_S)[1], count
            )
            wait_full(raw)
            wall, taken = spread(client, start, count, 0)
            results += scored(f"{count} at once, {name}", taken, count)
            results += _beside_docker_runs(
                bench, Figure(f"{count} at once, {name}, until all answered", "ms", (wall,)), count
            )
    return results


def _create(timed: Timed, client: Client, profile: str | None = None) -> None:
    """From the create to the answer of the first command; the sandbox is deleted afterwards."""
    made: list[Box] = []
    timed.take(lambda: made.append(create_and_run(client, profile)))
    made[0].delete()


def _create_raw(timed: Timed, raw: Raw, profile: str) -> None:
    made: list[str] = []
    timed.take(lambda: made.append(raw.create_and_run(profile)))
    raw.call("DELETE", f"/v1/sandboxes/{made[0]}")


def _create_ms(client: Client, profile: str) -> float:
    made: list[Box] = []
    taken = ms(lambda: made.append(create_and_run(client, profile)))
    made[0].delete()
    return taken


def _at_once(act: Callable[[], object], count: int) -> tuple[float, int]:
    """`act` in `count` threads at once: the milliseconds until all are done, and how many did not fail."""
    with ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        futures = [threads.submit(act) for _ in range(count)]
        failed = sum(future.exception() is not None for future in futures)
        return (time.perf_counter() - began) * 1000, count - failed


def _sequential(client: Client, profile: str, count: int) -> list[float]:
    """The milliseconds of each that was answered."""
    taken: list[float] = []
    for _ in range(count):
        try:
            taken.append(_create_ms(client, profile))
        except BayError as error:
            print(f"a start failed: {error}")
    return taken


def spread(
    client: Client, start: Callable[[], object], count: int, every_s: float
) -> tuple[float, list[float]]:
    """`count` starts, one every `every_s`: milliseconds until all are done, and those of each that was
    answered. All sandboxes are deleted afterwards.
    """
    with ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        futures: list[Future[float]] = []
        for number in range(count):
            time.sleep(max(0.0, began + number * every_s - time.perf_counter()))
            futures.append(threads.submit(ms, start))
        failures = [error for future in futures if (error := future.exception())]
        wall = (time.perf_counter() - began) * 1000
    for error in failures:
        print(f"a start failed: {error}")
    delete_all(client)
    return wall, [future.result() for future in futures if not future.exception()]


def scored(name: str, taken: list[float], tried: int) -> list[Result]:
    """The times of the starts that were answered, and their score."""
    if not taken:
        return [Absent(name, f"none of {tried} was answered")]
    figure = Figure(name, "ms", tuple(taken), f"{len(taken)} of {tried} succeeded")
    return [figure, Score(figure, tried)]


def _beside_docker_runs(bench: Bench, mine: Figure, count: int) -> list[Result]:
    theirs = [_at_once(bench.docker.run, count)[0]] if bench.docker else []
    return beside_docker(mine, f"{count} docker run at once", theirs)


def _docker_name(bench: Bench) -> str:
    return f"docker run --rm {bench.docker.options}true" if bench.docker else "docker run --rm true"
