"""The database of this Bay: a SQLite file of the data directory, or PostgreSQL at `database_url`.

A PostgreSQL database and a data directory know each other by an id: a fact of the one, a file of the other.
Without it a Bay with the wrong URL would remove every workspace, since no row of that database names them.
The directory has the id in a file of another name until the database has committed the fact.
"""

import asyncio
import os
import re
import secrets
from collections.abc import Collection
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, select

from bay.errors import DriverUnavailable
from bay.linux.renames import sync_directory
from bay.server.data_dir import DATABASE, DATABASE_ID, DATABASE_ID_NEW, has_workspaces
from bay.server.settings import Settings
from bay.store import metadata
from bay.store.engine import Database, Store
from bay.store.postgres import PostgresDatabase
from bay.store.schema import cargos, facts
from bay.store.sqlite import SqliteDatabase

FACT = "data_dir"
_IDENTITY = "database"
_ID = re.compile("[0-9a-f]{24}")


def make_database(settings: Settings) -> Database:
    """The database of these settings, not open yet. Raises InvalidArgument for a URL that cannot be read,
    and where the driver of PostgreSQL is not installed.
    """
    if settings.database_url is None:
        return SqliteDatabase(settings.data_dir / DATABASE)
    check = partial(_check_belongs, settings.data_dir, settings.driver != "kubernetes")
    return PostgresDatabase(settings.database_url.get_secret_value(), check, shared=settings.replicas)


def sqlite_file(settings: Settings) -> Path | None:
    """The file of the database, None for one that is elsewhere."""
    return None if settings.database_url is not None else settings.data_dir / DATABASE


def id_in(connection: Connection, tables: Collection[str]) -> str | None:
    """The id of the data directory that a database belongs to; None for one that has none, or no tables."""
    if facts.name not in tables:
        return None
    found = connection.scalar(select(facts.c.value).where(facts.c.name == FACT))
    return found["id"] if found is not None else None


def is_own(known: str | None, path: Path) -> bool:
    """Whether the data directory that has its id in the file `path` is the one of `known`."""
    kept = read_id(path)
    return known is not None and known == (kept or new_id(path))


async def bind(store: Store, settings: Settings) -> None:
    """Bind the database, which is open, and the data directory to each other, where they are not yet."""
    if settings.database_url is None:
        return
    path = settings.data_dir / DATABASE_ID
    async with store.read() as db:
        fact = await metadata.get(db, FACT)
    known = secrets.token_hex(12) if fact is None else fact["id"]
    if fact is None:
        await asyncio.to_thread(write_id, path, known)
        async with store.write() as db:
            await metadata.set(db, FACT, {"id": known})
    await asyncio.to_thread(finish_id, path, known)


async def identity(store: Store) -> str:
    """The id of the database, which is open, made at the first call. A restored backup has it too."""
    async with store.write() as db:
        fact = await metadata.get(db, _IDENTITY)
        if fact is None:
            fact = {"id": secrets.token_hex(12)}
            await metadata.set(db, _IDENTITY, fact)
    return fact["id"]


def _check_belongs(
    data_dir: Path, keeps_files: bool, connection: Connection, tables: Collection[str], name: str
) -> None:
    """Raises DriverUnavailable for the database of another data directory, and for an empty one where the
    directory has anything of a former database. A directory that is new belongs to any database, where it
    keeps no files that Bay could remove.
    """
    path, known = data_dir / DATABASE_ID, id_in(connection, tables)
    is_new = not keeps_files and read_id(path) is None and new_id(path) is None
    if known is not None and not is_new and not is_own(known, path):
        raise DriverUnavailable(
            f"the database {name} belongs to another data directory than {data_dir}; set BAY_DATA_DIR to that "
            f"one or BAY_DATABASE_URL to this one's, or, if you moved the files, write {known} to {path}"
        )
    knows_workspaces = cargos.name in tables and connection.scalar(select(cargos.c.id).limit(1)) is not None
    if not knows_workspaces and has_workspaces(data_dir):
        raise DriverUnavailable(
            f"the database {name} has no row of the workspaces in {data_dir / 'cargo'}; put back its backup, "
            "move the rows of SQLite with `bay admin migrate-store`, or move that directory away to start empty"
        )
    if known is None:
        _check_is_new(data_dir, name)


def _check_is_new(data_dir: Path, name: str) -> None:
    """Raises DriverUnavailable for a data directory that has had a database."""
    file, path = data_dir / DATABASE, data_dir / DATABASE_ID
    if file.exists():
        raise DriverUnavailable(
            f"the database {name} is empty, and the rows of {data_dir} are in {file}; move them with "
            "`bay admin migrate-store`, or move that file away to start empty"
        )
    if read_id(path) is not None:
        raise DriverUnavailable(
            f"the database {name} is empty, and {data_dir} belongs to another; check BAY_DATABASE_URL, put "
            f"back the backup of the database, or remove {path} to start empty"
        )


def read_id(path: Path) -> str | None:
    """The id that a data directory has in the file `path`; None without one."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DriverUnavailable(f"cannot read {path}: {error}; put back its backup") from error


def new_id(path: Path) -> str | None:
    """The id that a cut-off start or move gave that data directory, whether or not the database has it."""
    found = read_id(path.with_name(DATABASE_ID_NEW))
    return found if found is not None and _ID.fullmatch(found) else None  # it may be half written


def write_id(path: Path, text: str) -> None:
    """Note on the disk the id that a data directory is to have, before the database commits it."""
    beside = path.with_name(DATABASE_ID_NEW)
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        sync_directory(path.parent)
    except OSError as error:
        raise DriverUnavailable(f"cannot write {beside}: {error.strerror}") from error


def finish_id(path: Path, text: str) -> None:
    """Give a data directory the id that `write_id` noted, after the commit."""
    if new_id(path) != text:
        return
    try:
        path.with_name(DATABASE_ID_NEW).replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise DriverUnavailable(f"cannot write {path}: {error.strerror}") from error
