"""A page of a list when there are a hundred thousand sandboxes: at both ends, in the middle, and narrowed by
filters.

The store is filled by hand, with a Bay that is not running; the sandboxes are stopped ones, so no compute is
needed and the `fake` driver serves. One in eight rows is another owner's, one in twenty of the owner's is
deleted, and each has had a session.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from examples.own_server import UNPOOLED, own_server
from sqlalchemy import URL, Connection, Table, create_engine, insert, select

from bay.ids import new_id
from bay.server.web.sealing import Cursors, Seals
from bay.store import schema
from bay.store.engine import Store
from bay.store.sqlite import SqliteDatabase
from bench.base import Bench, ms
from bench.figures import Figure, Ratio, Result
from bench.raw import Raw

SANDBOXES, PAGE, RUNS, BATCH = 100_000, 50, 100, 500
OWNER = "admin"  # of the key that a server is given
FAILED_EVERY, LABEL_EVERY = 50, 100


def listing(bench: Bench) -> list[Result]:
    """`GET /v1/sandboxes?limit=50`, over HTTP."""
    count, runs = bench.count(SANDBOXES), bench.count(RUNS)
    with own_server("bay-bench-", "driver = 'fake'\n" + UNPOOLED) as server:
        database = server.folder / "data/bay.db"
        server.end()
        fill(URL.create("sqlite", database=str(database)), count)
        server.start()
        with Raw(server) as raw:
            figures = {name: _page(raw, name, query, runs) for name, query in _queries(database, count)}
        empty(database)
    first, *others = figures.values()
    return [first, *others, Ratio(figures["near the end"], first)]


def fill(database: URL, count: int) -> None:
    """Give `OWNER` `count` stopped sandboxes, and others some between them.

    No Bay may be running on the database.
    """
    engine = create_engine(database)
    for first in range(0, count, BATCH):
        with engine.begin() as connection:
            _insert(connection, range(first, min(count, first + BATCH)))
    engine.dispose()


def empty(database: Path) -> None:
    """Remove what `fill` made, beneath a Bay that runs."""
    engine = create_engine(URL.create("sqlite", database=str(database)))
    with engine.begin() as connection:
        for table in (schema.sessions, schema.sandboxes, schema.cargos):
            connection.execute(table.delete())
    engine.dispose()


def _insert(connection: Connection, numbers: range) -> None:
    now = datetime.now(UTC)
    made = [row for number in numbers for row in rows_of(number, now)]
    for table in (schema.cargos, schema.sandboxes, schema.sessions):
        # In one statement: the triggers of PostgreSQL count for each.
        connection.execute(insert(table).values([rows[table] for rows in made]))


def rows_of(number: int, now: datetime) -> Iterator[dict[Table, dict[str, Any]]]:
    """The rows of a sandbox of `OWNER` with that number, and of those beside it."""
    yield _sandbox(number, OWNER, now, deleted=False)
    if number % 8 == 0:
        yield _sandbox(number, f"other-{number % 5}", now, deleted=False)
    if number % 20 == 0:
        yield _sandbox(number, OWNER, now, deleted=True)


def _sandbox(number: int, owner: str, now: datetime, *, deleted: bool) -> dict[Table, dict[str, Any]]:
    sandbox, cargo, made = new_id("sandbox"), new_id("ws"), now - timedelta(minutes=1)
    gone = now if deleted else None
    failed = {"code": "driver_unavailable", "message": "the host was full", "at": "2030-01-01T00:00:00Z"}
    return {
        schema.cargos: {
            "id": cargo, "owner": owner, "managed_by_sandbox_id": sandbox, "backend": "directory",
            "created_at": made, "last_accessed_at": made, "deleted_at": gone,
        },
        schema.sandboxes: {
            "id": sandbox, "owner": owner, "name": f"box-{number}", "profile": "python-default", "image": "host",
            "isolation": "container", "cargo_id": cargo, "env": {},
            "labels": {"batch": str(number % LABEL_EVERY), "team": "red"},
            "target": "deleted" if deleted else "stopped", "generation": 1,
            "error": None if number % FAILED_EVERY else failed, "idle_timeout": 1800,
            "created_at": made, "deleted_at": gone,
        },
        schema.sessions: {
            "id": new_id("sess"), "sandbox_id": sandbox, "generation": 1, "driver": "fake", "phase": "ended",
            "token": "none", "end_reason": "stopped", "created_at": made, "started_at": made, "ended_at": made,
        },
    }  # fmt: skip


def _queries(database: Path, count: int) -> Iterator[tuple[str, str]]:
    """What is asked for, in words and as a query.

    Filters that fit nothing are the hardest: nothing ends the search early.
    """
    yield "first page", ""
    yield "in the middle", f"&cursor={_cursor(database, count // 2)}"
    yield "near the end", f"&cursor={_cursor(database, max(0, count - 2 * PAGE))}"
    yield f"status=failed, 1 in {FAILED_EVERY}", "&status=failed"
    yield "status=ready, none", "&status=ready"
    yield f"label=batch:7, 1 in {LABEL_EVERY}", "&label=batch:7"
    yield "label=team:blue, none", "&label=team:blue"


def _cursor(database: Path, offset: int) -> str:
    """The cursor behind the owner's first `offset` sandboxes."""
    engine = create_engine(URL.create("sqlite", database=str(database)))
    columns = schema.sandboxes.c
    mine = select(columns.seq).where(columns.owner == OWNER, columns.target == "stopped")
    with engine.connect() as connection:
        seq = connection.execute(mine.order_by(columns.seq).offset(offset).limit(1)).scalar_one()
    engine.dispose()
    return asyncio.run(_sealed(Store(SqliteDatabase(database)), seq))


async def _sealed(store: Store, seq: int) -> str:
    await store.open()
    try:
        seals = Seals()
        await seals.open(store)
        return Cursors(seals).of_row(OWNER, seq) or ""
    finally:
        await store.aclose()


def _page(raw: Raw, name: str, query: str, runs: int) -> Figure:
    path = f"/v1/sandboxes?limit={PAGE}{query}"
    found = len(raw.call("GET", path)["items"])
    taken = [ms(lambda: raw.call("GET", path)) for _ in range(runs)]
    return Figure(f"a page of {PAGE}, {name}", "ms", tuple(taken), f"{found} items")
