"""Commands on a sandbox that is there: running, or frozen."""

import time
from concurrent.futures import ThreadPoolExecutor

from bench.base import Bench, beside_docker, ms, running_box
from bench.figures import Figure, Ratio, Result
from bench.processor import Timed
from bench.raw import Raw

EXEC_RUNS, DOCKER_EXEC_RUNS, WARM_RUNS, MANY = 300, 20, 100, 100


def exec_true(bench: Bench) -> list[Result]:
    """`true` on a running sandbox over HTTP, by the SDK and without it, beside `docker exec`."""
    mine, by_raw = Timed(bench.server), Timed(bench.server)
    runs = bench.count(EXEC_RUNS)
    with running_box(bench.client) as box, Raw(bench.server) as raw:
        for _ in range(runs):
            mine.take(lambda: box.run(["true"]))
            by_raw.take(lambda: raw.run_true(box.id))
        shell = [ms(lambda: box.run("true")) for _ in range(max(1, runs // 3))]
    figure = mine.figure("exec true")
    without = by_raw.figure("exec true, without the SDK", "one kept connection")
    return [
        *beside_docker(figure, "docker exec true", _docker_exec_ms(bench)),
        without,
        Ratio(figure, without),
        Figure("exec true through bash -lc", "ms", tuple(shell)),
    ]


def exec_many(bench: Bench) -> list[Result]:
    """A hundred commands at once in one sandbox: until all have been answered, and how long each took."""
    count = bench.count(MANY)
    with running_box(bench.client) as box, ThreadPoolExecutor(count) as threads:
        began = time.perf_counter()
        running = [threads.submit(ms, lambda: box.run(["true"], check=True)) for _ in range(count)]
        good = tuple(future.result() for future in running if future.exception() is None)
        wall = (time.perf_counter() - began) * 1000
    note = f"{len(good)} of {count} succeeded"
    return [
        Figure(f"{count} execs at once in one sandbox, all answered", "ms", (wall,), note),
        Figure("each of them", "ms", good or (wall,)),
    ]


def warm(bench: Bench) -> list[Result]:
    """Waking a frozen sandbox: by a command, and by `resume` alone, beside the same command on
    a running one.
    """
    wakes: list[float] = []
    resumes: list[float] = []
    pauses: list[float] = []
    running: list[float] = []
    with running_box(bench.client) as box, Raw(bench.server) as raw:
        path = f"/v1/sandboxes/{box.id}"
        for _ in range(bench.count(WARM_RUNS)):
            running.append(ms(lambda: raw.run_true(box.id)))
            pauses.append(ms(lambda: raw.call("POST", f"{path}/pause")))
            _expect_warm(raw, path)
            wakes.append(ms(lambda: raw.run_true(box.id)))
            raw.call("POST", f"{path}/pause")
            _expect_warm(raw, path)
            resumes.append(ms(lambda: raw.call("POST", f"{path}/resume")))
    return [
        Figure("exec true on a frozen sandbox", "ms", tuple(wakes), "without the SDK"),
        Figure("exec true on the same, running", "ms", tuple(running), "without the SDK"),
        Figure("resume", "ms", tuple(resumes)),
        Figure("pause", "ms", tuple(pauses)),
    ]


def _expect_warm(raw: Raw, path: str) -> None:
    seen = raw.call("GET", path)["compute"]
    assert seen == "warm", f"a paused sandbox is {seen}"


def _docker_exec_ms(bench: Bench) -> list[float]:
    if not bench.docker:
        return []
    docker = bench.docker
    with docker.container() as name:
        return [ms(lambda: docker.exec(name)) for _ in range(bench.count(DOCKER_EXEC_RUNS))]
