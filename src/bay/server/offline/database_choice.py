"""The database of a data directory, for commands that work on it while no Bay runs."""

import os
from collections.abc import Collection
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from bay.errors import Conflict, DriverUnavailable
from bay.server.data_dir import DATABASE, DATABASE_ID, DATABASE_ID_NEW
from bay.server.database import id_in, is_own
from bay.store.engine import Database
from bay.store.postgres import PostgresDatabase
from bay.store.sqlite import SqliteDatabase

URL = "BAY_DATABASE_URL"


def url() -> str | None:
    """The PostgreSQL database that the environment names."""
    return os.environ.get(URL) or None


def database_of(data_dir: Path, *, keeps_files: bool = True) -> Database:
    """The database with the rows of that data directory. Raises DriverUnavailable where there is none, or
    where it is a PostgreSQL database whose URL is not given; one of another directory is not opened, unless
    the task `keeps_files` nowhere.
    """
    if (given := url()) is not None:
        return PostgresDatabase(given, partial(_check_own, data_dir) if keeps_files else None)
    if (data_dir / DATABASE_ID_NEW).exists():
        raise DriverUnavailable(
            f"a move of the rows of {data_dir} to PostgreSQL was cut off; finish it with "
            f"`bay admin migrate-store`, or remove {data_dir / DATABASE_ID_NEW} to go on with {DATABASE}"
        )
    if (data_dir / DATABASE_ID).exists():
        raise DriverUnavailable(f"the rows of {data_dir} are in a PostgreSQL database; set {URL} to it")
    if not (data_dir / DATABASE).exists():
        raise DriverUnavailable(f"there is no database in {data_dir}; give the data directory of a Bay")
    return SqliteDatabase(data_dir / DATABASE)


def _check_own(data_dir: Path, connection: Connection, tables: Collection[str], name: str) -> None:
    """Raises DriverUnavailable for a PostgreSQL database that is another data directory's, or nobody's."""
    if not is_own(id_in(connection, tables), data_dir / DATABASE_ID):
        raise DriverUnavailable(
            f"the database {name} does not belong to the data directory {data_dir}; set {URL} and "
            "BAY_DATA_DIR to those of one Bay"
        )


def refuse_postgres(data_dir: Path, task: str) -> None:
    """Raises Conflict where the rows of that data directory are in PostgreSQL; `task` is of `bay admin`."""
    if url() is not None or (data_dir / DATABASE_ID).exists():
        raise Conflict(
            f"`bay admin {task}` is for a database in a file, and that of {data_dir} is a PostgreSQL database; "
            "use pg_dump and pg_restore for it, and a copy of the data directory from the same time, taken "
            "while Bay is stopped"
        )
