"""The store without Bay around it: what a call reads and writes, on SQLite and on PostgreSQL.

BENCH_DATABASE_URL names an empty PostgreSQL database; what is made there is dropped. Without it SQLite alone
is measured, on the disk of the system's temporary directory.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from sqlalchemy import Connection, insert

from bay.ids import new_id
from bay.models import Exec
from bay.store import events, execs, sandboxes, schema
from bay.store.engine import Database, Store
from bay.store.postgres import PostgresDatabase
from bay.store.records import Filters, SandboxRecord
from bay.store.sqlite import SqliteDatabase
from bench.base import Bench
from bench.figures import Absent, Figure, Ratio, Result
from bench.listing import OWNER, rows_of

SANDBOXES, RUNS, PAGE = 1_000, 1_000, 50
NOW = datetime(2030, 1, 1, tzinfo=UTC)
URL = "BENCH_DATABASE_URL"

Act = Callable[[], Awaitable[object]]
Sampled = dict[str, tuple[float, ...]]


def store(bench: Bench) -> list[Result]:
    """Milliseconds of one act at a time, and of writes that come together."""
    runs, url = bench.count(RUNS), os.environ.get(URL)
    with tempfile.TemporaryDirectory(prefix="bay-bench-") as folder:
        mine = asyncio.run(_measure(SqliteDatabase(Path(folder) / "bay.db"), runs))
    figures = [Figure(f"{name}, SQLite", "ms", samples) for name, samples in mine.items()]
    if url is None:
        return [*figures, Absent("PostgreSQL", f"{URL} is not set")]
    theirs = asyncio.run(_measure(PostgresDatabase(url), runs))
    found: list[Result] = []
    for figure, samples in zip(figures, theirs.values(), strict=True):
        other = Figure(figure.name.replace("SQLite", "PostgreSQL"), "ms", samples)
        found += [figure, other, Ratio(other, figure)]
    return found


async def _measure(database: Database, runs: int) -> Sampled:
    kept = Store(database)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kept.aclose)
        await kept.open()
        stack.push_async_callback(drop_all, kept)
        acts = _acts(kept, *await _fill(kept))
        sampled = {name: tuple([await _ms(act) for _ in range(runs)]) for name, act in acts.items()}
        many = acts["an event written"]
        together = [
            await _ms(lambda: asyncio.gather(*(many() for _ in range(20)))) for _ in range(runs // 20 or 1)
        ]
        return {**sampled, "20 events written at once": tuple(together)}


async def _fill(kept: Store) -> tuple[SandboxRecord, str]:
    """A thousand sandboxes; gives one of them, with the id of its session."""
    made = [next(rows_of(number, NOW)) for number in range(1, SANDBOXES + 1)]
    async with kept.write() as db:
        for table in (schema.cargos, schema.sandboxes, schema.sessions):
            await db.execute(insert(table), [rows[table] for rows in made])
        chosen = made[SANDBOXES // 2]
        found = await sandboxes.find(db, OWNER, chosen[schema.sandboxes]["id"])
    assert found is not None
    return found, chosen[schema.sessions]["id"]


async def drop_all(kept: Store) -> None:
    """Remove the tables of a database that was made for a benchmark."""

    def drop(connection: Connection) -> None:
        schema.metadata.drop_all(connection)
        connection.exec_driver_sql("DROP TABLE alembic_version")

    async with kept.write() as db:
        await db.run_sync(drop)


def _acts(kept: Store, box: SandboxRecord, session_id: str) -> dict[str, Act]:
    numbers = count()

    async def write_event() -> None:
        async with kept.write() as db:
            await events.add(db, box, "sandbox.started", NOW, number=next(numbers))

    async def keep_exec() -> None:
        """The two transactions of a command: its start, and its end."""
        begun = Exec(
            id=new_id("exec"), argv=("echo", "hi"), pid=7, tty=False, state="running", exit_code=None, signal=None,
            started_at=NOW, ended_at=None, output_bytes=0, first_offset=0,
        )  # fmt: skip
        async with kept.write() as db:
            await execs.add(db, box.id, session_id, begun)
        async with kept.write() as db:
            await execs.lose(db, session_id, begun.id, NOW)

    async def find() -> None:
        async with kept.read() as db:
            assert await sandboxes.find(db, OWNER, box.id) is not None

    async def page() -> None:
        async with kept.read() as db:
            found = await sandboxes.page(db, OWNER, Filters(), now=NOW, after=0, limit=PAGE)
            assert len(found.items) == PAGE

    return {
        "an event written": write_event,
        "an exec kept": keep_exec,
        "a sandbox found": find,
        f"{PAGE} sandboxes listed": page,
    }


async def _ms(act: Act) -> float:
    began = time.perf_counter()
    await act()
    return (time.perf_counter() - began) * 1000
