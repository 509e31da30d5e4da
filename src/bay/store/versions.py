"""The versions of the schema: each is a migration, and a new database gets the sum of them at once."""

import asyncio
import importlib
from collections.abc import Collection
from pathlib import Path

from sqlalchemy import Connection, text

from bay.errors import DriverUnavailable
from bay.store.connection import StoreConnection
from bay.store.schema import metadata

MIGRATIONS = Path(__file__).parent / "migrations"

_VERSION = "SELECT version_num FROM alembic_version"


def newest_version() -> str:
    """The version of the last migration, which its file's name begins with."""
    return max(file.name for file in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


def bring_up_to_date(connection: Connection, tables: Collection[str], name: str) -> None:
    """Make the tables of a database that has none of `tables`, or run the migrations that it has not seen;
    `name` is for errors. Blocking; the caller commits. Raises DriverUnavailable for a newer Bay's database.

    Alembic is loaded for an old database alone: it takes a tenth of Bay's start.
    """
    if not tables:
        _make_tables(connection)
    elif "alembic_version" not in tables or _version(connection) != newest_version():
        importlib.import_module("bay.store.upgrade").upgrade(connection, name)


async def check_newest(connection: StoreConnection, name: str) -> None:
    """Raises DriverUnavailable for a database of another version than this Bay's; `name` is for the error."""
    found = (await connection.exec_driver_sql(_VERSION)).scalar()
    if found != await asyncio.to_thread(newest_version):
        raise DriverUnavailable(
            f"the database {name} is of another version of Bay; start `bay serve` once, which migrates it"
        )


def _version(connection: Connection) -> str | None:
    return connection.exec_driver_sql(_VERSION).scalar()


def _make_tables(connection: Connection) -> None:
    """The tables of a new database, as the sum of the migrations makes them."""
    metadata.create_all(connection, checkfirst=False)
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": newest_version()})
