"""The web console in a Chromium: its first paint, a list of two thousand sandboxes, a key in a terminal."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from examples.own_server import UNPOOLED, OwnServer, own_server
from sqlalchemy import URL

from bay.server.web.static_site import CONSOLE
from bench.attached import keystroke
from bench.base import Bench, running_box
from bench.figures import Absent, Figure, Ratio, Result
from bench.listing import empty, fill

SOURCE = Path(__file__).parents[1] / "console"
SANDBOXES, EVENTS, RUNS, KEYS = 2_000, 200, 5, 200


def console(bench: Bench) -> list[Result]:
    """As a person's browser has it, without what it kept of another visit."""
    if not (CONSOLE / "index.html").is_file() or not shutil.which("chromium"):
        return [Absent("console", "needs `make console` and chromium")]
    return [*_list(bench), *_terminal(bench)]


def _list(bench: Bench) -> list[Result]:
    count, events = bench.count(SANDBOXES), bench.count(EVENTS)
    with own_server("bay-bench-", "driver = 'fake'\n" + UNPOOLED) as server:
        database = server.folder / "data/bay.db"
        server.end()
        fill(URL.create("sqlite", database=str(database)), count)
        server.start()
        with server.client() as client:
            shown = sum(1 for _ in client.sandboxes.list(limit=200))
        found = _measured(server, "list", shown, events, RUNS)
        empty(database)
    return [
        Figure("first paint", "ms", tuple(found["first_paint"])),
        Figure("loaded before it", "bytes", tuple(found["loaded_bytes"]), "as packed"),
        Figure(f"list of {shown} shown", "ms", tuple(found["list_shown"]), "after a reload"),
        Figure("script for an event", "ms", tuple(found["script_per_event"]), f"in a list of {shown}"),
    ]


def _terminal(bench: Bench) -> list[Result]:
    with running_box(bench.client) as box:
        samples = _measured(bench.server, "terminal", box.id, bench.count(KEYS))["keystroke"]
    mine = Figure("key to echo in the browser", "ms", tuple(samples))
    raw = next(result for result in keystroke(bench) if isinstance(result, Figure))
    return [mine, raw, Ratio(mine, raw)]


def _measured(server: OwnServer, *arguments: object) -> dict[str, list[float]]:
    environment = {**os.environ, "BAY_URL": server.url, "BAY_API_KEY": server.api_key}
    done = subprocess.run(
        ["node", "bench/measure.mjs", *map(str, arguments)],
        cwd=SOURCE, env=environment, stdout=subprocess.PIPE, text=True, timeout=600, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)
