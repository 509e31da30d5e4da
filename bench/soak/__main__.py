"""`python -m bench.soak [--minutes 30]`: traffic with crashes, then a verdict; exit code 1 when something
grew or went wrong.

Bay is killed every few minutes in the first half. In the second half it lives on, so that what one process
leaks has time to show.
"""

import argparse
import json
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from examples.own_server import OwnServer, own_server
from rich.console import Console

from bench import pools
from bench.base import delete_all, wait_until
from bench.raw import Raw
from bench.soak import samples
from bench.soak.chaos import Chaos
from bench.soak.follower import Follower
from bench.soak.journal import Journal
from bench.soak.report import Findings, show
from bench.soak.samples import Sample, Values
from bench.soak.traffic import CONFIG, Customer

CUSTOMERS, SAMPLE_S, FEWEST_SAMPLES, KILLS, SETTLE_S, END_S = 6, 10.0, 40, 6, 5.0, 60.0
RESULTS = Path(__file__).parents[1] / "results"
Work = Callable[[threading.Event], None]


def main() -> int:
    """Exit code 0 when the soak is flat."""
    options = _options()
    console = Console(highlight=False)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    log = options.json.with_suffix(".log")
    found = soak(options.minutes, options.seed, log, console)
    show(found, console)
    options.json.write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
    console.print(f"[dim]{options.json}\n{log}[/]")
    return 1 if found.problems() else 0


def soak(minutes: float, seed: int, log: Path, console: Console) -> Findings:
    """Run it; `log` is where Bay's log is copied.

    Raises ServerFailed when Bay does not come up again, or leaves something that has to be removed by force.
    """
    journal, taken = Journal(), list[Sample]()
    with own_server("bay-soak-", CONFIG) as server, _log_kept(server, log):
        rest_before = _at_rest(server)
        chaos = Chaos(server, journal)
        with _at_work(_works(server, chaos, minutes, seed, taken)):
            console.print(f"[dim]traffic for {minutes:g} min, with crashes of Bay in the first half[/]")
            time.sleep(minutes * 60)
        console.print("[dim]deleting everything[/]")
        _delete_all(server)
        rest_after = _at_rest(server)
        remains = _remains(server)
    return Findings(minutes, taken, rest_before, rest_after, remains, journal, _complaints(log))


@contextmanager
def _log_kept(server: OwnServer, log: Path) -> Generator[None]:
    try:
        yield
    finally:
        shutil.copyfile(server.folder / "log", log)


def _works(server: OwnServer, chaos: Chaos, minutes: float, seed: int, taken: list[Sample]) -> list[Work]:
    """What runs all the while, each in a thread of its own."""
    half_s = minutes * 60 / 2
    every_s = min(SAMPLE_S, minutes * 60 / FEWEST_SAMPLES)
    works: list[Work] = [
        chaos.kill_ships,
        lambda stop: chaos.kill_bay(half_s / KILLS, half_s, stop),
        lambda stop: _sample(chaos, every_s, taken, stop),
        *(Customer(server, chaos.journal, seed + number).work for number in range(CUSTOMERS)),
    ]
    with Raw(server) as raw:
        has_events = "/v1/events" in raw.call("GET", "/openapi.json")["paths"]
    return [*works, Follower(server, chaos.journal).work] if has_events else works


@contextmanager
def _at_work(works: list[Work]) -> Generator[None]:
    """Run each in a thread until the block is left; the first that failed fails the soak."""
    stop = threading.Event()
    with ThreadPoolExecutor(len(works)) as pool:
        futures: list[Future[None]] = [pool.submit(work, stop) for work in works]
        try:
            yield
        finally:
            stop.set()
    for future in futures:
        future.result()


def _sample(chaos: Chaos, every_s: float, taken: list[Sample], stop: threading.Event) -> None:
    while not stop.wait(every_s):
        with chaos.up:
            taken.append(samples.take(chaos.server))


def _at_rest(server: OwnServer) -> Values:
    """Bay's process without traffic, after a call or two."""
    with server.client() as client, client.sandbox() as box:
        box.run(["true"], check=True)
    time.sleep(SETTLE_S)
    return samples.process_values(server.pid)


def _delete_all(server: OwnServer) -> None:
    with server.client() as client:
        delete_all(client)


def _remains(server: OwnServer) -> Values:
    """What is still there when even the pools are drained, some time after."""
    pools.drain(server)
    with suppress(TimeoutError):
        wait_until(lambda: not samples.remains(server), "nothing is left", END_S)
    return samples.remains(server)


def _complaints(path: Path) -> Counter[str]:
    """How often Bay's log tells of a warning or an error, by what it says; other lines than its own are
    tracebacks.
    """
    found: Counter[str] = Counter()
    for line in path.read_text(errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            found["not an entry of the log"] += not line.startswith("Bay serves at")
            continue
        if entry.get("level") in ("warning", "error", "critical"):
            found[f"{entry['level']}: {entry.get('event')}"] += 1
    return +found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description="Let Bay work, and see what grows."
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long; 2 for a quick look")
    parser.add_argument("--seed", type=int, default=1, help="decides which calls are made")
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    parser.add_argument(
        "--json", type=Path, default=RESULTS / f"soak-{stamp}.json", help="where the findings go"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
