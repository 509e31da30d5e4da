"""Moves the rows of a stopped Bay from its SQLite file into an empty PostgreSQL database.

All rows come in one transaction, together with the id that binds the database to the data directory. The
directory notes that id before the commit, and a Bay that is started on the file then refuses to run. A move
that was cut off earlier has changed nothing; one that was cut off later is finished by the next, which finds
the rows there and puts the file aside. The file is never deleted.
"""

import asyncio
import os
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Table,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    tuple_,
)

from bay.errors import Conflict, DriverUnavailable, InvalidArgument
from bay.linux.renames import sync_directory
from bay.server.data_dir import DATABASE, DATABASE_ID, configured
from bay.server.database import FACT, finish_id, id_in, new_id, read_id, write_id
from bay.server.main import lock_data_dir
from bay.server.offline.database_choice import URL, url
from bay.store.engine import Store
from bay.store.postgres import PostgresDatabase
from bay.store.schema import facts, metadata
from bay.store.sqlite import make_engine, migrate

_COME = "moved_from"
"""The fact of a database whose rows a move has brought: with the id of the data directory that had them."""
_BATCH = 2000
_ROWID: ColumnElement[int] = literal_column("rowid", BigInteger)
"""The place of a row in its table: SQLite's own, which a table has unless it was made without."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The number of rows of each table, where they are now, and where the file is."""

    rows: dict[str, int]
    database: str
    file: Path


def move(data_dir: Path | None) -> Moved:
    """Move the rows of `data_dir` (None: BAY_DATA_DIR or the default) to BAY_DATABASE_URL. Blocks.

    Raises Conflict while a Bay runs there, without a file to move, and for a database that has rows already;
    InvalidArgument without a URL; and DriverUnavailable or DatabaseUnavailable.
    """
    target = url()
    if target is None:
        raise InvalidArgument(f"set {URL} to the PostgreSQL database that is to have the rows")
    directory = configured(data_dir)
    lock = lock_data_dir(directory)
    try:
        source = directory / DATABASE
        if not source.exists():
            raise Conflict(f"there is no {source}, so nothing is to be moved")
        migrate(source)
        return _moved(
            directory, source, PostgresDatabase(target, partial(_check_free, directory / DATABASE_ID))
        )
    finally:
        os.close(lock)


def _moved(directory: Path, source: Path, target: PostgresDatabase) -> Moved:
    rows = asyncio.run(_copy(source, target, directory / DATABASE_ID))
    return Moved(rows, target.name, _put_aside(source))


async def _copy(source: Path, target: PostgresDatabase, id_file: Path) -> dict[str, int]:
    known = _id_of(id_file) or secrets.token_hex(12)
    engine, store = make_engine(source), Store(target)  # one that only reads would leave files beside it
    try:
        await store.open()
        async with store.write() as db:
            counts = await db.run_sync(lambda connection: _copy_all(engine, connection, known, target.name))
            # Before the commit: nobody can tell whether one has come whose answer is lost.
            write_id(id_file, known)
        finish_id(id_file, known)
        return counts
    finally:
        await store.aclose()


def _id_of(id_file: Path) -> str | None:
    """The id that the data directory has, or that a move has given it which was cut off."""
    return read_id(id_file) or new_id(id_file)


def _check_free(id_file: Path, connection: Connection, tables: Collection[str], name: str) -> None:
    """Raises Conflict for the database of another data directory, before it is migrated."""
    if id_in(connection, tables) not in (None, _id_of(id_file)):
        raise Conflict(f"the database {name} has rows already (another data directory's); give an empty one")


def _copy_all(source: Engine, target: Connection, known: str, name: str) -> dict[str, int]:
    with source.connect() as rows:
        if _has_come(target, known, name):
            return {table.name: _count(rows, table) for table in metadata.sorted_tables}
        target.exec_driver_sql("SET LOCAL statement_timeout = 0")
        counts = {table.name: _copy_table(rows, target, table) for table in metadata.sorted_tables}
        target.execute(insert(facts), [{"name": fact, "value": {"id": known}} for fact in (FACT, _COME)])
        return counts


def _has_come(target: Connection, known: str, name: str) -> bool:
    """Whether an earlier move has brought all rows. Raises Conflict for a database with other rows."""
    if target.scalar(select(facts.c.value).where(facts.c.name == _COME)) == {"id": known}:
        return True
    filled = [
        table.name for table in metadata.sorted_tables if target.execute(select(table).limit(1)).first()
    ]
    if filled:
        raise Conflict(f"the database {name} has rows already (in {filled[0]}); give an empty one")
    return False


def _copy_table(source: Connection, target: Connection, table: Table) -> int:
    # The triggers tell a running Bay what changed, a row at a time: nobody listens.
    target.exec_driver_sql(f"ALTER TABLE {table.name} DISABLE TRIGGER USER")
    for batch in _batches(source, table):
        target.execute(insert(table), batch)
    target.exec_driver_sql(f"ALTER TABLE {table.name} ENABLE TRIGGER USER")
    if "seq" in table.c:
        _go_on_counting(source, target, table)
    there, here = _count(source, table), _count(target, table)
    if here != there:
        raise DriverUnavailable(f"{here} of {there} rows of {table.name} have come, so nothing was moved")
    return here


def _count(db: Connection, table: Table) -> int:
    return db.scalar(select(func.count()).select_from(table)) or 0


def _batches(source: Connection, table: Table) -> Iterator[Sequence[dict[str, Any]]]:
    place = _place_of(table)
    query = select(*(column.label(f"place{n}") for n, column in enumerate(place)), table)
    query = query.order_by(*place).limit(_BATCH)
    found = source.execute(query).all()
    while found:
        yield [dict(zip(table.c.keys(), row[len(place) :], strict=True)) for row in found]
        last = tuple(found[-1][: len(place)])
        found = source.execute(query.where(tuple_(*place) > tuple_(*map(literal, last)))).all()


def _place_of(table: Table) -> Sequence[ColumnElement[int]]:
    """The order of its rows in SQLite, by numbers: that of its keys, where it has nothing else."""
    return [_ROWID] if table.dialect_options["sqlite"]["with_rowid"] else list(table.primary_key)


def _go_on_counting(source: Connection, target: Connection, table: Table) -> None:
    """Have new rows come after all that there ever were."""
    ever = text("SELECT max(seq) FROM sqlite_sequence WHERE name = :name")
    last = max(
        source.scalar(ever, {"name": table.name}) or 0, source.scalar(select(func.max(table.c.seq))) or 0
    )
    if last:
        target.execute(select(func.setval(func.pg_get_serial_sequence(table.name, "seq"), last)))


def _put_aside(source: Path) -> Path:
    """Rename the file, so that nothing takes it for the database."""
    aside = source.with_name(f"{source.name}.moved")
    number = 1
    while aside.exists():
        number += 1
        aside = source.with_name(f"{source.name}.moved-{number}")
    for suffix in ("-wal", "-shm", ""):
        beside = source.with_name(source.name + suffix)
        if beside.exists():
            beside.rename(aside.with_name(aside.name + suffix))
    sync_directory(source.parent)
    return aside
