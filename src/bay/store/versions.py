"""The versions of the schema: each is a migration, and a new database gets the sum of them at once.

A migration with `BESIDE = True` changes nothing for a Bay of an older version: all that could use the schema
before it can use the schema after it. The database knows the oldest of those, so that replicas of two
versions run side by side, and start again, while one after the other is replaced.
"""

import asyncio
import importlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, text

from bay.errors import DriverUnavailable
from bay.store import metadata as facts_of
from bay.store.connection import StoreConnection
from bay.store.schema import facts, metadata

FACT = "schema"
"""The fact `{"version": …, "oldest": …}`: the oldest that can use that version; beside another it is void."""

MIGRATIONS = Path(__file__).parent / "migrations"

_VERSION = "SELECT version_num FROM alembic_version"


def newest_version() -> str:
    """The version of the last migration, which its file's name begins with."""
    return max(file.name for file in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]


@dataclass(frozen=True, slots=True)
class Step:
    """A migration. `is_beside`: those that could use the schema before it can use the one after it."""

    version: str
    is_beside: bool


def outstanding(connection: Connection, tables: Collection[str], name: str) -> list[Step]:
    """The migrations that a database with `tables` has not seen, in order; `name` is for errors. Blocking."""
    version = version_of(connection) if tables else newest_version()
    if version == newest_version():
        return []
    return importlib.import_module("bay.store.upgrade").outstanding(version, name)


def runs_beside(connection: Connection, tables: Collection[str]) -> bool:
    """Whether a newer Bay has migrated the database, and this one can use it all the same. Blocking."""
    if not tables:
        return False
    fact = connection.scalar(select(facts.c.value).where(facts.c.name == FACT))
    return _is_usable(version_of(connection), fact)


def note_oldest(connection: Connection, steps: Collection[Step]) -> None:
    """Note the oldest version that can use the schema once `steps` have run on it. Blocking."""
    before = version_of(connection)
    fact = connection.scalar(select(facts.c.value).where(facts.c.name == FACT))
    oldest = fact["oldest"] if fact is not None and fact["version"] == before else before
    for step in steps:
        if not step.is_beside:
            oldest = step.version
    connection.execute(delete(facts).where(facts.c.name == FACT))
    value = {"version": newest_version(), "oldest": oldest}
    connection.execute(insert(facts).values(name=FACT, value=value))


def bring_up_to_date(connection: Connection, tables: Collection[str], name: str) -> None:
    """Make the tables of a database that has none of `tables`, or run the migrations that it has not seen;
    `name` is for errors. Blocking; the caller commits. Raises DriverUnavailable for a newer Bay's database.

    Alembic is loaded for an old database alone: it takes a tenth of Bay's start.
    """
    if not tables:
        _make_tables(connection)
    elif "alembic_version" not in tables or version_of(connection) != newest_version():
        importlib.import_module("bay.store.upgrade").upgrade(connection, name)


async def check_newest(connection: StoreConnection, name: str) -> None:
    """Raises DriverUnavailable for a database of another version than this Bay's, unless that lets this one
    use it; `name` is for the error.
    """
    found = (await connection.exec_driver_sql(_VERSION)).scalar()
    if found == await asyncio.to_thread(newest_version):
        return
    if not await asyncio.to_thread(_is_usable, found, await facts_of.get(connection, FACT)):
        raise DriverUnavailable(
            f"the database {name} is of another version of Bay; start `bay serve` once, which migrates it"
        )


def _is_usable(version: str | None, fact: dict[str, str] | None) -> bool:
    """Whether this Bay can use the schema of a newer one, by the fact in its database."""
    if fact is None or fact["version"] != version:
        return False
    return fact["oldest"] <= newest_version() < fact["version"]


async def version_now(connection: StoreConnection) -> str:
    """The version of a database that is open."""
    return (await connection.exec_driver_sql(_VERSION)).scalar_one()


def version_of(connection: Connection) -> str | None:
    """The version of a database that has tables. Blocking."""
    return connection.exec_driver_sql(_VERSION).scalar()


def _make_tables(connection: Connection) -> None:
    """The tables of a new database, as the sum of the migrations makes them."""
    metadata.create_all(connection, checkfirst=False)
    connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
    connection.execute(text("INSERT INTO alembic_version VALUES (:version)"), {"version": newest_version()})
