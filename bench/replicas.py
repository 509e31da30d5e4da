"""Several Bays on one PostgreSQL database: their calls in a second, a wake through another one, takeovers.

BENCH_DATABASE_URL names an empty PostgreSQL database; what is made there is dropped. The driver is `fake`, so
that a start costs little beside what the replicas tell one another.
"""

import json
import os
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from examples.own_server import OwnServer, own_server
from sqlalchemy import create_engine, make_url

from bay.store import schema
from bench.base import Bench, ms
from bench.figures import Absent, Figure, Ratio, Result
from bench.raw import Raw
from bench.store import URL

CREATES, EXECS, WAKES, TAKEOVERS = 300, 300, 40, 3
MOST, CALLERS, SHARDS = 3, 6, 16
WAIT_S = 60.0
CONFIG = """
driver = "fake"
replicas = true
database_url = {url}
[profiles.python-default]
start = "lazy"
"""

Call = Callable[[Raw], object]


def replicas(bench: Bench) -> list[Result]:
    """Calls in a second through one, two and three replicas; then the price of a wake and of a takeover."""
    url = os.environ.get(URL)
    if url is None:
        return [Absent("replicas", f"{URL} is not set")]
    found: list[Result] = []
    with ExitStack() as stack:
        stack.callback(_drop, url)
        first = stack.enter_context(own_server("bay-bench-", CONFIG.format(url=json.dumps(url))))
        servers = [first]
        found += _throughput(bench, servers)
        while len(servers) < MOST:
            servers.append(stack.enter_context(_beside(first)))
            found += _throughput(bench, servers)
        found += _wakes(bench, servers)
        found += _takeovers(bench, servers)
    return found


@contextmanager
def _beside(first: OwnServer) -> Generator[OwnServer]:
    """One more replica, with the directory and the key of the first one."""
    server = OwnServer(first.folder, first.config)
    server.api_key = first.api_key
    server.start()
    try:
        yield server
    finally:
        server.end()


def _drop(url: str) -> None:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        schema.metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
    engine.dispose()


# In a second


def _throughput(bench: Bench, servers: Sequence[OwnServer]) -> list[Result]:
    """Of callers that are spread over the replicas."""
    _wait_shared(servers)
    count, note = len(servers), f"{CALLERS} callers"
    creates = _per_second(servers, bench.count(CREATES), lambda: _create)
    execs = _per_second(servers, bench.count(EXECS), _runs_in_one_of(servers[0]))
    return [
        Figure(f"creates, replicas: {count}", "1/s", (creates,), note),
        Figure(f"execs, replicas: {count}", "1/s", (execs,), note),
    ]


def _runs_in_one_of(server: OwnServer) -> Callable[[], Call]:
    """For each caller, runs in a sandbox of its own that runs already."""

    def make() -> Call:
        with Raw(server) as raw:
            box = _create(raw)
            raw.run_true(box)
        return lambda raw: raw.run_true(box)

    return make


def _per_second(servers: Sequence[OwnServer], count: int, make: Callable[[], Call]) -> float:
    calls = [make() for _ in range(CALLERS)]
    each = max(1, count // CALLERS)

    def work(number: int) -> None:
        with Raw(servers[number % len(servers)]) as raw:
            for _ in range(each):
                calls[number](raw)

    with ThreadPoolExecutor(CALLERS) as pool:
        took_ms = ms(lambda: list(pool.map(work, range(CALLERS))))
    return each * CALLERS / (took_ms / 1000)


# Wakes and takeovers


def _wakes(bench: Bench, servers: Sequence[OwnServer]) -> list[Result]:
    """The first command of a stopped sandbox, sent to the replica that starts it and to another one."""
    _wait_shared(servers)
    own: list[float] = []
    others: list[float] = []
    with ExitStack() as stack:
        raws = {_id_of(raw): raw for raw in (stack.enter_context(Raw(server)) for server in servers)}
        box = _create(next(iter(raws.values())))
        owner = raws.pop(_owner_of(next(iter(raws.values())), box))
        other = next(iter(raws.values()))
        for _ in range(bench.count(WAKES)):
            for raw, samples in ((owner, own), (other, others)):
                _stop(raw, box)
                samples.append(ms(lambda raw=raw: raw.run_true(box)))
    mine = Figure("a wake through its owner", "ms", tuple(own))
    theirs = Figure("a wake through another replica", "ms", tuple(others))
    return [mine, theirs, Ratio(theirs, mine)]


def _takeovers(bench: Bench, servers: Sequence[OwnServer]) -> list[Result]:
    """From the end of the replica that has a sandbox to the first command of it, which waits at another."""
    runs = bench.count(TAKEOVERS)
    ends: tuple[tuple[str, Callable[[OwnServer], None]], ...] = (
        ("kill -9", OwnServer.kill),
        ("SIGTERM", OwnServer.end),
    )
    return [
        Figure(f"takeover after {name}", "ms", tuple(_takeover(servers, end) for _ in range(runs)))
        for name, end in ends
    ]


def _takeover(servers: Sequence[OwnServer], end: Callable[[OwnServer], None]) -> float:
    _wait_shared(servers)
    survivor, last = servers[0], servers[-1]
    with Raw(survivor) as raw, Raw(last) as theirs:
        box = _create(raw)
        while _owner_of(raw, box) != _id_of(theirs):
            box = _create(raw)
        took = ms(lambda: (end(last), raw.run_true(box)))
    last.start()
    return took


# What the replicas say


def _wait_shared(servers: Sequence[OwnServer]) -> None:
    """Until each replica lives and has its share, and none of the work is left over."""
    deadline = time.monotonic() + WAIT_S
    with Raw(servers[0]) as raw:
        while True:
            state = raw.call("GET", "/v1/replicas")
            if (
                len(state["items"]) == len(servers)
                and not state["unheld"]
                and all(one["shards"] for one in state["items"])
            ):
                return
            assert time.monotonic() < deadline, f"the replicas do not share the work: {state}"
            time.sleep(0.05)


def _id_of(raw: Raw) -> str:
    items = raw.call("GET", "/v1/replicas")["items"]
    return next(one["id"] for one in items if one["is_self"])


def _owner_of(raw: Raw, box: str) -> str:
    number = zlib.crc32(box.encode()) % SHARDS
    items = raw.call("GET", "/v1/replicas")["items"]
    return next((one["id"] for one in items if number in one["shards"]), "")


def _create(raw: Raw) -> str:
    return raw.call("POST", "/v1/sandboxes", {})["id"]


def _stop(raw: Raw, box: str) -> None:
    raw.call("POST", f"/v1/sandboxes/{box}/stop")
