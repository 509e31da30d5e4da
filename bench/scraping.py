"""A scrape of `/metrics` with up to a thousand sandboxes, and what recording costs the requests between two.

The Bay of a scrape has answered each route that reads one thing, so that its text has all their series; its
sandboxes are rows, and serve no request. Refused packets are read from a real ruleset, in a network namespace
of its own. The cost of recording is taken in one process and by turns: a turn as Bay is, and one in which no
metric moves. It is processor time of the ASGI application alone, without sockets, of which recording is a
larger share than of a whole request.
"""

import asyncio
import json
import re
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from unittest import mock
from urllib.parse import urlsplit

from examples.own_server import UNPOOLED, OwnServer, own_server
from prometheus_client import Counter, Gauge, Histogram
from pydantic import SecretStr
from sqlalchemy import URL

from bay.drivers.fake import FakeDriver
from bay.linux import namespaces
from bay.linux.nftables import Nft
from bay.models import NetworkPolicy
from bay.network.nft_script import NftScript
from bay.network.policy import compile_policy
from bay.network.refusals import Refusals
from bay.network.ruleset import Generation, table_of
from bay.network.slots import NetworkSlot
from bay.server import logs, settings
from bay.server.app import build_app
from bench.base import Bench
from bench.figures import Figure, Ratio, Result
from bench.listing import fill
from bench.processor import Timed

COUNTS, SCRAPES, LOOKS = (0, 200, 1_000), 60, 100
TURNS, TURN, REPLAYS = 400, 10, 2_000
INSTANCE = "fffd"
KEY = "bench-key-of-the-scraping"
_MOVES = (
    *((Counter, name) for name in ("labels", "inc")),
    *((Gauge, name) for name in ("labels", "inc", "dec", "set")),
    *((Histogram, name) for name in ("labels", "observe")),
)


def scraping(bench: Bench) -> list[Result]:
    """Time and bytes of scrapes; the processor time of a request with recording and without."""
    return [*_scrapes(bench), *_refusals(bench), *asyncio.run(_requests(bench))]


def _scrapes(bench: Bench) -> list[Result]:
    found: list[Result] = []
    for full in COUNTS:
        with own_server("bay-bench-", "driver = 'fake'\n" + UNPOOLED) as server:
            if count := bench.count(full) if full else 0:
                server.end()
                fill(URL.create("sqlite", database=str(server.folder / "data/bay.db")), count)
                server.start()
            with _asked(server) as ask:
                for path in _paths(ask("/openapi.json")):
                    ask(path)
                timed = Timed(server)
                for _ in range(bench.count(SCRAPES)):
                    timed.take(lambda: ask("/metrics"))
                lines = ask("/metrics").splitlines(keepends=True)
        note = f"{sum(map(len, lines)):,} bytes, {len(lines):,} lines"
        found.append(timed.figure(f"a scrape with {full:,} sandboxes", note))
    return found


@contextmanager
def _asked(server: OwnServer) -> Generator[Callable[[str], bytes]]:
    """Answers as they come, on one connection."""
    parts = urlsplit(server.url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=60)

    def ask(path: str) -> bytes:
        connection.request("GET", path, headers={"Authorization": f"Bearer {server.api_key}"})
        return connection.getresponse().read()

    try:
        yield ask
    finally:
        connection.close()


def _paths(document: bytes) -> list[str]:
    """Every route that reads one thing, of a thing that there is not."""
    paths = json.loads(document)["paths"]
    return [re.sub(r"\{\w+\}", "none", path) for path in paths if "{" in path and "get" in paths[path]]


def _refusals(bench: Bench) -> list[Result]:
    return [
        Figure(f"refused packets of {full:,} sandboxes", "ms", tuple(_looks(bench, full))) for full in COUNTS
    ]


def _looks(bench: Bench, full: int) -> list[float]:
    count = bench.count(full) if full else 0

    def look() -> list[float]:
        nft = Nft()
        script = NftScript(INSTANCE)
        script.add_base()
        nft.run(str(script))
        policy = NetworkPolicy()
        for number in range(1, count + 1):
            slot, script = NetworkSlot(number, ""), NftScript(INSTANCE)
            script.add_slot(slot, ipv6=False)
            script.add_generation(Generation(slot, policy, compile_policy(policy), f"{slot.key}_g0"))
            nft.run(str(script))
        refusals = Refusals(table_of(INSTANCE).split()[1])
        taken = [_processor_ms(refusals.sums) for _ in range(bench.count(LOOKS))]
        refusals.close()
        nft.close()
        return taken

    return namespaces.inside_new(look)


