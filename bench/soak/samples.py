"""What is looked at every few seconds, and how much of it may grow."""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from examples.own_server import OwnServer

from bench import host
from bench.soak.verdict import Allowance

Values = dict[str, float]

OF_PROCESS: dict[str, Allowance] = {
    "descriptors": Allowance(8, 0.10),
    "threads": Allowance(4, 0.10),
    "children": Allowance(2),
    "RSS, MiB": Allowance(8, 0.08),
    "PSS, MiB": Allowance(8, 0.08),
}
"""Of Bay's process. They begin anew with each, so they are judged within the life of one."""

OF_HOST: dict[str, Allowance] = {
    "mounts on the host": Allowance(2),
    "mounts of this Bay": Allowance(2),
    "control groups": Allowance(20, 0.25),
    "processes": Allowance(10, 0.25),
    "id ranges": Allowance(5, 0.25),
    "session directories": Allowance(5, 0.25),
    "workspaces": Allowance(5, 0.25),
    "rows: live sandboxes": Allowance(5, 0.25),
    "rows: live sessions": Allowance(5, 0.25),
    "rows: live cargos": Allowance(5, 0.25),
    "rows: running execs": Allowance(5, 0.25),
}
"""Of everything that this Bay has on the host.

Each goes up and down with the live sandboxes, and outlives a crash.
"""

GONE = tuple(name for name in OF_HOST if name != "mounts on the host")
"""What must be zero when every sandbox is deleted."""

AT_REST: dict[str, Allowance] = {
    # The connections to the database and the threads are made when they are first needed.
    "descriptors": Allowance(20),
    "threads": Allowance(12),
    "children": Allowance(0),
    "PSS, MiB": Allowance(32),
}
"""Of Bay without traffic: how much more after a life of work than when it was young."""

_LIVE = {
    "rows: live sandboxes": "SELECT count(*) FROM sandboxes WHERE deleted_at IS NULL",
    "rows: live sessions": "SELECT count(*) FROM sessions WHERE ended_at IS NULL",
    "rows: live cargos": "SELECT count(*) FROM cargos WHERE deleted_at IS NULL",
    "rows: running execs": "SELECT count(*) FROM execs WHERE state = 'running'",
}
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"


@dataclass(frozen=True, slots=True)
class Sample:
    """One look: when (seconds of the monotonic clock), at which process of Bay, and what was seen."""

    at: float
    pid: int
    values: Values
    history: Values
    """What grows by design until its time is over: rows of each table, and the size of the database."""


def take(server: OwnServer) -> Sample:
    """Look at a running Bay and at the host."""
    rows, history = _database(server.folder / "data/bay.db")
    values = {**process_values(server.pid), **host_values(server.folder), **rows}
    return Sample(time.monotonic(), server.pid, values, history)


def process_values(pid: int) -> Values:
    """The measures of `OF_PROCESS`."""
    return {
        "descriptors": host.descriptors(pid),
        "threads": host.threads(pid),
        "children": host.children(pid),
        "RSS, MiB": host.rss_mib(pid),
        "PSS, MiB": host.pss_mib([pid]),
    }


def host_values(folder: Path) -> Values:
    """The measures of `OF_HOST` that are not in the database."""
    view = host.View(folder)
    return {
        "mounts on the host": host.mount_count(),
        "mounts of this Bay": len(view.mounts()),
        "control groups": len(view.cgroups()),
        "processes": len(view.processes()),
        "id ranges": len(view.id_ranges()),
        "session directories": len(view.sessions()),
        "workspaces": len(view.cargos()),
    }


def remains(server: OwnServer) -> Values:
    """What of `GONE` is still there."""
    found = take(server).values
    return {name: found[name] for name in GONE if found[name]}


def _database(path: Path) -> tuple[Values, Values]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        live = {name: float(connection.execute(query).fetchone()[0]) for name, query in _LIVE.items()}
        tables = [str(name) for (name,) in connection.execute(_TABLES)]
        # The names are the schema's own.
        rows = {f"rows: {name}": _count(connection, name) for name in sorted(tables)}
    finally:
        connection.close()
    return live, {**rows, "database, MiB": _size_mib(path)}


def _count(connection: sqlite3.Connection, table: str) -> float:
    return float(connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])  # noqa: S608


def _size_mib(path: Path) -> float:
    files = (path, path.with_name(f"{path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists()) / (1 << 20)
