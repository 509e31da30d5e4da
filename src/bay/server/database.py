"""The database of this Bay: a SQLite file of the data directory, or PostgreSQL at `database_url`.

A PostgreSQL database and a data directory know each other by an id: a fact of the one, a file of the other.
Without it a Bay with the wrong URL would remove every workspace, since no row of that database names them.
"""

import asyncio
import os
import secrets
from pathlib import Path

from sqlalchemy import select

from bay.errors import DriverUnavailable
from bay.server.data_dir import DATABASE, DATABASE_ID, has_workspaces
from bay.server.settings import Settings
from bay.store import metadata
from bay.store.engine import Database, Store
from bay.store.postgres import PostgresDatabase
from bay.store.schema import cargos
from bay.store.sqlite import SqliteDatabase

FACT = "data_dir"


def make_database(settings: Settings) -> Database:
    """The database of these settings, not open yet. Raises InvalidArgument for a URL that cannot be read,
    and where the driver of PostgreSQL is not installed.
    """
    if settings.database_url is None:
        return SqliteDatabase(settings.data_dir / DATABASE)
    return PostgresDatabase(settings.database_url.get_secret_value())


def sqlite_file(settings: Settings) -> Path | None:
    """The file of the database, None for one that is elsewhere."""
    return None if settings.database_url is not None else settings.data_dir / DATABASE


async def check_belongs(store: Store, settings: Settings, name: str) -> None:
    """Bind the database `name` and the data directory to each other, where neither is bound. Raises
    DriverUnavailable for another directory's database, and for workspaces that the database lacks.
    """
    if settings.database_url is None:
        return
    data_dir = settings.data_dir
    path = data_dir / DATABASE_ID
    kept = await asyncio.to_thread(read_id, path)
    async with store.read() as db:
        fact = await metadata.get(db, FACT)
        knows_workspaces = (await db.execute(select(cargos.c.id).limit(1))).first() is not None
    if fact is not None and fact["id"] != kept:
        raise DriverUnavailable(
            f"the database {name} belongs to another data directory than {data_dir}; set BAY_DATA_DIR to that "
            f"one or BAY_DATABASE_URL to this one's, or, if you moved the files, write {fact['id']} to {path}"
        )
    if not knows_workspaces and await asyncio.to_thread(has_workspaces, data_dir):
        raise DriverUnavailable(
            f"the database {name} has no row of the workspaces in {data_dir / 'cargo'}; put back its backup, "
            "move the rows of SQLite with `bay admin migrate-store`, or move that directory away to start empty"
        )
    if fact is None:
        known = kept or secrets.token_hex(12)
        await asyncio.to_thread(write_id, path, known)
        async with store.write() as db:
            await metadata.set(db, FACT, {"id": known})


def read_id(path: Path) -> str | None:
    """The id that a data directory has in the file `path`; None without one."""
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise DriverUnavailable(f"cannot read {path}: {error}; put back its backup") from error


def write_id(path: Path, text: str) -> None:
    """Give a data directory that id, whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    try:
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise DriverUnavailable(f"cannot write {path}: {error.strerror}") from error
