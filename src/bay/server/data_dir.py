"""The files of a data directory, and the check before a start: its database must belong to its files.

A Bay removes every workspace that no row knows: with a lost or half restored database, all of them.
"""

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from bay.cargo import backend_detection
from bay.errors import DriverUnavailable
from bay.ids import is_id
from bay.server.settings import Settings

UNFINISHED = "restore.unfinished"
"""Stands in the data directory while a restore puts things in place."""

DATABASE = "bay.db"
DATABASE_ID = "database.id"
"""Names the PostgreSQL database that this directory belongs to, where it does."""
DATABASE_ID_NEW = "database.id.new"
"""The same while the database may not have that id yet: of a first start or a move, also a cut-off one."""

KEY_FILE = "admin.key"
PORTS_KEY_FILE = "ports.key"
SECRETS_KEY_FILE = "secrets.key"
SPOOL = "spool"
BUILDS = "builds"
FAKE_IMAGES = "fake-images"


def configured(given: Path | None) -> Path:
    """`given`, BAY_DATA_DIR or the default. Other settings, which may be a client's, are not read."""
    return given or Path(os.environ.get("BAY_DATA_DIR") or Settings.model_fields["data_dir"].default)


def check(data_dir: Path, database: Path | None) -> None:
    """Raises DriverUnavailable after an interrupted restore, for workspaces that the SQLite file `database`
    lacks (None: the rows are in PostgreSQL), and for a file in place of the PostgreSQL database, also where
    a move to that was cut off.
    """
    if (data_dir / UNFINISHED).exists():
        raise DriverUnavailable(
            f"a restore into {data_dir} was interrupted; run `bay admin restore --force` with the backup again"
        )
    if database is None:
        return
    if (data_dir / DATABASE_ID).exists():
        raise DriverUnavailable(
            f"the rows of {data_dir} are in a PostgreSQL database; set BAY_DATABASE_URL to it, or remove "
            f"{data_dir / DATABASE_ID} to go on with what {database} has"
        )
    if (data_dir / DATABASE_ID_NEW).exists():
        raise DriverUnavailable(
            f"a move of the rows of {data_dir} to PostgreSQL, or a first start with it, was cut off; finish it "
            "with `bay admin migrate-store` or with `bay serve` and BAY_DATABASE_URL, or remove "
            f"{data_dir / DATABASE_ID_NEW} to go on with what {database} has"
        )
    if not _knows_workspaces(database) and has_workspaces(data_dir):
        raise DriverUnavailable(
            f"the database {database} is missing or empty, and {data_dir / 'cargo'} has workspaces that a "
            "new one "
            "would not list; restore it with `bay admin restore`, or move that directory away to start empty"
        )


def has_workspaces(data_dir: Path) -> bool:
    """Whether it has the files of any cargo."""
    with backend_detection.files_of(data_dir) as cargo:
        return cargo.is_dir() and any(is_id(path.name) for path in cargo.iterdir())


def _knows_workspaces(database: Path) -> bool:
    """Whether it has a row for any, deleted or not. The store reports a file that cannot be read."""
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True)) as db:
            return db.execute("SELECT 1 FROM cargos LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)
    except sqlite3.DatabaseError:
        return True


def instance_of(data_dir: Path) -> str:
    """The short name of this Bay on its host: twelve hex characters from the data directory's path."""
    return hashlib.sha256(str(data_dir.resolve()).encode()).hexdigest()[:12]