def _processor_ms(act: Callable[[], object]) -> float:
    began = time.thread_time()
    act()
    return (time.thread_time() - began) * 1000


async def _requests(bench: Bench) -> list[Result]:
    found: list[Result] = []
    logs.configure("error", "json")
    with tempfile.TemporaryDirectory(prefix="bay-bench-") as folder:
        root = Path(folder)
        (root / "data").mkdir()
        loaded = settings.load(
            None, data_dir=root / "data", run_dir=root / "run", driver="fake", api_key=SecretStr(KEY),
            profiles=settings.default_profiles(),
        )  # fmt: skip
        app = build_app(loaded, driver=FakeDriver(run_dir=root / "run"))
        async with app.state.bay.running():
            await asyncio.to_thread(fill, URL.create("sqlite", database=str(root / "data/bay.db")), 50)
            for path in ("/v1/capabilities", "/v1/sandboxes?limit=1", "/v1/sandboxes?limit=50"):
                call = partial(_call, app, path)
                mine, other = await _by_turns(bench, call)
                again = await _replayed(bench, call)
                note = f"processor time, {TURN} a turn"
                recorded = Figure(f"{path}, recorded", "ms", mine, f"{note}; least {min(mine):.3f}")
                bare = Figure(f"{path}, not recorded", "ms", other, f"{note}; least {min(other):.3f}")
                share = f"{100 * min(again) / min(mine):.1f} % of the least request"
                records = Figure(
                    f"{path}, its records again", "ms", again, f"least {min(again):.4f}, {share}"
                )
                found += [recorded, bare, Ratio(recorded, bare), records]
    return found


async def _by_turns(
    bench: Bench, call: Callable[[], Awaitable[object]]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Milliseconds of a request, in turns with recording and without."""
    found: tuple[list[float], list[float]] = [], []
    for turn in range(2 * bench.count(TURNS)):
        with ExitStack() as stack:
            # a, b, b, a: so that what grows with time is not the cost of either.
            if still := turn % 4 in (1, 2):
                stack.enter_context(_unrecorded())
            began = time.thread_time()
            for _ in range(TURN):
                await call()
            found[still].append((time.thread_time() - began) * 1000 / TURN)
    return tuple(found[0]), tuple(found[1])


async def _replayed(bench: Bench, call: Callable[[], Awaitable[object]]) -> tuple[float, ...]:
    """Milliseconds of all that one request records, done again and again without the request."""
    made: list[Callable[[], object]] = []

    def noted(move: Callable[..., object]) -> Callable[..., object]:
        def moved(meter: object, *values: object) -> object:
            made.append(partial(move, meter, *values))
            return move(meter, *values)

        return moved

    with ExitStack() as stack:
        for kind, name in _MOVES:
            stack.enter_context(mock.patch.object(kind, name, noted(getattr(kind, name))))
        await call()
    return tuple(_processor_ms(lambda: [move() for move in made]) for _ in range(bench.count(REPLAYS)))


@contextmanager
def _unrecorded() -> Generator[None]:
    """No counter, gauge or histogram moves meanwhile."""
    with ExitStack() as stack:
        for kind, name in _MOVES:
            stack.enter_context(mock.patch.object(kind, name, _nothing))
        yield


def _nothing(meter: object, *_: object) -> object:
    return meter


async def _call(app: Callable[..., Awaitable[None]], target: str) -> None:
    """A request without a connection."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
        "path": path, "raw_path": path.encode(), "root_path": "", "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1"), (b"authorization", b"Bearer " + KEY.encode())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8700), "state": {},
    }  # fmt: skip
    statuses: list[int] = []

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, object]) -> None:
        if isinstance(status := message.get("status"), int):
            statuses.append(status)

    await app(scope, receive, send)
    assert statuses == [200], (target, statuses)
