"""From the death of Bay to a Bay that serves again, with sandboxes running all the while."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

from examples.own_server import OwnServer, own_server

from bay.client import Box
from bench.base import Bench, ms
from bench.figures import Figure, Result
from bench.footprint import create_many
from bench.host import View

SANDBOXES, AT_ONCE, RUNS = 100, 8, 3


def restart(bench: Bench) -> list[Result]:
    """`kill -9` of Bay with a hundred sandboxes running; it must find each of them where it was."""
    count, runs = bench.count(SANDBOXES), bench.count(RUNS)
    healthy: list[float] = []
    answered: list[float] = []
    with own_server("bay-bench-") as server, server.client() as client:
        boxes = create_many(client, count)
        before = (live_sessions(server), _first_processes(server))
        for _ in range(runs):
            server.kill()
            healthy.append(ms(server.start))
            answered.append(healthy[-1] + ms(lambda: _run_in_all(boxes)))
        after = (live_sessions(server), _first_processes(server))
    assert after == before, "a restart of Bay touched a session"
    note = f"{count} sandboxes, each still in its session"
    return [
        Figure("Bay killed: start to its first answer", "ms", tuple(healthy), f"{count} sandboxes running"),
        Figure("start until every sandbox has answered", "ms", tuple(answered), note),
    ]


def live_sessions(server: OwnServer) -> dict[str, str]:
    """Each sandbox that has compute, with its session, as the database has it."""
    connection = sqlite3.connect(f"file:{server.folder}/data/bay.db?mode=ro", uri=True)
    try:
        return dict(connection.execute("SELECT sandbox_id, id FROM sessions WHERE ended_at IS NULL"))
    finally:
        connection.close()


def _first_processes(server: OwnServer) -> dict[str, int]:
    """The process that each session began with."""
    return {session: pid for pid, session in sorted(View(server.folder).processes().items(), reverse=True)}


def _run_in_all(boxes: list[Box]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in [pool.submit(box.run, ["true"], check=True) for box in boxes]:
            future.result()
