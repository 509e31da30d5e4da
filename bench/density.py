"""A thousand sandboxes that do nothing on one host: how long until they are there, what they weigh, and how
Bay fares with them: idle, listing them, started again, and removing them.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from examples.own_server import OwnServer, own_server

from bay.client import Box, Client
from bench import host
from bench.base import Bench, create_and_run, ms, wait_until
from bench.figures import Figure, Result
from bench.footprint import at_rest
from bench.raw import Raw
from bench.restarting import live_sessions

SANDBOXES, AT_ONCE, PAGE, LISTS = 1_000, 8, 200, 5
ROOM_MIB = 16
"""Memory that a sandbox is given here; what it takes is what is measured."""
GONE_S = 600.0


def density(bench: Bench) -> list[Result]:
    """As many as `--count` says, or a thousand, or what fits into this host's memory."""
    before = host.available_mib()
    count = bench.exactly or min(bench.count(SANDBOXES), max(1, int(before / ROOM_MIB)))
    with own_server("bay-bench-") as server, server.client() as client:
        boxes, found = _created(client, count)
        found.append(_all_answer("a command in each", boxes))
        found += at_rest(server, f"{count} idle", count, before, bench.scale)
        found.append(_lists(server, count))
        found += _restart(server, boxes)
        found += _deleted(server, boxes)
    return found


def _created(client: Client, count: int) -> tuple[list[Box], list[Result]]:
    taken: list[float] = []

    def create() -> Box:
        made: list[Box] = []
        taken.append(ms(lambda: made.append(create_and_run(client))))
        return made[0]

    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        boxes = [future.result() for future in [pool.submit(create) for _ in range(count)]]
    whole = time.perf_counter() - began
    note = f"{count} sandboxes, {AT_ONCE} at a time"
    return boxes, [
        Figure("create to first exec answer, each", "ms", tuple(taken), note),
        Figure("until all are there", "s", (whole,), note),
    ]


def _all_answer(name: str, boxes: list[Box]) -> Figure:
    taken = ms(lambda: _in_all(boxes, lambda box: box.run(["true"], timeout_s=60, check=True)))
    return Figure(name, "s", (taken / 1000,), f"{len(boxes)} of {len(boxes)} answered, {AT_ONCE} at a time")


def _lists(server: OwnServer, count: int) -> Figure:
    """All of them, page by page, without the SDK."""
    with Raw(server) as raw:
        taken = [ms(lambda: _list(raw, count)) for _ in range(LISTS)]
    return Figure("a list of all", "ms", tuple(taken), f"{count} in pages of {PAGE}")


def _list(raw: Raw, count: int) -> None:
    page = raw.call("GET", f"/v1/sandboxes?limit={PAGE}")
    found = len(page["items"])
    while cursor := page["next_cursor"]:
        page = raw.call("GET", f"/v1/sandboxes?limit={PAGE}&cursor={cursor}")
        found += len(page["items"])
    assert found == count, f"{found} of {count} are listed"


def _restart(server: OwnServer, boxes: list[Box]) -> list[Result]:
    before = live_sessions(server)
    server.kill()
    began = time.perf_counter()
    server.start()
    up = time.perf_counter() - began
    boxes[0].run(["true"], timeout_s=60, check=True)
    first = time.perf_counter() - began
    _all_answer("", boxes)
    answered = time.perf_counter() - began
    assert live_sessions(server) == before, "a restart of Bay touched a session"
    note = f"{len(boxes)} sandboxes, each still in its session"
    return [
        Figure("Bay killed: start until it is up", "s", (up,), note),
        Figure("start until the first sandbox has answered", "s", (first,), note),
        Figure("start until every sandbox has answered", "s", (answered,), note),
    ]


def _deleted(server: OwnServer, boxes: list[Box]) -> list[Result]:
    began = time.perf_counter()
    _in_all(boxes, lambda box: box.delete())
    answered = time.perf_counter() - began
    view = host.View(server.folder)
    wait_until(lambda: not view.cgroups() and not view.id_ranges(), "the host is empty", GONE_S)
    note = f"{len(boxes)} sandboxes, {AT_ONCE} at a time"
    return [
        Figure("delete, until the calls have returned", "s", (answered,), note),
        Figure("delete, until the host has nothing of them", "s", (time.perf_counter() - began,), note),
    ]


def _in_all(boxes: list[Box], act: Callable[[Box], object]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(act, box) for box in boxes]:
            future.result()
